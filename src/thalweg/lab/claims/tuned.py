"""Where a hyper-parameter is best: a curve over ρ and seeds, and whether its grid is enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from thalweg.lab.claims.claim import Settings
from thalweg.lab.statistics import Array, resampled


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

        It goes through the largest mean validation accuracy and its two neighbours. At an end of
        the grid it is that end, which is no best: see :func:`ended`.
        """
        mean, log_rho = self.validation[:, seeds].mean(1), np.log10(self.rho)
        top = int(mean.argmax())
        if self.at_end(seeds):
            return float(log_rho[top])
        left, middle, right = mean[top - 1 : top + 2]
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(log_rho[top] + shift * (log_rho[1] - log_rho[0]))

    def at_end(self, seeds: Array) -> bool:
        """Return whether the best value for these seeds is an end of the grid."""
        return int(self.validation[:, seeds].mean(1).argmax()) in (0, len(self.rho) - 1)

    def points(self, seeds: Array, log_rho: float) -> float:
        """Return the test accuracy at any ρ within the grid, between its values linearly."""
        mean = self.test[:, seeds].mean(1)
        return 100 * float(np.interp(log_rho, np.log10(self.rho), mean))

    def cost(self, seeds: Array, log_rho: float) -> float:
        """Return what a ρ costs against the best one, in points of test accuracy."""
        return self.points(seeds, self.best(seeds)) - self.points(seeds, log_rho)


#: Share of the draws at an end of a grid up to which an interval stands: what it leaves out.
_ENDS = 0.025


def ended(settings: Settings, curves: Iterable[Curve]) -> tuple[bool, str]:
    """Return whether a grid is too short for an interval of its best ρ, and what to print of it.

    Args:
        settings: ``seeds`` and ``bootstrap``.
        curves: What is best is asked of each.

    Returns:
        Whether some best value, all seeds together or in more than 2.5 % of the draws, is an end of
        its grid; a remark with the share of such draws, empty if there is none.
    """
    curves, everyone = list(curves), np.arange(settings["seeds"])
    draws = resampled(settings["seeds"], settings["bootstrap"])
    share = float(np.mean([any(c.at_end(seeds) for c in curves) for seeds in draws]))
    known = any(c.at_end(everyone) for c in curves)
    remark = f" (in {share:.1%} of the draws at an end of the grid: extend it)"
    return known or share > _ENDS, remark if known or share else ""
