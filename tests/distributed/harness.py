"""Runs all distributed cases in one spawn of two processes, and hands their outcomes back.

A case is a function without arguments that both processes call at the same time. One spawn for all
of them, since importing torch takes longer than most of the cases.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
WORLD = 2
#: Seconds. A case that takes longer shows where it stands and ends its process.
CASE_LIMIT = 60
#: Seconds without one finished case, after which the processes are ended from outside.
STALL_LIMIT = 90
#: Seconds that the other processes get when one has died.
GRACE = 10

CASES: dict[str, Callable[[], None]] = {}


def case(**values: tuple[object, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as one case for every combination of the values."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for combination in itertools.product(*values.values()):
            labels = [str(v).removeprefix("torch.") for v in combination]
            kind = function.__module__.removeprefix("cases_")
            name = "-".join([f"{kind}.{function.__name__}", *labels])
            if name in CASES:
                raise ValueError(f"two cases have the name {name}")
            arguments = dict(zip(values, combination, strict=True))
            CASES[name] = functools.partial(function, **arguments)
        return function

    return register


def load() -> dict[str, Callable[[], None]]:
    """Return every case by its name, in the same order in every process."""
    for folder in (HERE.parent, HERE):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    for path in sorted(HERE.glob("cases_*.py")):
        importlib.import_module(path.stem)
    # Under pytest this file may have been imported by another name: ask the one the cases use.
    return importlib.import_module("harness").CASES


def run(names: list[str], folder: Path, worker: Path = HERE / "worker.py") -> dict[str, str]:
    """Run cases in two processes.

    Args:
        names: Which cases.
        folder: Empty; results and logs go there.
        worker: What each process runs.

    Returns:
        What went wrong, for every case that failed or was not run; no key for the others.
    """
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(WORLD):
            with (folder / f"log{rank}").open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        [sys.executable, str(worker), str(rank), str(folder)],
                        # Closes when this process ends, however it does: the worker's sign to go.
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )
                )
        ended = _wait(workers, folder)
    finally:
        for process in workers:
            process.kill()
            process.communicate()
    return _outcomes(names, folder, ended)


def _wait(workers: list[subprocess.Popen[bytes]], folder: Path) -> str:
    """Wait for all workers, but not for ever; return how it ended."""
    seen, deadline, dead = -1, 0.0, None
    while True:
        codes = [process.poll() for process in workers]
        now = time.monotonic()
        if all(code is not None for code in codes):
            return f"exit codes {codes}"
        if dead is None and any(codes):
            dead, deadline = codes, min(deadline, now + GRACE)
        size = sum(path.stat().st_size for path in folder.glob("results*"))
        if size != seen and dead is None:
            seen, deadline = size, now + STALL_LIMIT
        if now > deadline:
            return f"ended from outside, exit codes before that {codes}"
        time.sleep(0.02)


def _outcomes(names: list[str], folder: Path, ended: str) -> dict[str, str]:
    """Gather what every rank says about every case."""
    failed: dict[str, list[str]] = {name: [] for name in names}
    for rank in range(WORLD):
        path = folder / f"results{rank}"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        told = {name: error for name, error, _ in map(json.loads, lines)}
        missing = [name for name in names if name not in told]
        for name, error in told.items():
            if error:
                failed[name].append(f"rank {rank}:\n{error}")
        for name in missing:
            log = (folder / f"log{rank}").read_text(encoding="utf-8", errors="replace")
            end = (
                f"rank {rank} ended inside this case ({ended}); the end of its log:\n{log[-4000:]}"
            )
            after = f"rank {rank} did not run this, as it ended inside {missing[0]} ({ended})"
            failed[name].append(end if name == missing[0] else after)
    return {name: "\n".join(errors) for name, errors in failed.items() if errors}
