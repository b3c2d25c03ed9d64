"""Claim: what the power p does, the project's own table, each cell measured."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims import exponent_bounce, exponent_chaos, exponent_drift
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.simulate import simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Heat, Line
from thalweg.results.record import Role

_ROLES: dict[float, Role] = {
    0.1: "neutral",
    0.25: "p=0.25",
    0.5: "p=0.5",
    0.75: "p=0.75",
    1.0: "p=1",
    1.5: "p=1.5",
    2.0: "p=2",
}


def measure(settings: Settings) -> Evidence:
    """Measure the table of p column by column, and draw it."""
    threshold, n_threshold = exponent_bounce.thresholds(settings)
    size, points, n_size = exponent_bounce.amplitudes(settings)
    boundary, n_boundary = exponent_bounce.stability_edge(settings)
    powers, product, kinds, mapped, n_map = exponent_bounce.what_happens(settings)
    law, tail_axes, n_law = exponent_chaos.cauchy(settings)
    died, n_died = exponent_chaos.across(settings)
    index, tail_lines, n_index = exponent_chaos.tails(settings)
    capped, n_capped = exponent_chaos.capped(settings)
    drift, drift_axes, ends, n_drift = exponent_drift.drift(settings)
    trap, trap_axes, n_trap = _saddle_column(settings)
    tail_axes = Axes(
        tail_axes.title,
        tail_axes.x_label,
        tail_axes.y_label,
        [*tail_axes.layers, *tail_lines],
        x_log=True,
        y_log=True,
        x_range=(0.03, 3e3),
        y_range=(1e-4, 1.2),
    )
    first = Chart(
        [_map(powers, product, kinds), drift_axes, trap_axes],
        "What the power p does. Left: on one mode of a quadratic (ρλ = 1), with what theory has "
        "dashed. Only p = 0 rests at the minimum, and pays for it: its threshold falls to ηλ(1+ρλ) "
        "= 2. No p > 0 diverges below gradient descent's own ηλ = 2: it ends on a bounce right of "
        "the curve ηλ = 2 − 2/p, in chaos left of it. Middle: only p = 0 stops on a line of "
        "minima; 0 < p < 1 slows for ever, p = 1 goes on exponentially fast, p = 1.5 is thrown "
        "about once its bounce has lost its hold. Right: from how far a saddle holds the iterate. "
        "p > 1 is never held.",
    )
    second = Chart(
        [_sizes(points), tail_axes],
        "Left: the size of the bounce over the step size, measured (points) over predicted "
        "(dashed), where it attracts. Right: above p = 1 and without a cap the iterate now and "
        "then leaps; how rarely, with the predicted law and tail dashed.",
    )
    runs = [n_threshold, n_size, n_boundary, n_map, n_law, n_died, n_index, n_capped, n_drift]
    return Evidence(
        checks=[*threshold, size, boundary, mapped, *law, *died, *index, *capped, *drift, trap],
        charts=[first, second],
        runs=sum(runs) + n_trap,
        seeds=[settings["seed"]],
        dtype="float64",
        found=_found(boundary, mapped, ends),
    )


def _found(boundary: Check, mapped: Check, ends: dict[float, float]) -> str:
    """The sentence for the table of findings."""
    went = ", ".join(f"{s:.3g} at p = {p:g}" for p, s in ends.items() if p in (0, 0.5, 1))
    return (
        f"{mapped.measured} than predicted over the (p, ηλ) plane; the bounce stops attracting at "
        f"ηλ = {boundary.measured} ({boundary.what.split(':')[0]}); along the minima y² ends at "
        f"{went}."
    )


def _saddle_column(settings: Settings) -> tuple[Check, Axes, int]:
    """From how far a saddle traps, for every power, at one (η, ρ)."""
    powers, n = settings["trap_powers"], settings["trap_starts"]
    curvature, eta, rho = -2.0, 0.1, settings["trap_rho"]
    starts = np.linspace(0.5 / n, 0.5, n)
    run = simulate(
        ManyStarts([curvature], starts[:, None]),
        eta=eta,
        rho=rho,
        power=np.array(powers)[:, None],
        seed=np.arange(n),
        steps=settings["trap_steps"],
        ceiling=1e6,
        compile=False,
        observe={},
        progress="exponent: saddles",
    )
    # The first start that leaves ends the trap: what is held beyond it would be chance.
    reach = [float(starts[np.argmax(row) - 1]) if row[0] == 0 else 0.0 for row in run.diverged]
    law = theory.saddle_trap(eta, rho, curvature, np.array(powers))
    off = max(abs(a - b) for a, b in zip(reach, law, strict=True))
    check = Check(
        f"saddle with curvature {curvature:g}, η = {eta:g}, ρ = {rho:g}, p = "
        + ", ".join(f"{p:g}" for p in powers)
        + ": held from up to",
        predicted=" / ".join(f"{value:.3g}" for value in law),
        measured=" / ".join(f"{value:.3g}" for value in reach),
        tolerance=f"{1 / n:g}, twice the distance of the {n} starts",
        holds=bool(off <= 1 / n),
    )
    fine = np.append(np.linspace(0.02, 1, 50), [1.001, 2.0])
    curve = theory.saddle_trap(eta, rho, curvature, fine)
    layers = [
        Line(fine.tolist(), curve.tolist(), "predicted", "theory", dash=True),
        Line(list(powers), reach, "held from up to", "neutral", points="points"),
    ]
    axes = Axes(
        "From how far a saddle holds",
        "p",
        "distance along the way down",
        layers,
        y_range=(-0.02, 0.3),
    )
    return check, axes, run.diverged.size


def _map(power: Array, product: Array, kinds: Array) -> Axes:
    states = ["rest", "bounce", "chaos", "undecided"]
    cells = np.where(kinds < 0, 3.0, kinds)
    half = float(power[1] - power[0]) / 2
    curve = np.linspace(1 + half / 4, float(power[-1]) + half, 60)
    wall = [1.0, 1.0, 2.0, 2.0]
    heights = [-half, half, half, float(power[-1]) + half]
    return Axes(
        "What happens at a minimum",
        "ηλ",
        "p",
        [
            Heat(
                product.tolist(),
                power.tolist(),
                cells.tolist(),
                "state",
                0,
                len(states) - 1,
                states,
            ),
            Line(wall, heights, "predicted", "theory", dash=True),
            Line((2 - 2 / curve).tolist(), curve.tolist(), "predicted", "theory", dash=True),
        ],
        x_range=(0.0, float(product[-1])),
        y_range=(-half, float(power[-1]) + half),
    )


def _sizes(points: list[tuple[float, Array, Array]]) -> Axes:
    layers = []
    for power, product, size in points:
        if power not in _ROLES:
            continue
        edge = max(0.05, 2 - 2 / power) if power > 1 else 0.05
        fine = np.linspace(edge, 1.95, 60)
        law = theory.bounce_amplitude(fine, 1.0, 1.0, power)
        layers.append(Line(fine.tolist(), law.tolist(), "predicted", "theory", dash=True))
        name = f"p = {power:g}"
        layers.append(Line(product.tolist(), size.tolist(), name, _ROLES[power], points="points"))
    return Axes(
        "Size of the bounce",
        "ηλ",
        "distance from the minimum, ρλ = 1",
        layers,
        y_log=True,
        y_range=(1e-6, 1e6),
    )


CLAIM = Claim(
    name="exponent",
    title="What the exponent does",
    statement=(
        "With ε = ρ g/‖g‖^p, p = 0 is the only power that rests at a minimum, has ρ in its "
        "threshold, and stops on a line of minima. No p > 0 diverges where gradient descent is "
        "stable, nor stops: for p ≤ 1 it ends on a bounce at every step size, for p > 1 only where "
        "ηλ > 2 − 2/p. Below that it is chaotic: its law stays put, but has heavy tails, so that "
        "single excursions have no bound, and it goes along minima by jumps. Saddles trap for "
        "p ≤ 1; along one direction never above."
    ),
    source=(
        "Derived here. The two roles of normalization are those of Dai, Ahn and Sra, NeurIPS 2023; "
        "the bounce at p = 1 is the subject of Bartlett, Long and Bousquet, 2022."
    ),
    paper=(
        "Dai, Ahn and Sra (NeurIPS 2023): normalization stabilizes SAM and lets it drift along a "
        "continuum of minima."
    ),
    derived=(
        "Any p > 0 does both; p = 1 is the largest power whose bounce attracts at every step size, "
        "and p = 0 the only one whose drift stops."
    ),
    expected="holds",
    because=(
        "Derived without approximation on one mode, and to leading order in η for the drift; the "
        "tails between p = 1 and 2 are a law whose density at the minimum is not proved."
    ),
    measure=measure,
    takes=(2.6, 14.0, 85.0),
    settings={
        "seed": 1,
        "threshold_rho": [0.1, 1.0, 10.0],
        "threshold_steps": 10_000,
        "threshold_powers": [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
        "bounce_powers": [0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
        "bounce_eta_lambda": [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9],
        "bounce_steps": 4_000,
        "edge_powers": [1.1, 1.25, 1.5, 1.75, 2.0],
        "edge_cells": 96,
        "edge_steps": 300,
        "edge_within": 5e-4,
        "map_step": 0.1,
        "map_eta_step": 0.05,
        "map_starts": 3,
        "map_steps": 5_000,
        "map_looks": 200,
        "chains": 50_000,
        "chain_steps": 200,
        "chaos_eta_lambda": [0.05, 0.3, 0.5, 0.9],
        "across_chains": 1_000,
        "across_steps": 1_000,  # much later the mode that dies leaves the numbers of float64
        "tail_powers": [1.25, 1.5, 1.75, 2.0],
        "tail_chains": 20_000,
        "tail_looks": 15,
        "tail_eta_lambda": 0.3,
        "tail_share": 0.002,
        "tail_within": 0.15,
        "cap_powers": [1.25, 1.5, 2.0],
        "cap_eta_lambda": [0.5, 1.5],
        "cap_starts": 100,
        "cap_steps": 1_000,
        "eta": 0.1,
        "rho": 0.1,
        "start": [1.0, 61**0.5],
        "drift_powers": [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0],
        "drift_from": 1_000,
        "drift_steps": 100_000,
        "trap_powers": [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
        "trap_rho": 0.25,
        "trap_starts": 100,
        "trap_steps": 1_000,
    },
    quick={
        "threshold_steps": 7_000,
        "threshold_powers": [0.5, 1.0, 2.0],
        "bounce_steps": 3_000,
        "edge_powers": [1.25, 2.0],
        "map_step": 0.125,
        "map_starts": 1,
        "chains": 10_000,
        "across_chains": 300,
        "across_steps": 400,
        "tail_chains": 4_000,
        "tail_looks": 10,
        "tail_share": 0.01,
        "cap_powers": [2.0],
        "cap_starts": 50,
        "cap_steps": 600,
        "drift_steps": 10_000,
        "trap_steps": 600,
    },
    full={
        "threshold_rho": [0.01, 0.1, 1.0, 10.0],
        "map_step": 0.05,
        "map_eta_step": 0.025,
        "map_steps": 9_000,
        "chains": 200_000,
        "across_chains": 10_000,
        "tail_chains": 200_000,
        "tail_looks": 20,
        "tail_share": 0.0005,
        "cap_powers": [1.1, 1.25, 1.5, 1.75, 2.0],
        "cap_eta_lambda": [0.1, 0.5, 0.9, 1.1, 1.5, 1.9],
        "cap_starts": 400,
        "cap_steps": 2_000,
        "drift_steps": 1_000_000,
        "trap_starts": 400,
        "trap_steps": 4_000,
    },
)
