"""The presets that the simulator cannot express: through thalweg.SAM, one seed after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from race_tasks import RATES, Task, Trained, method_of
from torch import nn
from torch.nn import functional

import thalweg
from thalweg import lab
from thalweg.lab import data

#: The learning rate of each base optimizer; that of SGD is the task's own.
LR = {"sgd": 0.05, "adamw": 0.003}


def network(seed: int) -> nn.Module:
    """A perceptron of the digits' size with a normalization layer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def optimizer(base: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    if base == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def accuracy(model: nn.Module, rows: torch.Tensor) -> float:
    """The share of these images that the network knows, in evaluation mode; 0 where it is NaN."""
    images, labels = data.digits()
    model.eval()
    with torch.no_grad():
        outputs = model(images[rows])
    model.train()
    right = (outputs.argmax(1) == labels[rows]) & torch.isfinite(outputs).all(1)
    return float(right.double().mean())


def run(
    task: Task,
    base: str,
    seed: int,
    steps: int,
    lr: float,
    method: thalweg.Method | None = None,
    rho: float = 0.0,
) -> tuple[float, float]:
    """Train one network; return its accuracy on validation and test.

    Without a method the base optimizer trains alone.
    """
    assert task.noise is not None
    digits = lab.Digits(label_noise=task.noise)
    batches = digits.stream(torch.tensor([seed]))
    model = network(seed)
    base_optimizer = optimizer(base, model, lr)
    sam = None if method is None else thalweg.SAM(base_optimizer, model, rho, method=method)
    for step in range(steps):
        images, labels = (part[0] for part in batches(step))
        for _ in [None] if sam is None else sam.passes():
            functional.cross_entropy(model(images), labels).backward()
        base_optimizer.step()
        base_optimizer.zero_grad()
    split = data.split(seed, digits.n_train, digits.label_noise)
    return accuracy(model, split.validation), accuracy(model, split.test)


def trained(task: Task, name: str, halves: list[int], steps: int, seeds: int) -> Trained:
    """Train a preset at some ρ, given as 2 log₁₀ ρ; its name begins with its base optimizer."""
    base, _, preset = name.partition(" ")
    method = method_of(preset, steps)
    each = [
        [run(task, base, s, steps, LR[base], method, 10 ** (half / 2)) for s in range(seeds)]
        for half in halves
    ]
    return {
        "validation": [[v for v, _ in row] for row in each],
        "test": [[t for _, t in row] for row in each],
        "diverged": [0] * len(halves),
        "share": [1.0] * len(halves),
    }


def rival(task: Task, base: str, steps: int, seeds: int) -> dict[str, Any]:
    """Train a base optimizer at three learning rates for as many steps, and twice as many."""
    rates = [LR[base] * rate for rate in RATES]
    looks = [steps, 2 * steps]

    def table(part: Callable[[tuple[float, float]], float]) -> list[Any]:
        return [[[part(one) for one in seed] for seed in rate] for rate in found]

    found = [
        [[run(task, base, seed, look, lr) for look in looks] for seed in range(seeds)]
        for lr in rates
    ]
    return {
        "rates": rates,
        "looks": looks,
        "validation": table(lambda one: one[0]),
        "test": table(lambda one: one[1]),
    }
