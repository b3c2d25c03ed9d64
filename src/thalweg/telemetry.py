"""The records that SAM hands out: where a loop stands, and what a perturbation did."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.ascent import Perturbation
from thalweg.gradients import Both
from thalweg.hold import Weights


@dataclass(frozen=True, slots=True)
class Pass:
    """Where a loop over :meth:`SAM.passes` stands.

    Attributes:
        index: 0 for the first pass.
        ascent: Whether this pass takes the ascent gradient, at w.
        last: Whether this pass takes the gradient that the base optimizer gets.
    """

    index: int
    ascent: bool
    last: bool


@dataclass(frozen=True, slots=True, repr=False)
class Last:
    """What the latest perturbation did.

    Numbers are floats on the CPU. On an accelerator they are zero-dimensional tensors there, so
    that nothing waits until somebody reads them.

    Attributes:
        grad_norm: ‖g‖, the norm of the ascent gradient over the perturbed parameters, without the
            factor of a gradient scaler; NaN where no ascent gradient was taken.
        perturbation_norm: ‖ε‖, in parameter units, before rounding to the parameters' dtype.
        capped: 1 where the cap on ‖ε‖ bit, else 0.
        descent_norm: ‖h‖, the norm of the gradient at w + ε; NaN without telemetry.
        cosine: Of the angle between g and h; NaN without telemetry.
        curvature: ⟨h - g, ε⟩ / ‖ε‖² for the ε that rounding let through: the Hessian along ε,
            averaged over the segment from w to w + ε; NaN without telemetry.

    Example:
        >>> Last(grad_norm=2.0, perturbation_norm=0.05)  # what was not measured is left out
        Last(moved=True, grad_norm=2, perturbation_norm=0.05, capped=0)
    """

    grad_norm: float | Tensor = math.nan
    perturbation_norm: float | Tensor = 0.0
    capped: float | Tensor = 0.0
    descent_norm: float | Tensor = math.nan
    cosine: float | Tensor = math.nan
    curvature: float | Tensor = math.nan

    def __repr__(self) -> str:
        known = {f.name: float(getattr(self, f.name)) for f in dataclasses.fields(self)}
        told = [f"{k}={v:.6g}" for k, v in known.items() if not math.isnan(v)]
        return f"Last(moved={self.moved}, {', '.join(told)})"

    @property
    def moved(self) -> bool:
        """Whether the weights were moved at all. Reads a number, which an accelerator waits for."""
        return float(self.perturbation_norm) > 0


def told(perturbation: Perturbation, length: Tensor, cap: float) -> Last:
    """Return the record of a perturbation.

    Args:
        perturbation: What the method gave.
        length: ‖ε‖, zero-dimensional.
        cap: The cap on the length of ε.

    Returns:
        The record, without what needs the gradient at w + ε.
    """
    return Last(
        grad_norm=_number(perturbation.norm),
        # Where nothing moves, 0 times a norm that is not finite would be NaN.
        perturbation_norm=_number(torch.where(perturbation.factor != 0, length, 0.0)),
        # A length that was cut is the cap up to rounding.
        capped=_number((perturbation.length > cap * (1 - 1e-9)).double()),
    )


def measured(last: Last, both: Both, weights: Weights, scale: Tensor | None) -> Last:
    """Return the record with what the gradient at w + ε tells; the weights are still there.

    Args:
        last: The record so far.
        both: The gradients g and h.
        weights: Knows the ε that rounding let through.
        scale: What both gradients were multiplied by, if by anything.

    Returns:
        The record.
    """
    factor = 1.0 if scale is None else scale
    here, uphill = both.here, both.uphill
    g, h = parameters.norm(here), parameters.norm(uphill)
    record = dataclasses.replace(
        last,
        descent_norm=_number(h / factor),
        cosine=_number(parameters.dot(here, uphill) / (g * h)),
    )
    if not weights.moved:
        return record
    rows = zip(both.parameters, here, uphill, strict=True)
    moved = [(weights.realized(p), u - v) for p, v, u in rows if p in weights]
    epsilon, difference = [e for e, _ in moved], [d for _, d in moved]
    change = parameters.dot(difference, epsilon) / factor
    return dataclasses.replace(record, curvature=_number(change / parameters.dot(epsilon, epsilon)))


def _number(value: Tensor) -> float | Tensor:
    """A Python number from the CPU; elsewhere the tensor itself, unread."""
    return float(value) if value.device.type == "cpu" else value
