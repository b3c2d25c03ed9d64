"""The tasks of `choosing_rho.py`, and the accuracy of SAM on them over ρ."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg import lab
from thalweg.lab import data
from thalweg.lab.claims.robust_tasks import KINDS
from thalweg.lab.digits import Digits
from thalweg.lab.fingerprint import sources
from thalweg.lab.parts import part
from thalweg.lab.problems import Params, Problem

Array = np.ndarray[Any, Any]
Settings = dict[str, Any]

#: A minibatch that no training comes to.
FRESH = 10**6


@functools.cache
def code(*modules: str) -> str:
    """Return a text that changes with the source of modules, or of what they import of thalweg."""
    digest = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for name in sorted(set().union(*map(sources, modules))):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


class Rescaled(Digits):
    """The digits with every pixel multiplied by ``scale``: the same task, other units."""

    def __init__(self, scale: float = 1.0, **others: Any) -> None:
        super().__init__(**others)
        self.scale = scale

    def stream(self, seeds: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return the function from step to minibatch."""
        return self._stream(seeds, self.scale * data.digits()[0])

    def _images(self, params: Params, rows: Tensor) -> Tensor:
        return self.scale * super()._images(params, rows)


def task_of(kind: str, arguments: Settings) -> Problem:
    """Return a task; its kind is one of the claim's, or "rescaled"."""
    return {**KINDS, "rescaled": Rescaled}[kind](**arguments)


@dataclass(frozen=True)
class Curves:
    """Accuracies of SAM at p = 1; arrays are (tasks, values, seeds).

    Attributes:
        at: The values of log₁₀ ρ, ascending, (values,).
        validation: Share of images, at the end.
        test: The same.
        sgd: Test accuracy at ρ = 0, (tasks, seeds).
    """

    at: Array
    validation: Array
    test: Array
    sgd: Array


def curves(settings: Settings) -> Curves:
    """Train every task at every value of ρ; the seeds are those of the claim."""
    low, high, step = settings["grid"]
    at = np.arange(low, high + 1, step) / 10
    rho = np.concatenate([[0.0], 10**at])
    seeds, found = np.arange(settings["seeds"]), []
    for name, kind, arguments in settings["tasks"]:

        def make(kind: str = kind, arguments: Settings = arguments) -> dict[str, Array]:
            run = lab.simulate(
                task_of(kind, arguments),
                rho=rho[:, None],
                steps=settings["steps"],
                seed=seeds[None, :],
                compile=False,
                progress="",
            )
            return {q: run.observed[f"{q}_accuracy"] for q in ("validation", "test")}

        key = (kind, arguments, [*rho], len(seeds), settings["steps"])
        found.append(part(make, "curve", code(__name__), *key))
        print(name, file=sys.stderr)
    validation, test = (np.stack([f[q] for f in found]) for q in ("validation", "test"))
    return Curves(at, validation[:, 1:].astype(float), test[:, 1:].astype(float), test[:, 0])


def trained(task: Problem, settings: Settings) -> Iterator[list[Params]]:
    """Yield, for every point of the training in SGD, the networks of all seeds, each a cell."""
    seeds = np.arange(settings["seeds"])
    for point in settings["points"]:
        steps = round(point * settings["steps"])
        final = lab.simulate(task, steps=steps, seed=seeds, observe={}, progress="").final
        yield [{k: torch.tensor(v[s : s + 1]) for k, v in final.items()} for s in seeds]


def minibatches(task: Problem, seed: int, batches: int) -> Any:
    """Return minibatches of a seed's training data as cells."""
    stream: Any = task.stream(torch.tensor([seed]))
    return joined([stream(2 * FRESH + 997 * i) for i in range(batches)], dim=0)


def joined(batches: list[Any], dim: int) -> Any:
    """Join minibatches: as cells (dim 0), or as examples of one cell (dim 1)."""
    if isinstance(batches[0], Tensor):
        return torch.cat(batches, dim)
    return tuple(torch.cat(parts, dim) for parts in zip(*batches, strict=True))
