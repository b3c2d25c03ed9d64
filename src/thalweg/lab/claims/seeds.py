"""Means over seeds with their 95 % t intervals, as every claim that draws seeds states them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thalweg.errors import ThalwegError

Array = np.ndarray[Any, Any]


class Mean(NamedTuple):
    """A mean over the last axis with its 95 % t interval."""

    mean: Array
    low: Array
    high: Array
    n: int

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
    from scipy.special import stdtrit  # scikit-learn brings it

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
