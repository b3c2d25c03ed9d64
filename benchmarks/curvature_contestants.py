"""Who looks for the largest eigenvalue, and at which network; products and memory counted."""

from __future__ import annotations

import copy
import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from overhead_memory import Ledger
from overhead_nets import Block
from sklearn.datasets import load_digits
from torch import Tensor, nn

from thalweg import curvature

Found = tuple[float, int]


@dataclass(frozen=True)
class Task:
    """A ResNet of three blocks on a batch of digits, and how far it is trained."""

    width: int
    side: int
    examples: int
    steps: int
    stages: tuple[int, ...]

    @classmethod
    def full(cls) -> Task:
        """The one that is measured."""
        return cls(16, 32, 64, 100, (0, 5, 20, 100, 400))

    @classmethod
    def quick(cls) -> Task:
        """The same form, for a test."""
        return cls(2, 8, 8, 5, (0, 5))

    def net(self) -> nn.Module:
        w = self.width
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, w, 3, 1, 1, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(),
            Block(w, w, 1),
            Block(w, 2 * w, 2),
            Block(2 * w, 4 * w, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * w, 10),
        )

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.net().parameters())

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = digits(self.side)
        draw = torch.Generator().manual_seed(step)
        some = torch.randint(len(x), (self.examples,), generator=draw)
        return x[some], y[some]


@functools.cache
def digits(side: int) -> tuple[Tensor, Tensor]:
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    small = (x.float() / 8 - 1).view(-1, 1, 8, 8)
    return nn.functional.interpolate(small, size=(side, side)), y


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


class Run:
    """A network in training, step by step."""

    def __init__(self, task: Task) -> None:
        self.task, self.done = task, 0
        self.model = task.net()
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)

    def until(self, steps: int) -> nn.Module:
        """Train until so many steps are done; return the network."""
        self.model.train()
        while self.done < steps:
            self.done += 1
            self._optimizer.zero_grad()
            loss_of(self.model, self.task.batch(self.done)).backward()
            self._optimizer.step()
        return self.model.eval()


def exact(model: nn.Module, batch: Any) -> float:
    """The largest eigenvalue to seven digits."""
    product = curvature.on_batch(model, loss_of, batch)
    return curvature.lambda_max(product, tolerance=1e-7, room=40, most=500).value


def search(model: nn.Module, batch: Any, start: Tensor | None = None) -> curvature.Eigenpairs:
    return curvature.lambda_max(curvature.on_batch(model, loss_of, batch), start=start)


def power_iteration(model: nn.Module, batch: Any, products: int = 8) -> Found:
    """From a random vector; the Rayleigh quotient is of the last product."""
    product = curvature.on_batch(model, loss_of, batch)
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(product.size, generator=draw)
    value = 0.0
    for _ in range(products):
        v = v / v.norm()
        w = product(v)
        value = float(v @ w)
        v = w
    return value, products


def by_scipy(model: nn.Module, batch: Any) -> Found:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = [p for p in model.parameters() if p.requires_grad]
    matrix = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [batch], check_deterministic=False
    ).to_scipy()
    count = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return matrix @ vector

    operator = LinearOperator(matrix.shape, matvec=counted, dtype=matrix.dtype)
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    (value,) = eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)
    return float(value), count


def contestants(task: Task) -> tuple[dict[str, Callable[[], Found]], float]:
    """Everyone, each with the value it finds and the products it takes; and the exact value."""
    batch = task.batch(-1)
    run = Run(task)
    before = search(run.until(task.steps - 1), batch).vector
    model = run.until(task.steps)

    def ours(start: Tensor | None = None) -> Found:
        found = search(model, batch, start)
        return found.value, found.products

    return {
        "thalweg, cold": ours,
        "thalweg, warm after one step": lambda: ours(before),
        "power iteration, 8 products": lambda: power_iteration(model, batch),
        "curvlinops with scipy's eigsh": lambda: by_scipy(model, batch),
    }, exact(model, batch)


@dataclass(frozen=True)
class Stage:
    """What a search took after so many steps of training."""

    steps: int
    value: float
    cold: int
    cold_error: float
    warm: int
    warm_error: float


def products_by_stage(task: Task) -> list[Stage]:
    """Cold at every stage, and warm one step later."""
    run, batch, found = Run(task), task.batch(-1), []
    for steps in task.stages:
        model = run.until(steps)
        value, cold = exact(model, batch), search(model, batch)
        later = copy.deepcopy(run).until(steps + 1)
        warm, known = search(later, batch, cold.vector), exact(later, batch)
        found.append(
            Stage(
                steps,
                value,
                cold.products,
                abs(cold.value / value - 1),
                warm.products,
                abs(warm.value / known - 1),
            )
        )
    return found


def held(task: Task) -> tuple[float, float]:
    """Peaks in gradients: of a search beyond a bare product; of that beyond the graph."""
    model, batch = Run(task).until(task.steps), task.batch(-1)

    def peak(work: Callable[[curvature.Product], object]) -> int:
        gc.collect()
        ledger = Ledger(torch.device("cpu"))
        with ledger.open():
            kept = work(curvature.on_batch(model, loss_of, batch))
        del kept
        return ledger.peak

    vector = torch.ones(task.size)
    graph = peak(lambda product: product)
    bare = peak(lambda product: product(vector))
    whole = peak(lambda product: curvature.lambda_max(product).value)
    gradient = vector.nbytes
    return (whole - bare) / gradient, (bare - graph) / gradient


def cost_of_products(task: Task, rounds: int) -> tuple[float, float]:
    """Median time of a product in gradients: on a graph that is there; on one built for it."""
    model, batch = Run(task).until(task.steps), task.batch(-1)
    product = curvature.on_batch(model, loss_of, batch)
    vector = torch.ones(product.size)
    works: list[Callable[[], object]] = [
        lambda: torch.autograd.grad(loss_of(model, batch), list(model.parameters())),
        lambda: product(vector),
        lambda: curvature.on_batch(model, loss_of, batch)(vector),
    ]
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for times, work in zip(seconds, works, strict=True):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
    gradient, single, rebuilt = (float(np.median(times[1:])) for times in seconds)
    return single / gradient, rebuilt / gradient
