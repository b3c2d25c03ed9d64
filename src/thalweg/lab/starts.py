"""The quadratic from many starts at once: the seed says from which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief
from thalweg.lab.problems import Params, Quadratic


class ManyStarts(Quadratic):
    r"""The quadratic :math:`L(w) = \tfrac12 \sum_i \lambda_i w_i^2`; seed k starts at row k.

    Args:
        eigenvalues: The curvatures λ_i, at least one, of any sign.
        starts: The points to start from, one a row, as many columns as eigenvalues.

    Raises:
        ThalwegError: If the starts are not numbers of that shape; in ``start``, if a seed has no
            row.

    Example:
        >>> from thalweg.lab import simulate
        >>> problem = ManyStarts([1.0], [[1.0], [-2.0]])
        >>> simulate(problem, eta=0.5, seed=[0, 1], steps=1).final["w"].tolist()
        [[0.5], [-1.0]]
    """

    quantities: tuple[str, ...] = ("distance", "top")

    def __init__(self, eigenvalues: Sequence[float], starts: Any) -> None:
        super().__init__(eigenvalues)
        try:
            self.starts = np.array(starts, dtype=float)
        except (TypeError, ValueError):
            self.starts = np.array(np.nan)
        wanted = (len(self.starts) if self.starts.ndim else 0, len(self.eigenvalues))
        if self.starts.shape != wanted or not np.isfinite(self.starts).all():
            raise ThalwegError(
                f"starts must be rows of {len(self.eigenvalues)} finite numbers, one for each "
                f"eigenvalue, got {brief(starts)}"
            )

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        rows = seeds.cpu().numpy()
        if rows.size and rows.max() >= len(self.starts):
            raise ThalwegError(
                f"seed must be the number of a row, from 0 to {len(self.starts) - 1}, got "
                f"{rows.max()}: give ManyStarts more starts"
            )
        point = torch.tensor(self.starts[rows], dtype=self.dtype, device=seeds.device)
        return {"w": point}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the distance to the minimum, ‖w‖, and the coordinate of the first eigenvalue."""
        return {**super().observe(params, seeds), "top": params["w"][:, 0]}
