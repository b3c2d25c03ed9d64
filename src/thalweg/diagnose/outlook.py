"""What follows from a measurement by theory alone: edges, bounces, and what rho would become."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from thalweg import theory
from thalweg.diagnose.record import Edge, Measured
from thalweg.diagnose.rule import noise, start_radius
from thalweg.errors import ThalwegError

#: The methods that are told of, by their powers.
METHODS: dict[str, float | None] = {"GD": None, "USAM": 0.0, "p = 1/2": 0.5, "SAM": 1.0}
#: How many times the batch, the loss and the width are looked at, to see what rho becomes.
FACTOR = 4.0


def edges(measured: Measured, rho: float) -> tuple[Edge, ...]:
    """Return the edge of every method at the present learning rate, all at the same rho.

    At the same length of ε they would have one edge: only ρ/‖g‖^p enters it.

    Args:
        measured: The measurement.
        rho: The number that each method takes as its rho.

    Returns:
        One record a method; only its name where the formulas do not hold.
    """
    return tuple(_edge(measured, rho, name, power) for name, power in METHODS.items())


def _edge(measured: Measured, rho: float, name: str, power: float | None) -> Edge:
    base, curvature = measured.base, measured.lambda_max
    if base.missing:
        return Edge(name, power)
    given = base.given
    size: dict[str, Any] = {"grad_norm": measured.grad_norm, "power": power or 0.0}
    largest = lr = bounce = radius = None
    edge, missing = base.edge(0.0 if power is None else rho, **size)
    if missing:
        return Edge(name, power)
    if power is not None and curvature > 0:
        with contextlib.suppress(ThalwegError):  # the base optimizer itself leaves
            largest = float(theory.largest_stable_rho(base.eta, curvature, **size, **given))
    if curvature > 0:
        largest_eta = theory.largest_stable_eta(
            0.0 if power is None else rho, curvature, **size, **given
        )
        lr = float(largest_eta) * base.lr / base.eta  # eta is the lr, less the dampening
    if power and curvature > 0 and not base.nesterov:
        with contextlib.suppress(ThalwegError):  # likewise
            bounce = float(theory.bounce_amplitude(base.eta, rho, curvature, power, base.momentum))
            eta = base.eta / (1.0 + base.momentum)
            radius = float(theory.effective_radius(eta, rho, curvature, power))
    return Edge(name, power, edge, curvature / edge, largest, lr, bounce, radius)


def changes(measured: Measured, rho: float) -> dict[str, float]:
    """Return what rho would become if something else were changed, by the rules of the theory.

    Args:
        measured: The measurement.
        rho: Rho now, at power 1.

    Returns:
        By what is changed: batches of 1/4 and of 4 times the examples (kept is the penalty of
        the noise); a loss 4 times as large, at power 1 and at power 0; width 4 times as large,
        where every weight has a ball of its own, for a first, a hidden and a last layer.
    """
    m, scale = measured.examples, measured.noise_scale
    found = {}
    if scale > 0:  # and not NaN, with one batch
        for name, other in (("batch/4", m / FACTOR), ("batch*4", m * FACTOR)):
            if other >= 1:
                found[name] = float(theory.rho_for_microbatch(rho, m, other, 1.0, scale))
    found["loss*4"] = float(theory.rho_for_loss_scale(rho, FACTOR, 1.0))
    usam = same_length(measured, rho, 0.0)
    found["USAM now"] = usam
    found["USAM, loss*4"] = float(theory.rho_for_loss_scale(usam, FACTOR, 0.0))
    for name, fans in (("first", (1.0, FACTOR)), ("hidden", (FACTOR, FACTOR))):
        found[f"width*4, {name} layer"] = float(theory.rho_for_width(rho, *fans))
    found["width*4, last layer"] = float(theory.rho_for_width(rho, FACTOR, 1.0))
    return found


def same_length(measured: Measured, rho: float, power: float) -> float:
    """Return the rho at which a power perturbs as far as SAM with ``rho``, at the present ‖g‖.

    Args:
        measured: The measurement.
        rho: Rho at power 1.
        power: The power.
    """
    return float(rho * measured.grad_norm ** (power - 1.0))


def verdict(measured: Measured, rho: float) -> str:
    """Return what the scan says of a rho, in a sentence.

    Args:
        measured: The measurement.
        rho: At power 1.
    """
    if rho >= measured.flip:
        return "the gradient at w + ε points uphill at w: too large"
    if rho > start_radius(measured):
        return "the loss at w + ε is above that of the model before training: too large"
    if rho < measured.lower:
        return f"the loss rise is lost in {noise(measured)}: too small to matter"
    if rho > measured.upper:
        return "the loss rise is no longer that of a quadratic"
    return "within the trusted range"


def finite(value: float | None) -> bool:
    """Return whether there is a number, and a finite one.

    Args:
        value: Perhaps a number.
    """
    return value is not None and math.isfinite(value)
