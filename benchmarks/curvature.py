"""What the largest Hessian eigenvalue of a small ResNet costs, beside its peers.

    python benchmarks/curvature.py [--rounds 9] [--threads 1] [--quick] [--write docs/curvature.md]

All contestants run in one process, in turn; the page says how. About thirteen minutes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory; it need not talk

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from curvature_contestants import (
    Found,
    Task,
    contestants,
    cost_of_products,
    held,
    products_by_stage,
)
from curvature_monitor import SHARE, both
from page_head import begin, middle_ratio, put, verdict

import thalweg

OURS, WARM = "thalweg, cold", "thalweg, warm after one step"
SCIPY, POWER = "curvlinops with scipy's eigsh", "power iteration, 8 products"
#: Of the time of the peers; of products; of gradients held.
AT_MOST = {SCIPY: 0.35, POWER: 0.8}
COLD, AFTER, GRADIENTS, ERROR = 8, 6, 3, 1e-3

METHOD = """\
A ResNet of three blocks ({size:,} parameters) on {n} real digits of 8 × 8 pixels, enlarged to
{side} × {side}, trained for {steps} steps of SGD with momentum; BatchNorm with its running
statistics. Each contestant begins with the model and the batch, and ends with the largest
eigenvalue; building what it needs is part of it. *warm* begins with the eigenvector of one step
before. The error is relative to the value that a search to 1e-7 finds.

- curvlinops: its Hessian as a scipy operator, and `scipy.sparse.linalg.eigsh(k=1, which="LA")` with
  its usual tolerance, which is that of the machine.
- power iteration: as PyHessian does it, from a random vector, with the product of thalweg; its
  8 products are a fixed number, whatever they reach.

Medians over {rounds} rounds, in each of which every one takes its turn in an order that changes;
ratios round by round, with their 95 % interval (bootstrap over rounds, percentiles).

The Monitor is attached as it comes to {seconds} seconds of training with SAM (SGD with momentum),
with a probe batch of the size of the others, and writes to a file. Its share is all the time that
it takes, attaching it, writing and what it does after every step included, relative to the time of
the training without it."""


def measure(
    who: dict[str, Callable[[], Found]], rounds: int
) -> tuple[dict[str, Found], dict[str, np.ndarray]]:
    """Return what everyone finds, and the seconds it takes in every round after that."""
    seconds: dict[str, list[float]] = {name: [] for name in who}
    found = {name: run() for name, run in who.items()}
    names = list(who)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            who[name]()
            seconds[name].append(time.perf_counter() - begun)
    return found, {name: np.array(values) for name, values in seconds.items()}


def page(task: Task, rounds: int, load: float | None, *, quick: bool) -> str:
    """Measure everything, and return the whole page, in Markdown: the targets first."""
    who, reference = contestants(task)
    found, times = measure(who, rounds)
    stages = products_by_stage(task)
    gradients, bare = held(task)
    single, rebuilt = cost_of_products(task, rounds)
    seconds = 1 if quick else 240
    monitors = both(task, seconds)
    lines = begin(
        "What curvature costs",
        "curvature.py",
        {"torch": torch.__version__, "thalweg": thalweg.__version__},
        load=load,
        where=f"; threads: {torch.get_num_threads()}",
        warning="A tiny network, for a test: the numbers mean nothing." if quick else "",
    )
    lines += ["## Targets", "", "| target | found | verdict |", "|---|---|---|"]
    for row in stages:
        where = f"to an error of {ERROR:g} after {row.steps} steps of training"
        counts = ((OURS, COLD, row.cold, row.cold_error), (WARM, AFTER, row.warm, row.warm_error))
        for name, most, taken, error in counts:
            told = verdict(taken <= most and error <= ERROR)
            aim = f"{name}: at most {most} products {where}, λ_max about {row.value:.4g}"
            lines.append(f"| {aim} | {taken}, error {error:.1e} | {told} |")
    for name, most in AT_MOST.items():
        low, middle, high = middle_ratio(times[OURS], times[name])
        told = verdict(middle <= most, (low <= most) == (high <= most))
        text = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| cold: at most {most:g} of the time of {name} | {text} | {told} |")
    lines.append(
        f"| memory: at most {GRADIENTS} gradients beyond the graph, read as beyond the graph and "
        f"one product on it, which alone takes {bare:.2f} | {gradients:.2f} | "
        f"{verdict(round(gradients, 2) <= GRADIENTS)} |"
    )
    for each in monitors:
        told = verdict(each.whole <= SHARE)
        aim = f"Monitor at its default, {each.what}: at most {100 * SHARE:g} % of training time"
        counts = f"{each.samples} samples in {each.steps} steps"
        text = f"{100 * each.whole:.1f} %: {100 * each.share:.1f} % in training ({counts}), the "
        lines.append(f"| {aim} | {text}rest at the start, {each.start:.1f} s | {told} |")
    lines += ["", "## Time", "", f"λ_max = {reference:.6g}.", ""]
    lines += ["| | ms | products | error | time of thalweg, cold |", "|---|---|---|---|---|"]
    for name, (value, taken) in found.items():
        low, middle, high = middle_ratio(times[name], times[OURS])
        cells = [
            name,
            f"{1e3 * float(np.median(times[name])):.0f}",
            str(taken),
            f"{abs(value / reference - 1):.1e}",
            f"{middle:.2f} [{low:.2f}, {high:.2f}]",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"A product on the graph that is there takes the time of {single:.2f} gradients (forward "
        f"and backward); one for which the graph is built anew {rebuilt:.2f}.",
    ]
    size = task.size
    told = METHOD.format(
        size=size,
        n=task.examples,
        side=task.side,
        steps=task.steps,
        rounds=rounds,
        seconds=seconds,
    )
    return "\n".join([*lines, "", "## How", "", told, ""])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to try it out")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    torch.set_num_threads(options.threads)
    task = Task.quick() if options.quick else Task.full()
    print(f"{task.size:,} parameters", file=sys.stderr)
    put(
        page(task, 2 if options.quick else options.rounds, load, quick=options.quick), options.write
    )


if __name__ == "__main__":
    main()
