"""The claims, in the order in which a study makes them."""

from thalweg.lab.claims import (
    clock,
    convex,
    digits,
    drift,
    edges,
    exponent,
    flatness,
    limits,
    logistic,
    loss_scale,
    microbatch,
    network_edge,
    robustness,
    saddles,
    sensing,
    stability,
    threshold_neurons,
    travel,
    width,
    yoked,
)
from thalweg.lab.claims.claim import Claim, Evidence, within

#: Every claim, in the order of the page.
CLAIMS: tuple[Claim, ...] = (
    exponent.CLAIM,
    stability.CLAIM,
    edges.CLAIM,
    convex.CLAIM,
    logistic.CLAIM,
    saddles.CLAIM,
    network_edge.CLAIM,
    drift.CLAIM,
    travel.CLAIM,
    flatness.CLAIM,
    sensing.CLAIM,
    threshold_neurons.CLAIM,
    clock.CLAIM,
    loss_scale.CLAIM,
    digits.CLAIM,
    robustness.CLAIM,
    yoked.CLAIM,
    microbatch.CLAIM,
    width.CLAIM,
    limits.CLAIM,
)

__all__ = ["CLAIMS", "Claim", "Evidence", "within"]
