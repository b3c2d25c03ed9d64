"""Matrix sensing: a step of the simulator against its matrix products alone.

    python benchmarks/sensing.py [--steps 10000] [--rounds 5] [--quick]

A step of SAM takes two gradients, a gradient four batched products. They alone, of the same
shapes and as many, are the bound; a simulation does them and everything else. All are timed in
turn in one process, in stretches of some hundred steps: medians and ratios are printed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from thalweg import lab

RUNS, D, M = 64, 20, 100
TARGET = 3.0
ETA, RHO = 0.05, 0.1


def products(seeds: int, columns: int, steps: int) -> Callable[[], None]:
    """Return the products of so many steps, with all d² columns of A or those of its triangle.

    Operands and results are laid out as in a gradient, and nothing is done between the products.
    """
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, pull = some(RUNS, D, D), some(RUNS, D, D)
    down, up = some(seeds, columns, M), some(seeds, M, columns)
    upper, residual = some(seeds, RUNS // seeds, columns), some(seeds, RUNS // seeds, M)

    def run() -> None:
        for _ in range(2 * steps):
            u @ u.mT  # UUᵀ
            upper @ down  # ⟨A, UUᵀ⟩
            residual @ up  # Σ r A
            pull @ u  # GU

    return run


def simulated(seeds: int, steps: int) -> Callable[[], object]:
    """Return the simulation of 64 runs, SAM, with so many different seeds."""
    seed = np.arange(RUNS) % seeds
    problem = lab.MatrixSensing(d=D, measurements=M)
    return lambda: lab.simulate(problem, eta=ETA, rho=RHO, seed=seed, steps=steps, observe={})


def plain(u: torch.Tensor, seed: int, steps: int) -> torch.Tensor:
    """Take steps of SAM as one would write them in torch: einsum over all columns, no views."""
    a, truth = lab.MatrixSensing(d=D, measurements=M).instance(seed)
    b = (a * truth).sum((1, 2))

    def gradient(u: torch.Tensor) -> torch.Tensor:
        residual = torch.einsum("ijk,bjk->bi", a, u @ u.mT) - b
        return torch.einsum("bi,ijk->bjk", residual, a) @ u / M

    for _ in range(steps):
        g = gradient(u)
        norm = torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)
        u = u - ETA * gradient(u + RHO * g / norm)
    return u


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def measure(seeds: int, steps: int, rounds: int) -> dict[str, float]:
    """Print and return the medians, in microseconds a step, for so many different seeds."""
    bound = "its products alone, 210 columns"
    contestants: dict[str, Callable[[], object]] = {
        bound: products(seeds, D * (D + 1) // 2, steps),
        "products alone, 400 columns": products(seeds, D * D, steps),
        "simulate": simulated(seeds, steps),
    }
    if seeds == 1:
        start = lab.MatrixSensing(d=D).start(torch.zeros(RUNS, dtype=torch.long))["U"]
        contestants["plain torch"] = lambda: plain(start, 0, steps)
    seconds = in_turn(contestants, rounds)
    found = {name: 1e6 * statistics.median(s) / steps for name, s in seconds.items()}
    # Of the same round: what the neighbours do then, they do to both.
    pairs = zip(seconds["simulate"], seconds[bound], strict=True)
    found["ratio"] = statistics.median(mine / alone for mine, alone in pairs)
    print(f"{RUNS} runs of {seeds} seed{'s' if seeds > 1 else ''}, d = {D}, m = {M}, float64, SAM")
    for name in contestants:
        print(f"  {name:32} {found[name]:8.1f} us a step   {found[name] / found[bound]:5.2f}")
    verdict = "met" if found["ratio"] <= TARGET else "NOT met"
    print(f"  simulate over the bound, median of rounds: {found['ratio']:.2f}, "
          f"target {TARGET:g}: {verdict}", flush=True)  # fmt: skip
    return found


def whole(steps: int) -> None:
    """Time one simulation of all the steps."""
    run = simulated(1, steps)
    begun = time.perf_counter()
    run()
    print(f"{RUNS} runs x {steps} steps, one seed: {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="of the whole simulation")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="a study gives a claim one")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    for seeds in (1, 8):
        measure(seeds, 20 if words.quick else 300, 2 if words.quick else words.rounds)
    whole(50 if words.quick else words.steps)
