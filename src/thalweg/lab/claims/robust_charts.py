"""The figures of the claim about robustness."""

from __future__ import annotations

from typing import Any

import numpy as np

import thalweg.lab.claims.robust_stats as stats
from thalweg.lab.claims.claim import Settings
from thalweg.lab.claims.robust_runs import Runs
from thalweg.lab.claims.robust_tasks import left_out, noisy
from thalweg.lab.statistics import Array, percentiles
from thalweg.results import Axes, Chart, Line
from thalweg.results.record import role_of


def _parts(title: str) -> tuple[str, bool]:
    """The power in a method's name, and whether there is a cap."""
    power, _, cap = title.removeprefix("p = ").partition(",")
    return power, bool(cap)


def _middle(sizes: list[Array]) -> Array:
    """The geometric mean over tasks."""
    return np.asarray(np.exp(np.log(np.maximum(sizes, 1e-12)).mean(0)))


def gains(settings: Settings, runs: Runs, w: Array) -> Chart:
    """Return the gain over SGD by power, and what every task loses by the others' ρ."""
    sgd = stats.rival(runs, "own", w)
    rules: list[tuple[str, bool, Any]] = [
        ("each task its own ρ", True, stats.tuned),
        ("one ρ, picked on the other tasks", False, stats.transferred),
    ]
    titles = [t for t in runs.curves if not _parts(t)[1]]
    lines = []
    for name, dash, rule in rules:
        means = [stats.mean(rule(runs, t, w).points - sgd) for t in titles]
        lines.append(
            Line(
                [float(_parts(t)[0]) for t in titles],
                [m.value for m in means],
                name,
                "neutral",
                dash=dash,
                points="both",
                low=[m.low for m in means],
                high=[m.high for m in means],
            )
        )
    per_task = []
    for t in titles:
        lost = (stats.tuned(runs, t, w).points - stats.transferred(runs, t, w).points)[0]
        power = _parts(t)[0]
        per_task.append(
            Line(
                list(range(1, len(lost) + 1)),
                lost.tolist(),
                t,
                role_of(float(power)),
                points="points",
            )
        )
    missing = left_out(settings)
    tasks = "; ".join(f"{i} {name}" for i, name in enumerate(runs.tasks, 1))
    return Chart(
        [
            Axes("What is gained over SGD", "power p", "mean test gain (points)", lines),
            Axes("What the others' ρ costs", "task", "test accuracy lost (points)", per_task),
        ],
        "Left: the gain over SGD at the task's own step size, mean over tasks, with ρ picked on "
        "the task itself or on all the others; bands are 95 % bootstrap intervals over seeds, no "
        f"cap on ‖ε‖. Right: what each task loses by the others' ρ. The tasks: {tasks}."
        + (f" The full study has besides {missing}." if missing else ""),
    )


def curves(settings: Settings, runs: Runs, w: Array) -> Chart:
    """Return test accuracy, mean over the tasks with wrong labels, over three sizes of ε."""
    wrong = noisy(settings)
    labels = ("ρ", "mean ‖ε‖ along the training", "mean predicted rise ‖ε‖·‖g‖")
    axes = []
    for unit in range(3):
        lines = []
        for title, every in runs.curves.items():
            power, capped = _parts(title)
            if capped:
                continue
            on = [every[t].only(runs.common[title]) for t in wrong]
            sizes = (
                10 ** (np.array(on[0].at) / 10),
                _middle([c.length.mean(1) for c in on]),
                _middle([c.rise.mean(1) for c in on]),
            )
            test = np.mean([c.test for c in on], axis=0)  # (values, seeds)
            ends = [percentiles(row) for row in test @ w[1:].T]
            lines.append(
                Line(
                    sizes[unit].tolist(),
                    test.mean(1).tolist(),
                    title,
                    role_of(float(power)),
                    points="both",
                    low=[low for low, _ in ends],
                    high=[high for _, high in ends],
                )
            )
        own = float(np.mean([runs.rivals[t].own[1].mean() for t in wrong]))
        span = [min(min(line.x) for line in lines), max(max(line.x) for line in lines)]
        lines.append(Line(span, [own, own], "SGD", "gd", dash=True))
        axes.append(
            Axes(f"Over {stats.UNITS[unit]}", labels[unit], "test accuracy", lines, x_log=True)
        )
    return Chart(
        axes,
        f"Test accuracy over the size of the perturbation in three units, mean over the "
        f"{len(wrong)} tasks with wrong labels: ρ itself, the mean length of ε along the training, "
        "and the mean rise of the loss that ε predicts. Bands are 95 % bootstrap intervals over "
        f"seeds; no cap on ‖ε‖.",
    )
