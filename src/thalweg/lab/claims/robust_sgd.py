"""SGD, the rival of the claim about robustness: tuned and stopped with the same budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History
from thalweg.lab.parts import part
from thalweg.lab.problems import Problem
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array

ACCURACIES = ("validation_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Rival:
    """SGD on one task; every array is (settings, seeds).

    Attributes:
        own: Validation and test accuracy at the task's own step size, after as many steps as SAM.
        tuned: The same for every step size.
        longer: The same after twice the steps, which takes as many gradients as SAM.
        stopped: The same for every step size and every time to stop, up to twice the steps.
    """

    own: tuple[Array, Array]
    tuned: tuple[Array, Array]
    longer: tuple[Array, Array]
    stopped: tuple[Array, Array]


def rival_of(task: Problem, name: str, settings: Settings) -> tuple[Rival, int]:
    """Return SGD over its step size, in two stages, and how many networks that took.

    Args:
        task: The task, with a step size of its own.
        name: What the progress bar calls it.
        settings: Those of the claim.

    Returns:
        The accuracies, looked at every few steps up to twice the steps; how many trainings.
    """
    assert task.eta is not None
    own, steps, look = task.eta, settings["steps"], settings["look"]
    seeds = np.arange(settings["seeds"])
    middle = steps // look  # the look after as many steps as SAM takes
    found: dict[int, tuple[Array, Array]] = {}

    def train(at: list[int]) -> dict[str, Array]:
        return simulate(
            task,
            eta=own * 10 ** (np.array(at)[:, None] / 10),
            steps=2 * steps,
            seed=seeds[None, :],
            observe={q: History(q, every=look) for q in ACCURACIES},
            compile=False,
            progress=f"robustness: {name}, SGD",
        ).observed

    def run(at: list[int]) -> None:
        done = part(lambda: train(at), name, "SGD", at)
        for i, k in enumerate(at):
            validation, test = (done[q][i].T for q in ACCURACIES)  # (looks, seeds) each
            found[k] = validation, test

    low, high = settings["eta"]
    run(list(range(low, high, 3)))
    best = max(found, key=lambda k: float(found[k][0][middle].mean()))
    fine = {best + d for d in range(-settings["fine"], settings["fine"] + 1)} | {0}
    if fine - set(found):
        run(sorted(fine - set(found)))
    order = sorted(found)

    def at(look: slice) -> tuple[Array, Array]:
        both = (np.concatenate([found[k][i][look] for k in order]) for i in (0, 1))
        validation, test = both
        return validation, test

    mine = tuple(a[middle : middle + 1] for a in found[0])
    rival = Rival(
        (mine[0], mine[1]),
        tuned=at(slice(middle, middle + 1)),
        longer=at(slice(2 * middle, 2 * middle + 1)),
        stopped=at(slice(1, None)),
    )
    return rival, len(order) * seeds.size
