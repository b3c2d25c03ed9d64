"""Thresholds in the step size, found by looking where the distance neither grows nor falls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thalweg import theory
from thalweg.ascent import Between, Method
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.starts import ManyStarts
from thalweg.results import Check
from thalweg.results.record import Role

BASES: dict[str, dict[str, Any]] = {
    "SGD": {},
    "momentum .9": {"momentum": 0.9},
    "momentum .9, decay .3": {"momentum": 0.9, "weight_decay": 0.3},
    "momentum .9, decay .3 decoupled": {"momentum": 0.9, "weight_decay": 0.3, "decoupled": True},
    "Nesterov .9": {"momentum": 0.9, "nesterov": True},
    "decay .3": {"weight_decay": 0.3},
}
#: The base steps of the figure.
DRAWN: dict[str, Role] = {"SGD": "p=0", "momentum .9": "neutral", "Nesterov .9": "gd"}


def threshold(settings: Settings, high: float, start: float = 1.0, **how: Any) -> tuple[float, int]:
    """The step size at which the distance from the minimum neither grows nor falls.

    Rows of step sizes, each within two neighbours of the one before, the first from near 0 to
    ``high``. In the last one the rate of growth is brought to 0 by a straight line.

    Returns:
        The step size, and how many runs it took.
    """
    low, steps, runs = high / 1000, settings["steps"], 0
    for cells in settings["rows"]:
        eta = np.linspace(low, high, cells)
        run = simulate(
            ManyStarts([settings["curvature"]], [[start]]),
            eta=eta,
            steps=steps,
            compile=False,
            ceiling=1e100,
            observe={"size": History("distance", every=steps // 4)},
            progress="edges: a threshold",
            **how,
        )
        runs += cells
        size = run.observed["size"]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(run.diverged, np.inf, np.log(size[:, 4] / size[:, 2]))
        # What rests, or bounces to rounding, does not grow.
        calm = np.flatnonzero(~(rate > 1e-9))
        last = min(int(calm[-1]) if calm.size else 0, cells - 2)
        low, high = float(eta[last]), float(eta[last + 1])
    a, b = float(rate[last]), float(rate[last + 1])
    share = -a / (b - a) if math.isfinite(a) and math.isfinite(b) and b > a else 0.5
    return low + share * (high - low), runs


def usam_over_rho(settings: Settings) -> tuple[list[Check], dict[str, list[float]], int]:
    """USAM's threshold in η for several radii, under three base steps."""
    top, radii = settings["curvature"], settings["usam_rho"]
    checks, points, runs = [], {}, 0
    for name in (name for name in DRAWN if name in settings["bases"]):
        found = []
        for rho in radii:
            value, n = threshold(settings, 4.0 / top, rho=rho, power=0.0, **BASES[name])
            found.append(value)
            runs += n
        law = [theory.largest_stable_eta(rho, top, **BASES[name]) for rho in radii]
        listed = ", ".join(f"{rho:g}" for rho in radii)
        what = f"USAM's threshold in η, {name}, λ = {top:g}, ρ = {listed}"
        checks.append(_beside(settings, what, law, found))
        points[name] = found
    return checks, points, runs


def bases(settings: Settings) -> tuple[list[Check], int]:
    """USAM's threshold in η under momentum, Nesterov and decay; and both sides of it."""
    top, rho = settings["curvature"], settings["rho"]
    found, law, below, above, runs = [], [], [], [], 0
    for how in map(BASES.__getitem__, settings["bases"]):
        edge = theory.largest_stable_eta(rho, top, **how)
        value, n = threshold(settings, 4.0 / top, rho=rho, power=0.0, **how)
        run = simulate(
            ManyStarts([top], [[1.0]]),
            eta=edge * np.array([0.999, 1.001]),
            rho=rho,
            power=0.0,
            steps=settings["side_steps"],
            ceiling=1e100,
            compile=False,
            progress="edges: both sides",
            **how,
        )
        size = run.observed["distance"]
        below.append(float(size[0]))
        above.append(math.inf if run.diverged[1] else float(size[1]))
        found.append(value)
        law.append(edge)
        runs += n + 2
    names = ", ".join(settings["bases"])
    return [
        _beside(settings, f"USAM's threshold in η, λ = {top:g}, ρ = {rho:g}: {names}", law, found),
        Check(
            "the same: ‖w‖ over ‖w₀‖ at .999 and 1.001 of the predicted η",
            predicted="falls to 0, grows without bound",
            measured=f"at most {max(below):.2g}, at least {min(above):.2g}",
            tolerance="below 1, above 1000",
            holds=bool(max(below) < 1 and min(above) > 1000),
        ),
    ], runs


def interpolated(settings: Settings) -> tuple[list[Check], list[tuple[float, float]], int]:
    """The interpolated ascent: its threshold in η for every share, and its bounce."""
    top, rho, shares = settings["curvature"], settings["share_rho"], settings["shares"]
    found, law, runs, ratios = [], [], 0, []
    for share in shares:
        method = Method(size=Between(share))
        # From far out: there the part that grows with ‖g‖ decides, not the bounce.
        value, n = threshold(settings, 2.2 / top, start=1e12, rho=rho, method=method)
        found.append(value)
        law.append(theory.interpolated_largest_eta(rho, top, share))
        runs += n + 1
        if share > 0:
            eta = 0.7 * law[-1]
            run = simulate(
                ManyStarts([top], [[0.37]]),
                eta=eta,
                rho=rho,
                method=method,
                steps=settings["bounce_steps"],
                compile=False,
                progress="edges: interpolated",
            )
            size = theory.interpolated_bounce_amplitude(eta, rho, top, share)
            ratios.append(float(run.observed["distance"]) / size)
    off = max(abs(ratio - 1) for ratio in ratios)
    where = f"λ = {top:g}, ρ = {rho:g}, l = " + ", ".join(f"{share:g}" for share in shares)
    return (
        [
            _beside(settings, f"ascent ρ(1−l+l/‖g‖)g: threshold in η, {where}", law, found),
            Check(
                "the same, l > 0, at .7 of the threshold: size of the bounce over its prediction",
                predicted="1 (a = lηρλ/(2−ηλ−(1−l)ηρλ²))",
                measured=f"off by at most {off:.1g}",
                tolerance="1e-9",
                holds=bool(off < 1e-9),
            ),
        ],
        list(zip(shares, found, strict=True)),
        runs,
    )


def _beside(settings: Settings, what: str, law: list[float], found: list[float]) -> Check:
    off = max(abs(a / b - 1) for a, b in zip(found, law, strict=True))
    return Check(
        what,
        predicted=" / ".join(f"{value:.5f}" for value in law),
        measured=" / ".join(f"{value:.5f}" for value in found) + f" (off by at most {off:.1g})",
        tolerance=f"{settings['within']:g} of the prediction",
        holds=bool(off <= settings["within"]),
    )
