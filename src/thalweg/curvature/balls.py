"""Neighbourhoods of the weights: balls that know their scale, and how to move within them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.ascent import L2, Ball, Context, size
from thalweg.errors import ThalwegError, number
from thalweg.parameters import norm


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """All entries as one vector, each in units of its own scale: ‖T⁻¹ε‖ ≤ ρ.

    Attributes:
        scale: The diagonal of T, one tensor per parameter, nowhere below 0; an entry whose scale
            is 0 is not moved.

    Example:
        >>> Scaled([torch.tensor([2.0, 1.0])]).sharp([torch.tensor([1.5, 4.0])], Context())
        ([tensor([6., 4.])], tensor(5., dtype=torch.float64))
    """

    scale: Sequence[Tensor]

    def sharp(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], float | Tensor]:
        """Return T²d and its dual norm ‖Td‖.

        Args:
            direction: What points uphill, one tensor per parameter.
            context: The step.
        """
        stretched = [t * d for t, d in zip(self.scale, direction, strict=True)]
        return [t * s for t, s in zip(self.scale, stretched, strict=True)], context.norm(stretched)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The ball of ASAM: each entry in units of its own size, T = |w| + offset.

    With offset 0 the sharpness of a ReLU network does not change when one layer is multiplied by a
    number and the next divided by it.

    Attributes:
        offset: Added to every |w|. ASAM trains with .01.

    Source:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021.

    Example:
        >>> Adaptive(0.5).at([torch.tensor([-2.0, 0.0])]).scale
        [tensor([2.5000, 0.5000])]
    """

    offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", number("offset", self.offset, at_least=0))

    def at(self, weights: Sequence[Tensor]) -> Scaled:
        """Return the ball around these weights.

        Args:
            weights: One tensor per parameter.
        """
        return Scaled([w.detach().abs() + self.offset for w in weights])


class Neighbourhood:
    """A ball of radius rho around the weights: the ε in it.

    Args:
        ball: Its shape.
        weights: Its centre.
        rho: Its radius.
    """

    def __init__(self, ball: Ball | Adaptive, weights: Sequence[Tensor], rho: float) -> None:
        if isinstance(ball, type) or not callable(
            getattr(ball, "sharp", getattr(ball, "at", None))
        ):
            raise ThalwegError(
                f"ball must be a ball such as L2() or Adaptive(), got {ball!r}: pass an object, "
                "not a class or a string"
            )
        self.ball: Ball = ball.at(weights) if isinstance(ball, Adaptive) else ball
        self.scale = self.ball.scale if isinstance(self.ball, Scaled) else None
        self.weights, self.rho = weights, rho

    def uphill(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """Return the ε of the ball with the largest <direction, ε>; 0 where that is not finite.

        Args:
            direction: One tensor per parameter, such as the gradient.
        """
        sharp, length = self.ball.sharp(direction, Context())
        factor = float(size(self.rho, float(length)))
        return [s * factor if factor else torch.zeros_like(s) for s in sharp]

    def within(self, epsilon: list[Tensor], toward: list[Tensor], share: float) -> list[Tensor]:
        """Return ε + share · toward, brought back into the ball.

        Args:
            epsilon: In the ball.
            toward: In the ball.
            share: How far to go.
        """
        moved = [e + share * a for e, a in zip(epsilon, toward, strict=True)]
        if isinstance(self.ball, L2 | Scaled):
            length = float(norm(self._in_units(moved)))
            factor = min(1.0, self.rho / length) if length > 0 else 1.0
        else:  # of a convex set the mean of two points is in it
            factor = 1 / (1 + share)
        return [e * factor for e in moved]

    def drawn(self, draw: torch.Generator) -> list[Tensor]:
        """Return an ε on the sphere: uniform in Euclidean length, T times that where scaled.

        Args:
            draw: Where the numbers come from, on the CPU.
        """
        noise = [
            torch.randn(w.shape, generator=draw, dtype=torch.float64).to(w) for w in self.weights
        ]
        if self.scale is None:
            return self.uphill(noise)
        noise = [z * (t > 0) for z, t in zip(noise, self.scale, strict=True)]
        length = float(norm(noise))
        factor = self.rho / length if length > 0 else 0.0
        return [t * z * factor for t, z in zip(self.scale, noise, strict=True)]

    def _in_units(self, epsilon: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.scale is None:
            return epsilon
        pairs = zip(epsilon, self.scale, strict=True)
        return [torch.where(t > 0, e / t, torch.zeros_like(e)) for e, t in pairs]
