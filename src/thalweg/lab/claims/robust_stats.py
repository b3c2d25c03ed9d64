"""The endpoint of the claim about robustness, and what stands beside it, from the trainings.

Whatever is picked, is picked on validation; whatever is reported, is the test. The first row of
every result belongs to the seeds as they are, the others to seeds drawn anew (bootstrap), for which
everything is picked anew too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.errors import extra
from thalweg.lab import statistics
from thalweg.lab.claims.robust_runs import Curve, Runs
from thalweg.lab.claims.robust_sgd import Rival
from thalweg.lab.statistics import Array

#: Units of the size of a perturbation, in decades.
UNITS = ("ρ", "mean ‖ε‖", "predicted rise")


def weights(seeds: int, draws: int) -> Array:
    """Return the weight of every seed, (1 + draws, seeds): equal ones, then those of the bootstrap.

    Args:
        seeds: How many seeds there are.
        draws: How often they are drawn anew.

    Returns:
        Rows that sum to 1.

    Example:
        >>> weights(4, 2).sum(axis=1).tolist()
        [1.0, 1.0, 1.0]
    """
    counts = (statistics.resampled(seeds, draws)[:, :, None] == np.arange(seeds)).sum(1)
    return np.concatenate([np.ones((1, seeds)), counts]) / seeds


@dataclass(frozen=True)
class Picked:
    """What a rule picks: every array is (draws, tasks).

    Attributes:
        points: Test accuracy, in points.
        at: The pick, 10 log₁₀ of ρ.
    """

    points: Array
    at: Array


def tuned(runs: Runs, title: str, w: Array) -> Picked:
    """Return what every task has with the ρ that its own validation picks."""
    columns = [_pick(c, c.validation @ w.T, w) for c in runs.curves[title]]
    return Picked(*(np.stack(parts, axis=1) for parts in zip(*columns, strict=True)))


def transferred(runs: Runs, title: str, w: Array) -> Picked:
    """Return what every task has with the ρ that the validation of all the others picks."""
    curves = [c.only(runs.common[title]) for c in runs.curves[title]]
    validation = np.stack([c.validation @ w.T for c in curves])  # (tasks, values, draws)
    total = validation.sum(0)
    columns = [_pick(c, total - v, w) for c, v in zip(curves, validation, strict=True)]
    return Picked(*(np.stack(parts, axis=1) for parts in zip(*columns, strict=True)))


def _pick(curve: Curve, score: Array, w: Array) -> tuple[Array, Array]:
    """Test accuracy in points, and the value, where a score (values, draws) is largest."""
    best, draw = score.argmax(0), np.arange(len(w))
    return 100 * (curve.test @ w.T)[best, draw], np.array(curve.at)[best]


def rival(runs: Runs, which: str, w: Array) -> Array:
    """Return SGD's test accuracy in points, (draws, tasks), for one of the fields of ``Rival``."""
    columns = []
    for one in runs.rivals:
        validation, test = getattr(one, which)
        best = (validation @ w.T).argmax(0)
        columns.append(100 * (test @ w.T)[best, np.arange(len(w))])
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Mean:
    """A mean over tasks with two 95 % intervals.

    Attributes:
        value: The mean.
        tasks: How many tasks.
        half: Half of the t interval over tasks.
        low: Lower end of the bootstrap interval over seeds (percentiles).
        high: Upper end.
        p_value: Of the t test that the mean over tasks is 0.
    """

    value: float
    tasks: int
    half: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.value:+.2f} ± {self.half:.2f} (t, n = {self.tasks} tasks) "
            f"[{self.low:+.2f}, {self.high:+.2f}] (bootstrap over seeds)"
        )


