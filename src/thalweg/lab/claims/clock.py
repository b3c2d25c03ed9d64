"""Claim: along one valley of a network every p, ρ and η makes the same way, by its own clock."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab import statistics as over
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.clock_runs import CONV, MLP, Ways, thrown, ways
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role

#: Bounce and ε together, at the start, of a setting that the law covers, in parameter units: on a
#: single neuron the law is good to .1 % below this, and to a few percent at twice as much.
REACH = 0.1
ROLES: dict[float, Role] = {0.5: "p=0.5", 0.75: "p=0.75", 1.0: "p=1"}
NAMES = {0.5: "p = ½", 0.75: "p = ¾", 1.0: "p = 1"}


def measure(settings: Settings) -> Evidence:
    """Find minima, leave them with many settings of SAM, and compare the ways by step and by τ."""
    checks: list[Check] = []
    axes: list[Axes] = []
    found, runs, seeds = [], 0, set[int]()
    for part in settings["networks"]:
        went = ways(part, settings["every"], settings["noise"])
        told = [_one_curve(went, level) for level in part["levels"]]
        checks += [
            *told,
            _own_error(went, part["levels"][0]),
            *_too_far(went, part["levels"][0]),
            *_on_the_bounce(went, settings["edge_tolerance"]),
        ]
        found.append(
            f"{went.name}, to {part['levels'][0]:g} of λ₀: " + told[0].measured.split(";")[0]
        )
        axes += _drawn(went) if len(axes) < 4 else []
        runs += went.seen["loss"][..., 0].size
        seeds |= set(went.seeds)
        if part["near"]:
            checks.append(thrown(part, went, settings["noise"]))
            runs += 4
    return Evidence(
        checks=checks,
        charts=[
            Chart(
                axes,
                "Largest curvature of networks that leave one minimum with different p, ρ and η. "
                "Left over steps, right over τ, which counts a step as theory says it counts, "
                "without a free constant: one curve, were the bounce short, the top eigenvalue "
                "alone, and the drift so slow that every other mode follows. Where one is not "
                "so, the ways differ.",
            )
        ],
        runs=runs,
        seeds=sorted(seeds),
        dtype="float64",
        found=". ".join(found) + ".",
    )


def _one_curve(went: Ways, level: float) -> Check:
    """How far the settings differ on reaching a level: in steps, in τ, and by poorer clocks."""
    steps = np.broadcast_to(went.every * np.arange(went.tau.shape[-1]), went.tau.shape)
    covered = went.reach().max(1) <= REACH
    when, tau = (went.passage(level, c)[covered] for c in (steps.astype(float), went.tau))
    arrived = np.isfinite(tau)
    reached = arrived.sum(0)
    holds = most = bool((2 * reached > covered.sum()).all())
    off = "not reached by most settings from every minimum"
    if most:
        by_step = np.nanmax(when, 0) / np.nanmin(when, 0)
        # Who is still on the way has at least the τ of the last look.
        by_tau = np.where(arrived, tau, went.last()[covered]).max(0) / np.nanmin(tau, 0)
        off = f"steps differ {_range(by_step)} times, τ {_range(by_tau, 3)} times"
        if len(by_tau) > 1:
            off += f" (mean {over.mean(by_tau)})"
        for name, other in went.others(covered).items():
            ends = went.passage(level, other)[covered]
            poorer = np.nanmax(ends, 0) / np.nanmin(ends, 0)
            off += f"; with {name}, {_range(poorer, 2)} times"
            holds &= bool((by_tau**2 <= poorer).all())
        holds &= bool(((by_tau**2 <= by_step) & (by_step > 1.5)).all())
    powers = np.unique(np.array(went.settings)[covered][arrived.all(1), 0])
    return Check(
        f"{went.name}: from {_minima(went.seeds)} to {level:g} of the curvature there, "
        f"{_range(reached, 0)} of {covered.sum()} settings of p, η, ρ "
        f"(p = {', '.join(f'{p:g}' for p in powers) or 'none'})",
        predicted="steps differ, τ is the same; by a clock that leaves one dial out it is not",
        measured=off,
        tolerance="most settings arrive; τ differs at most by the root of what steps do, which "
        "is above 1.5, and of what every clock with a dial left out does",
        holds=holds,
    )


def _own_error(went: Ways, level: float) -> Check:
    """Whether what is left is as small as the terms that the law leaves out by itself.

    The two ends of the bounce lie on both sides of the valley, so the first order of the reach
    cancels and ((a + r)/ℓ)² is left, ℓ = λ/‖P∇λ‖ the length on which λ changes. ‖P∇λ‖² is the
    rate −dλ/dτ, here its mean from the start to the level.
    """
    covered = went.reach().max(1) <= REACH
    tau = went.passage(level, went.tau)[covered]
    arrived = np.isfinite(tau)
    start = went.seen["lambda_max"][covered, :, 0]
    own = went.reach()[covered] ** 2 * (1 - level) / (start * np.where(arrived, tau, np.inf))
    known = bool((arrived.sum(0) > 1).all())
    by_tau = np.nanmax(tau, 0) / np.nanmin(tau, 0) if known else np.array([np.nan])
    return Check(
        f"{went.name}: largest over smallest τ to {level:g} of the curvature",
        predicted=f"{1 + float(own.max(initial=0)):.4f} by what the law itself leaves out, "
        "((a + r)/ℓ)²; more, as modes slower than the drift do not follow and eigenvalues meet",
        measured=_range(by_tau, 4) if known else "not reached by two settings",
        tolerance="((a + r)/ℓ)²; expected to be exceeded: what bounds the claim",
        holds=bool((by_tau <= 1 + own.max(initial=0)).all()) if known else None,
        decides=False,
    )


def _too_far(went: Ways, level: float) -> list[Check]:
    """Settings that bounce too widely for the law, which takes the bounce to be short."""
    far = went.reach().max(1)
    tau = went.passage(level, went.tau)
    if not (far > REACH).any() or not np.isfinite(tau[far <= REACH]).any(0).all():
        return []
    usual = np.nanmedian(tau[far <= REACH], 0)
    return [
        Check(
            f"{went.name}: τ to {level:g} of the curvature for {_cell(cell)}, whose bounce and ε "
            f"are together {far[i]:.2f} long, over the median τ of the settings below {REACH:g}",
            predicted="not 1: the law is for a short bounce",
            measured=f"{_range(tau[i] / usual, 3)}",
            tolerance="none: what bounds the claim",
            holds=None,
            decides=False,
        )
        for i, cell in enumerate(went.settings)
        if far[i] > REACH
    ]


def _cell(cell: list[float]) -> str:
    power, eta, rho = cell
    return f"p = {power:g}, η = {eta:g}, ρ = {rho:g}"


def _median(values: Array) -> float:
    return float(np.median(values)) if values.size else np.nan


def _minima(seeds: list[int]) -> str:
    n, tried = len(seeds), seeds[-1] + 1
    some = f"{n} minima" if n > 1 else "one minimum"
    return some if tried == n else f"{some} (of {tried} searches)"


def _range(values: Array, digits: int = 1) -> str:
    low, high = (f"{float(v):.{digits}f}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _on_the_bounce(went: Ways, tolerance: float) -> list[Check]:
    """Whether the law's assumptions hold: the iterate bounces in the leading eigenspace."""
    curvature, slope = went.seen["lambda_max"], went.seen["grad_norm"]
    known = np.isfinite(went.tau) & (np.arange(curvature.shape[-1]) >= 4)
    ratio = []
    for i, (power, eta, rho) in enumerate(went.settings):
        edge = theory.edge(eta, rho, np.maximum(slope[i], 1e-300), power)
        ratio += [_median((c / e)[k]) for c, e, k in zip(curvature[i], edge, known[i], strict=True)]
    cluster, top = (went.seen[q][known] for q in ("cluster_share", "top_share"))
    low, high = min(ratio), max(ratio)
    share = _median(cluster)
    return [
        Check(
            f"{went.name}: λ_max over the edge at the iterate's ‖g‖, the median of every run",
            predicted="1: on the bounce",
            measured=f"{low:.4f} to {high:.4f} (n = {len(ratio)} runs)",
            tolerance=f"every one within {tolerance:g}",
            holds=bool(abs(low - 1) <= tolerance and abs(high - 1) <= tolerance),
        ),
        Check(
            f"{went.name}: share of ‖g‖ along the eigenvectors within 3 % of λ_max",
            predicted="1; along the top one alone less, once eigenvalues have met",
            measured=f"median {share:.4f}; along the top one alone {_median(top):.2f}",
            tolerance="median above .95",
            holds=share > 0.95,
        ),
    ]


