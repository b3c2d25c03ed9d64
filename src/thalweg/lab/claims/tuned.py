"""Where a hyper-parameter is best: a curve over ρ and seeds, and intervals over the seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.lab.claims.claim import Settings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Curve:
    """Accuracies over ρ, which is tuned on validation: (values of ρ, seeds).

    Attributes:
        rho: The values, evenly spaced in their logarithm, at least three.
        validation: Accuracy on validation.
        test: Accuracy on test.
    """

    rho: Array
    validation: Array
    test: Array

    def best(self, seeds: Array) -> float:
        """Return log₁₀ of the best ρ for these seeds: the vertex of a parabola.

        It goes through the largest mean validation accuracy and its two neighbours.
        """
        mean, log_rho = self.validation[:, seeds].mean(1), np.log10(self.rho)
        top = int(mean.argmax())
        if top in (0, len(mean) - 1):
            return float(log_rho[top])
        left, middle, right = mean[top - 1 : top + 2]
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(log_rho[top] + shift * (log_rho[1] - log_rho[0]))

    @property
    def at_end(self) -> bool:
        """Whether the best value, all seeds together, is an end of the grid."""
        return int(self.validation.mean(1).argmax()) in (0, len(self.rho) - 1)

    def points(self, seeds: Array, log_rho: float) -> float:
        """Return the test accuracy at any ρ within the grid, between its values linearly."""
        mean = self.test[:, seeds].mean(1)
        return 100 * float(np.interp(log_rho, np.log10(self.rho), mean))

    def cost(self, seeds: Array, log_rho: float) -> float:
        """Return what a ρ costs against the best one, in points of test accuracy."""
        return self.points(seeds, self.best(seeds)) - self.points(seeds, log_rho)


def interval(settings: Settings, statistic: Callable[[Array], float]) -> tuple[float, float, float]:
    """Return a statistic of the seeds with its 95 % bootstrap interval (percentiles)."""
    n, rng = settings["seeds"], np.random.default_rng(0)
    draws = [statistic(seeds) for seeds in rng.integers(0, n, (settings["bootstrap"], n))]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(statistic(np.arange(n))), float(low), float(high)
