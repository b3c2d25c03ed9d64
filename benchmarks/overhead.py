"""What SAM adds to a step beyond its two gradients and the base step, beside pytorch_optimizer's.

    python benchmarks/overhead.py [--threads 1] [--rounds 40] [--model mlp --model small ...]

All contestants run in one process, in turn; the medians of their rounds are compared with those
of two gradients and a base step taken by hand.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import pytorch_optimizer
import torch
from torch import Tensor, nn

import thalweg

SETTINGS = {"lr": 1e-3, "momentum": 0.9}


class Small(nn.Module):
    """A hundred small layers: two hundred tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 32) for _ in range(100)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.01 * torch.tanh(layer(x))
        return x


def mlp() -> nn.Module:
    return nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(1024, 1024), nn.ReLU())])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (64, 1024)),
    "small": (Small, (64, 32)),
}


def contestants(name: str) -> dict[str, Callable[[], None]]:
    make, shape = MODELS[name]

    def fresh() -> tuple[nn.Module, Callable[[], None]]:
        torch.manual_seed(0)
        model, x = make(), torch.randn(shape)
        return model, lambda: model(x).square().mean().backward()

    def by_hand() -> Callable[[], None]:
        model, gradient = fresh()
        optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)

        def step() -> None:
            gradient()
            optimizer.zero_grad()
            gradient()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def ours() -> Callable[[], None]:
        model, gradient = fresh()
        optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
        sam = thalweg.SAM(optimizer, model, rho=0.05)

        def step() -> None:
            for _ in sam.passes():
                gradient()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def peer(**mode: bool) -> Callable[[], None]:
        model, gradient = fresh()
        optimizer = pytorch_optimizer.SAM(
            model.parameters(), torch.optim.SGD, rho=0.05, **SETTINGS, **mode
        )

        def step() -> None:
            gradient()
            optimizer.first_step(zero_grad=True)
            gradient()
            optimizer.second_step(zero_grad=True)

        return step

    return {
        "by hand": by_hand(),
        "thalweg": ours(),
        "pytorch_optimizer": peer(),
        "pytorch_optimizer, foreach": peer(foreach=True),
    }


def measure(steps: dict[str, Callable[[], None]], rounds: int, repeat: int) -> dict[str, float]:
    """Median milliseconds of a step of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 2):
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(repeat):
                step()
            if round_ >= 2:  # the first two warm up
                seconds[name].append((time.perf_counter() - begun) / repeat)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), medians")
    for name in options.model or MODELS:
        found = measure(contestants(name), options.rounds, repeat=5)
        base = found.pop("by hand")
        adds = {who: ms - base for who, ms in found.items()}
        best = min(ms for who, ms in adds.items() if who != "thalweg")
        print(f"{name}: two gradients and the base step take {base:.2f} ms; beyond that")
        for who, ms in adds.items():
            print(
                f"  {who:28} {ms:6.2f} ms  {100 * ms / base:5.1f} %  {ms / best:5.2f} of the "
                "peer's better mode"
            )


if __name__ == "__main__":
    main()
