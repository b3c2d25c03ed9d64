"""Intervals over seeds, as every claim states them, and what an interval decides.

A mean has a t interval. Anything else, such as a ρ that is picked anew, has a bootstrap interval:
seeds are drawn with replacement, and the percentiles are taken of what the draws give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from thalweg.errors import ThalwegError, extra

Array = np.ndarray[Any, Any]


class Mean(NamedTuple):
    """A mean over the last axis with its 95 % t interval."""

    mean: Array
    low: Array
    high: Array
    n: int

    @property
    def half(self) -> Array:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """Print one number with its interval."""
        mean, low, high = (float(v) for v in self[:3])
        return f"{mean:.3g} [{low:.3g}, {high:.3g}], 95 % t interval, n = {self.n}"


def mean(values: Any) -> Mean:
    """Return the mean over seeds (the last axis, at least two).

    Args:
        values: Measurements, seeds last.

    Returns:
        The mean and the ends of its interval, without that axis.

    Raises:
        ThalwegError: If there are fewer than two seeds.

    Example:
        >>> print(mean([1.0, 2.0, 3.0]))
        2 [-0.484, 4.48], 95 % t interval, n = 3
    """
    with extra("lab", by=__name__):
        from scipy.special import stdtrit

    data = np.asarray(values, dtype=float)
    n = data.shape[-1] if data.ndim else 0
    if n < 2:
        raise ThalwegError(f"values must be of at least 2 seeds, got {n}: one has no interval")
    half = data.std(axis=-1, ddof=1) / n**0.5 * float(stdtrit(n - 1, 0.975))
    middle = data.mean(axis=-1)
    return Mean(middle, middle - half, middle + half, n)


def geometric(values: Any) -> Mean:
    """Return the geometric mean over seeds, its interval that of the mean logarithm.

    Args:
        values: Positive measurements, seeds last.

    Returns:
        The mean and the ends of its interval, without that axis.

    Example:
        >>> print(geometric([1.0, 4.0]))
        2 [0.000299, 1.34e+04], 95 % t interval, n = 2
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = mean(np.log(values))
        return Mean(np.exp(found.mean), np.exp(found.low), np.exp(found.high), found.n)


def resampled(seeds: int, draws: int) -> Array:
    """Return seeds drawn anew, (draws, seeds): the same ones at every call.

    Args:
        seeds: How many seeds there are.
        draws: How often they are drawn.

    Returns:
        Indices of seeds.

    Example:
        >>> resampled(4, 2).shape
        (2, 4)
    """
    return np.random.default_rng(0).integers(0, seeds, (draws, seeds))


def percentiles(draws: Any) -> tuple[float, float]:
    """Return the ends of a 95 % bootstrap interval from what the draws gave.

    Args:
        draws: One number a draw.

    Returns:
        The percentiles 2.5 and 97.5.

    Example:
        >>> [round(end, 1) for end in percentiles(range(101))]
        [2.5, 97.5]
    """
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def interval(
    settings: Mapping[str, Any], statistic: Callable[[Array], float]
) -> tuple[float, float, float]:
    """Return a statistic of the seeds with its 95 % bootstrap interval.

    Whatever the statistic picks on validation is picked anew for every draw.

    Args:
        settings: ``seeds`` and ``bootstrap``, how many seeds and how many draws of them.
        statistic: A number from indices of seeds.

    Returns:
        The statistic for the seeds as they are, and the ends of its interval.

    Example:
        >>> interval({"seeds": 3, "bootstrap": 10}, lambda seeds: 2.0)
        (2.0, 2.0, 2.0)
    """
    n = settings["seeds"]
    ends = percentiles([statistic(seeds) for seeds in resampled(n, settings["bootstrap"])])
    return float(statistic(np.arange(n))), *ends


def inside(low: float, high: float, margin: float) -> bool | None:
    """Return whether an interval shows that a difference is no more than a margin.

    Args:
        low: Lower end.
        high: Upper end.
        margin: The margin.

    Returns:
        ``True`` if all of it is within the margin; ``False`` if it is not, and does not include
        0: there is a difference; ``None`` if it includes 0 and an end of the margin.

    Example:
        >>> inside(-0.1, 0.2, 0.5), inside(0.4, 0.6, 0.5), inside(-0.1, 0.6, 0.5)
        (True, False, None)
    """
    if -margin <= low and high <= margin:
        return True
    return False if low > 0 or high < 0 else None


def beyond(low: float, high: float, bound: float = 0.0, sign: int = 1) -> bool | None:
    """Return whether an interval lies above a bound, or below it.

    Args:
        low: Lower end.
        high: Upper end.
        bound: The bound.
        sign: 1 for above, -1 for below.

    Returns:
        ``True`` if it does, ``False`` if it lies on the other side or is the bound itself,
        ``None`` if it includes the bound.

    Example:
        >>> beyond(0.1, 0.3), beyond(0.1, 0.3, sign=-1), beyond(-0.1, 0.3), beyond(0.0, 0.0)
        (True, False, None, False)
    """
    near, far = sorted((sign * (low - bound), sign * (high - bound)))
    if near > 0:
        return True
    return False if far < 0 or near == far == 0 else None  # what never differs has no spread
