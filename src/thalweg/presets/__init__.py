"""Named methods: one function a method, each a choice of parts, each with its paper.

Names tell what a method does, since acronyms collide. What is known of each (formula, ρ, cost,
memory, evidence, source) stands in its docstring; :func:`card` reads it, the command
``thalweg methods`` prints it. Parts of several presets mix:

    >>> import dataclasses
    >>> from thalweg import presets
    >>> mixed = dataclasses.replace(presets.asam(), gate=presets.late(total=1000).gate)
    >>> mixed.gate.start, mixed.ball == presets.asam().ball
    (750, True)

In the formulas g is the gradient at w, h that at w + ε, u what the base optimizer gets.
"""

from thalweg.presets.chosen import normalization_only, sparse
from thalweg.presets.directions import (
    averaged,
    friendly,
    gaussian,
    momentum,
    multi_step,
    previous_gradient,
    variance_suppressed,
)
from thalweg.presets.lengths import micro_batch, monge, power, sam, unified, usam
from thalweg.presets.listing import MISSING, PRESETS, Card, card, cards
from thalweg.presets.mixes import decoupled, mix, spherical, stable, surrogate_gap
from thalweg.presets.tensors import nuclear, per_tensor, spectral_ball, spectral_radius, trust_ratio
from thalweg.presets.times import (
    adaptive_gate,
    late,
    look_back,
    modern,
    random_gate,
    warm_start,
)
from thalweg.presets.units import adam_metric, asam, asam_all, fisher, largest_entry

__all__ = [
    "MISSING",
    "PRESETS",
    "Card",
    "adam_metric",
    "adaptive_gate",
    "asam",
    "asam_all",
    "averaged",
    "card",
    "cards",
    "decoupled",
    "fisher",
    "friendly",
    "gaussian",
    "largest_entry",
    "late",
    "look_back",
    "micro_batch",
    "mix",
    "modern",
    "momentum",
    "monge",
    "multi_step",
    "normalization_only",
    "nuclear",
    "per_tensor",
    "power",
    "previous_gradient",
    "random_gate",
    "sam",
    "sparse",
    "spectral_ball",
    "spectral_radius",
    "spherical",
    "stable",
    "surrogate_gap",
    "trust_ratio",
    "unified",
    "usam",
    "variance_suppressed",
    "warm_start",
]