def _drawn(went: Ways) -> list[Axes]:
    """λ_max of the first minimum's runs, over steps and over τ."""
    looks = went.tau.shape[-1]
    far = went.reach().max(1)
    thin = np.unique(np.geomspace(1, looks - 1, 200).astype(int))
    clocks = {"step": went.every * np.arange(looks) + 0 * went.tau, "τ": went.tau}
    panels = []
    for label, clock in clocks.items():
        lines = []
        for i, (power, _, _) in enumerate(went.settings):
            keep = thin[np.isfinite(clock[i, 0, thin])]
            x, y = clock[i, 0, keep], went.seen["lambda_max"][i, 0, keep]
            name, role = NAMES.get(power, f"p = {power:g}"), ROLES.get(power, "p=1.5")
            if far[i] > REACH:
                name, role = f"{name}, too wide a bounce", "neutral"
            lines.append(Line(x.tolist(), y.tolist(), name, role))
        title = f"{went.name}, over {'steps' if label == 'step' else 'τ'}"
        panels.append(Axes(title, label, "λ_max", lines, x_log=True))
    return panels


CLAIM = Claim(
    name="clock",
    title="One clock for p, ρ and η on a network",
    statement=(
        "From one minimum of a network, SAM of any p, ρ and η with a short bounce drifts a "
        "similar way at its own speed. Counted in τ = Σ (2/(ηλ⁴))(ηρλ²/(2−ηλ))^(2/p), without a "
        "free constant, the settings get to a smaller λ_max far closer together than in steps: "
        "leave p, ρ or η out of the clock and the factor between them is at least squared. Any p "
        "means ½, ¾ and 1, and 1¼ on the MLP, where they arrive. They do not agree to the law's "
        "own error, ((a + r)/ℓ)²."
    ),
    source="Derived here.",
    expected="holds",
    because=(
        "The law of the drift has p, ρ and η in a factor that depends on λ_max alone. It is for a "
        "single leading eigenvalue, a short bounce, and a drift so slow that all other modes "
        "follow. None of it is quite so here: eigenvalues meet, and a network has modes slower "
        "than any drift. No tolerance for that is derived, so τ is held against poorer clocks."
    ),
    measure=measure,
    settings={
        "every": 50,
        "noise": 1e-4,
        "edge_tolerance": 0.05,
        "networks": [
            {
                **MLP,
                "minima": 1,
                "search_steps": 12_000,
                "steps": 7_000,
                "cells": [
                    [0.5, 0.1, 0.03],
                    [0.5, 0.1, 0.06],
                    [0.75, 0.1, 0.03],
                    [0.75, 0.05, 0.06],
                    [1.0, 0.1, 0.03],
                    [1.0, 0.1, 0.015],
                    [1.0, 0.05, 0.03],
                    [1.25, 0.1, 0.02],
                ],
            },
            {**CONV, "minima": 1, "steps": 4_000},
        ],
    },
    quick={
        "networks": [
            {
                **MLP,
                "minima": 1,
                "search_steps": 3_000,
                "steps": 2_600,
                "cells": [[0.75, 0.1, 0.03], [1.0, 0.1, 0.03], [1.0, 0.05, 0.045]],
                "levels": [0.6],
                "near": 0.0,
            }
        ]
    },
    full={
        "networks": [
            {**MLP, "minima": 4, "search_steps": 12_000, "steps": 24_000},
            # By the law most settings get to these levels in these steps, and too few to .5.
            {**CONV, "levels": [0.6, 0.7], "minima": 4, "steps": 12_000},
            {
                **CONV,
                "examples": 50,
                "levels": [0.6, 0.7],
                "minima": 2,
                "search_steps": 4_000,
                "steps": 8_000,
            },
        ]
    },
    derived=(
        "With τ = Σ (2/(ηλ⁴))(ηρλ²/(2−ηλ))^(2/p) the drift is du/dτ = −P∇λ, whatever p, ρ and η."
    ),
    takes=(4.0, 29.0, 400.0),
    needs="scikit-learn's digits",
)
