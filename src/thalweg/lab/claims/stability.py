"""Claim: normalization takes ρ out of the stability threshold (a convex problem)."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.observe import History, Maximum
from thalweg.lab.problems import Quadratic
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Heat, Line


def measure(settings: Settings) -> Evidence:
    """Cross USAM's threshold in ρ, look for one at the other powers, and map the (η, ρ) plane."""
    usam, crossed = _threshold(settings)
    bounded, covered = _no_threshold(settings)
    charts, mapped_checks, mapped = _phase_diagrams(settings)
    powers = ", ".join(f"{power:g}" for power in settings["powers"])
    return Evidence(
        checks=[*usam, *bounded, *mapped_checks],
        charts=charts,
        runs=crossed + covered + mapped,
        seeds=[0],
        dtype="float64",
        found=f"p = 0: ‖w‖/‖w₀‖ is at most {usam[0].measured} at .999 of the threshold, at least "
        f"{usam[1].measured} at 1.001; p = {powers}: "
        + "; ".join(check.measured for check in bounded[::2])
        + f" (largest ‖w‖ over that of start and bounce); {mapped_checks[0].measured}.",
    )


def _threshold(settings: Settings) -> tuple[list[Check], int]:
    """USAM at .999 and 1.001 of ρ* = (2/(ηλ) - 1)/λ."""
    problem, top = _problem(settings), max(settings["eigenvalues"])
    eta = np.array(settings["eta_lambda"]) / top
    edge = theory.largest_stable_rho(eta, top)
    sides = np.array([0.999, 1.001])
    run = simulate(
        problem,
        eta=eta[:, None],
        rho=edge[:, None] * sides,
        power=0.0,
        steps=settings["threshold_steps"],
        compile=False,
        progress="stability: USAM's threshold",
    )
    growth = run.observed["distance"] / np.linalg.norm(settings["start"])
    below, above = growth[:, 0].max(), growth[:, 1].min()
    where = f"at ηλ = {', '.join(f'{x:g}' for x in settings['eta_lambda'])}"
    return [
        Check(
            f"p = 0, ρ = .999 of the threshold, {where}: ‖w‖ over ‖w₀‖, the largest",
            predicted="falls to 0",
            measured=f"{below:.2g}",
            tolerance="below 1",
            holds=bool(below < 1),
        ),
        Check(
            f"p = 0, ρ = 1.001 of the threshold, {where}: ‖w‖ over ‖w₀‖, the smallest",
            predicted="grows without bound",
            measured=f"{above:.2g}",
            tolerance="above 1000",
            holds=bool(above > 1000),
        ),
    ], growth.size


def _no_threshold(settings: Settings) -> tuple[list[Check], int]:
    """0 < p ≤ 1: the largest distance ever reached, against the size of the predicted bounce."""
    problem, top = _problem(settings), max(settings["eigenvalues"])
    eta = np.array(settings["bounded_eta_lambda"])[:, None] / top
    rho = np.geomspace(0.01, settings["largest_rho"], settings["bounded_rhos"])[None, :]
    checks = []
    for power in settings["powers"]:
        run = simulate(
            problem,
            eta=eta,
            rho=rho,
            power=power,
            steps=settings["bounded_steps"],
            compile=False,
            observe={"largest": Maximum("distance", every=settings["bounded_every"])},
            progress=f"stability: p = {power:g}",
        )
        start = float(np.linalg.norm(settings["start"]))
        bounce = theory.bounce_amplitude(eta, rho, top, power)
        # Away from the top eigenvector, w may overshoot the bounce it settles on.
        excess = float((run.observed["largest"] / np.maximum(bounce, start)).max())
        end = np.abs(np.abs(run.final["w"][..., 0]) / bounce - 1)
        checks += [
            Check(
                f"p = {power:g}, ρ up to {rho.max():g}, ηλ up to {float(eta.max() * top):g}: "
                "largest ‖w‖ over the larger of ‖w₀‖ and the bounce",
                predicted="bounded for every ρ",
                measured=f"{excess:.4g}, none of {bounce.size} cells diverged"
                if not run.diverged.any()
                else f"{int(run.diverged.sum())} of {bounce.size} cells diverged",
                tolerance="at most 2",
                holds=bool(excess <= 2 and not run.diverged.any()),
            ),
            Check(
                f"p = {power:g}: amplitude at the end, {bounce.min():.2g} to {bounce.max():.2g}",
                predicted="(ηρλ²/(2−ηλ))^(1/p)/λ",
                measured=f"off by at most {end.max():.1e} of it",
                tolerance="1e-6 of the prediction",
                holds=bool(end.max() < 1e-6),
            ),
        ]
    return checks, len(settings["powers"]) * eta.size * rho.size


