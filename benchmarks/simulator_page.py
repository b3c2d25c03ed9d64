"""The page that the simulator's benchmark writes: targets first, then what was measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from page_head import begin, middle_ratio, verdict
from simulator_c import EXACT, EXACT_FLAGS, FLAGS, ORDERS

import thalweg

#: Times the C loop's time that the compiled and the eager form may take.
LIMITS = {"compiled": 1.3, "eager": 3.0}
#: Cost may grow as much faster than linearly and still pass as linear: what noise does.
SLACK = 1.1

METHOD = f"""\
SAM on ℓ(xy) for every cell of a grid of step sizes and radii, float64. The settings are such that
nobody stops early; the share of the cells that take all the steps is told. The C loop is
`benchmarks/scalar_map.c`, with `#pragma omp simd` and two OpenMP threads, compiled with
`{" ".join(FLAGS)}`. It has two orders: a step of all cells at a
time, as an array program has it, and a block of cells at a time, which never leaves the cache. The
comparison is with the faster one. For p other than 1 it calls `pow`. *numpy* is what one would
write by hand. The simulator's time has all in it, but for the compiling, which is told apart.
*{EXACT}* is the loop with
`{" ".join(EXACT_FLAGS[2:4])}` instead of `-ffast-math`: results as IEEE has them, as the
simulator's are; gcc then takes exp and pow one number at a time.

Contestants run in one process, in turn, in an order that turns; medians over the rounds, of the
ratio round by round; in brackets its 95 % interval (bootstrap over rounds, percentiles).
"""


@dataclass(frozen=True)
class Map:
    """Seconds per cell and step of everyone on one map, one number for each round."""

    loss: str
    power: float
    side: int
    steps: int
    each: dict[str, np.ndarray]
    compiling: float | None
    apart: float
    whole: float

    @property
    def title(self) -> str:
        """The map in words."""
        return f"{self.loss}, p = {self.power:g}, {self.side}² cells"

    @property
    def fastest(self) -> str | None:
        """The faster order of the C loop, where there is a C loop."""
        orders = [name for name in ORDERS.values() if name in self.each]
        return min(orders, key=lambda name: float(np.median(self.each[name])), default=None)

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Low end, median and high end of the time against another's."""
        return middle_ratio(self.each[name], self.each[to])


@dataclass(frozen=True)
class Size:
    """Seconds of a run with so many cells, one number for each round."""

    what: str
    size: str
    cells: int
    steps: int
    seconds: np.ndarray

    @property
    def each(self) -> float:
        """Median seconds per cell and step."""
        return float(np.median(self.seconds)) / (self.cells * self.steps)


def head(load: float, threads: int, *, quick: bool) -> list[str]:
    versions = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "thalweg": thalweg.__version__,
    }
    warning = "Tiny and not compiled, for a test: the numbers mean nothing." if quick else ""
    return begin(
        "How fast the simulator is",
        "simulator.py",
        versions,
        load=load,
        where=f"; {threads} threads",
        warning=warning,
    )


def targets(maps: Sequence[Map], sizes: Sequence[Size]) -> list[str]:
    lines = ["## Targets", "", "| target | found | verdict |", "|---|---|---|"]
    for kind, limit in LIMITS.items():
        for m in maps:
            aim = f"{m.title}, {kind}: at most {limit:g} times the C loop"
            if m.fastest is None or kind not in m.each:
                why = "no C compiler" if m.fastest is None else "not compiled"
                lines.append(f"| {aim} | | not measured: {why} |")
                continue
            low, middle, high = m.ratio(kind, m.fastest)
            told = verdict(middle <= limit, (high <= limit) == (low <= limit))
            lines.append(f"| {aim} | {middle:.2f} [{low:.2f}, {high:.2f}] | {told} |")
    for what, growth in growths(sizes).items():
        aim = f"{what}: no faster than linearly"
        lines.append(f"| {aim} | {growth:.2f} of linear | {verdict(growth <= SLACK)} |")
    return [*lines, ""]


def growths(sizes: Sequence[Size]) -> dict[str, float]:
    """The largest growth of the cost per cell from one size to the next, for each series."""
    found: dict[str, float] = {}
    for small, large in itertools.pairwise(sizes):
        if small.what == large.what:
            found[small.what] = max(found.get(small.what, 0.0), large.each / small.each)
    return found


def table(m: Map) -> list[str]:
    compiled = "" if m.compiling is None else f" Compiling took {m.compiling:.1f} s, not counted."
    to = m.fastest or "numpy"
    lines = [
        f"### {m.title}",
        "",
        f"{m.steps} steps, which {100 * m.whole:.0f} % of the cells take to the end."
        f"{compiled} After 50 steps all are within {m.apart:.0e} of numpy.",
        "",
        f"| | ns per cell and step | times {to} |",
        "|---|---|---|",
    ]
    for name, seconds in m.each.items():
        low, middle, high = m.ratio(name, to)
        ns = 1e9 * float(np.median(seconds))
        lines.append(f"| {name} | {ns:.2f} | {middle:.2f} [{low:.2f}, {high:.2f}] |")
    return [*lines, ""]


def page(
    maps: Sequence[Map], sizes: Sequence[Size], load: float, threads: int, *, quick: bool = False
) -> str:
    """Return the whole page, in Markdown."""
    lines = head(load, threads, quick=quick) + targets(maps, sizes)
    lines += ["## The single-neuron map", "", METHOD]
    for m in maps:
        lines += table(m)
    lines += ["## Cost against size", ""]
    lines += [
        "SAM (p = 1); medians. The map is log cosh; the networks are those of `lab.Digits`.",
        "",
        "| | size | steps | seconds | per cell and step | growth, of linear |",
        "|---|---|---|---|---|---|",
    ]
    before: Size | None = None
    for s in sizes:
        grown = s.each / before.each if before and before.what == s.what else None
        one = f"{1e9 * s.each:.1f} ns" if s.each < 1e-6 else f"{1e6 * s.each:.1f} µs"
        told = "" if grown is None else f"{grown:.2f}"
        seconds = float(np.median(s.seconds))
        lines.append(f"| {s.what} | {s.size} | {s.steps} | {seconds:.3f} | {one} | {told} |")
        before = s
    return "\n".join(lines) + "\n"
