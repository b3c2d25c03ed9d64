"""Which cheap measurement of a model predicts the best rho of SAM? Candidate rules on real tasks.

    python benchmarks/choosing_rho.py [--results DIR] [--keep DIR] [--quick]
        [--write docs/recommendation.md]

Trains the tasks of the claim `robustness`, and as many fresh ones, at p = 1 over a dense grid of
rho, measures networks early in plain SGD, and compares rules; what `thalweg.diagnose` recommends is
one of them. About forty minutes on one core.
`--results`, the folder of a full study, has its tasks and numbers used, and its curve compared with
the one found here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import choosing_rho_page as pages
import numpy as np
import torch
from choosing_rho_measure import measure
from choosing_rho_rules import FACTORS, RULES, SHIPPED, judge
from choosing_rho_shipped import recommended
from choosing_rho_tasks import Curves, curves
from page_head import begin, put

import thalweg
import thalweg.lab.claims.robust_stats as stats
from thalweg.lab.claims.robust_tasks import FULL, SETTINGS, TASKS, noisy
from thalweg.lab.parts import keeping

Settings = dict[str, Any]

#: Tasks chosen after the rule `level` was made, before any of them was trained.
FRESH: list[list[Any]] = [
    ["15 % noise", "perceptron", {"label_noise": 0.15}],
    ["45 % noise", "perceptron", {"label_noise": 0.45}],
    ["100 images", "perceptron", {"label_noise": 0.3, "n_train": 100, "batch_size": 32}],
    ["400 images", "perceptron", {"label_noise": 0.3, "n_train": 400}],
    ["batches of 8", "perceptron", {"label_noise": 0.15, "batch_size": 8, "eta": 0.02}],
    ["batches of 32", "perceptron", {"label_noise": 0.3, "batch_size": 32}],
    ["batches of 128", "perceptron", {"label_noise": 0.45, "batch_size": 128}],
    ["η = .02", "perceptron", {"label_noise": 0.3, "eta": 0.02}],
    ["no momentum", "perceptron", {"label_noise": 0.3, "eta": 0.3, "momentum": 0.0}],
    ["width 12", "perceptron", {"label_noise": 0.3, "width": 12}],
    ["width 256", "perceptron", {"label_noise": 0.3, "width": 256}],
    ["pixels × 4", "rescaled", {"label_noise": 0.3, "scale": 4.0, "eta": 0.01}],
    ["pixels ÷ 4", "rescaled", {"label_noise": 0.3, "scale": 0.25, "eta": 0.3}],
    ["convnet, width 6", "convnet", {"label_noise": 0.3, "width": 6}],
    ["convnet, 200 images", "convnet", {"label_noise": 0.3, "width": 16, "n_train": 200}],
    ["convnet, batches of 16", "convnet", {"label_noise": 0.3, "width": 12, "batch_size": 16}],
    ["text, width 24", "text", {"n_train": 2048, "batch_size": 8, "context": 16, "width": 24}],
]
#: Ends and step of the grid, 10 log₁₀ ρ; the points of the training at which networks are measured,
#: the one that counts, fixed before the first look; the rest is what a measurement takes.
OURS: Settings = {
    "grid": [-24, 6, 1],
    "points": [0.0, 0.05, 0.1, 0.2],
    "primary": 0.1,
    "radii": 41,
    "batches": 8,
    "ramp": 0.2,
    "fresh": FRESH,
}
#: Where the constant of the rule made later is tried, to show what missing it costs.
CONSTANTS = np.array([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.56, 0.63])
QUICK: Settings = {
    "tasks": [TASKS[0], TASKS[14]],
    "fresh": [FRESH[12], FRESH[13]],
    "seeds": 2,
    "steps": 30,
    "bootstrap": 50,
    "grid": [-24, 6, 5],
    "points": [0.0, 0.1],
    "radii": 9,
    "batches": 2,
}


def settings_of(results: Path | None, *, quick: bool) -> Settings:
    """Return what is trained and measured."""
    claim = record_of(results)["settings"] if results else {**SETTINGS, **FULL}
    chosen = {k: claim[k] for k in ("tasks", "seeds", "steps", "bootstrap")}
    return {**chosen, **OURS, **(QUICK if quick else {})}


def record_of(results: Path) -> Settings:
    """Return the record of the claim in a results folder."""
    file = results / "robustness.json"
    if not file.exists():
        raise thalweg.ThalwegError(
            f"results must be the folder of a study with the claim robustness, got {results}: "
            "leave it out, or give the folder that `thalweg study` wrote"
        )
    found: Settings = json.loads(file.read_text(encoding="utf-8"))
    return found


def compared(results: Path, settings: Settings, found: Curves) -> str:
    """Say how far the curve of the study is from the one found here, where both have a value."""
    axes = next(
        axes
        for chart in record_of(results)["charts"]
        for axes in chart["axes"]
        if axes["x_label"] == "ρ"
    )
    line = next(layer for layer in axes["layers"] if layer["name"] == "p = 1")
    tenths = 10 * np.log10(line["x"])
    on_grid = np.abs(tenths - tenths.round()) < 0.01
    pairs = zip(tenths.round(), line["y"], on_grid, strict=True)
    theirs = {int(k): y for k, y, known in pairs if known}
    ours = dict(zip(np.round(10 * found.at), found.test[noisy(settings)].mean((0, 2)), strict=True))
    off = [abs(ours[k] - theirs[k]) for k in theirs if k in ours]
    return (
        "The curve of the study (p = 1, mean over the tasks with wrong labels) and the one found "
        f"here differ by at most {100 * max(off, default=float('nan')):.2f} points at the "
        f"{len(off)} values of ρ they share."
    )


def kept(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Keep what is trained and measured, for a run of the same code; nothing without a folder."""
    return contextlib.nullcontext() if folder is None else keeping(folder, "choosing-rho", "parts")