def _phase_diagrams(settings: Settings) -> tuple[list[Chart], list[Check], int]:
    """Where the iterate ends, over (η, ρ), for every power, with the predicted boundaries."""
    top, n = max(settings["eigenvalues"]), settings["cells"]
    # 2.2 is past 2/λ; no cell lies on that boundary.
    eta = (np.linspace(0.05, 2.2, n) + 1e-4)[:, None] / top
    rho = np.geomspace(0.01, settings["largest_rho"], n)[None, :]
    upto_1, above_1 = [], []
    wrong, restless, sure = 0, 0, 0
    for power in [0.0, *settings["powers"], *settings["chaotic_powers"]]:
        seen, diverged, stable = _mapped(settings, power, eta, rho)
        wrong += int((diverged == stable).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = np.log10(np.median(seen, -1))
            beyond = np.log10(seen.max(-1)) - middle
        middle, beyond = (np.where(diverged, np.nan, z) for z in (middle, beyond))
        bounces = 2 - 2 / power if power > 1 else None
        # The threshold as a step size, which exists for every ρ; any p > 0 takes ρ out of it.
        edge = theory.largest_stable_eta(rho[0] if power == 0 else 0 * rho[0], top) * top
        edges = [edge] if bounces is None else [edge, np.full_like(edge, bounces)]
        axes = _map(power, eta[:, 0] * top, rho[0], np.maximum(middle, -6), edges)
        if bounces is None:
            upto_1.append(axes)
            continue
        above_1 += [axes, _map(power, eta[:, 0] * top, rho[0], beyond, edges, spread=True)]
        # Beside the boundary a deviation has not had the time to fall, or to grow.
        told = np.broadcast_to(np.abs(eta * top - bounces) > 0.02, diverged.shape) & ~diverged
        restless += int((((beyond < 1e-3) != (eta * top > bounces)) & told).sum())
        sure += int(told.sum())
    runs = (len(upto_1) + len(above_1) // 2) * n * n
    charts = [
        Chart(
            upto_1,
            "How far from the minimum SAM ends, over step size and radius. Left of the dashed line "
            "theory has it bounded. Without normalization (p = 0) the line bends: a larger ρ needs "
            "a smaller η. With 0 < p ≤ 1 it is gradient descent's own ηλ = 2, at the price that "
            "SAM ends on a bounce whose size grows with ρ, and fast when p is small (colours are "
            "cut at 10³).",
        ),
        Chart(
            above_1,
            "Powers above 1: the median distance from the minimum, and how far beyond it the "
            "largest of many looks is. Left of the right dashed line, ηλ = 2, SAM does not "
            "diverge. Between the two it ends on a bounce: all looks are alike. Left of both it is "
            "chaotic: its median stays in bounds, single excursions do not.",
        ),
    ]
    checks = [
        Check(
            "diverged or not, over the whole (η, ρ) plane, every power",
            predicted="p = 0: ηλ(1+ρλ) < 2; else: ηλ < 2",
            measured=f"{wrong} of {runs} cells on the wrong side",
            tolerance="none on the wrong side",
            holds=wrong == 0,
        ),
        Check(
            f"p = {', '.join(f'{p:g}' for p in settings['chaotic_powers'])}: on a bounce (all "
            "looks alike to .001 decades) or not, over the same plane",
            predicted="a bounce iff ηλ > 2 − 2/p",
            measured=f"{restless} of {sure} cells otherwise",
            tolerance="none otherwise, more than .02 from the boundary in ηλ",
            holds=bool(restless == 0 and sure > 0),
        ),
    ]
    return charts, checks, runs


def _mapped(settings: Settings, power: float, eta: Array, rho: Array) -> tuple[Array, Array, Array]:
    """The distance at late looks, (η, ρ, looks); whether it diverged; whether it should not.

    One look, at the end, is enough up to p = 1: there is no chaos.
    """
    top, looks = max(settings["eigenvalues"]), settings["map_looks"]
    run = simulate(
        _problem(settings),
        eta=eta,
        rho=rho,
        power=power,
        steps=settings["map_steps"],
        ceiling=1e30,
        compile=False,
        observe={"path": History("distance", every=settings["map_every"])} if power > 1 else None,
        progress=f"stability: map of p = {power:g}",
    )
    diverged = run.diverged
    if power == 0:  # a linear map: what has grown is on its way, slowly beside the edge
        diverged = diverged | (np.abs(run.final["w"][..., 0]) > settings["start"][0])
        stable = eta * top * (1 + rho * top) < 2
    else:
        stable = np.broadcast_to(eta * top < 2, diverged.shape)
    seen = run.observed["path"][..., -looks:] if power > 1 else run.observed["distance"][..., None]
    return seen, diverged, stable


def _map(
    power: float, x: Array, rho: Array, z: Array, edges: list[Array], spread: bool = False
) -> Axes:
    """A map over ηλ and ρ, of the distance or of its spread, with the predicted boundaries."""
    name = f"p = {power:g}" + {0.0: " (USAM)", 1.0: " (SAM)"}.get(power, "")
    if power > 1:
        name += ": excursions" if spread else ": median"
    label = "log₁₀ largest / median" if spread else "log₁₀ distance"
    low, high = (0, 3) if spread else (-3, 3)
    return Axes(
        title=name,
        x_label="ηλ",
        y_label="ρ",
        y_log=True,
        layers=[
            Heat(x.tolist(), rho.tolist(), z.T.tolist(), label, low, high),
            *(
                Line(line.tolist(), rho.tolist(), "predicted boundary", "theory", dash=True)
                for line in edges
            ),
        ],
    )


def _problem(settings: Settings) -> Quadratic:
    return Quadratic(settings["eigenvalues"], start=settings["start"])


CLAIM = Claim(
    name="stability",
    title="Normalization takes ρ out of the stability threshold",
    statement=(
        "On a quadratic, USAM (p = 0) is stable only below a threshold in ρ. With any "
        "normalization at all, p = ¼, ½ or 1, SAM is bounded for every ρ wherever gradient descent "
        "is stable, and ends on a bounce of known size. Powers above 1 (1.5, 2) do not diverge "
        "there either, but below ηλ = 2 − 2/p they settle on no bounce."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization stabilizes). USAM's threshold, and that "
        "every p > 0 removes it, are derived here; the bounce at p = 1 is the subject of "
        "Bartlett, Long and Bousquet, 2022."
    ),
    paper="Dai, Ahn and Sra (NeurIPS 2023): normalization stabilizes SAM.",
    derived=(
        "USAM's threshold is ηλ(1+ρλ) = 2. Any p > 0 has gradient descent's own, ηλ = 2; for "
        "p ≤ 1, and above where ηλ > 2 − 2/p, the end is a bounce of amplitude "
        "(ηρλ²/(2−ηλ))^(1/p)/λ."
    ),
    expected="holds",
    because=(
        "Thresholds and bounces are derived for quadratics without approximation, and at p = 2 the "
        "chaos below ηλ = 1; at p = 1.5 it is measured."
    ),
    measure=measure,
    takes=(2.0, 10.3, 75.0),
    settings={
        # Slower modes than these would let the top one underflow to exactly 0 on the way down.
        "eigenvalues": [1.0, 0.8, 0.5],
        "start": [1.0, 1.0, 1.0],
        "powers": [0.25, 0.5, 1.0],
        "eta_lambda": [0.1, 0.5, 1.0, 1.3],
        "threshold_steps": 20_000,
        "bounded_eta_lambda": [0.1, 0.3, 0.6, 1.0, 1.4, 1.7, 1.9],
        "largest_rho": 10.0,
        "bounded_rhos": 16,
        "bounded_steps": 5_000,
        "bounded_every": 5,
        "cells": 96,
        "map_steps": 4_000,
        "map_looks": 60,
        "map_every": 7,
        "chaotic_powers": [1.5, 2.0],
    },
    quick={
        "threshold_steps": 12_000,
        "bounded_rhos": 6,
        "bounded_steps": 3_000,
        "cells": 32,
        "map_steps": 2_000,
    },
    # The finer map has a row of cells so near to ηλ = 2 that they take longer to tell.
    full={"threshold_steps": 40_000, "bounded_rhos": 48, "cells": 192, "map_steps": 10_000},
)
