"""The pipeline: a named method is a choice of one part for each slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from torch import Tensor

from thalweg.ascent.ball import L2, Ball, LInf
from thalweg.ascent.combine import Combine, SAMGradient
from thalweg.ascent.context import Context, Number, ratio
from thalweg.ascent.direction import Direction, Gradient, WithMean
from thalweg.ascent.filter import AllParameters, Filter, Mask
from thalweg.ascent.gate import Always, Gate, Reuse
from thalweg.ascent.gives import fitting, pair
from thalweg.ascent.schedule import Constant, Schedule
from thalweg.ascent.size import Size, size
from thalweg.ascent.slots import SLOTS, check_part
from thalweg.cut import Pieces
from thalweg.errors import ThalwegError, brief, number, whole

#: For p > 1, ε grows as the gradient shrinks; beyond this length training collapsed for every p.
DEFAULT_CAP = 1.0


def check_method(method: object, power: object) -> None:
    """Raise unless at most one of a method and its short form, a power, was given.

    Args:
        method: Must be a Method or ``None``.
        power: Must be ``None`` if there is a method.

    Raises:
        ThalwegError: If the method is something else, or both were given.

    Example:
        >>> check_method(None, 0.5)
    """
    if method is not None and not isinstance(method, Method):
        remedy = "write method=Method(power=...)"
        if isinstance(method, str):
            remedy += ", or call a preset such as presets.asam(): `thalweg methods` lists them"
        elif hasattr(method, "__name__"):  # a function or a class
            remedy = f"call it, write method={method.__name__}()"
        raise ThalwegError(f"method must be a thalweg.Method, got {brief(method)}: {remedy}")
    if method is not None and power is not None:
        raise ThalwegError(
            f"power and method must not both be given, got power={brief(power)} and a "
            "method: write method=Method(power=..., ...)"
        )


class Perturbation(NamedTuple):
    """The perturbation ε = factor · direction, kept as a product until it is applied.

    Attributes:
        direction: One tensor per parameter; in the Euclidean ball, the gradient itself.
        factor: The number that multiplies it.
        norm: Dual norm n of the unscaled direction; its Euclidean norm in the Euclidean ball.
        length: ‖ε‖, its Euclidean length, whatever the ball is; NaN where the direction is made
            piece by piece, and so is measured when it moves the weights.
    """

    direction: Sequence[Tensor]
    factor: Number
    norm: Number
    length: Number


@dataclass(frozen=True, slots=True)
class Method:
    r"""What SAM does in one step, as a frozen record of parts.

    .. math:: \varepsilon = \rho_t\, n^{1-p}\, a

    where *a* maximizes :math:`\langle d, a\rangle` over the unit ball and *n* is the dual norm of
    the direction *d*.

    Attributes:
        power: The normalization p. 0 is USAM, 1 is SAM, 2 makes the first-order rise of the loss
            equal to rho.
        max_norm: Cap on ‖ε‖, the Euclidean length over all param groups and ascents, in parameter
            units, whatever the ball is. ``None`` means none up to power 1 and 1.0 above, where ε
            grows without bound as the gradient vanishes; ``math.inf`` means none at all.
        size: Another law for the length of ε, in the place of the power.
        direction: What points uphill.
        filter: Which parameters are perturbed.
        mask: Which entries of them; ``None`` for all.
        ball: The neighbourhood.
        schedule: The radius over time.
        gate: Which steps are perturbed.
        reuse: What the base optimizer gets at the others; ``None`` for the gradient.
        combine: What the base optimizer gets.
        ascents: How many gradients are followed uphill, each by its share of the radius
            and of the cap.
        points: The gradients at w + t·ε are averaged over these t, which multiply what the cap has
            left of ε. A direction that draws draws anew at each.

    Raises:
        ThalwegError: If a number is out of range or a part is not a part.

    Example:
        >>> Method(power=0.5).cap
        inf
        >>> Method(power=2).cap
        1.0
    """

    power: float = 1.0
    max_norm: float | None = None
    size: Size | None = None
    direction: Direction = field(default_factory=Gradient)
    filter: Filter = field(default_factory=AllParameters)
    mask: Mask | None = None
    ball: Ball = field(default_factory=L2)
    schedule: Schedule = field(default_factory=Constant)
    gate: Gate = field(default_factory=Always)
    reuse: Reuse | None = None
    combine: Combine = field(default_factory=SAMGradient)
    ascents: int = 1
    points: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", number("power", self.power, at_least=0))
        if self.max_norm is not None:
            cap = number("max_norm", self.max_norm, above=0, infinite=True)
            object.__setattr__(self, "max_norm", cap)
        object.__setattr__(self, "ascents", whole("ascents", self.ascents, at_least=1))
        for slot in SLOTS:
            check_part(slot, getattr(self, slot))
        self._check_numbers()

    def _check_numbers(self) -> None:
        try:
            points = tuple(number("each of points", t, at_least=0) for t in self.points)
        except TypeError:
            points = ()
        if not points:
            raise ThalwegError(
                f"points must be a tuple of numbers such as (1.0,), got {brief(self.points)}"
            )
        object.__setattr__(self, "points", points)
        if self.size is not None and self.power != 1:
            raise ThalwegError(
                f"power must be left at 1 where a size is given, got power={self.power} and "
                f"{brief(self.size)}: one law tells how long ε is"
            )
        if hasattr(self.gate, "judge") and not self.looks:
            raise ThalwegError(
                f"gate must not judge by a gradient where no ascent gradient is taken, got "
                f"{brief(self.gate)} and {brief(self.direction)}: give it one such as Every(5)"
            )
        for slot in ("combine", "reuse"):
            if not self.looks and getattr(self, slot) not in (None, SAMGradient()):
                raise ThalwegError(
                    f"{slot} must be left out where no ascent gradient is taken, got "
                    f"{brief(getattr(self, slot))} and {brief(self.direction)}"
                )
        if self.reuse is not None and isinstance(self.gate, Always):
            raise ThalwegError(
                f"gate must close at some steps where reuse is given, got {brief(self.gate)} and "
                f"{brief(self.reuse)}: give it one such as Every(5), or leave reuse out"
            )
        if self.ascents > 1 and not self.looks:
            raise ThalwegError(
                f"ascents must be 1 where no ascent gradient is taken, got {self.ascents} and "
                f"{brief(self.direction)}"
            )

    @property
    def cap(self) -> float:
        """The cap in force on the length of ε; infinite where there is none."""
        if self.max_norm is not None:
            return self.max_norm
        return DEFAULT_CAP if self.power > 1 else math.inf

    @property
    def looks(self) -> bool:
        """Whether an ascent gradient is taken."""
        return bool(getattr(self.direction, "looks", True))

    @property
    def passes(self) -> int:
        """How many gradients a step takes whose gate is open."""
        return self.looks * self.ascents + len(self.points)

    @property
    def stateless(self) -> bool:
        """Whether nothing depends on earlier steps, nor on how many there were."""
        return not self.keeps

    @property
    def keeps(self) -> str:
        """The kinds of the parts that depend on earlier steps, or on how many there were."""
        kept = [p for p in self._changing if not getattr(p, "stateless", p is None)]
        return ", ".join(type(part).__name__ for part in kept)

    @property
    def _changing(self) -> tuple[object, ...]:
        parts = (self.size, self.direction, self.mask, self.ball, self.schedule, self.gate)
        return (*parts, self.reuse, self.combine)

    @property
    def parallel(self) -> bool:
        """Whether ε is the gradient times a number."""
        ball, bare = self.ball, type(self.direction) is Gradient and self.mask is None
        return bare and type(ball) is L2 and ball.scale is None and ball.over == "all"

    @property
    def plain(self) -> bool:
        """Whether every step takes the gradient at w + ρ g/‖g‖^p; p, cap, filter and ρ are free."""
        usual, free = Method(), ("power", "max_norm", "filter", "schedule")
        slots = [slot.name for slot in fields(self) if slot.name not in free]
        return all(getattr(self, slot) == getattr(usual, slot) for slot in slots)

    @property
    def hides(self) -> bool:
        """Whether the dual norm may be finite where the gradient is not."""
        bare = isinstance(self.direction, Gradient | WithMean) and self.mask is None
        return self.looks and not (bare and isinstance(self.ball, L2 | LInf))

    @property
    def scale_matters(self) -> bool:
        """Whether what a step does changes when the loss is multiplied by a number."""
        law = self.power != 1 or self.cap < math.inf or self.size is not None
        learns = getattr(self.direction, "learn", None) is not None or self.reuse is not None
        bare = isinstance(self.direction, Gradient) or not self.looks
        told = any(getattr(part, "needs_scale", False) for part in self._changing)
        return law or learns or not bare or told

    def perturbation(
        self,
        gradient: Sequence[Tensor],
        rho: Number,
        power: Number | None = None,
        scale: Number | None = None,
        context: Context | None = None,
        cap: float | None = None,
        measure: Callable[[Sequence[Tensor]], Number] | None = None,
    ) -> Perturbation:
        """Return the perturbation for this gradient.

        Args:
            gradient: Gradient at w, one tensor per chosen parameter; none for a direction that
                takes none.
            rho: Radius at this step.
            power: Overrides the method's power; the simulator varies it over a grid.
            scale: What the gradient was multiplied by, if by anything; ε is that of the gradient
                without it.
            context: The step.
            cap: Overrides the method's cap.
            measure: Gives the Euclidean length that a direction has once the param groups' shares
                of rho are in it; their norm unless told otherwise.

        Returns:
            The perturbation; its factor is 0 where the gradient is 0 or not finite.

        Example:
            >>> import torch
            >>> p = Method().perturbation([torch.tensor([3.0, 4.0])], rho=0.5)
            >>> float(p.factor), float(p.norm)
            (0.1, 5.0)
        """
        power = self.power if power is None else power
        cap = self.cap if cap is None else cap
        context = Context() if context is None else context
        if not self.looks:
            scale = None
        elif scale is not None and not self.parallel:  # parts see what the loss gave
            gradient, scale = [g / scale for g in gradient], None
        found = self.direction(gradient, context)
        if found is not gradient:
            like = gradient if self.looks else context.weights
            found = fitting("direction", self.direction, found, like)
        if self.mask is not None:
            found = fitting("mask", self.mask, self.mask(found, context), found)
        direction, n = pair(self.ball, self.ball.sharp(found, context), context.cells)
        real = n if scale is None else n / scale
        span = real  # the Euclidean length of s, which is n where s is the direction itself
        if direction is not found:
            direction = fitting("ball", self.ball, direction, found)
            measure = measure or context.norm
        if measure is not None and isinstance(direction, Pieces) and cap == math.inf:
            span = math.nan  # it is measured when the weights move: that costs least
        elif measure is not None:
            span = measure(direction)
            span = float(span) if type(n) is float else span
            span = span if scale is None else span / scale
            if cap < math.inf:
                cap = cap * ratio(real, span)  # type: ignore[assignment]
        factor = size(rho, real, power, cap, self.size, context.step)
        length = factor * span
        factor = factor if scale is None else factor / scale
        return Perturbation(direction, factor, norm=real, length=length)
