"""What `choosing_rho.py` measures of networks early in training, for the rules to choose from."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from choosing_rho_tasks import FRESH, Array, Settings, code, joined, minibatches, task_of, trained
from torch import Tensor

from thalweg import curvature, lab
from thalweg.lab.claims.robust_runs import Watched
from thalweg.lab.parts import part
from thalweg.lab.problems import Params, Problem

#: Settings that decide what is measured.
_SHAPES = ("points", "seeds", "steps", "batches", "ramp")
#: λ̂ is taken at the radius next to this one: closer by, the kinks of a ReLU are most of it.
_ALONG = 0.05
#: Looks at the loss that are averaged before its smallest value is sought.
_SMOOTH = 10


@dataclass(frozen=True)
class Measured:
    """What the networks show; arrays are (tasks, points, seeds) and what stands behind.

    Attributes:
        points: Shares of the training, in SGD, after which networks are measured.
        radii: Where the loss is looked at along ε, (radii,).
        numbers: By name, one number a network.
        rise: Mean over minibatches of the loss at w + ε minus that at w, (..., radii).
        break_at: ρ at which the loss is smallest while ρ grows, (tasks, seeds).
        recommended: ρ by `thalweg.diagnose`, for each share of its radius, (..., shares).
    """

    points: tuple[float, ...]
    radii: Array
    numbers: dict[str, Array]
    rise: Array
    break_at: Array
    recommended: Array = dataclasses.field(default_factory=lambda: np.empty(0))


def measure(settings: Settings) -> Measured:
    """Measure the networks of every task and seed at every point."""
    radii = 10 ** np.linspace(-3, 1, settings["radii"])
    every: list[dict[str, Array]] = []
    for name, kind, arguments in settings["tasks"]:

        def make(kind: str = kind, arguments: Settings = arguments) -> dict[str, Array]:
            return _networks(task_of(kind, arguments), settings, radii)

        key = {k: v for k, v in settings.items() if k in _SHAPES}
        seen = code(__name__, "choosing_rho_tasks")
        every.append(part(make, "measured", seen, kind, arguments, json.dumps(key), [*radii]))
        print(name, file=sys.stderr)
    found = {k: np.stack([one[k] for one in every]) for k in every[0]}
    rise, break_at = found.pop("rise"), found.pop("break")
    return Measured(tuple(settings["points"]), radii, found, rise, break_at)


def _networks(task: Problem, settings: Settings, radii: Array) -> dict[str, Array]:
    """One task: arrays (points, seeds, ...), and (seeds,) for the break."""
    seeds = torch.arange(settings["seeds"])
    start, rows = task.start(seeds), []
    for nets in trained(task, settings):
        row = [network(task, w, s, settings["batches"], radii) for s, w in enumerate(nets)]
        for s, one in enumerate(row):
            one["start loss"] = _loss(task, start, s, settings["batches"])
        rows.append(row)
    found = {k: np.array([[one[k] for one in row] for row in rows]) for k in rows[0][0]}
    return found | {"break": breaks(task, seeds, round(settings["ramp"] * settings["steps"]))}


def network(
    task: Problem, params: Params, seed: int, batches: int, radii: Array
) -> dict[str, float | Array]:
    """Measure one network of a task (a cell of its own) on minibatches of its training data.

    Args:
        task: The task.
        params: The network, with a leading 1.
        seed: Of the network, which decides its data.
        batches: How many minibatches the loss is looked at along ε on.
        radii: Radii at which, ascending.

    Returns:
        Numbers by name, and the rise over the radii.
    """
    stream = task.stream(torch.tensor([seed]))
    assert stream is not None
    assert task.eta is not None
    whole = joined([stream(FRESH * _epoch(task) + i) for i in range(_epoch(task))], dim=1)
    each = minibatches(task, seed, batches)
    there = {k: v.expand(batches, *v.shape[1:]) for k, v in params.items()}
    with torch.no_grad():
        loss, g = task.loss(there, each), task.gradient(there, each)
        full = task.gradient(params, whole)
        length = _dot(g, g).sqrt()
        apart = {k: g[k] - full[k] for k in g}
        rises, slopes = [], []
        for radius in radii.tolist():
            up = {k: there[k] + _column(radius / length, g[k]) * g[k] for k in g}
            rises.append(task.loss(up, each) - loss)
            slopes.append(_dot(task.gradient(up, each), g) / length)
    slope = torch.stack(slopes, 1).double().numpy()
    near = int(np.abs(np.log(radii / _ALONG)).argmin())
    bend = (slope[:, near] - length.double().numpy()) / radii[near]
    leaves = [v.clone().requires_grad_() for v in params.values()]
    names = list(params)
    product = curvature.hessian_vector_product(
        lambda: task.loss(dict(zip(names, leaves, strict=True)), whole).sum(), leaves
    )
    square = float(_dot(full, full))
    return {
        "loss": float(loss.mean()),
        "noise of the loss": float(loss.std()),
        "norm": float(length.mean()),
        "full norm": square**0.5,
        "noise scale": float(_dot(apart, apart).mean()) / square * _examples(each),
        "along": float(bend.mean()),
        "lambda": curvature.lambda_max(product, tolerance=1e-2).value,
        "weights": float(_dot(params, params).sqrt()),
        "parameters": float(sum(v.numel() for v in params.values())),
        "eta": task.eta,
        "momentum": task.momentum,
        "flip": float(np.median([first(radii, row, 0.0, below=True) for row in slope])),
        "rise": torch.stack(rises, 1).double().mean(0).numpy(),
    }


def _loss(task: Problem, params: Params, seed: int, batches: int) -> float:
    """The mean loss of the network of a seed over its minibatches."""
    there = {k: v[seed].expand(batches, *v.shape[1:]) for k, v in params.items()}
    return float(task.loss(there, minibatches(task, seed, batches)).mean())


def first(radii: Array, values: Array, level: float, *, below: bool = False) -> float:
    """Return the radius at which values first exceed a level, or fall below it.

    Between two radii on a straight line over their logarithm; an end of them where there is none.
    """
    past = values <= level if below else values >= level
    if not past.any():
        return float(radii[-1])
    i = int(past.argmax())
    if i == 0:
        return float(radii[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    known = np.isfinite(share)
    return float(radii[i - 1] * (radii[i] / radii[i - 1]) ** share if known else radii[i])


def breaks(task: Problem, seeds: Tensor, steps: int) -> Array:
    """Return ρ at which the loss of a short training is smallest, ρ growing from .001 to 10."""
    rho = 10 ** np.linspace(-3, 1, steps)
    run = lab.simulate(
        Watched(task, "loss", task.loss),
        replay=rho,
        steps=steps,
        seed=seeds.numpy(),
        observe={"loss": lab.History("loss")},
        compile=False,
        progress="",
    )
    seen = np.nan_to_num(run.observed["loss"][:, 1 : steps + 1], nan=np.inf, posinf=np.inf)
    width = min(_SMOOTH, steps)
    smooth = np.lib.stride_tricks.sliding_window_view(seen, width, axis=1).mean(-1)
    return np.asarray(rho[smooth.argmin(1) + (width - 1) // 2])


def _epoch(task: Any) -> int:
    """How many minibatches hold about all the training data."""
    return max(1, task.n_train // (task.batch_size * getattr(task, "context", 1)))


def _examples(batch: Any) -> int:
    return int((batch if isinstance(batch, Tensor) else batch[-1]).shape[1])


def _dot(a: Params, b: Params) -> Tensor:
    """The inner product of every cell, (B,)."""
    parts = [(a[k] * b[k]).flatten(1).sum(1) for k in a]
    return torch.stack(parts).sum(0)


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.ndim - 1))
