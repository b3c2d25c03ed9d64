"""Claim: normalization takes ρ out of the stability threshold (a convex problem)."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.observe import Maximum
from thalweg.lab.problems import Quadratic
from thalweg.lab.simulate import simulate
from thalweg.results import Axes, Chart, Check, Heat, Line

Array = np.ndarray[Any, Any]


def measure(settings: Settings) -> Evidence:
    """Cross USAM's threshold in ρ, look for one at the other powers, and map the (η, ρ) plane."""
    usam, crossed = _threshold(settings)
    bounded, covered = _no_threshold(settings)
    chart, agreement, mapped = _phase_diagram(settings)
    powers = ", ".join(f"{power:g}" for power in settings["powers"])
    return Evidence(
        checks=[*usam, *bounded, agreement],
        charts=[chart],
        runs=crossed + covered + mapped,
        seeds=[0],
        dtype="float64",
        found=f"p = 0: ‖w‖/‖w₀‖ is at most {usam[0].measured} at .999 of the threshold, at least "
        f"{usam[1].measured} at 1.001; p = {powers}: "
        + "; ".join(check.measured for check in bounded[::2])
        + f" (largest ‖w‖ over that of start and bounce); {agreement.measured}.",
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


def _phase_diagram(settings: Settings) -> tuple[Chart, Check, int]:
    """Where the iterate ends, over (η, ρ), for every power, with the predicted boundary."""
    problem, top, n = _problem(settings), max(settings["eigenvalues"]), settings["cells"]
    # 2.2 is past 2/λ; no cell lies on that boundary.
    eta = (np.linspace(0.05, 2.2, n) + 1e-4)[:, None] / top
    rho = np.geomspace(0.01, settings["largest_rho"], n)[None, :]
    axes, wrong = [], 0
    for power in [0.0, *settings["powers"]]:
        run = simulate(
            problem,
            eta=eta,
            rho=rho,
            power=power,
            steps=settings["map_steps"],
            ceiling=1e30,
            compile=False,
            progress=f"stability: map of p = {power:g}",
        )
        distance, diverged = run.observed["distance"], run.diverged
        if power == 0:  # a linear map: what has grown is on its way, slowly beside the edge
            diverged = diverged | (np.abs(run.final["w"][..., 0]) > settings["start"][0])
            stable = eta * top * (1 + rho * top) < 2
        else:
            stable = np.broadcast_to(eta * top < 2, diverged.shape)
        wrong += int((diverged == stable).sum())
        axes.append(_map(power, eta[:, 0], rho[0], distance, diverged, top))
    runs = len(axes) * n * n
    return (
        Chart(
            axes,
            "How far from the minimum SAM ends, over step size and radius. Left of the dashed line "
            "theory has it bounded. Without normalization (p = 0) the line bends: a larger ρ needs "
            "a smaller η. With any normalization it is gradient descent's own ηλ = 2, at the price "
            "that SAM ends on a bounce whose size grows with ρ, and fast when p is small (to 1e9 "
            "at p = ¼; colours are cut at 10³).",
        ),
        Check(
            "diverged or not, over the whole (η, ρ) plane",
            predicted="p = 0: ηλ(1+ρλ) < 2; else: ηλ < 2",
            measured=f"{wrong} of {runs} cells on the wrong side",
            tolerance="none on the wrong side",
            holds=wrong == 0,
        ),
        runs,
    )


def _map(
    power: float, eta: Array, rho: Array, distance: Array, diverged: Array, top: float
) -> Axes:
    z = np.where(diverged, np.nan, np.log10(np.maximum(distance, 1e-6)))
    # The threshold as a step size, which exists for every ρ; any p > 0 takes ρ out of it.
    edge = theory.largest_stable_eta(rho if power == 0 else 0 * rho, top) * top
    return Axes(
        title=f"p = {power:g}" + {0.0: " (USAM)", 1.0: " (SAM)"}.get(power, ""),
        x_label="ηλ",
        y_label="ρ",
        y_log=True,
        layers=[
            Heat((eta * top).tolist(), rho.tolist(), z.T.tolist(), "log₁₀ distance", -3, 3),
            Line(edge.tolist(), rho.tolist(), "predicted boundary", "theory", dash=True),
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
        "is stable, and ends on a bounce of known size."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization stabilizes). USAM's threshold, and that "
        "every p > 0 removes it, are derived here; the bounce at p = 1 is that of Bartlett, Long "
        "and Bousquet, 2022."
    ),
    paper="Dai, Ahn and Sra (NeurIPS 2023): normalization stabilizes SAM.",
    derived=(
        "USAM's threshold is ηλ(1+ρλ) = 2. Any p > 0 has gradient descent's own, ηλ = 2, and the "
        "end is a bounce of amplitude (ηρλ²/(2−ηλ))^(1/p)/λ."
    ),
    expected="holds",
    because="All of it is derived for quadratics without approximation.",
    measure=measure,
    takes=(2.1, 6.1, 25.0),
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
    },
    quick={"threshold_steps": 12_000, "bounded_rhos": 6, "bounded_steps": 3_000, "cells": 32},
    full={"threshold_steps": 40_000, "bounded_rhos": 48, "cells": 192},
)
