"""Neighbourhoods of the weights: the ε in a ball around them, and how to move within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from thalweg.ascent import L2, Ball, size
from thalweg.ascent.gives import fitting, pair
from thalweg.curvature.losses import Losses
from thalweg.errors import ThalwegError, brief
from thalweg.parameters import norm


def is_ellipsoid(ball: Ball) -> TypeGuard[L2]:
    """Return whether a ball is {ε : ‖T⁻¹ε‖ ≤ ρ}, T a diagonal that the weights alone make.

    Args:
        ball: Any ball.

    Example:
        >>> is_ellipsoid(L2()), is_ellipsoid(L2(over="tensor"))
        (True, False)
    """
    return isinstance(ball, L2) and ball.over == "all" and not ball.needs_scale


class Neighbourhood:
    """A ball of radius rho around the weights: the ε in it.

    Args:
        ball: Its shape.
        losses: Knows the weights, its centre, which are at rest now.
        rho: Its radius.

    Raises:
        ThalwegError: If the ball is none.
    """

    def __init__(self, ball: Ball, losses: Losses, rho: float) -> None:
        if isinstance(ball, type) or not callable(getattr(ball, "sharp", None)):
            raise ThalwegError(
                f"ball must be a ball such as L2(), got {brief(ball)}: pass an object of "
                "thalweg.ascent, not a class or a string"
            )
        self.ball, self.weights, self.rho = ball, losses.parameters, rho
        self._context = losses.context()
        self._units: list[Tensor] | None = None
        if is_ellipsoid(ball) and ball.scale is not None:
            scales = ball.scale(self.weights, self._context)
            found = fitting("scale", ball.scale, scales, self.weights, numbers=0)
            self._units = [torch.ones_like(w) * t for w, t in zip(self.weights, found, strict=True)]

    def uphill(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """Return the ε of the ball with the largest <direction, ε>; 0 where that is not finite.

        Args:
            direction: One tensor per parameter, such as the gradient.
        """
        sharp, length = pair(self.ball, self.ball.sharp(direction, self._context), 0)
        factor = float(size(self.rho, float(length)))
        found = fitting("ball", self.ball, sharp, self.weights)
        return [s * factor if factor else torch.zeros_like(s) for s in found]

    def within(self, epsilon: list[Tensor], toward: list[Tensor], share: float) -> list[Tensor]:
        """Return ε + share · toward, brought back into the ball.

        Args:
            epsilon: In the ball.
            toward: In the ball.
            share: How far to go.
        """
        moved = [e + share * a for e, a in zip(epsilon, toward, strict=True)]
        if is_ellipsoid(self.ball):
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
        if self._units is None:
            return self.uphill(noise)
        noise = [z * (t > 0) for z, t in zip(noise, self._units, strict=True)]
        length = float(norm(noise))
        factor = self.rho / length if length > 0 else 0.0
        return [t * z * factor for t, z in zip(self._units, noise, strict=True)]

    def _in_units(self, epsilon: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._units is None:
            return epsilon
        pairs = zip(epsilon, self._units, strict=True)
        return [torch.where(t > 0, e / t, torch.zeros_like(e)) for e, t in pairs]
