"""The pipeline: a named method is a choice of one part for each slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from thalweg import parameters
from thalweg.ascent.ball import L2, Ball, Norm, Number, size
from thalweg.ascent.combine import Combine, SAMGradient
from thalweg.ascent.direction import AllParameters, Direction, Filter, Gradient
from thalweg.ascent.gate import Always, Constant, Gate, Schedule
from thalweg.errors import ThalwegError, number

#: For p > 1, ε grows as the gradient shrinks; beyond this length training collapsed for every p.
DEFAULT_CAP = 1.0


#: The slots that hold parts, and the part that each holds unless told otherwise.
_USUAL: dict[str, type] = {
    "direction": Gradient,
    "filter": AllParameters,
    "ball": L2,
    "schedule": Constant,
    "gate": Always,
    "combine": SAMGradient,
}


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
        raise ThalwegError(
            f"method must be a thalweg.Method, got {method!r}: write method=Method(power=...)"
        )
    if method is not None and power is not None:
        raise ThalwegError(
            f"power and method must not both be given, got power={power!r} and {method!r}: "
            "write method=Method(power=..., ...)"
        )


class Perturbation(NamedTuple):
    """The perturbation ε = factor · direction, kept as a product until it is applied.

    Attributes:
        direction: One tensor per parameter; in the Euclidean ball, the gradient itself.
        factor: The number that multiplies it.
        norm: Dual norm n of the unscaled direction; its Euclidean norm in the Euclidean ball.
        length: Length of ε in the ball's own norm; ‖ε‖ in the Euclidean ball.
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
        max_norm: Cap on the length of ε, in parameter units. ``None`` means none up to power 1
            and 1.0 above, where ε grows without bound as the gradient vanishes; ``math.inf``
            means none at all.
        direction: What points uphill.
        filter: Which parameters are perturbed.
        ball: The neighbourhood.
        schedule: The radius over time.
        gate: Which steps are perturbed.
        combine: What the base optimizer gets.

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
    direction: Direction = field(default_factory=Gradient)
    filter: Filter = field(default_factory=AllParameters)
    ball: Ball = field(default_factory=L2)
    schedule: Schedule = field(default_factory=Constant)
    gate: Gate = field(default_factory=Always)
    combine: Combine = field(default_factory=SAMGradient)

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", number("power", self.power, at_least=0))
        if self.max_norm is not None:
            cap = number("max_norm", self.max_norm, above=0, infinite=True)
            object.__setattr__(self, "max_norm", cap)
        for slot, usual in _USUAL.items():
            part = getattr(self, slot)
            does = getattr(part, "sharp", None) if slot == "ball" else part
            if isinstance(part, type) or not callable(does):
                raise ThalwegError(
                    f"{slot} must be a part such as {usual.__name__}(), got {part!r}: "
                    "pass an object, not a class or a string"
                )

    @property
    def cap(self) -> float:
        """The cap in force on the length of ε; infinite where there is none."""
        if self.max_norm is not None:
            return self.max_norm
        return DEFAULT_CAP if self.power > 1 else math.inf

    @property
    def scale_matters(self) -> bool:
        """Whether ε changes when the loss is multiplied by a number."""
        bare = isinstance(self.direction, Gradient)  # another may remember earlier gradients
        return self.power != 1 or self.cap < math.inf or not bare

    def perturbation(
        self,
        gradient: Sequence[Tensor],
        rho: Number,
        power: Number | None = None,
        norm: Norm = parameters.norm,
        scale: Number | None = None,
    ) -> Perturbation:
        """Return the perturbation for this gradient.

        Args:
            gradient: Gradient at w, one tensor per chosen parameter.
            rho: Radius at this step.
            power: Overrides the method's power; the simulator varies it over a grid.
            norm: How the norm of a list is taken.
            scale: What the gradient was multiplied by, if by anything; ε is that of the gradient
                without it.

        Returns:
            The perturbation; its factor is 0 where the gradient is 0 or not finite.

        Example:
            >>> import torch
            >>> p = Method().perturbation([torch.tensor([3.0, 4.0])], rho=0.5)
            >>> float(p.factor), float(p.norm)
            (0.1, 5.0)
        """
        power = self.power if power is None else power
        direction, n = self.ball.sharp(self.direction(gradient), norm)
        if scale is None:
            factor = size(rho, n, power, self.cap)
            return Perturbation(direction, factor, norm=n, length=factor * n)
        factor = size(rho, n / scale, power, self.cap)
        return Perturbation(direction, factor / scale, norm=n / scale, length=factor * n / scale)
