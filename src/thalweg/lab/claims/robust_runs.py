"""The trainings behind the two claims about robustness on real data: tasks, methods, grids."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.ascent import Method
from thalweg.lab.claims.claim import Settings
from thalweg.lab.claims.robust_sgd import ACCURACIES, Rival, rival_of
from thalweg.lab.claims.robust_tasks import label, task_of
from thalweg.lab.observe import History
from thalweg.lab.parts import part
from thalweg.lab.problems import Params, Problem
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array


@dataclass(frozen=True)
class Curve:
    """One method on one task over its hyper-parameter; every array is (values, seeds).

    Attributes:
        at: The values: 10 log₁₀ of ρ, or of the step size for SGD; ascending whole numbers.
        validation: Accuracy at the end, which picks.
        test: Accuracy at the end, which is reported.
        length: Mean ‖ε‖ along the training.
        rise: Mean of ‖ε‖·‖g‖ along the training, the rise of the loss that ε predicts.
        most: The largest ‖ε‖ of the training.
    """

    at: tuple[int, ...]
    validation: Array
    test: Array
    length: Array
    rise: Array
    most: Array

    def only(self, at: Iterable[int]) -> Curve:
        """Return the same at some of the values."""
        kept = tuple(sorted(at))
        rows = [self.at.index(k) for k in kept]
        return Curve(kept, *(a[rows] for a in self.arrays))

    def joined(self, other: Curve) -> Curve:
        """Return the two as one; where both have a value, the first one counts."""
        at = self.at + tuple(k for k in other.at if k not in self.at)
        rows = [other.at.index(k) for k in at[len(self.at) :]]
        both = (
            np.concatenate([a, b[rows]]) for a, b in zip(self.arrays, other.arrays, strict=True)
        )
        order = np.argsort(at)
        return Curve(tuple(at[i] for i in order), *(a[order] for a in both))

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array, Array]:
        """The five arrays."""
        return self.validation, self.test, self.length, self.rise, self.most

    @property
    def best(self) -> int:
        """The value that validation picks."""
        return self.at[int(self.validation.mean(1).argmax())]


@dataclass(frozen=True)
class Runs:
    """What was trained.

    Attributes:
        tasks: Their names.
        seeds: How many.
        curves: By method, one per task; all tasks share the values in ``common``.
        common: By method, the values that every task was trained at.
        rivals: SGD, one per task.
        trained: How many networks.
    """

    tasks: tuple[str, ...]
    seeds: int
    curves: dict[str, tuple[Curve, ...]]
    common: dict[str, tuple[int, ...]]
    rivals: tuple[Rival, ...]
    trained: int


@functools.lru_cache(maxsize=1)
def _train(text: str) -> Runs:
    settings = json.loads(text)
    names = [name for name, *_ in settings["tasks"]]
    tasks = [task_of(kind, arguments) for _, kind, arguments in settings["tasks"]]
    trained = 0
    rivals = []
    for name, task in zip(names, tasks, strict=True):
        rival, networks = rival_of(task, name, settings)
        rivals.append(rival)
        trained += networks
    floors = [rival.own[0].mean() for rival in rivals]
    curves: dict[str, tuple[Curve, ...]] = {}
    common: dict[str, tuple[int, ...]] = {}
    for power, cap, low, high in settings["methods"]:
        title = label(power, cap)
        method = Method(power=power, max_norm=math.inf if cap is None else cap)
        free = curves.get(label(power, None), (None,) * len(tasks))  # the same without a cap
        runs: list[Callable[[Iterable[int]], Curve]] = [
            functools.partial(_points, task, method, settings, f"{name}, {title}", known)
            for name, task, known in zip(names, tasks, free, strict=True)
        ]
        curves[title], common[title] = _two_stages(runs, range(low, high + 1, 3), floors, settings)
        trained += sum(curve.test.size for curve in curves[title])
    return Runs(tuple(names), settings["seeds"], curves, common, tuple(rivals), trained)


def train(settings: Settings) -> Runs:
    """Train every network of the claim, once for the same settings."""
    return _train(json.dumps(settings, sort_keys=True))


def _two_stages(
    runs: list[Callable[[Iterable[int]], Curve]],
    coarse: Iterable[int],
    floors: list[float],
    settings: Settings,
) -> tuple[tuple[Curve, ...], tuple[int, ...]]:
    """Steps of .3 decade for all tasks, then of .1 near the picks; validation alone is looked at.

    The coarse grid grows upwards, for all tasks, while a task is not yet worse than SGD at its
    upper end, and downwards while a task picks the lower end and SAM is not SGD there. The fine
    grid has two parts: around each task's own pick, for that task; around what the others pick
    together, for all.
    """
    curves = [run(coarse) for run in runs]
    for _ in range(settings["extend"]):
        first, last = curves[0].at[0], curves[0].at[-1]
        more = []
        pairs = [(c.validation.mean(1), floor) for c, floor in zip(curves, floors, strict=True)]
        if any(v.argmax() == 0 and abs(v[0] - floor) > settings["gain"] for v, floor in pairs):
            more.append(first - 3)
        if any(v[-1] >= floor or v.argmax() == len(v) - 1 for v, floor in pairs):
            more.append(last + 3)
        if not more:
            break
        curves = [c.joined(run(more)) for c, run in zip(curves, runs, strict=True)]
    near = range(-settings["fine"], settings["fine"] + 1)
    coarse_at = set(curves[0].at)
    shared = coarse_at | {k + d for k in pooled_picks(curves) for d in near}
    fine = []
    for curve, run in zip(curves, runs, strict=True):
        wanted = shared | {curve.best + d for d in near}
        rest = sorted(wanted - coarse_at)
        fine.append(curve.joined(run(rest)) if rest else curve)
    return tuple(fine), tuple(sorted(shared))


def pooled_picks(curves: Iterable[Curve]) -> set[int]:
    """Return the values that are picked by the tasks together, and by all without one."""
    curves = list(curves)
    mean = np.stack([c.validation.mean(1) for c in curves])
    picks = [mean.sum(0), *(mean.sum(0) - one for one in mean)]
    return {curves[0].at[int(p.argmax())] for p in picks}


def _points(
    task: Problem,
    method: Method,
    settings: Settings,
    name: str,
    known: Curve | None,
    at: Iterable[int],
) -> Curve:
    """Train at some values of ρ, all seeds; both in one program.

    What was ``known`` without a cap stays as it is where ‖ε‖ never came to the cap.
    """
    at = set(at)
    if known is not None:
        same = at & {
            k for k, most in zip(known.at, known.most, strict=True) if most.max() < method.cap
        }
        if same:
            rest = sorted(at - same)
            kept = known.only(same)
            return kept.joined(_points(task, method, settings, name, None, rest)) if rest else kept
    values = tuple(sorted(at))
    made = part(lambda: _trained(task, method, settings, name, values), name, values)
    return Curve(values, **made)


def _trained(
    task: Problem, method: Method, settings: Settings, name: str, values: tuple[int, ...]
) -> dict[str, Array]:
    """The arrays of a curve."""
    seeds, steps = np.arange(settings["seeds"]), settings["steps"]
    rho = 10 ** (np.array(values)[:, None] / 10)
    run = simulate(
        Watched(task, "grad_norm", functools.partial(_grad_norm, task)),
        rho=rho,
        method=method,
        steps=steps,
        seed=seeds[None, :],
        lengths=True,
        observe={"norm": History("grad_norm", every=max(1, steps // settings["looks"]))},
        compile=False,
        progress=f"robustness: {name}",
    )
    norm = run.observed["norm"][..., :-1]
    with np.errstate(all="ignore"):
        length = np.fmin(rho[..., None] * norm ** (1 - method.power), method.cap)
        rise = np.nanmean(length * norm, axis=-1)
    assert run.lengths is not None
    inside = np.where(np.isfinite(run.lengths), run.lengths, 0)  # while a cell is within bounds
    mean = inside.sum(-1) / np.maximum(np.isfinite(run.lengths).sum(-1), 1)
    validation, test = accuracies(task, run.final, seeds, len(values))
    return {
        "validation": validation,
        "test": test,
        "length": mean,
        "rise": rise,
        "most": inside.max(-1),
    }


def accuracies(
    task: Problem, final: dict[str, Array], seeds: Array, rows: int
) -> tuple[Array, Array]:
    """Return validation and test accuracy of trained networks (rows, seeds), both so."""
    params = {k: torch.tensor(v).flatten(0, 1) for k, v in final.items()}
    with torch.no_grad():
        seen = task.observe(params, torch.tensor(np.tile(seeds, rows)))
    validation, test = (seen[q].view(rows, -1).double().numpy() for q in ACCURACIES)
    return validation, test


def _grad_norm(task: Problem, params: Params, batch: Any) -> Tensor:
    squares = [g.square().flatten(1).sum(1) for g in task.gradient(params, batch).values()]
    return torch.stack(squares).sum(0).sqrt()


class Watched(Problem):
    """A task as it is, but what is watched is taken on fresh minibatches.

    Args:
        task: The task.
        name: What the quantity is called.
        of: The quantity of parameters and a minibatch, for every cell.
    """

    elementwise = False

    def __init__(self, task: Problem, name: str, of: Callable[[Params, Any], Tensor]) -> None:
        self.task, self.quantities, self._of, self._looks = task, (name,), of, 0
        self.dtype, self.eta, self.momentum = task.dtype, task.eta, task.momentum
        self.inputs_first = task.inputs_first
        self.start, self.loss = task.start, task.loss  # type: ignore[method-assign]
        self.gradient, self.stream = task.gradient, task.stream  # type: ignore[method-assign]

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the quantity on a minibatch that no training comes to."""
        self._looks += 1
        stream = self.task.stream(seeds)
        assert stream is not None
        return {self.quantities[0]: self._of(params, stream(10**6 + 997 * self._looks))}

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return nothing of interest: nobody asks for the loss."""
        return torch.zeros(len(seeds))
