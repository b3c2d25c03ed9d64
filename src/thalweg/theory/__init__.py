"""The theory: edges, limits and drift as plain arithmetic on floats or arrays, without torch."""

from thalweg.theory.drift import single_neuron_drift_steps
from thalweg.theory.edges import edge, largest_stable_eta, largest_stable_rho
from thalweg.theory.limits import (
    bounce_amplitude,
    bounce_multiplier,
    rho_for_loss_scale,
    single_neuron_limit,
)

__all__ = [
    "bounce_amplitude",
    "bounce_multiplier",
    "edge",
    "largest_stable_eta",
    "largest_stable_rho",
    "rho_for_loss_scale",
    "single_neuron_drift_steps",
    "single_neuron_limit",
]
