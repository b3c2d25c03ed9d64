"""Claim: where labels are wrong, SAM tests better than SGD run to the end (real digits)."""

from __future__ import annotations

import functools

import numpy as np

from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.digit_runs import (
    FULL,
    QUICK,
    SETTINGS,
    Runs,
    Scores,
    difference,
    train,
)
from thalweg.lab.statistics import Array, interval, mean
from thalweg.results import Axes, Chart, Line
from thalweg.results.record import Role, role_of


def measure(settings: Settings) -> Evidence:
    """Compare SAM, its ρ picked on validation, with SGD run as long, twice as long, and stopped."""
    runs = train(settings)
    noises = settings["noise"]
    noisy = int(np.argmax(noises))
    checks = []
    for t in sorted(range(len(noises)), key=lambda t: t != noisy):
        for power, sam in runs.sam.items():
            for rival, name, decides in (
                (runs.sgd, "SGD, as many steps", t == noisy),
                (runs.longer, "SGD, as many gradients (twice the steps)", t == noisy),
                (runs.stopped, "SGD, step size and stopping picked on validation", False),
            ):
                checks.append(
                    difference(
                        settings,
                        f"label noise {noises[t]:g}: SAM at p = {power:g} minus {name}",
                        "above 0" if decides else "none made",
                        functools.partial(_ahead, sam, rival, t),
                        1 if decides else 0,
                        decides=decides,
                    )
                )
    return Evidence(
        checks=checks,
        charts=[_accuracy(settings, runs)],
        runs=runs.trained,
        seeds=list(range(settings["seeds"])),
        dtype="float32",
        found=_found(settings, runs, noisy),
    )


def _found(settings: Settings, runs: Runs, task: int) -> str:
    """How far SAM is ahead of SGD where labels are noisiest."""
    parts = []
    for power, sam in runs.sam.items():
        rivals = (runs.sgd, runs.longer, runs.stopped)
        ahead = [interval(settings, functools.partial(_ahead, sam, r, task)) for r in rivals]
        told = ", ".join(f"{v:+.1f} [{low:+.1f}, {high:+.1f}]" for v, low, high in ahead)
        parts.append(f"p = {power:g}: {told}")
    return (
        f"With {settings['noise'][task]:.0%} of the labels drawn at random, SAM minus SGD with as "
        "many steps, with as many gradients, and tuned and stopped on validation, in points with "
        f"95 % bootstrap intervals over {settings['seeds']} seeds: " + "; ".join(parts) + "."
    )


def _ahead(sam: Scores, rival: Scores, task: int, seeds: Array) -> float:
    """How far one method is ahead of another on a task, each as picked on validation."""
    mine, theirs = (s.points(s.picked(seeds), seeds)[task] for s in (sam, rival))
    return float(mine - theirs)


def _label(power: float, settings: Settings) -> str:
    """What a power is called in the figures."""
    cap = settings["max_norm"].get(str(power))
    name = f"p = {power:g}" + {0.0: " (USAM)", 1.0: " (SAM)"}.get(power, "")
    return name if cap is None else f"{name}, ‖ε‖ ≤ {cap:g}"


def _accuracy(settings: Settings, runs: Runs) -> Chart:
    """Test accuracy over ρ, with 95 % t intervals over seeds."""
    axes = []
    everyone = np.arange(settings["seeds"])
    ends = [min(float(s.values[0]) for s in runs.sam.values())]
    ends.append(max(float(s.values[-1]) for s in runs.sam.values()))
    best = runs.stopped.points(runs.stopped.picked(everyone), everyone) / 100
    levels: list[tuple[str, Role, bool, Array]] = [
        ("SGD", "gd", False, runs.sgd.test.mean((1, 2))),
        ("SGD, twice the steps", "gd", True, runs.longer.test.mean((1, 2))),
        ("SGD, tuned and stopped", "neutral", True, best),
    ]
    for t, noise in enumerate(settings["noise"]):
        lines = []
        for power, s in runs.sam.items():
            found = mean(s.test[t])
            lines.append(
                Line(
                    s.values.tolist(),
                    found.mean.tolist(),
                    _label(power, settings),
                    role_of(power),
                    points="both",
                    low=found.low.tolist(),
                    high=found.high.tolist(),
                )
            )
        lines += [
            Line(ends, [float(level[t])] * 2, name, role, dash=dash)
            for name, role, dash, level in levels
        ]
        axes.append(Axes(f"label noise {noise:g}", "ρ", "test accuracy", lines, x_log=True))
    return Chart(
        axes,
        "Test accuracy over ρ: mean and 95 % t interval over seeds. The same number ρ is another "
        "length for every power. Level lines: SGD run to the end, run for twice the steps, and "
        "with its step size and stopping time picked on validation.",
    )


CLAIM = Claim(
    name="digits",
    title="Real digits: where labels are wrong, SAM beats SGD run to the end",
    statement=(
        "On real handwritten digits with 30 % of the training labels drawn at random, SAM with ρ "
        "picked on validation tests better than SGD given as many steps and than SGD given as many "
        "gradients, at every power. SGD whose step size and stopping time are picked on validation "
        "is another rival; how SAM compares with that is reported, and nothing is claimed."
    ),
    source=(
        "An experiment. SGD with as many steps and with as many gradients were named before it was "
        "run; SGD tuned and stopped was added when a first look showed it to be stronger."
    ),
    expected="holds",
    because=(
        "SGD goes on until it has learned the wrong labels; SAM's perturbation keeps it from that."
    ),
    measure=measure,
    settings=SETTINGS,
    quick=QUICK,
    full=FULL,
    takes=(5.0, 21.0, 65.0),
    needs="scikit-learn's digits",
)
