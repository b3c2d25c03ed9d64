"""How fast the simulator is: a map beside a C loop and numpy, an ensemble, cost against size.

    python benchmarks/simulator.py [--rounds 5] [--quick] [--write docs/simulator.md]

Everything is timed in one process, the contestants in turn; the page says how. About five minutes
on two cores.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# For a quiet machine only: threads that spin for a moment wake up in time for short operations.
# Beside a busy neighbour that would cost many times what it gains.
if os.getloadavg()[0] < 1:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import simulator_c as twin
import torch
from page_head import in_turn, put
from simulator_page import Map, Size, page

import thalweg
from thalweg import lab
from thalweg.lab.simulate import has_compiler

#: A start and settings at which no cell comes to rest or diverges: nobody stops early.
START = (0.3, 2.0)
COMPILED, EAGER, ONE, NUMPY = "compiled", "eager", "eager, one thread", "numpy"


def settings(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The grid: eta down, rho across."""
    return np.linspace(0.01, 0.2, side)[:, None], np.linspace(0.05, 0.3, side)[None, :]


def simulated(
    problem: lab.SingleNeuron, side: int, power: float, steps: int, kind: str
) -> lab.Simulation:
    eta, rho = settings(side)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if kind == ONE else threads)
    try:
        return lab.simulate(
            problem,
            eta=eta,
            rho=rho,
            power=power,
            steps=steps,
            observe={},
            compile=kind == COMPILED,
            progress="",
        )
    finally:
        torch.set_num_threads(threads)


def one_map(
    loss: str,
    power: float,
    side: int,
    steps: int,
    rounds: int,
    libraries: Sequence[ctypes.CDLL],
    *,
    compiled: bool,
) -> Map:
    """Time the map by everyone who can be had."""
    problem = lab.SingleNeuron(loss, start=START)
    eta, rho = settings(side)
    kinds = [COMPILED] * compiled + [EAGER, ONE]
    begun = time.perf_counter()
    if compiled:
        simulated(problem, side, power, 2, COMPILED)
    compiling = time.perf_counter() - begun if compiled else None
    arrays = (loss, power, START, eta, rho)
    few = max(steps // 5, 1)  # numpy is slow: it takes fewer, and all are told per step
    taken = {**dict.fromkeys(kinds, steps), NUMPY: few}
    run = {k: lambda n, k=k: simulated(problem, side, power, n, k).final["y"] for k in kinds}
    run[NUMPY] = lambda n: twin.plain_numpy(*arrays, n)[1]
    if libraries:
        fast, exact = libraries
        every = [(fast, order, name) for order, name in twin.ORDERS.items()]
        for library, order, name in [*every, (exact, "blocks", twin.EXACT)]:
            taken[name] = steps
            run[name] = lambda n, c=library, order=order: twin.run(c, order, *arrays, n)[1]
    reference = twin.plain_numpy(*arrays, 50)[1]
    apart = max(float(np.abs(go(50) - reference).max()) for go in run.values())
    whole = simulated(problem, side, power, steps, EAGER).steps_run
    seconds = in_turn({n: lambda n=n: run[n](taken[n]) for n in run}, rounds)
    each = {n: np.array(s) / (taken[n] * side * side) for n, s in seconds.items()}
    return Map(loss, power, side, steps, each, compiling, apart, float((whole == steps).mean()))


def sizes_of_maps(sides: Sequence[int], steps: int, rounds: int, kinds: list[str]) -> list[Size]:
    problem = lab.SingleNeuron("log_cosh", start=START)
    for kind in kinds:
        simulated(problem, sides[0], 1.0, 2, kind)
    found = in_turn(
        {
            f"{kind} {side}": lambda side=side, kind=kind: simulated(
                problem, side, 1.0, steps, kind
            )
            for kind in kinds
            for side in sides
        },
        rounds,
    )
    return [
        Size(f"map, {kind}", f"{side}²", side * side, steps, np.array(found[f"{kind} {side}"]))
        for kind in kinds
        for side in sides
    ]


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


def sizes_of_ensembles(numbers: Sequence[int], steps: int, rounds: int) -> list[Size]:
    task, few = lab.Digits(), 4

    def together(networks: int) -> lab.Simulation:
        seeds = np.arange(networks) % 64  # cells of a seed share its data, as in every study
        return lab.simulate(task, rho=0.1, steps=steps, seed=seeds, observe={}, progress="")

    together(numbers[0])
    runs: dict[str, Callable[[], object]] = {"one": lambda: one_at_a_time(task, few, steps)}
    runs |= {str(n): lambda n=n: together(n) for n in numbers}
    found = {name: np.array(seconds) for name, seconds in in_turn(runs, rounds).items()}
    return [
        Size("digits, one at a time with thalweg.SAM", str(few), few, steps, found["one"]),
        *(Size("digits, one ensemble", str(n), n, steps, found[str(n)]) for n in numbers),
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="5, if not given")
    parser.add_argument("--quick", action="store_true", help="tiny and not compiled, to try it out")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    load, quick = os.getloadavg()[0], options.quick
    rounds = options.rounds or (2 if quick else 5)
    compiled = has_compiler() and not quick
    maps, kinds = [], [COMPILED] * compiled + [EAGER]
    with tempfile.TemporaryDirectory() as folder:
        both = {"fast": twin.FLAGS, "exact": twin.EXACT_FLAGS} if twin.compiler() else {}
        libraries = [twin.build(Path(folder, name), flags) for name, flags in both.items()]
    size = (8, 20) if quick else (256, 1000)
    for loss in ("log_cosh", "sqrt"):
        for power in (1.0, 0.5):
            print(f"map, {loss}, p = {power:g}", file=sys.stderr)
            maps.append(one_map(loss, power, *size, rounds, libraries, compiled=compiled))
    print("sizes", file=sys.stderr)
    sides, numbers = ((4, 8), (2, 4)) if quick else ((64, 128, 256, 512), (16, 64, 256, 1024))
    sizes = sizes_of_maps(sides, 20 if quick else 300, max(rounds - 2, 2), kinds)
    sizes += sizes_of_ensembles(numbers, 5 if quick else 50, max(rounds - 2, 2))
    text = page(maps, sizes, load, torch.get_num_threads(), quick=quick)
    put(text, options.write)


if __name__ == "__main__":
    main()
