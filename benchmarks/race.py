"""What is worth its cost? Every preset on real data, against SGD with as many gradients.

    python benchmarks/race.py --results DIR --costs                # on a quiet machine
    python benchmarks/race.py --results DIR --tasks [--workers 2] [--only NAME ...] [--quick]
    python benchmarks/race.py --results DIR --write docs/race.md   # the page, and its figure

All three may stand in one command. What each preset did on each task is kept in a file of its own:
a killed run goes on where it was.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import race_costs
import race_torch
import torch
from page_head import begin, put
from race_figure import draw
from race_judge import Record, judge
from race_page import page, rivals_told
from race_tasks import TASKS, Task, first_grid, method_of, rival, trained, tuned

import thalweg

Settings = dict[str, Any]
FULL: Settings = {
    "digits": {"steps": 600, "seeds": 20},
    "text": {"steps": 800, "seeds": 10},
    "layers": {"steps": 600, "seeds": 10},
    "extensions": 4,
}
QUICK: Settings = {
    "digits": {"steps": 20, "seeds": 3},
    "text": {"steps": 5, "seeds": 2},
    "layers": {"steps": 5, "seeds": 2},
    "extensions": 0,
}
ROUNDS = 41
RIVAL = "alone"


def part_of(task: Task, settings: Settings) -> Settings:
    """Return how long, and how often, a task is trained on."""
    kind = "layers" if task.layers else "text" if task.noise is None else "digits"
    found: Settings = settings[kind]
    return found


def read(file: Path) -> Record | None:
    """Return what is kept, or ``None``."""
    try:
        found: Record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def keep(file: Path, record: Record) -> None:
    """Write the whole record, or nothing of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as part:
            json.dump(record, part)
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)


def files(folder: Path, settings: Settings, only: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Return where each preset's results on each task are kept, those that take longest first.

    Args:
        folder: Where.
        settings: With what; a run in full and a quick one have folders of their own.
        only: Names of presets, or of rivals; all if there are none.
    """
    place = folder / ("quick" if settings is QUICK else "full")
    found = {}
    for task in sorted(TASKS, key=lambda task: (task.noise is not None, not task.layers)):
        for name in [*(f"{base} {RIVAL}" for base in task.bases), *task.runners]:
            if not only or name in only or name.split()[-1] in only:
                found[task.name, name] = place / task.name / f"{name.replace(' ', '-')}.json"
    return found


def marked(task: Task, name: str, settings: Settings) -> Settings:
    """Return what a record must have been made with."""
    mark = {**part_of(task, settings), "extensions": settings["extensions"], "title": task.title}
    if not name.endswith(RIVAL):
        mark |= {"method": repr(method_of(name.split()[-1], mark["steps"]))}
        mark |= {"grid": first_grid(name)}
    return mark


def made(task_name: str, name: str, settings: Settings) -> Record:
    """Train one preset, or one rival, on one task."""
    torch.set_num_threads(1)
    clock = time.perf_counter()
    task = next(task for task in TASKS if task.name == task_name)
    steps, seeds = (part_of(task, settings)[k] for k in ("steps", "seeds"))
    record: Record = {"settings": marked(task, name, settings)}
    if name.endswith(RIVAL):
        if task.layers:
            record |= race_torch.rival(task, name.split()[0], steps, seeds)
        else:
            record |= rival(task, steps, seeds)
    else:
        train: Callable[..., Any] = race_torch.trained if task.layers else trained
        grid = first_grid(name)
        halves, found = tuned(
            lambda some: train(task, name, some, steps, seeds), grid, settings["extensions"]
        )
        record |= {"halves": halves, "began with": len(grid), **found}
    return {**record, "seconds": time.perf_counter() - clock}


def work(task_name: str, name: str, settings: Settings, file: Path) -> str:
    """Do one thing and keep it; say how long it took."""
    record = made(task_name, name, settings)
    keep(file, record)
    return f"{task_name}: {name}, {record['seconds']:.1f} s"


def up_to_date(key: tuple[str, str], file: Path, settings: Settings) -> Record | None:
    """Return a record if it was made with these settings."""
    task = next(task for task in TASKS if task.name == key[0])
    record = read(file)
    good = record is not None and record["settings"] == marked(task, key[1], settings)
    return record if good else None


def run(where: dict[tuple[str, str], Path], settings: Settings, workers: int) -> None:
    """Do all that has not been done yet."""
    left = {key: file for key, file in where.items() if not up_to_date(key, file, settings)}
    if workers == 1:
        for (task, name), file in left.items():
            print(work(task, name, settings, file), file=sys.stderr)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        tasks = [pool.submit(work, *key, settings, file) for key, file in left.items()]
        for done in as_completed(tasks):
            print(done.result(), file=sys.stderr)


def write(
    where: dict[tuple[str, str], Path],
    settings: Settings,
    costs: Record,
    path: Path | None,
    *,
    quick: bool,
) -> None:
    """Write the page and the figure from what is kept."""
    kept = {key: up_to_date(key, file, settings) for key, file in where.items()}
    missing = [f"{task} {name}" for (task, name), record in kept.items() if record is None]
    judged, told = {}, {}
    for task in TASKS:
        known = {name: r for (at, name), r in kept.items() if at == task.name and r is not None}
        rivals = {n.split()[0]: r for n, r in known.items() if n.endswith(RIVAL)}
        records = {n: r for n, r in known.items() if not n.endswith(RIVAL)}
        judged[task.name] = judge(task, records, rivals, costs)
        steps = part_of(task, settings)["steps"]
        told[task.name] = rivals_told(task, rivals, steps)
    figure = ""
    panels = {task.title: judged[task.name] for task in TASKS[:3]}
    if path is not None and any(row.gains for rows in panels.values() for row in rows):
        (path.parent / "figures").mkdir(exist_ok=True)
        figure = f"figures/{path.stem}.svg"
        (path.parent / figure).write_text(draw(panels), encoding="utf-8")
    seconds = sum(record["seconds"] for record in kept.values() if record)
    head = begin(
        "What is worth its cost",
        "race.py",
        {"torch": torch.__version__, "numpy": np.__version__, "thalweg": thalweg.__version__},
        load=costs.get("load"),
        where=f"; trained for {seconds / 60:.0f} minutes of one core",
        warning="A few steps, for a test: the numbers mean nothing." if quick else "",
    )
    put(page(head, settings, judged, told, missing, costs, figure), path)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the folder of what is found")
    parser.add_argument("--tasks", action="store_true", help="train")
    parser.add_argument("--costs", action="store_true", help="time the steps")
    parser.add_argument("--workers", type=int, default=2, help="processes that train")
    parser.add_argument("--only", nargs="*", default=[], help="some presets, or `alone`")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    settings = QUICK if options.quick else FULL
    where = files(options.results, settings, options.only)
    timed = options.results / ("quick" if options.quick else "full") / "costs.json"
    if options.costs:
        load = os.getloadavg()[0]
        rounds = 3 if options.quick else ROUNDS
        keep(timed, {**race_costs.measure(rounds, quick=options.quick), "load": load})
    if options.tasks:
        run(where, settings, options.workers)
    if options.write or not (options.tasks or options.costs):
        write(where, settings, read(timed) or {}, options.write, quick=options.quick)


if __name__ == "__main__":
    main()
