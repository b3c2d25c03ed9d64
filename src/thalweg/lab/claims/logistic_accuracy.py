"""Test accuracy of logistic regression over ρ, beside the claim logistic: reported, not claimed."""

from __future__ import annotations

import numpy as np

from thalweg.lab.claims.claim import Settings
from thalweg.lab.logistic import Logistic
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, mean
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role

_METHODS: list[tuple[str, float, Role]] = [("USAM", 0.0, "p=0"), ("SAM", 1.0, "p=1")]


def accuracy(settings: Settings) -> tuple[list[Check], Axes, int]:
    """Train on random four fifths, test on the rest: SAM and USAM minus gradient descent.

    Args:
        settings: The claim's.

    Returns:
        Checks that decide nothing, the figure for the data set that is shown, and the runs.
    """
    rho = np.array(settings["tested_rho"])
    checks, drawn, runs = [], None, 0
    for name in settings["data"]:
        scores = np.stack([_scores(settings, name, s) for s in range(settings["splits"])], -1)
        gd, methods = scores[0, 0], scores[:, 1:]
        runs += scores.size
        for i, (method, _, _) in enumerate(_METHODS):
            ahead = mean(100 * (methods[i] - gd))
            listed = ", ".join(
                f"{m:+.2f} [{low:+.2f}, {high:+.2f}]"
                for m, low, high in zip(ahead.mean, ahead.low, ahead.high, strict=True)
            )
            checks.append(
                Check(
                    f"{name}, ridge {settings['tested_ridge']:g}: test accuracy, {method} minus "
                    f"gradient descent ({100 * gd.mean():.1f} %), points, at ρ = "
                    f"{', '.join(f'{r:g}' for r in rho)}",
                    predicted="0 below ρ*: the same minimum" if i == 0 else "none made",
                    measured=f"{listed}; 95 % t intervals, n = {ahead.n} random splits",
                    tolerance="reported only",
                    holds=None,
                    decides=False,
                )
            )
        if name == settings["shown"][0]:
            drawn = _drawn(name, rho, gd, methods)
    assert drawn is not None
    return checks, drawn, runs


def _scores(settings: Settings, name: str, split: int) -> Array:
    """Test accuracy at the end, (methods, radii), the first of which is 0: gradient descent."""
    problem = Logistic(name, settings["tested_ridge"], split=split)
    run = simulate(
        problem,
        eta=1 / problem.beta,
        rho=[0.0, *settings["tested_rho"]],
        power=np.array([power for _, power, _ in _METHODS])[:, None],
        steps=settings["tested_steps"],
        progress=f"logistic: {name}, split {split}",
    )
    return run.observed["test_accuracy"]


def _drawn(name: str, rho: Array, gd: Array, methods: Array) -> Axes:
    lines = []
    for i, (method, power, role) in enumerate(_METHODS):
        label = f"p = {power:g} ({method})"  # as in the axes beside
        m = mean(100 * (methods[i] - gd))
        low, high = m.low.tolist(), m.high.tolist()
        lines.append(
            Line(rho.tolist(), m.mean.tolist(), label, role, points="both", low=low, high=high)
        )
    return Axes(f"{name}, test", "ρ", "points above gradient descent", lines, x_log=True)
