"""The candidate rules of `choosing_rho.py`, and what they cost.

All but the last three were fixed before the first look. `level` was made after it, and is judged on
the tasks that were chosen after that; `diagnose`, which is `level` as it is shipped, and `cautious`
were added when both sets of tasks had been seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from choosing_rho_measure import Measured, first
from choosing_rho_tasks import Curves

import thalweg.lab.claims.robust_stats as stats
from thalweg.lab.statistics import percentiles

Array = np.ndarray[Any, Any]

#: Constants are sought in steps of .05 decade, shares of the loss too.
_STEPS = 20
SHARES = 10 ** (np.arange(-2 * _STEPS, 2 * _STEPS + 1) / _STEPS)
FACTORS = 10 ** (np.arange(-5 * _STEPS, 5 * _STEPS + 1) / _STEPS)
DEFAULT, SINGLE, LATER = "default", "single", "level"
SHIPPED, CAUTIOUS = "diagnose", "cautious"


@dataclass(frozen=True)
class Rule:
    """One rule: from what networks show to ρ.

    Attributes:
        name: In the tables.
        formula: In words and letters.
        of: The quantity from the numbers of :class:`Measured` and what else there is, (tasks,
            points, seeds); or, with a last axis, one for each of the constants.
        fitted: Whether a constant is fitted on the other tasks; a factor, or that last axis.
        constants: Among which it is sought.
    """

    name: str
    formula: str
    of: Callable[[Measured], Array]
    fitted: bool = True
    constants: Array = field(default_factory=lambda: FACTORS)


def _everywhere(measured: Measured, value: float) -> Array:
    return np.full(measured.numbers["norm"].shape, value)


def _at_share(measured: Measured) -> Array:
    """The radius at which the rise is x times the loss, for all x of SHARES."""
    rises, loss = measured.rise, measured.numbers["loss"]
    found = np.empty((*loss.shape, len(SHARES)))
    for place in np.ndindex(*loss.shape):
        relative = np.nan_to_num(rises[place] / loss[place], nan=np.inf)
        found[place] = [first(measured.radii, relative, x) for x in SHARES]
    return found


def _at_edge(measured: Measured) -> Array:
    """ρ at which λ_max, as it is, would be at SAM's edge."""
    n = measured.numbers
    inverse = 2 * (1 + n["momentum"]) / (n["eta"] * np.maximum(n["lambda"], 1e-12))
    return n["norm"] / np.maximum(n["lambda"], 1e-12) * np.maximum(inverse - 1, 1e-3)


def trusted(measured: Measured) -> tuple[Array, Array]:
    """Return the ends of the range in which the rise is neither lost in noise nor unexpected.

    From where the rise exceeds the standard deviation of the loss between minibatches, to where it
    leaves ρ‖g‖ + ½ρ²λ̂ by more than half.
    """
    n, radii = measured.numbers, measured.radii
    low, high = np.empty_like(n["loss"]), np.empty_like(n["loss"])
    for place in np.ndindex(*low.shape):
        rise = measured.rise[place]
        expected = radii * n["norm"][place] + radii**2 * n["along"][place] / 2
        off = np.abs(rise / np.where(expected == 0, np.nan, expected) - 1)
        low[place] = first(radii, rise, n["noise of the loss"][place])
        high[place] = first(radii, np.nan_to_num(off, nan=np.inf), 0.5)
    return low, high


def _in_trusted(measured: Measured) -> Array:
    low, high = trusted(measured)
    middle = np.sqrt(np.minimum(low, high) * high)
    return np.asarray(np.minimum(middle, measured.numbers["flip"] / 2))


def _at_level(measured: Measured) -> Array:
    """The radius at which the loss at w + ε is that of the untrained network."""
    rises, n = measured.rise, measured.numbers
    found = np.empty_like(n["loss"])
    for place in np.ndindex(*found.shape):
        rise = np.nan_to_num(rises[place], nan=np.inf)
        found[place] = first(measured.radii, rise, (n["start loss"] - n["loss"])[place])
    return found


def _of_break(measured: Measured) -> Array:
    return np.broadcast_to(measured.break_at[:, None], measured.numbers["norm"].shape)


