"""The theory: edges, thresholds and drift as plain arithmetic on floats or arrays, no torch."""

from thalweg.theory.bounce import (
    bounce_amplitude,
    bounce_multiplier,
    effective_radius,
    transverse_multiplier,
)
from thalweg.theory.chaos import (
    cap_bound,
    cauchy_scale,
    lyapunov_exponent,
    tail_index,
    transverse_exponent,
)
from thalweg.theory.convex import (
    convex_distance_floor,
    convex_distance_rate,
    convex_floor,
    convex_rate,
)
from thalweg.theory.descent import descent_gradient_norm, pl_floor, pl_rate
from thalweg.theory.drift import drift_clock, drift_velocity, travel_bound
from thalweg.theory.edges import edge, largest_stable_eta, largest_stable_rho
from thalweg.theory.interpolated import (
    interpolated_bounce_amplitude,
    interpolated_bounce_multiplier,
    interpolated_edge,
    interpolated_largest_eta,
    interpolated_largest_rho,
)
from thalweg.theory.neuron import (
    single_neuron_drift_steps,
    single_neuron_limit,
    single_neuron_s_after,
)
from thalweg.theory.radius import (
    implied_penalty,
    rho_for_loss_scale,
    rho_for_microbatch,
    rho_for_width,
)
from thalweg.theory.saddles import held_saddle, saddle_trap
from thalweg.theory.threshold import threshold_neuron_eta, threshold_neuron_rho

__all__ = [
    "bounce_amplitude",
    "bounce_multiplier",
    "cap_bound",
    "cauchy_scale",
    "convex_distance_floor",
    "convex_distance_rate",
    "convex_floor",
    "convex_rate",
    "descent_gradient_norm",
    "drift_clock",
    "drift_velocity",
    "edge",
    "effective_radius",
    "held_saddle",
    "implied_penalty",
    "interpolated_bounce_amplitude",
    "interpolated_bounce_multiplier",
    "interpolated_edge",
    "interpolated_largest_eta",
    "interpolated_largest_rho",
    "largest_stable_eta",
    "largest_stable_rho",
    "lyapunov_exponent",
    "pl_floor",
    "pl_rate",
    "rho_for_loss_scale",
    "rho_for_microbatch",
    "rho_for_width",
    "saddle_trap",
    "single_neuron_drift_steps",
    "single_neuron_limit",
    "single_neuron_s_after",
    "tail_index",
    "threshold_neuron_eta",
    "threshold_neuron_rho",
    "transverse_exponent",
    "transverse_multiplier",
    "travel_bound",
]
