"""The saddle: a valley in one direction, ways down in others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number
from thalweg.lab.problems import Params, numbers
from thalweg.lab.starts import ManyStarts


class Saddle(ManyStarts):
    r"""The saddle :math:`L(x, y) = \tfrac12 \lambda x^2 + \tfrac12 \sum_i \nu_i y_i^2`.

    Seed k starts at row k. Each ν is below 0: along y the loss falls without bound.

    Args:
        up: Curvature λ across the valley, above 0.
        down: Curvatures ν along the ways down, below 0, at least one.
        starts: The points (x, y...) to start from, one a row.

    Raises:
        ThalwegError: If a curvature has the wrong sign or the starts are not rows of numbers.

    Example:
        >>> from thalweg.lab import simulate
        >>> problem = Saddle(up=4.0, down=[-1.0], starts=[[0.0, 0.05], [0.0, 0.2]])
        >>> run = simulate(problem, eta=0.1, rho=0.1, seed=[0, 1], steps=200)
        >>> (run.observed["down"] < 0.1).tolist()  # SAM is held within ρ
        [True, False]
    """

    quantities: tuple[str, ...] = (*ManyStarts.quantities, "down")

    def __init__(self, up: float, down: Sequence[float], starts: Any) -> None:
        ways = numbers("down", down)
        if not all(value < 0 for value in ways):
            raise ThalwegError(
                f"down must be numbers below 0, got {brief(down)}: at a saddle some curvature is "
                "negative"
            )
        super().__init__([number("up", up, above=0), *ways], starts)

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return what ``ManyStarts`` does, and the distance ‖y‖ along the ways down."""
        down = torch.linalg.vector_norm(params["w"][:, 1:], dim=-1)
        return {**super().observe(params, seeds), "down": down}