RULES = (
    Rule(DEFAULT, "ρ = .05", lambda m: _everywhere(m, 0.05), fitted=False),
    Rule(SINGLE, "ρ = c", lambda m: _everywhere(m, 1.0)),
    Rule("weights", "ρ = c‖w‖", lambda m: m.numbers["weights"]),
    Rule("size", "ρ = c√D", lambda m: m.numbers["parameters"] ** 0.5),
    Rule("flip", "ρ = c·(radius where ⟨h, g⟩ turns negative)", lambda m: m.numbers["flip"]),
    Rule("half flip", "the same with c = ½", lambda m: m.numbers["flip"] / 2, fitted=False),
    Rule("rise", "ρ where the loss rises by x·L", _at_share, constants=SHARES),
    Rule("‖g‖/λ_max", "ρ = c‖g‖/λ_max", lambda m: m.numbers["norm"] / m.numbers["lambda"]),
    Rule(
        "‖g‖/λ̂",
        "ρ = c‖g‖/λ̂",
        lambda m: m.numbers["norm"] / np.maximum(m.numbers["along"], 1e-3),
    ),
    Rule(
        "step",
        "ρ = cη‖g‖/(1 − μ)",
        lambda m: m.numbers["eta"] * m.numbers["norm"] / (1 - m.numbers["momentum"]),
    ),
    Rule("edge", "ρ at which λ_max would be at SAM's edge", _at_edge, fitted=False),
    Rule("trusted", "middle of the trusted range, at most half flip", _in_trusted, fitted=False),
    Rule("break", "ρ = c·(ρ at which the loss turns up as ρ grows)", _of_break),
    Rule(LATER, "ρ = c·(radius where L(w + ε) is the loss before training)", _at_level),
    Rule(SHIPPED, "`thalweg.diagnose`, with c for its constant", lambda m: m.recommended),
    Rule(
        CAUTIOUS,
        "`thalweg.diagnose`, the loss before training unknown",
        lambda m: m.numbers["cautious"],
        fitted=False,
    ),
)


@dataclass(frozen=True)
class Found:
    """What a rule does at one point; arrays are (draws, tasks), the first row of all seeds.

    Attributes:
        points: Test accuracy with its ρ, in points.
        regret: What that is below the task's own best ρ, picked on validation.
        rho: What it recommends, geometric mean over seeds, (tasks,); for all seeds.
        constants: The constant of each task, fitted on the others, (tasks,).
        constant: The same fitted on all the tasks.
    """

    points: Array
    regret: Array
    rho: Array
    constants: Array
    constant: float


def tuned(curves: Curves, w: Array) -> tuple[Array, Array]:
    """Return test accuracy in points and log₁₀ ρ where validation is best, (draws, tasks) each."""
    pick = (curves.validation @ w.T).argmax(1)  # (tasks, draws)
    test = np.take_along_axis(curves.test @ w.T, pick[:, None], axis=1)[:, 0]
    return 100 * test.T, curves.at[pick].T


def judge(
    rule: Rule,
    measured: Measured,
    point: int,
    curves: Curves,
    w: Array,
    constant: float | None = None,
) -> Found:
    """Look up what the ρ of a rule leads to; every seed's network with that of its own measurement.

    Args:
        rule: The rule.
        measured: What it sees.
        point: At which of the points in training.
        curves: What its ρ leads to.
        w: Weights of seeds, (draws, seeds).
        constant: That of other tasks; fitted for each task on all the others here if ``None``.

    Returns:
        What was found.
    """
    seen = rule.of(measured)[:, point]
    constants = rule.constants if rule.fitted else np.ones(1)
    log_rho = np.log10(seen) if seen.ndim == 3 else np.log10(seen)[..., None] + np.log10(constants)
    validation, test = (
        _looked_up(curves.at, c, log_rho, w) for c in (curves.validation, curves.test)
    )
    total = validation.sum(0)
    if constant is None:
        pick = (total - validation).argmax(1)  # (tasks, draws)
    else:
        one = int(np.abs(np.log(constants / constant)).argmin())
        pick = np.full((len(validation), len(w)), one)
    points = 100 * np.take_along_axis(test, pick[:, None], axis=1)[:, 0].T
    own = pick[:, 0]
    chosen = np.take_along_axis(log_rho, own[:, None, None], axis=2)[..., 0]
    return Found(
        points=points,
        regret=tuned(curves, w)[0] - points,
        rho=10 ** chosen.mean(1),
        constants=constants[own],
        constant=float(constants[int(total[:, 0].argmax())]),
    )


def _looked_up(at: Array, accuracy: Array, log_rho: Array, w: Array) -> Array:
    """Accuracy at any ρ on a line over log ρ: (tasks, constants, draws), mean over seeds."""
    tasks, seeds, constants = log_rho.shape
    found = np.empty((tasks, constants, seeds))
    for t in range(tasks):
        for s in range(seeds):
            found[t, :, s] = np.interp(log_rho[t, s], at, accuracy[t, :, s])
    return found @ w.T


@dataclass(frozen=True)
class Apart:
    """The mean over tasks of a difference, with two 95 % intervals.

    Attributes:
        over_tasks: With a t interval over tasks, and its p-value.
        low: Lower end of the bootstrap interval over seeds and tasks together.
        high: Upper end.
    """

    over_tasks: stats.Mean
    low: float
    high: float

    def __str__(self) -> str:
        m = self.over_tasks
        return f"{m.value:+.2f} ± {m.half:.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def apart(values: Array) -> Apart:
    """Return the mean over tasks of (draws, tasks); seeds are drawn already, tasks are here."""
    draws, tasks = values[1:].shape
    drawn = np.random.default_rng(1).integers(tasks, size=(draws, tasks))
    ends = percentiles(np.take_along_axis(values[1:], drawn, axis=1).mean(1))
    return Apart(stats.mean(values), *ends)
