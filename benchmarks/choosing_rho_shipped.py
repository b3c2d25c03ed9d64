"""What `thalweg.diagnose` recommends on the tasks of `choosing_rho.py`, by its own code."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from choosing_rho_tasks import Array, Settings, code, minibatches, task_of, trained
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from thalweg.diagnose import Measured, recommend
from thalweg.diagnose.measure import measure_model
from thalweg.lab.parts import part
from thalweg.lab.problems import Params, Problem

#: Settings that decide what is measured.
_SHAPES = ("points", "seeds", "steps", "batches")


class Net(nn.Module):
    """A network of a task as a user would have it; its layers begin anew as the task begins."""

    def __init__(self, params: Params, begin: Callable[[Tensor], Params]) -> None:
        super().__init__()
        self._begin = begin
        for name, value in params.items():
            self.register_parameter(name, nn.Parameter(value.clone()))

    def reset_parameters(self) -> None:
        """Begin anew, with numbers of torch's generator: not those of the network's own start."""
        with torch.no_grad():
            for name, value in self._begin(torch.randint(2**31, (1,))).items():
                self.get_parameter(name).copy_(value)


def diagnosed(task: Problem, params: Params, seed: int, batches: int) -> Measured:
    """Measure the network of a seed as `thalweg.diagnose` does, but for its Hessian products.

    Args:
        task: The task.
        params: The network, with a leading 1.
        seed: Of the network, which decides its data.
        batches: How many minibatches are taken.
    """

    def begin(seeds: Tensor) -> Params:  # not task.start: copying that would copy the task
        return task.start(seeds)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        cell = tree_map(lambda values: values[None], batch)
        return task.loss(dict(net.named_parameters()), cell).squeeze(0)

    assert task.eta is not None
    cells = minibatches(task, seed, batches)
    loader = [tree_map(lambda values, i=i: values[i], cells) for i in range(batches)]
    net = Net(params, begin)
    optimizer = torch.optim.SGD(net.parameters(), lr=task.eta, momentum=task.momentum)
    return measure_model(
        net,
        loss,
        loader,
        optimizer,
        batches=batches,
        seed=0,
        start_loss=None,
        tell=lambda word: None,
        products=False,
    )


def recommended(settings: Settings, levels: Array) -> tuple[Array, Array]:
    """Return what is recommended to the networks of every task and seed at every point.

    Args:
        settings: The tasks, and what a measurement takes.
        levels: Shares of the radius at which the loss is that before training.

    Returns:
        ρ with each share, (tasks, points, seeds, levels), and ρ where that loss is not known,
        (tasks, points, seeds).
    """
    every = []
    for name, kind, arguments in settings["tasks"]:

        def make(kind: str = kind, arguments: Settings = arguments) -> dict[str, Array]:
            task = task_of(kind, arguments)
            rows = [
                [_both(task, w, s, settings["batches"], levels) for s, w in enumerate(nets)]
                for nets in trained(task, settings)
            ]
            return {
                "known": np.array([[one[0] for one in row] for row in rows]),
                "unknown": np.array([[one[1] for one in row] for row in rows]),
            }

        key = json.dumps({k: settings[k] for k in _SHAPES}), [*levels]
        seen = code(__name__, "choosing_rho_tasks")
        every.append(part(make, "recommended", seen, kind, arguments, *key))
        print(name, file=sys.stderr)
    known, unknown = (np.stack([one[k] for one in every]) for k in ("known", "unknown"))
    return known, unknown


def _both(
    task: Problem, params: Params, seed: int, batches: int, levels: Array
) -> tuple[list[float], float]:
    found = diagnosed(task, params, seed, batches)
    blind = dataclasses.replace(found, start_loss=math.nan)
    return [recommend(found, level=c).rho for c in levels.tolist()], recommend(blind).rho