def studied(settings: Settings) -> tuple[pages.Set, pages.Set]:
    """Train, measure and judge: the claim's tasks, each by the others, then the fresh ones."""
    w = stats.weights(settings["seeds"], settings["bootstrap"])
    points = range(len(settings["points"]))
    sets: list[pages.Set] = []
    for tasks in (settings["tasks"], settings["fresh"]):
        these = {**settings, "tasks": tasks}
        found, measured = curves(these), measure(these)
        known, unknown = recommended(these, FACTORS)
        numbers = measured.numbers | {"cautious": unknown}
        measured = dataclasses.replace(measured, recommended=known, numbers=numbers)
        judged = {}
        for rule in RULES:
            known = [f.constant for f in sets[0].judged[rule.name]] if sets else [None] * 9
            judged[rule.name] = [judge(rule, measured, i, found, w, known[i]) for i in points]
        at = settings["points"].index(settings["primary"])
        later = next(rule for rule in RULES if rule.name == SHIPPED)
        nearby = {
            c: judge(later, measured, at, found, w, c)
            for c in FACTORS[np.abs(FACTORS - CONSTANTS[:, None]).argmin(1)].tolist()
        }
        names = [name for name, *_ in tasks]
        sets.append(pages.Set(names, found, measured, judged, w, nearby))
    return sets[0], sets[1]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, help="the folder of a full study")
    parser.add_argument("--keep", type=Path, help="where trainings are kept for another run")
    parser.add_argument("--quick", action="store_true", help="the numbers mean nothing")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    settings = settings_of(options.results, quick=options.quick)
    with kept(options.keep):
        sets = studied(settings)
    told = ""
    if options.results and not options.quick:
        told = compared(options.results, settings, sets[0].curves)
    head = begin(
        "How rho is recommended, and what that is worth",
        "choosing_rho.py",
        {"torch": torch.__version__, "numpy": np.__version__, "thalweg": thalweg.__version__},
        load=None,
        warning="A few networks, for a test: the numbers mean nothing." if options.quick else "",
    )
    put(pages.page(settings, sets, told, head), options.write)
    print(f"{sum(s.measured.break_at.size for s in sets)} networks measured", file=sys.stderr)


if __name__ == "__main__":
    main()
