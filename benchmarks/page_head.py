"""How every page of a benchmark begins and ends, how contestants are timed and a target is told."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cpu() -> str:
    """The processor by its model name, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def begin(
    title: str,
    script: str,
    versions: dict[str, str],
    *,
    load: float | None,
    where: str = "",
    warning: str = "",
) -> list[str]:
    """Say what wrote the page, when, on what machine, and beside what load."""
    command = shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]])
    named = {"Python": platform.python_version(), **versions}
    lines = [
        f"# {title}",
        "",
        f"Written by `{command}` on {datetime.date.today()}; do not edit.",
        "",
        f"Machine: {cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
        f"{where}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in named.items()) + ".",
    ]
    if load is not None:
        busy = " **Busy: the times are not to be trusted.**" if load >= 1 else ""
        lines.append(f"Load of the machine before the run: {load:.2f}.{busy}")
    if warning:
        lines += ["", f"**{warning}**"]
    return [*lines, ""]


def verdict(met: bool, sure: bool = True) -> str:
    """Say whether a target is met, and whether the noise leaves that open."""
    return ("met" if met else "**not met**") + ("" if sure else ", within the noise")


def put(text: str, path: Path | None) -> None:
    """Write a page to its file, or print it where there is none."""
    if path:
        path.write_text(text, encoding="utf-8")
    else:
        print(text)


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, in an order that turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def middle_ratio(times: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Low end, median and high end (95 %, bootstrap over rounds) of the ratio of two times.

    The ratios are of the same round: what the neighbours do then, they do to both.
    """
    ratios = times / others
    draw = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draw], axis=1), [2.5, 97.5])
    return float(low), float(np.median(ratios)), float(high)
