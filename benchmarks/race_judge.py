"""What the race says of a preset: its cost, its gain over each rival, and how sure that is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from race_costs import factor
from race_tasks import RATES, Array, Task, best, gradients, method_of, nearest

from thalweg.lab import statistics
from thalweg.lab.claims.robust_stats import holm

Record = dict[str, Any]
#: The comparisons, each a family of its own for Holm.
KINDS = ("gradients", "rate", "stopped", "time", "sam")


@dataclass(frozen=True)
class Gain:
    """A mean difference of test accuracy over seeds, in points, paired by seed.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % t interval.
        high: Upper end.
        p_value: Of the t test that it is 0; after Holm once the task is judged.
    """

    mean: float
    low: float
    high: float
    p_value: float

    @property
    def sign(self) -> int:
        """1 or -1 where the difference is clear, else 0."""
        if self.p_value >= 0.05 or self.low <= 0 <= self.high:
            return 0
        return 1 if self.mean > 0 else -1


@dataclass(frozen=True)
class Row:
    """A preset on a task.

    Attributes:
        name: Of the preset, after its base optimizer where there are several.
        gradients: A step, counted.
        time: A step, in plain steps, or ``None``.
        halves: The grid, 2 log₁₀ ρ.
        rho: What validation chose.
        at_end: Whether the chosen ρ is an end of the grid.
        grown: Whether the grid had to grow.
        test: Mean test accuracy at that ρ, in points.
        gains: By kind; none where there is nothing to compare with.
    """

    name: str
    gradients: float
    time: float | None
    halves: tuple[int, ...]
    rho: float
    at_end: bool
    grown: bool
    test: float
    gains: dict[str, Gain]


def gain(ours: Array, theirs: Array) -> Gain:
    """Return the mean difference in points of two arrays of accuracies, one a seed."""
    from scipy.special import stdtr  # scikit-learn brings it

    apart = 100 * (np.asarray(ours) - np.asarray(theirs))
    found, n = statistics.mean(apart), len(apart)
    error = float(apart.std(ddof=1)) / n**0.5
    if error > 0:
        p_value = float(2 * stdtr(n - 1, -abs(float(found.mean)) / error))
    else:  # the same for every seed
        p_value = 1.0 if found.mean == 0 else 0.0
    return Gain(float(found.mean), float(found.low), float(found.high), p_value)


def rival_at(rival: Record, steps: float, *, own: bool = False) -> tuple[Array, float, int]:
    """Return a rival's test accuracies after so many steps, its learning rate, and the steps.

    The learning rate is that which validation chooses for just so many steps, or the task's own.
    """
    look = nearest(rival["looks"], steps)
    at = RATES.index(1.0) if own else best(np.array(rival["validation"])[:, :, look])
    return np.array(rival["test"])[at, :, look], rival["rates"][at], rival["looks"][look]


def stopped(rival: Record, steps: float) -> tuple[Array, float, int]:
    """Return the same for the learning rate and the time to stop that validation chooses."""
    last = nearest(rival["looks"], steps)
    validation = np.array(rival["validation"]).mean(1)[:, : last + 1]
    at, look = np.unravel_index(int(validation.argmax()), validation.shape)
    return np.array(rival["test"])[at, :, look], rival["rates"][at], rival["looks"][look]


def judge(
    task: Task, records: dict[str, Record], rivals: dict[str, Record], costs: Record
) -> list[Row]:
    """Return a row for every preset that was trained on a task.

    Args:
        task: The task.
        records: What was found, by the names of the task's runners.
        rivals: The same of its base optimizers.
        costs: What a step takes.
    """
    tests = {name: np.array(r["test"])[best(r["validation"])] for name, r in records.items()}
    rows = []
    for name, record in records.items():
        words = name.split()
        base = words[0] if task.layers else "sgd"
        at, steps = best(record["validation"]), record["settings"]["steps"]
        share = record["share"][at]
        count = gradients(method_of(words[-1], steps), share)
        seconds = None if task.layers else factor(costs, name, share)
        gains = {}
        if base in rivals:
            for kind, own in (("gradients", False), ("rate", True)):
                theirs = rival_at(rivals[base], count * steps, own=own)[0]
                gains[kind] = gain(tests[name], theirs)
            if "stop test" in record:
                early = np.array(record["stop test"][best(record["stop validation"])])
                gains["stopped"] = gain(early, stopped(rivals[base], count * steps)[0])
            if seconds is not None:
                gains["time"] = gain(tests[name], rival_at(rivals[base], seconds * steps)[0])
        plain = f"{base} sam" if task.layers else "sam"
        if name != plain and plain in tests:
            gains["sam"] = gain(tests[name], tests[plain])
        halves = record["halves"]
        rows.append(
            Row(
                name=name,
                gradients=count,
                time=seconds,
                halves=tuple(halves),
                rho=10 ** (halves[at] / 2),
                at_end=at in (0, len(halves) - 1),
                grown=len(halves) > record["began with"],
                test=100 * float(tests[name].mean()),
                gains=gains,
            )
        )
    return corrected(rows)


def corrected(rows: list[Row]) -> list[Row]:
    """Return the rows with the p-values of each kind of comparison after Holm."""
    for kind in KINDS:
        those = [i for i, row in enumerate(rows) if kind in row.gains]
        adjusted = holm([rows[i].gains[kind].p_value for i in those])
        for i, p_value in zip(those, adjusted, strict=True):
            new = dataclasses.replace(rows[i].gains[kind], p_value=p_value)
            rows[i] = dataclasses.replace(rows[i], gains={**rows[i].gains, kind: new})
    return rows
