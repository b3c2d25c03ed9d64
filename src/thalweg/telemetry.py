"""The records that SAM hands out: where a loop stands, and what a perturbation did."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg import layout, parameters
from thalweg.ascent import Perturbation
from thalweg.errors import ThalwegError, brief
from thalweg.gradients import Both
from thalweg.hold import Weights

#: Why there is no ascent to tell of.
NO_STEP = "there was no step yet"
NO_RADIUS = "rho, or what the schedule makes of it, is 0"
NO_GRADIENT = "no parameter got a gradient in the first pass"
NOT_OVER = "the first pass is not over"
CLOSED = "the gate was closed"


class Pass:
    """Where a loop over :meth:`SAM.passes` stands.

    Attributes:
        index: 0 for the first pass.
        ascent: Whether this pass takes the ascent gradient, at w.
        last: Whether this pass takes the gradient that the base optimizer gets.
        loss: The caller may put the loss of this pass here, a number or a tensor of one; from two
            of them ``sam.last.loss_rise`` comes.

    Example:
        >>> here = Pass(0, ascent=True, last=False)
        >>> here.loss = 2.5
        >>> here
        Pass(index=0, ascent=True, last=False)
    """

    __slots__ = ("_loss", "ascent", "index", "last")

    def __init__(self, index: int, *, ascent: bool, last: bool) -> None:
        self.index = index
        self.ascent = ascent
        self.last = last
        self._loss: Tensor | None = None

    def __repr__(self) -> str:
        return f"Pass(index={self.index}, ascent={self.ascent}, last={self.last})"

    @property
    def loss(self) -> Tensor | None:
        """The loss of this pass, in float64 and without its graph; ``None`` where not known."""
        return self._loss

    @loss.setter
    def loss(self, value: object) -> None:
        if isinstance(value, Tensor) and value.numel() == 1:
            self._loss = value.detach().reshape(()).double()
        elif isinstance(value, int | float):
            self._loss = torch.tensor(value, dtype=torch.float64)
        else:
            raise ThalwegError(
                f"loss must be a number or a tensor of one, got {brief(value)}: store the loss "
                "itself"
            )


@dataclass(frozen=True, slots=True, repr=False)
class Last:
    """What the latest perturbation did.

    Numbers are floats on the CPU. On an accelerator they are zero-dimensional tensors there, so
    that nothing waits until somebody reads them. What was not measured is NaN; what is marked with
    a star is measured with ``telemetry=True``.

    Attributes:
        grad_norm: ‖g‖, the norm of the ascent gradient over the perturbed parameters, without the
            factor of a gradient scaler.
        perturbation_norm: ‖ε‖, the Euclidean length whatever the ball is, in parameter units,
            before rounding to the parameters' dtype.
        capped: 1 where the cap on ‖ε‖ bit, else 0.
        descent_norm: * ‖h‖, the norm of the gradient at w + ε.
        cosine: * Of the angle between g and h.
        curvature: * ⟨h - g, ε⟩ / ‖ε‖² for the ε that rounding let through: the Hessian along ε,
            averaged over the segment from w to w + ε.
        loss_rise: Loss at w + ε minus loss at w, where both are known: from ``step(closure)``, or
            where the caller of ``passes()`` stores them in ``here.loss``.
        share_moved: * Where weights have 16 bits: share of the entries with ε ≠ 0 that rounding let
            move.
        fidelity: * Likewise, cosine of the angle between the ε that was meant and the one let
            through.
        gain: * Likewise, how far the one let through leads along the one meant, over the length of
            that: near 1 where rounding is only noise, near 0 where it swallows ε.
        reason: Why no ascent was made, in words; empty where one was.

    Example:
        >>> Last(grad_norm=2.0, perturbation_norm=0.05)  # what was not measured is left out
        Last(moved=True, grad_norm=2, perturbation_norm=0.05, capped=0)
        >>> Last(grad_norm=0.0).why
        'the gradient, or the direction made of it, was 0'
    """

    grad_norm: float | Tensor = math.nan
    perturbation_norm: float | Tensor = 0.0
    capped: float | Tensor = 0.0
    descent_norm: float | Tensor = math.nan
    cosine: float | Tensor = math.nan
    curvature: float | Tensor = math.nan
    loss_rise: float | Tensor = math.nan
    share_moved: float | Tensor = math.nan
    fidelity: float | Tensor = math.nan
    gain: float | Tensor = math.nan
    reason: str = ""

    def __repr__(self) -> str:
        told = [] if self.moved else [f"why={self.why!r}"]
        if not self.reason:
            told += [f"{k}={v:.6g}" for k, v in self.known().items()]
        return f"Last(moved={self.moved}, {', '.join(told)})"

    def known(self) -> dict[str, float]:
        """Return what was measured, as plain floats; an accelerator is waited for.

        ``grad_norm`` is always there: where it is NaN, so is the gradient, or ``why`` says why not.
        """
        names = [f.name for f in dataclasses.fields(self) if f.name != "reason"]
        values = {name: float(getattr(self, name)) for name in names}
        return {k: v for k, v in values.items() if k == "grad_norm" or not math.isnan(v)}

    @property
    def moved(self) -> bool:
        """Whether the weights were moved at all. Reads a number, which an accelerator waits for."""
        return float(self.perturbation_norm) > 0

    @property
    def why(self) -> str:
        """Why the weights were not moved, in words; empty if they were. Reads numbers likewise."""
        if self.reason or self.moved:
            return self.reason
        norm = float(self.grad_norm)
        if 0 < norm < math.inf:
            return "ε was 0, or too long for a float"
        what = "0" if norm == 0 else "not finite"
        return f"the gradient, or the direction made of it, was {what}"


def told(perturbation: Perturbation, cap: float) -> Last:
    """Return the record of a perturbation.

    Args:
        perturbation: What the method gave.
        cap: The cap on the length of ε.

    Returns:
        The record, without what needs the gradient at w + ε.
    """
    factor, norm, length = map(read, (perturbation.factor, perturbation.norm, perturbation.length))
    # Where nothing moves, 0 times a norm that is not finite would be NaN. A length that was cut is
    # the cap up to rounding.
    if isinstance(factor, Tensor):
        length = torch.where(factor != 0, length, 0.0)
        return Last(norm, length, (length > cap * (1 - 1e-9)).double())
    length = length if factor else 0.0
    return Last(norm, length, float(length > cap * (1 - 1e-9)))


@torch.no_grad()
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
    if not both.parameters:
        return last
    factor = 1.0 if scale is None else scale
    before = weights.before
    held = [before.get(p, p) for p in both.parameters]  # ε is 0 where nothing was moved
    norms = parameters.norm(both.here), parameters.norm(both.uphill)
    # The squares of such numbers are no float32 any more.
    odd = any(layout.costly_to_read(n.device) or not 1e-12 < float(n) < 1e12 for n in norms)
    found = []
    for kind, (g, h, p, w) in layout.pieces(both.here, both.uphill, both.parameters, held):
        epsilon = p - w
        products = ((h - g, epsilon), (epsilon, epsilon), (g, h))
        sums = [parameters.product(a, b, wide=odd) for a, b in products]
        found.append((kind, torch.stack(sums)))
    change, square, along = parameters.summed(found)
    return dataclasses.replace(
        last,
        descent_norm=read(norms[1] / factor),
        cosine=read((along / (norms[0] * norms[1])).clamp(-1, 1)),
        curvature=read(change / factor / square),
    )


def read(value: float | Tensor) -> float | Tensor:
    """Return a Python number from the CPU; elsewhere the tensor itself, unread.

    Args:
        value: A number, or a tensor of one.

    Returns:
        The number.
    """
    if isinstance(value, Tensor) and layout.costly_to_read(value.device):
        return value
    return float(value)
