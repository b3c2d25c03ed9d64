"""Matrix sensing: a step of the simulator against its matrix products alone.

    python benchmarks/sensing.py [--steps 10000] [--rounds 15] [--quick] [--write docs/sensing.md]

Everything is timed in one process, the contestants in turn; the page says how. About a minute on
one core.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from page_head import begin, in_turn, middle_ratio, put, verdict

import thalweg
from thalweg import lab

RUNS, D, M = 64, 20, 100
TARGET = 3.0
ETA, RHO = 0.05, 0.1
#: What the time of a step is measured by, and who has to keep to it.
BOUND, OURS = "its products alone", "simulate"

METHOD = f"""\
SAM on matrix sensing, d = {D}, m = {M}, float64. A step takes two gradients, and a gradient four
batched products of matrices. They alone, of the same shapes and as many, laid out as they are
there, are the bound; *{OURS}* does them and everything else. The measurements are symmetric, so
that {D * (D + 1) // 2} of {D * D} columns do. *plain torch* is what one would write by hand:
`einsum` over all the columns. Runs of one seed share their measurements.

Contestants run in one process, in turn, in an order that turns, in stretches of some hundred steps;
medians over the rounds, of the ratio round by round; in brackets its 95 % interval (bootstrap over
rounds, percentiles).
"""


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


def measure(seeds: int, steps: int, rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds per step of everyone in every round, for so many different seeds."""
    contestants: dict[str, Callable[[], object]] = {
        BOUND: products(seeds, D * (D + 1) // 2, steps),
        f"products alone, {D * D} columns": products(seeds, D * D, steps),
        OURS: simulated(seeds, steps),
    }
    if seeds == 1:
        start = lab.MatrixSensing(d=D).start(torch.zeros(RUNS, dtype=torch.long))["U"]
        contestants["plain torch"] = lambda: plain(start, 0, steps)
    for run in contestants.values():
        run()
    found = in_turn(contestants, rounds)
    return {name: np.array(seconds) / steps for name, seconds in found.items()}


def ratio(each: dict[str, np.ndarray], name: str) -> tuple[float, float, float]:
    """Low end, median and high end of the time against the bound's."""
    return middle_ratio(each[name], each[BOUND])


def whole(steps: int) -> float:
    """Return the seconds of one simulation of all the steps."""
    run = simulated(1, steps)
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def head(load: float, *, quick: bool) -> list[str]:
    """Say what wrote the page, when, where, and beside what load."""
    versions = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "thalweg": thalweg.__version__,
    }
    threads = torch.get_num_threads()
    return begin(
        "How fast matrix sensing is",
        "sensing.py",
        versions,
        load=load,
        where=f"; {threads} thread{'s' if threads > 1 else ''}",
        warning="A few steps, for a test: the numbers mean nothing." if quick else "",
    )


def title(seeds: int) -> str:
    """Return the runs in words."""
    return f"{RUNS} runs of {seeds} seed{'s' if seeds > 1 else ''}"


def page(
    found: dict[int, dict[str, np.ndarray]], steps: int, seconds: float, head: Sequence[str]
) -> str:
    """Return the whole page, in Markdown: the target first, then what was measured."""
    lines = [*head, "## Target", "", "| target | found | verdict |", "|---|---|---|"]
    for seeds, each in found.items():
        low, middle, high = ratio(each, OURS)
        told = verdict(middle <= TARGET, (high <= TARGET) == (low <= TARGET))
        aim = f"{title(seeds)}: at most {TARGET:g} times {BOUND}"
        lines.append(f"| {aim} | {middle:.2f} [{low:.2f}, {high:.2f}] | {told} |")
    lines += ["", "## Time", "", METHOD]
    for seeds, each in found.items():
        rounds = len(each[BOUND])
        lines += [f"### {title(seeds)}", "", f"{rounds} rounds.", ""]
        lines += [f"| | µs a step | times {BOUND} |", "|---|---|---|"]
        for name, taken in each.items():
            low, middle, high = ratio(each, name)
            us = 1e6 * float(np.median(taken))
            lines.append(f"| {name} | {us:.1f} | {middle:.2f} [{low:.2f}, {high:.2f}] |")
        lines.append("")
    lines.append(f"One simulation of {RUNS} runs × {steps:,} steps, one seed: {seconds:.1f} s.")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="of the whole simulation")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="a study gives a claim one")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    load, quick = os.getloadavg()[0], options.quick
    torch.set_num_threads(options.threads)
    found = {}
    for seeds in (1, 8):
        print(title(seeds), file=sys.stderr)
        found[seeds] = measure(seeds, 20 if quick else 300, 2 if quick else options.rounds)
    steps = 50 if quick else options.steps
    print(f"{steps} steps", file=sys.stderr)
    text = page(found, steps, whole(steps), head(load, quick=quick))
    put(text, options.write)


if __name__ == "__main__":
    main()
