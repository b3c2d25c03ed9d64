"""Claim: which saddles hold the iterate, from how far, at which power."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims import saddle_traps
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.saddles import Saddle
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Heat, Line


def measure(settings: Settings) -> Evidence:
    """Measure the traps of one descending direction, then what a bounce across holds."""
    usam, usam_axes, n_usam = saddle_traps.usam(settings)
    traps, trap_axes, n_traps = saddle_traps.traps(settings)
    leaps, n_leaps = saddle_traps.leaps(settings)
    never, n_never = saddle_traps.never(settings)
    held, held_axes, n_held = _held(settings)
    return Evidence(
        checks=[*usam, *traps, leaps, *never, *held],
        charts=[
            Chart(
                [usam_axes, trap_axes, held_axes],
                "What holds the iterate at a saddle; predictions are dashed. Left: p = 0 is held "
                "between the two lines, from everywhere; below them it leaves, above it swings "
                "out to infinity. Middle: a power from 0 to 1 is held within a distance of its own "
                "(η|λ| = .2). Right: SAM bouncing across a valley of curvature λ is held by a "
                "descent of curvature ν between the lines, where the descending coordinate dies "
                "(rate below 0).",
            )
        ],
        runs=n_usam + n_traps + n_leaps + n_never + n_held,
        seeds=[settings["seed"]],
        dtype="float64",
        found=f"Traps, p = {min(settings['powers']):g} to {max(settings['powers']):g}, over their "
        f"prediction: {traps[0].measured}; held above p = 1: {never[0].measured}; held by a "
        f"bounce: {held[0].measured}.",
    )


def _rates(
    settings: Settings, power: float, products: Array, ratios: Array, momentum: float = 0.0
) -> Array:
    """Rate per step of |y_i| on SAM's bounce across a valley of curvature 1, (product, ratio).

    Directions so little off the valley do not feel each other: one run has them all.
    """
    steps, tiny = settings["held_steps"], 1e-80
    eta = products * (1 + momentum)
    bounce = theory.bounce_amplitude(eta, 1.0, 1.0, power, momentum)
    starts = np.full((len(products), 1 + len(ratios)), tiny)
    # With momentum the bounce is reached from beside it: its velocity is not 0.
    starts[:, 0] = bounce
    settle = settings["held_settle"] if momentum else 0
    sizes = []
    for many in (settle, settle + steps):
        run = simulate(
            Saddle(1.0, (-ratios).tolist(), starts),
            eta=eta,
            rho=1.0,
            power=power,
            momentum=momentum,
            seed=np.arange(len(products)),
            steps=many,
            compile=False,
            observe={},
            progress="saddles: held by a bounce",
        )
        sizes.append(np.abs(run.final["w"][:, 1:]))
    with np.errstate(divide="ignore"):  # a factor of exactly 0
        rates: Array = np.log(sizes[1] / sizes[0]) / steps
    return rates


def _held(settings: Settings) -> tuple[list[Check], Axes, int]:
    """A bounce across the valley holds a saddle: the ends of the range, and a map of the rate."""
    products = np.array(settings["held_products"])
    ends = np.array([theory.held_saddle(float(x), 1.0) for x in products])
    agree, total, runs = 0, 0, 0
    slow, cycles = [], []
    for power, momentum in settings["held_powers"]:
        for x, (low, high) in zip(products, ends, strict=True):
            eta = float(x) * (1 + momentum)
            if abs(theory.bounce_multiplier(eta, 1.0, power, momentum)) > 0.95:
                slow.append(f"({power:g}, {momentum:g}) at {x:g}")
                continue
            if momentum and x < 1:
                cycles.append(f"({power:g}, {momentum:g}) at {x:g}")
                continue
            near = -np.array([0.98 * high, 1.02 * high, 0.98 * low, 1.02 * low])
            held = _rates(settings, power, np.array([x]), near, momentum)[0] < 0
            agree += int((held == [False, True, True, False]).sum())
            total, runs = total + 4, runs + 1
    n = settings["map_cells"]
    across, ratio = np.linspace(0.05, 1.6, n), np.linspace(0.05, 6, n)
    rates = _rates(settings, 1.0, across, ratio)
    multiplier = theory.transverse_multiplier(across[:, None], 1.0, -ratio[None, :])
    with np.errstate(divide="ignore"):
        law = np.log(np.abs(multiplier))
    off = float(np.abs(rates - law)[np.abs(multiplier) > 0.05].max())
    fine = np.linspace(0.03, 1.62, 80)
    lower, upper = theory.held_saddle(fine, 1.0)
    return (
        [
            Check(
                "SAM bouncing across a valley of curvature λ, ηλ = "
                + ", ".join(f"{x:g}" for x in products)
                + ", (p, momentum) = "
                + ", ".join(f"({p:g}, {m:g})" for p, m in settings["held_powers"])
                + ": descent ν held at .98 and 1.02 of the ends of its range",
                predicted="ηλ/(2−ηλ) < |ν|/λ < 2/(2−ηλ), at every power that bounces",
                measured=f"{agree} of {total} as predicted",
                tolerance="all; held: |y| shrinks"
                + _left_out("the bounce does not attract, or slowly (a factor above .95)", slow)
                + _left_out("longer cycles attract as well, from most starts", cycles),
                holds=bool(agree == total),
            ),
            Check(
                f"p = 1: rate at which |y| grows or shrinks on the bounce, {rates.size} pairs of "
                "ηλ and ν",
                predicted="ln|1 − ηλr − (2−ηλ)r²|, r = ν/λ",
                measured=f"off by at most {off:.1g}",
                tolerance="1e-6 (factors below .05 in modulus left out)",
                holds=bool(off < 1e-6),
            ),
        ],
        Axes(
            "SAM on its bounce: rate of |y|",
            "ηλ",
            "|ν|/λ",
            [
                Heat(
                    across.tolist(),
                    ratio.tolist(),
                    np.maximum(rates.T, -9).tolist(),
                    "ln factor",
                    -1.5,
                    1.5,
                ),
                Line(fine.tolist(), (-lower).tolist(), "predicted", "theory", dash=True),
                Line(fine.tolist(), (-upper).tolist(), "predicted", "theory", dash=True),
            ],
            y_range=(0.0, 6.0),
        ),
        runs + n,
    )


def _left_out(why: str, which: list[str]) -> str:
    return f". Left out, for {why}: {', '.join(which)}" if which else ""


CLAIM = Claim(
    name="saddles",
    title="Which saddles hold SAM",
    statement=(
        "USAM is held at a saddle iff 1 < ρ|λ| < 1 + 2/(η|λ|), from everywhere. A power from 0 to "
        "1 is held within (ρ|λ|)^(1/p)/|λ| unless its steps leap out, which for SAM (p = 1) is at "
        "η|λ| > 1. Above 1 no saddle holds in one dimension; a bounce across a valley can hold one "
        "at every power."
    ),
    source=(
        "Derived here. That SAM can be slow to leave saddles is the subject of Kim et al., "
        "Stability Analysis of Sharpness-Aware Minimization, 2023."
    ),
    derived=(
        "The traps with both their ends, the largest step that does not leap out of them, and the "
        "range of saddles that a bounce holds, for every p."
    ),
    expected="holds",
    because=(
        "Exact on a quadratic, but for one part: that almost every start leaves where steps leap "
        "out is proved for p ≥ 1 and measured below."
    ),
    measure=measure,
    takes=(0.9, 3.0, 25.0),
    settings={
        "seed": 1,
        "usam_s": [0.2, 0.5, 0.9, 1.5],
        "usam_steps": 6_000,
        "map_cells": 48,
        "map_steps": 1_000,
        "powers": [0.25, 0.5, 0.75, 1.0],
        "trap_rho": [0.3, 0.5, 2.0],
        "trap_starts": 60,
        "trap_steps": 4_000,
        "inside_powers": [0.25, 0.5, 0.75, 0.9],
        "inside_s": [0.2, 0.9, 1.5],
        "leap_powers": [0.5, 0.75, 1.0],
        "leap_starts": 400,
        "leap_steps": 20_000,
        "never_powers": [1.25, 1.5, 2.0],
        "never_s": [0.2, 0.9, 1.5],
        "never_steps": 20_000,
        # Power and momentum.
        "held_powers": [[0.5, 0.0], [1.0, 0.0], [1.5, 0.0], [1.0, 0.5]],
        "held_products": [0.1, 0.5, 1.0, 1.5],
        "held_steps": 20,
        "held_settle": 400,
    },
    quick={
        "usam_s": [0.5, 1.5],
        "usam_steps": 3_000,
        "map_cells": 24,
        "trap_rho": [0.5],
        "trap_starts": 20,
        "trap_steps": 2_000,
        "inside_powers": [0.5, 0.75],
        "leap_starts": 100,
        "leap_steps": 8_000,
        "never_steps": 8_000,
        "held_powers": [[0.5, 0.0], [1.0, 0.0]],
        "held_products": [0.5, 1.0],
    },
    full={
        "usam_steps": 20_000,
        "trap_starts": 200,
        "leap_powers": [0.25, 0.5, 0.75, 1.0],
        "leap_starts": 4_000,
        "leap_steps": 100_000,
        "never_powers": [1.1, 1.25, 1.5, 2.0],
        "never_steps": 100_000,
        "map_cells": 96,
    },
)
