"""Does rounding to 16 bits cost SAM anything, and does any cure help? On real digits.

    python benchmarks/low_precision.py [--keep DIR] [--jobs 2] [--quick]
        [--write docs/low-precision.md]

Trains a wide perceptron in every setting, with every cure, at every radius, ten seeds each as one
ensemble. About ten minutes on two cores. A run that was stopped goes on from what `--keep` holds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import low_precision_page as pages
import numpy as np
import torch
from low_precision_numbers import Found
from low_precision_train import train
from page_head import begin, put

import thalweg
from thalweg.lab.parts import Arrays, keeping, part

#: What is trained: chosen after a look at four seeds; the least radius was added after a full run.
FULL: dict[str, Any] = {
    "tasks": {
        "30 % of the labels wrong": {"width": 1024, "label_noise": 0.3},
        "labels as they are": {"width": 1024},
    },
    "rhos": [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4],
    "seeds": 10,
    "steps": 300,
}
QUICK: dict[str, Any] = {
    "tasks": {"30 % of the labels wrong": {"width": 64, "label_noise": 0.3}},
    "rhos": [0.1, 0.5],
    "seeds": 2,
    "steps": 21,
}
#: What is done about ε in every setting. Under autocast the float32 weights are moved anyway.
CURES: dict[str, tuple[str, ...]] = {
    "copy": ("none", "stochastic", "carry", "wider", "master"),
    "pure": ("none", "stochastic", "carry", "wider"),
    "autocast": ("none", "stochastic", "carry", "wider"),
    "four": ("none", "stochastic", "carry", "wider", "master"),
    "float32": ("none",),
}

#: Task, setting, cure, radius.
Key = tuple[str, str, str, float]


def keys(settings: dict[str, Any]) -> list[Key]:
    """Return everything that is trained; a radius of 0 is SGD, once a setting."""
    return [
        (task, setting, cure, rho)
        for task in settings["tasks"]
        for setting, cures in CURES.items()
        for cure in cures
        for rho in (*settings["rhos"], *([0.0] if cure == "none" else []))
    ]


def trained(key: Key, settings: dict[str, Any], keep: Path | None) -> Arrays:
    """Train one ensemble, or take what an earlier run of the same code kept."""
    task, setting, cure, rho = key
    words = (settings["tasks"][task], setting, cure, rho, settings["seeds"], settings["steps"])
    with contextlib.nullcontext() if keep is None else keeping(keep, "low-precision", _mark()):
        return part(lambda: train(*words), *words)


def _mark() -> str:
    code = Path(__file__).with_name("low_precision_train.py").read_bytes()
    return hashlib.sha256(code + torch.__version__.encode()).hexdigest()[:16]


def everything(
    settings: dict[str, Any], keep: Path | None, jobs: int
) -> Iterator[tuple[Key, Arrays]]:
    """Train all of it, in so many processes of one thread each."""
    if jobs == 1:
        for key in keys(settings):
            yield key, trained(key, settings, keep)
        return
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, spawn, initializer=_worker) as pool:
        works = {pool.submit(trained, key, settings, keep): key for key in keys(settings)}
        for work in concurrent.futures.as_completed(works):
            yield works[work], work.result()


def _worker() -> None:
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def found(settings: dict[str, Any], keep: Path | None, jobs: int) -> Found:
    """Return what was measured: of every task, setting and cure, arrays (radii, seeds)."""
    single, total, begun = {}, len(keys(settings)), time.monotonic()
    for key, arrays in everything(settings, keep, jobs):
        single[key] = arrays
        if len(single) % 20 == 0 or len(single) == total:
            seconds = time.monotonic() - begun
            print(f"{len(single)} of {total} after {seconds:.0f} s", file=sys.stderr)
    sam, sgd = {}, {}
    for task, setting, cure, rho in keys(settings):
        if rho == 0:
            sgd[task, setting] = single[task, setting, cure, rho]["test"]
            continue
        rows = [single[task, setting, cure, r] for r in settings["rhos"]]
        sam[task, setting, cure] = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
    return Found(settings["rhos"], sam, sgd)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="where trainings are kept for another run")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    settings = QUICK if options.quick else FULL
    results = found(settings, options.keep, 1 if options.quick else options.jobs)
    head = begin(
        "When 16 bits swallow the perturbation",
        "low_precision.py",
        {"torch": torch.__version__, "numpy": np.__version__, "thalweg": thalweg.__version__},
        load=None,
        warning="A few steps, for a test: the numbers mean nothing." if options.quick else "",
    )
    put(pages.page(settings, results, head), options.write)


if __name__ == "__main__":
    main()
