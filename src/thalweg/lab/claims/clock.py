"""Claim: along one valley of a network every p, ρ and η makes the same way, by its own clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims import seeds as over
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.clock_runs import CONV, MLP, NETWORKS, Ways, ways
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role

Array = np.ndarray[Any, Any]
#: Bounce and ε together, at the start, of a setting that the law covers, in parameter units: on a
#: single neuron the law is good to .1 % below this, and to a few percent at twice as much.
REACH = 0.1
ROLES: dict[float, Role] = {0.5: "p=0.5", 0.75: "p=0.75", 1.0: "p=1"}
NAMES = {0.5: "p = ½", 0.75: "p = ¾", 1.0: "p = 1"}


def measure(settings: Settings) -> Evidence:
    """Find minima, leave them with many settings of SAM, and compare the ways by step and by τ."""
    checks: list[Check] = []
    axes: list[Axes] = []
    found, runs = [], 0
    for part in settings["networks"]:
        went = ways(part, settings["every"], settings["noise"])
        told = [
            _one_curve(went, level, part["tolerance"], part["decides"]) for level in part["levels"]
        ]
        checks += [
            *told,
            *_too_far(went, part["levels"][0]),
            *_on_the_bounce(went, settings["edge_tolerance"]),
        ]
        found.append(f"{went.name}, to {part['levels'][0]:g} of λ₀: {told[0].measured}")
        axes += _drawn(went) if len(axes) < 4 else []
        runs += went.seen["loss"][..., 0].size
        if part["near"]:
            checks.append(_thrown(part, went, settings["noise"]))
            runs += 4
    return Evidence(
        checks=checks,
        charts=[
            Chart(
                axes,
                "Largest curvature of networks that leave one minimum with different p, ρ and η. "
                "Over steps (left) the ways lie far apart. Over τ, which counts a step as theory "
                "says it counts, they lie on one curve; no constant is free. The law takes the "
                "bounce to be short and the drift so slow that every other mode follows; where "
                "one is not, the ways differ.",
            )
        ],
        runs=runs,
        seeds=list(range(max(part["minima"] for part in settings["networks"]))),
        dtype="float64",
        found=". ".join(found) + ".",
    )


def _one_curve(went: Ways, level: float, tolerance: float, decides: bool = True) -> Check:
    """How far the settings differ on reaching a level, in steps and in τ."""
    steps = np.broadcast_to(went.every * np.arange(went.tau.shape[-1]), went.tau.shape)
    covered = went.reach().max(1) <= REACH
    when, tau = (went.passage(level, c)[covered] for c in (steps.astype(float), went.tau))
    reached = np.isfinite(tau).sum(0)
    enough = bool((reached >= 2).all())
    if enough:
        by_step = np.nanmax(when, 0) / np.nanmin(when, 0)
        by_tau = np.nanmax(tau, 0) / np.nanmin(tau, 0)
        off = f"steps differ {_range(by_step)} times, τ {_range(by_tau, 3)} times"
        if len(by_tau) > 1:
            off += f" (mean {over.mean(by_tau)})"
    else:
        off = "not reached by two settings from every minimum"
    return Check(
        f"{went.name}: from {_minima(len(reached))} to {level:g} of the curvature there, "
        f"{_range(reached, 0)} of {covered.sum()} settings of p, η, ρ",
        predicted="steps differ, τ is the same",
        measured=off,
        tolerance=f"largest over smallest τ at most {1 + tolerance:g}, and at most the root of "
        "that of the steps, which is above 1.5",
        holds=enough
        and bool(((by_tau <= 1 + tolerance) & (by_tau**2 <= by_step) & (by_step > 1.5)).all()),
        decides=decides,
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


def _minima(n: int) -> str:
    return f"{n} minima" if n > 1 else "one minimum"


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


def _thrown(part: Settings, went: Ways, noise: float) -> Check:
    """A power above 1 looks the further uphill the nearer it starts to a minimum."""
    power, eta, rho, steps = 1.25, 0.1, 0.03, 10
    left, first = np.empty((2, 2)), np.empty(2)
    for i, spread in enumerate((noise, part["near"])):
        net = NETWORKS[part["kind"]][0](part["examples"], origin=went.minima, noise=spread)
        run = simulate(
            net,
            eta=eta,
            rho=rho,
            power=[1.0, power],
            steps=steps,
            seed=0,
            lengths=True,
            observe={"end": History("lambda_max", steps), "slope": History("grad_norm", steps)},
            compile=False,
            progress="",
        )
        assert run.lengths is not None
        left[i] = run.observed["end"][:, -1] / run.observed["end"][:, 0]
        law = rho * run.observed["slope"][1, 0] ** (1 - power)
        first[i] = float(run.lengths[1, 0]) / law
    return Check(
        f"{went.name}: share of λ_max left after {steps} steps, p = 1 and p = {power:g}, from "
        f"{noise:g} and from {part['near']:g} beside the minimum",
        predicted="p = 1: the same; p = 1.25: the first ‖ε‖ is ρ‖g‖^(−¼), without a bound, and "
        "throws the iterate out of the valley",
        measured=f"p = 1: {left[0, 0]:.3f} and {left[1, 0]:.3f}; p = {power:g}: {left[0, 1]:.3f} "
        f"and {left[1, 1]:.3f}; first ‖ε‖ over ρ‖g‖^(−¼): {first[0]:.6f} and {first[1]:.6f}",
        tolerance="p = 1 within .05; p = 1.25 from the nearer start below .7",
        holds=bool(abs(left[0, 0] - left[1, 0]) < 0.05 and left[1, 1] < 0.7),
    )


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
    title="One clock for every p, ρ and η on a network",
    statement=(
        "From one minimum of a network, SAM's drift to flatter ones is the same way for every p, "
        "ρ and η with a short bounce; only its speed differs. Counted in "
        "τ = Σ (2/(ηλ⁴))(ηρλ²/(2−ηλ))^(2/p), λ_max(τ) is one curve, without a free constant."
    ),
    source="Derived here.",
    expected="holds",
    because=(
        "The law of the drift has p, ρ and η in a factor that depends on λ_max alone. It is for a "
        "single leading eigenvalue, a short bounce, and a drift so slow that all other modes "
        "follow; none of it is quite so here, and the ways agree to a tenth or two."
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
            {**CONV, "minima": 4, "steps": 12_000},
            {
                **CONV,
                "examples": 50,
                "decides": False,
                "minima": 2,
                "search_steps": 4_000,
                "steps": 8_000,
            },
        ]
    },
    derived=(
        "With τ = Σ (2/(ηλ⁴))(ηρλ²/(2−ηλ))^(2/p) the drift is du/dτ = −P∇λ, whatever p, ρ and η."
    ),
    takes=(3.0, 25.0, 300.0),
    needs="scikit-learn's digits",
)