def mean(values: Array) -> Mean:
    """Return the mean over tasks of (draws, tasks), with its intervals.

    Args:
        values: One row for the seeds as they are, then one for each draw of them.

    Returns:
        The mean.

    Example:
        >>> print(mean(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])))
        +2.00 ± 2.48 (t, n = 3 tasks) [+2.00, +2.00] (bootstrap over seeds)
    """
    with extra("lab", by=__name__):
        from scipy.special import stdtr

    row, n = values[0], values.shape[1]
    low, high = statistics.percentiles(values[1:].mean(1))
    error = float(row.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    value = float(row.mean())
    if error > 0:
        p_value = float(2 * stdtr(n - 1, -abs(value) / error))
    else:  # the same for every task
        p_value = 1.0 if value == 0 or n == 1 else 0.0
    half = float(statistics.mean(row).half) if n > 1 else float("inf")
    return Mean(value, n, half, low, high, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, by Holm's method.

    Args:
        p_values: The single ones.

    Returns:
        The adjusted ones, in the same order.

    Example:
        >>> holm([0.04, 0.01, 0.03])
        [0.06, 0.03, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def gains(runs: Runs, title: str, w: Array) -> list[int]:
    """Return the tasks that gain over SGD with their own ρ: bootstrap interval above 0."""
    gain = tuned(runs, title, w).points - rival(runs, "own", w)
    low = np.percentile(gain[1:], 2.5, axis=0)
    return [t for t in range(gain.shape[1]) if low[t] > 0]


def scatter(runs: Runs, title: str, w: Array, tasks: Sequence[int]) -> dict[str, Array]:
    """Return how far apart the best perturbations of tasks are: sd in decades, (draws,)."""
    at = tuned(runs, title, w).at[:, tasks]
    sizes: dict[str, list[Array]] = {unit: [] for unit in UNITS}
    for column, t in enumerate(tasks):
        curve = runs.curves[title][t]
        rows = np.searchsorted(curve.at, at[:, column])
        for unit, size in _sizes(curve).items():
            sizes[unit].append(size[rows])
    return {unit: np.stack(rows, 1).std(1, ddof=1) for unit, rows in sizes.items()}


def _sizes(curve: Curve) -> dict[str, Array]:
    """Log₁₀ of the size of the perturbation at every value, by unit; mean over seeds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (
            np.array(curve.at) / 10,
            np.log10(curve.length.mean(1)),
            np.log10(curve.rise.mean(1)),
        )
    return dict(zip(UNITS, found, strict=True))


@dataclass(frozen=True)
class Shape:
    """How far a task's best perturbation may be missed; decades by unit.

    Attributes:
        width: From where half the gain is reached to where half of it is lost; empty where the
            grid ends first.
        cliff: From the best to where SGD is better; empty where the grid ends first.
    """

    width: dict[str, float]
    cliff: dict[str, float]


def shape(curve: Curve, sgd: Rival) -> Shape:
    """Return the shape of a task's gain around the value that validation picks."""
    gain = curve.test.mean(1) - sgd.own[1].mean()
    best = curve.at.index(curve.best)
    ends = [_crossing(gain, best, step, gain[best] / 2) for step in (-1, 1)]
    over = _crossing(gain, best, 1, 0.0)
    places = np.arange(len(gain))
    width, cliff = {}, {}
    for unit, size in _sizes(curve).items():
        if ends[0] is not None and ends[1] is not None:
            low, high = np.interp([float(e) for e in ends if e is not None], places, size)
            width[unit] = float(high - low)
        if over is not None:
            cliff[unit] = float(np.interp(over, places, size) - size[best])
    return Shape(width, cliff)


def _crossing(gain: Array, start: int, step: int, level: float) -> float | None:
    """Where the gain first falls below a level, as a fractional index; None if nowhere."""
    i = start
    while 0 <= i + step < len(gain):
        if gain[i + step] < level:
            return float(i + step * (gain[i] - level) / (gain[i] - gain[i + step]))
        i += step
    return None


def at_length(runs: Runs, title: str, tasks: Sequence[int], length: float) -> float | None:
    """Return the test accuracy at a mean ‖ε‖, mean over tasks; None where one does not reach it.

    Between two values of ρ the accuracy is taken on a straight line over log ‖ε‖.
    """
    found = []
    for t in tasks:
        curve = runs.curves[title][t]
        sizes = curve.length.mean(1)
        # Past the cliff ‖ε‖ may fall again as ρ grows: the way up counts.
        rows = slice(0, int(sizes.argmax()) + 1)
        if not sizes[0] <= length <= sizes.max():
            return None
        known = np.log(np.maximum.accumulate(sizes[rows]))
        found.append(np.interp(np.log(length), known, curve.test.mean(1)[rows]))
    return float(np.mean(found))
