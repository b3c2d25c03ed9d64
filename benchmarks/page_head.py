"""How every page of a benchmark begins, and how a target is told."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path


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
