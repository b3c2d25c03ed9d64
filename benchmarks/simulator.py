"""How fast the simulator is: a map against plain numpy, an ensemble against one at a time.

    python benchmarks/simulator.py [--steps 10000] [--rounds 3]

Everything is timed in one process, the contestants in turn; medians and ratios are printed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# For a quiet machine only: threads that spin for a moment wake up in time for short operations.
# Beside a busy neighbour that would cost many times what it gains.
if os.getloadavg()[0] < 1:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import thalweg
from thalweg import lab

CELLS = 256


def plain_numpy(start: tuple[float, float], eta, rho, steps: int):
    """SAM on log cosh(xy), as one would write it in numpy."""
    eta, rho = (np.broadcast_to(v, (CELLS, CELLS)).ravel().copy() for v in (eta, rho))
    x, y = (np.full(eta.size, v) for v in start)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            slope = np.tanh(x * y)
            gx, gy = slope * y, slope * x
            norm = np.sqrt(gx * gx + gy * gy)
            factor = np.where(norm > 0, rho / norm, 0.0)
            up, over = x + factor * gx, y + factor * gy
            slope = np.tanh(up * over)
            x, y = x - eta * slope * over, y - eta * slope * up
    return y.reshape(CELLS, CELLS)


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def map_against_numpy(steps: int, rounds: int) -> None:
    eta = np.linspace(0.01, 0.95, CELLS)[:, None]
    rho = np.linspace(0.0, 1.0, CELLS)[None, :]
    start = (1.0, 61**0.5)
    problem = lab.SingleNeuron("log_cosh", start=start)

    def run(compile: bool, steps: int = steps) -> lab.Simulation:
        return lab.simulate(problem, eta=eta, rho=rho, steps=steps, observe={}, compile=compile)

    begun = time.perf_counter()
    run(True, 200)
    print(f"single-neuron map, {CELLS}x{CELLS} cells x {steps} steps", flush=True)
    print(f"  compiling took {time.perf_counter() - begun:.1f} s, once, not counted below")
    # Same numbers? Over few steps: later on, cells beside the edge amplify the last bit.
    reference = plain_numpy(start, eta, rho, 50)
    for compile in (False, True):
        off = np.abs(run(compile, 50).final["y"] - reference).max()
        print(
            f"  after 50 steps, {'compiled' if compile else 'eager'} is within {off:.1e} of numpy"
        )
    found = in_turn(
        {
            "numpy": lambda: plain_numpy(start, eta, rho, steps),
            "eager": lambda: run(False),
            "compiled": lambda: run(True),
        },
        rounds,
    )
    for name, seconds in found.items():
        print(
            f"  {name:9} {seconds:6.2f} s   {found['numpy'] / seconds:5.2f} times as fast as numpy"
        )


def one_at_a_time(task: lab.Digits, networks: int, steps: int) -> None:
    """The same training, network by network, with thalweg.SAM."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small networks are faster so
    for seed in range(networks):
        stream = task.stream(torch.tensor([seed]))
        first, second = torch.nn.Linear(64, task.width), torch.nn.Linear(task.width, 10)
        model = torch.nn.Sequential(first, torch.nn.ReLU(), second)
        optimizer = torch.optim.SGD(model.parameters(), lr=task.eta, momentum=task.momentum)
        sam = thalweg.SAM(optimizer, model, rho=0.1)
        for t in range(steps):
            x, labels = (part[0] for part in stream(t))
            for _ in sam.passes():
                torch.nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.set_num_threads(threads)


def ensemble_against_one(steps: int, rounds: int) -> None:
    task = lab.Digits()
    few = 4

    def together(networks: int) -> Callable[[], object]:
        seeds = np.arange(networks)
        return lambda: lab.simulate(task, rho=0.1, steps=steps, seed=seeds, observe={})

    found = in_turn(
        {
            "one": lambda: one_at_a_time(task, few, steps),
            "96": together(96),
            "288": together(288),
        },
        rounds,
    )
    alone = found["one"] / few
    print(f"digits networks (64-{task.width}-10, batch {task.batch_size}), SAM, {steps} steps")
    print(f"  one at a time with thalweg.SAM {1e3 * alone:8.2f} ms a network")
    for name in ("96", "288"):
        each = found[name] / int(name)
        print(
            f"  {name:>3} as one ensemble         {1e3 * each:8.2f} ms a network   "
            f"{alone / each:5.1f} times as fast"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    map_against_numpy(options.steps, options.rounds)
    ensemble_against_one(200, options.rounds)
