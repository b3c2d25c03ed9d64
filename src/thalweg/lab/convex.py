"""Strongly convex losses with known curvatures, one for each seed: quadratics, and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.lab.observe import Maximum
from thalweg.lab.problems import Params, Problem
from thalweg.lab.random_sums import RandomSums, normal_rows


@dataclass(frozen=True)
class LateMaximum(Maximum):
    """The largest value seen from a step on: what a quantity comes back to for ever.

    Looks at the two points of a bounce need an odd ``every``.

    Attributes:
        since: The first step that counts.

    Example:
        >>> from thalweg.lab import Quadratic, simulate
        >>> watch = {"late": LateMaximum("distance", since=3)}
        >>> run = simulate(Quadratic([1.0]), eta=0.5, steps=4, observe=watch)
        >>> run.observed["late"].tolist()
        0.125
    """

    since: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("since", self.since)

    def begin(self, value: Tensor) -> list[Tensor]:
        """Return the record after the first look, which counts only if ``since`` is 0."""
        return [value if self.since == 0 else torch.full_like(value, torch.nan)]

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Keep the larger."""
        if step >= self.since:
            super().look(record, value, step)


class Bowls(Problem):
    r"""Quadratics :math:`L(w) = \tfrac12 \sum_i \lambda_i w_i^2` of several spectra.

    Seed k takes the spectrum k modulo their number, and draws its start from a normal law.

    Args:
        spectra: Lists of eigenvalues, all of one length.

    Raises:
        ThalwegError: If they are not lists of positive numbers of one length.

    Example:
        >>> bowls = Bowls([[4.0, 1.0], [4.0, 4.0]])
        >>> seeds = torch.tensor([0, 1])
        >>> bowls.gradient({"w": torch.ones(2, 2)}, bowls.stream(seeds)(0))["w"].tolist()
        [[4.0, 1.0], [4.0, 4.0]]
    """

    elementwise = False
    quantities: tuple[str, ...] = ("excess", "distance")

    def __init__(self, spectra: Sequence[Sequence[float]]) -> None:
        try:
            table = np.array(spectra, dtype=float)
        except (TypeError, ValueError):
            table = np.array(np.nan)
        if table.ndim != 2 or not table.size or not (table > 0).all() or np.isinf(table).any():
            raise ThalwegError(
                "spectra must be lists of positive numbers, all of one length, got "
                f"{brief(spectra)}"
            )
        self.spectra = torch.tensor(table, dtype=self.dtype)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        draws = normal_rows(seeds, self.spectra.shape[1], key=1)
        return {"w": draws.to(seeds.device, self.dtype)}

    def stream(self, seeds: Tensor) -> Callable[[int], Tensor]:
        """Return the eigenvalues of every cell, (B, D): the same at every step."""
        values = self.spectra.to(seeds.device)[seeds % len(self.spectra)]
        return lambda step: values

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return ½ Σ λ w², (B,)."""
        w = params["w"]
        total: Tensor = (batch * w * w).sum(-1) / 2
        return total

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return λ w."""
        return {"w": batch * params["w"]}

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss, (B,)."""
        return self.loss(params, self.stream(seeds)(0))

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss above its minimum and the distance from it."""
        distance = torch.linalg.vector_norm(params["w"], dim=-1)
        return {"excess": self.final_loss(params, seeds), "distance": distance}


class RandomBowls(RandomSums):
    r"""Random strongly convex losses: :class:`RandomSums` with log cosh and alpha above 0.

    The start is the minimum plus a normal vector.

    Args:
        alpha: Strong convexity, above 0.
        beta: Smoothness, above alpha.
        dimension: D.
        terms: How many terms.

    Raises:
        ThalwegError: If an argument is out of range.

    Example:
        >>> from thalweg.lab import simulate
        >>> run = simulate(RandomBowls(1.0, 10.0), eta=0.1, seed=[0, 1], steps=400)
        >>> (run.observed["distance"] < 1e-9).tolist()
        [True, True]
    """

    quantities: tuple[str, ...] = ("excess", "distance")

    def __init__(
        self, alpha: float = 1.0, beta: float = 10.0, dimension: int = 2, terms: int = 3
    ) -> None:
        number("alpha", alpha, above=0)
        super().__init__("log_cosh", alpha, beta, dimension, terms)
        self._minimum: tuple[Tensor, Tensor, Tensor] | None = None

    def minimum(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minimum of every cell's loss and its value.

        Args:
            seeds: Seeds, (B,).

        Returns:
            Points (B, D) and losses (B,).
        """
        if self._minimum is None or self._minimum[0] is not seeds:
            each, cell = torch.unique(seeds, return_inverse=True)
            terms = self.terms(each)
            w = torch.zeros(len(each), self.dimension, dtype=self.dtype, device=seeds.device)
            # Gradient descent shrinks the distance by 1 - α/β a step.
            for _ in range(int(40 * self.beta / self.alpha)):
                w = w - self.gradient({"w": w}, terms)["w"] / self.beta
            self._minimum = seeds, w[cell], self.loss({"w": w}, terms)[cell]
        return self._minimum[1:]

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        draws = normal_rows(seeds, self.dimension, key=1).to(seeds.device, self.dtype)
        return {"w": self.minimum(seeds)[0] + draws}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss above its minimum and the distance from it."""
        where, value = self.minimum(seeds)
        distance = torch.linalg.vector_norm(params["w"] - where, dim=-1)
        return {"excess": self.final_loss(params, seeds) - value, "distance": distance}
