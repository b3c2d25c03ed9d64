"""What a cure is worth: ρ as validation picks it, and paired differences with Holm's p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from thalweg.lab import statistics
from thalweg.lab.claims.robust_stats import holm

Array = np.ndarray[Any, Any]

#: A difference is one if its p is below this, after Holm.
LEVEL = 0.05
#: Below this gain of the untreated ε, rounding has taken something that matters.
SWALLOWED = 0.9

TITLES = {
    "copy": "A bfloat16 copy of float32 weights",
    "pure": "bfloat16 throughout",
    "autocast": "Autocast to bfloat16",
    "four": "A copy with four binary digits",
}
CURES = {
    "none": "nothing",
    "stochastic": "stochastic rounding",
    "carry": "remainder carried",
    "wider": "radius widened",
    "master": "ε added in float32",
}


class Found(NamedTuple):
    """What was measured.

    Attributes:
        rhos: The radii.
        sam: By task, setting and cure: arrays by name, (radii, seeds).
        sgd: By task and setting: test accuracy, (seeds,).
    """

    rhos: Sequence[float]
    sam: dict[tuple[str, str, str], dict[str, Array]]
    sgd: dict[tuple[str, str], Array]


class Difference(NamedTuple):
    """A paired difference in points, with its interval and p-value."""

    mean: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        """Print it with its interval."""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def difference(one: Array, other: Array) -> Difference:
    """Return the mean difference of two accuracies over seeds, in points."""
    pairs = 100 * (np.asarray(one, dtype=float) - np.asarray(other, dtype=float))
    m = statistics.mean(pairs)
    error = pairs.std(ddof=1) / len(pairs) ** 0.5
    # Accuracies that never differ have no spread.
    p = 2 * stdtr(len(pairs) - 1, -abs(pairs.mean()) / error) if error else float(not m.mean)
    return Difference(float(m.mean), float(m.low), float(m.high), float(p))


def picked(arrays: dict[str, Array], name: str) -> Array:
    """Return a quantity at the ρ that each seed's own validation picks, the smaller of equals."""
    best = arrays["validation"].argmax(0)
    found: Array = np.take_along_axis(arrays[name], best[None], 0)[0]
    return found


def treated(found: Found) -> list[tuple[str, str, str]]:
    """Return every task, setting and cure that is compared with nothing."""
    cases = [(t, s, c) for t, s, c in found.sam if c != "none"]
    # Float32 weights are the remedy in the pure setting, too: with them it is the first.
    return cases + [(t, "pure", "master") for t, s, c in cases if (s, c) == ("copy", "master")]


def arrays_of(found: Found, task: str, setting: str, cure: str) -> dict[str, Array]:
    """Return the arrays of a task, a setting and a cure."""
    where = "copy" if (setting, cure) == ("pure", "master") else setting
    return found.sam[task, where, cure]


def adjusted(differences: dict[Any, Difference]) -> dict[Any, Difference]:
    """Return the differences with Holm's p-values."""
    values = holm([d.p for d in differences.values()])
    pairs = zip(differences.items(), values, strict=True)
    return {key: d._replace(p=p) for (key, d), p in pairs}


def tuned(found: Found) -> dict[tuple[str, str, str], Difference]:
    """Return what every cure changes where each has its own ρ."""
    cases = {}
    for t, s, c in treated(found):
        ours, bare = arrays_of(found, t, s, c), found.sam[t, s, "none"]
        cases[t, s, c] = difference(picked(ours, "test"), picked(bare, "test"))
    return adjusted(cases)


def at_one_rho(found: Found) -> dict[tuple[str, str, str, int], Difference]:
    """Return what every cure, and float32, changes at every ρ that all of them have."""
    cases = {}
    for t, s, c in [*treated(found), *((t, s, "float32") for t in tasks(found) for s in TITLES)]:
        ours = found.sam[t, "float32", "none"] if c == "float32" else arrays_of(found, t, s, c)
        bare = found.sam[t, s, "none"]
        for i in range(len(found.rhos)):
            cases[t, s, c, i] = difference(ours["test"][i], bare["test"][i])
    return adjusted(cases)


def tasks(found: Found) -> list[str]:
    """Return the tasks."""
    return list(dict.fromkeys(t for t, *_ in found.sam))


def swallowed(arrays: dict[str, Array]) -> list[int]:
    """Return the places of the radii of which rounding takes something that matters."""
    found: list[int] = np.flatnonzero(arrays["gain"].mean(1) < SWALLOWED).tolist()
    return found


def at(arrays: dict[str, dict[str, Array]], where: Sequence[tuple[str, int]], name: str) -> float:
    """Return the mean of a quantity over pairs of a task and the place of a radius."""
    return float(np.mean([arrays[t][name][i] for t, i in where]))
