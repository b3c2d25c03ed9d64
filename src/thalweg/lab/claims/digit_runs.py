"""The trainings behind the claim about real digits, and how they are scored."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.ascent import Method
from thalweg.lab.claims.claim import Settings
from thalweg.lab.digits import Digits
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, beyond, interval
from thalweg.results import Check


@dataclass(frozen=True)
class Scores:
    """Accuracies of one method: (tasks, values of its hyper-parameter, seeds)."""

    values: Array
    validation: Array
    test: Array

    def picked(self, seeds: Array) -> Array:
        """The value picked on validation for each task, by index."""
        return np.asarray(self.validation[:, :, seeds].mean(2).argmax(1))

    def points(self, which: Any, seeds: Array) -> Array:
        """Test accuracy of each task at the values ``which``, in points: (tasks,)."""
        return np.asarray(100 * self.test[np.arange(len(self.test)), which][:, seeds].mean(1))


@dataclass(frozen=True)
class Runs:
    """What was trained.

    Attributes:
        sam: Scores over ρ, by power.
        sgd: Plain SGD, as long as SAM; one value.
        longer: SGD for twice the steps, which takes as many gradients; one value.
        stopped: SGD over its step size and the step at which it is stopped.
        trained: How many networks.
    """

    sam: dict[float, Scores]
    sgd: Scores
    longer: Scores
    stopped: Scores
    trained: int


def train(settings: Settings) -> Runs:
    """Train every network of the claim, once for the same settings."""
    return _train(json.dumps(settings, sort_keys=True))


@functools.lru_cache(maxsize=1)
def _train(text: str) -> Runs:
    settings = json.loads(text)
    seeds = np.arange(settings["seeds"])
    tasks = [Digits(label_noise=noise, **settings["task"]) for noise in settings["noise"]]
    sam = {}
    for power in settings["powers"]:
        low, high = settings["log_rho"][str(power)]
        rho = 10 ** np.arange(low, high + 1e-9, settings["decade"])
        method = Method(power=power, max_norm=settings["max_norm"].get(str(power)))
        found = [_accuracies(t, seeds, settings["steps"], method, rho) for t in tasks]
        sam[power] = _scores(rho, found)
    steps = 2 * settings["steps"]
    rates = np.array(settings["eta"])
    look = settings["look"]
    histories = [_histories(t, seeds, steps, rates, look) for t in tasks]
    # Values of the stopped SGD: every step size with every look, in one row.
    stopped = _scores(np.arange(len(histories[0][0])), histories)
    own = settings["eta"].index(settings["task"]["eta"])
    looks = stopped.values.size // rates.size

    def at(step: int) -> Scores:
        column = slice(own * looks + step // look, own * looks + step // look + 1)
        return Scores(
            stopped.values[column], stopped.validation[:, column], stopped.test[:, column]
        )

    trained = sum(s.test.size for s in sam.values()) + len(tasks) * rates.size * seeds.size
    return Runs(sam, at(settings["steps"]), at(steps), stopped, trained)


def _accuracies(
    task: Digits, seeds: Array, steps: int, method: Method, rho: Array
) -> tuple[Array, Array]:
    """Accuracy on validation and on test at the end, each (values of ρ, seeds)."""
    run = simulate(
        task,
        rho=rho[:, None],
        method=method,
        steps=steps,
        seed=seeds[None, :],
        compile=False,
        progress=f"digits: label noise {task.label_noise:g}, p = {method.power:g}",
    )
    return run.observed["validation_accuracy"], run.observed["test_accuracy"]


def _histories(
    task: Digits, seeds: Array, steps: int, eta: Array, look: int
) -> tuple[Array, Array]:
    """SGD's accuracies on validation and on test at every look, (η × looks, seeds)."""
    run = simulate(
        task,
        eta=eta[:, None],
        steps=steps,
        seed=seeds[None, :],
        observe={q: History(q, every=look) for q in task.quantities},
        compile=False,
        progress=f"digits: label noise {task.label_noise:g}, SGD",
    )
    rows = [run.observed[q].swapaxes(1, 2).reshape(-1, seeds.size) for q in task.quantities]
    return rows[0], rows[1]


def _scores(values: Array, found: list[tuple[Array, Array]]) -> Scores:
    validation, test = (np.stack(parts) for parts in zip(*found, strict=True))
    return Scores(values, validation, test)


def difference(
    settings: Settings,
    what: str,
    predicted: str,
    statistic: Callable[[Array], float],
    sign: int,
    *,
    decides: bool,
) -> Check:
    """Return a check that a difference has a sign; undecided where its interval includes 0.

    A ``sign`` of 0 predicts nothing: the difference is only reported.
    """
    value, low, high = interval(settings, statistic)
    holds = beyond(low, high, sign=sign) if sign else None
    return Check(
        what,
        predicted,
        f"{value:+.2f} points [{low:+.2f}, {high:+.2f}], n = {settings['seeds']} seeds",
        {1: "95 % interval above 0", -1: "95 % interval below 0", 0: "none"}[sign],
        holds,
        decides,
    )


SETTINGS: Settings = {
    "noise": [0.0, 0.3],
    "task": {"n_train": 600, "batch_size": 64, "eta": 0.05, "momentum": 0.9, "width": 32},
    "seeds": 6,
    "steps": 600,
    "powers": [0.0, 1.0, 2.0],
    "max_norm": {"2.0": 1.0},
    "decade": 0.1,
    "log_rho": {"0.0": [-1.5, 0.4], "1.0": [-2.0, -0.1], "2.0": [-2.6, -0.7]},
    # SGD's step sizes, and the steps between two chances to stop it.
    "eta": [0.005, 0.01, 0.02, 0.05, 0.1],
    "look": 20,
    "bootstrap": 2000,
}
QUICK: Settings = {"seeds": 5, "steps": 300, "decade": 0.3, "look": 60, "bootstrap": 500}
FULL: Settings = {"seeds": 20}
