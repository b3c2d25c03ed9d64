"""Claim: full-batch SAM looks for the least top eigenvalue, SAM by single examples the trace."""

from __future__ import annotations

import numpy as np
import torch

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.flatness_single import (
    SHARPEST,
    ends,
    seen_at,
    single_example_end,
    single_examples,
    watch,
)
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.lab.valleys import TwoCurvatures, curvatures
from thalweg.results import Axes, Chart, Check, Contours, Line
from thalweg.results.record import Role

_METHODS: list[tuple[str, Role]] = [
    ("gradient descent", "gd"),
    ("USAM, p = 0", "p=0"),
    ("SAM, p = 1", "p=1"),
]


def measure(settings: Settings) -> Evidence:
    """Let every method go to its end; then time the full batch against its law."""
    full, full_checks = _full_batch(settings)
    single, single_checks, found = single_examples(settings)
    timed, misses = _timed(settings)
    end = full["u"][2, -1]
    return Evidence(
        checks=[*full_checks, *single_checks, *timed],
        charts=[
            Chart(
                _maps(full, single, settings),
                "The plane of minima: paths over the level lines of λ_max and of the trace, with "
                "the predicted ends (crosses); then both on the way. Predicted: gradient descent "
                "and USAM stay where they fell into the valley; SAM goes to the least λ_max, at "
                "the price of a larger trace; 1-SAM, one example a step, to a point near the "
                "least trace.",
            ),
            Chart(
                [ends(single, settings), misses],
                f"Left: where 1-SAM ends (mean over seeds, bars are 95 % intervals): u₁ is "
                f"{single_example_end(0.0)[0]:.2f} at the least trace and {SHARPEST[0]:g} at the "
                "least λ_max. By the predicted curves it goes from one to the other as the step "
                "size grows, and nearer to the least λ_max at a smaller power. Right: where "
                "full-batch SAM is after some time, against the law and against the law without "
                "its factor of finite step size.",
            ),
        ],
        runs=4 + len(settings["single"]) * settings["seeds"] + len(settings["legs"]),
        seeds=list(range(settings["seeds"])),
        dtype="float64",
        found=(
            f"full-batch SAM ends at u = ({end[0]:.4f}, {end[1]:.4f}), the least λ_max being at "
            f"(1, 0); 1-SAM at {found}; gradient descent and USAM move by less than "
            f"{max(full['moved'][:2]):.2g}"
        ),
    )


def _full_batch(settings: Settings) -> tuple[dict[str, Array], list[Check]]:
    """Gradient descent, USAM and SAM on the whole loss; and both examples, each its own ascent."""
    eta, rho = settings["full_eta"], settings["full_rho"]
    start = np.array(settings["start"])
    run = simulate(
        TwoCurvatures(u=settings["start"]),
        eta=eta,
        rho=[0.0, rho, rho],
        power=[1.0, 0.0, 1.0],
        steps=settings["full_steps"],
        observe=watch(settings["every"]),
        compile=False,
        progress="flatness: full batch",
    )
    seen = seen_at(run.observed)
    seen["moved"] = np.linalg.norm(seen["u"][:, -1] - start, axis=-1)
    checks = [
        Check(
            f"{_METHODS[i][0]}: way along the minima in {settings['full_steps']} steps",
            predicted="stays",
            measured=f"{seen['moved'][i]:.3g}",
            tolerance=f"below {settings['stays']:g}, the start being "
            f"{np.linalg.norm(start - SHARPEST):.3g} from the least λ_max",
            holds=bool(seen["moved"][i] < settings["stays"]),
        )
        for i in (0, 1)
    ]
    checks.append(_at("SAM, full batch: end", SHARPEST, seen["u"][2, -1], settings["near"]))
    both = simulate(
        TwoCurvatures(u=settings["start"], examples="each"),
        eta=eta,
        rho=rho,
        steps=settings["full_steps"],
        compile=False,
        progress="flatness: an ascent for each",
    )
    end = np.array([both.observed["u1"], both.observed["u2"]])
    predicted = single_example_end(eta / 2)
    checks.append(
        _at("both examples in a step, each its own ascent: end", predicted, end, settings["near"])
    )
    return seen, checks


def _at(what: str, predicted: Array, end: Array, near: float) -> Check:
    off = float(np.linalg.norm(end - predicted))
    return Check(
        what,
        predicted=f"({predicted[0]:.4f}, {predicted[1]:.4f})",
        measured=f"({end[0]:.4f}, {end[1]:.4f}), off by {off:.2g}",
        tolerance=f"within {near:g}",
        holds=bool(off <= near),
    )


def _timed(settings: Settings) -> tuple[list[Check], Axes]:
    """How far full-batch SAM comes, with the factor of finite step size and without."""
    start = np.array(settings["leg_start"])
    eta, rho = (np.array([leg[i] for leg in settings["legs"]]) for i in (0, 1))
    lambda_max = 2 * float(curvatures(torch.tensor(start))[0])
    run = simulate(
        TwoCurvatures(
            u=settings["leg_start"],
            z=[(float(a), 1e-3) for a in theory.bounce_amplitude(eta, rho, lambda_max)],
        ),
        eta=eta,
        rho=rho,
        seed=np.arange(len(eta)),
        steps=settings["leg_steps"],
        compile=False,
        progress="flatness: the speed",
    )
    end = np.stack([run.observed["u1"], run.observed["u2"]], axis=-1)
    law = _followed(start, eta, rho, settings["leg_steps"], flow=False)
    plain = _followed(start, eta, rho, settings["leg_steps"], flow=True)
    moved = np.linalg.norm(end - start, axis=-1)
    off = np.linalg.norm(law - end, axis=-1) / moved
    missed = np.linalg.norm(plain - end, axis=-1) / moved
    checks = [
        Check(
            f"SAM, full batch, η = {eta[i]:g}, ρ = {rho[i]:g}: place after "
            f"{settings['leg_steps']} steps, {moved[i]:.3f} from the start",
            predicted=f"({law[i, 0]:.5f}, {law[i, 1]:.5f}); without the factor "
            f"({plain[i, 0]:.5f}, {plain[i, 1]:.5f})",
            measured=f"({end[i, 0]:.5f}, {end[i, 1]:.5f}), off by {off[i]:.1g} of the way; without "
            f"the factor by {missed[i]:.2g}",
            tolerance=f"{settings['law']:g} of the way; without the factor ten times further off",
            holds=bool(off[i] < settings["law"] and missed[i] > 10 * off[i]),
        )
        for i in range(len(eta))
    ]
    x = (eta * lambda_max).tolist()
    return checks, Axes(
        "Off the law, over the way gone",
        "ηλ_max at the start",
        "distance at the end, over the way",
        [
            Line(x, off.tolist(), "the law of finite step size", "p=1", points="both"),
            Line(x, missed.tolist(), "without its factor", "neutral", points="both"),
        ],
        y_log=True,
    )


def _followed(start: Array, eta: Array, rho: Array, steps: int, *, flow: bool) -> Array:
    """Where the law of the drift leads; with ``flow``, without its factor of finite step size."""

    def velocity(u: Array) -> Array:
        top = 2 * curvatures(torch.tensor(u)).numpy()[:, :1]
        slope = 2 * np.stack([2 * (u[:, 0] - 1), u[:, 1]], axis=-1)
        # At a vanishing step size the factor is 1, and the speed is in proportion to the step size.
        small = 1e-9 if flow else 1.0
        speed: Array = theory.drift_velocity(small * eta[:, None], rho[:, None], top, slope)
        return speed / small

    u, stride = np.tile(start, (len(eta), 1)), 50.0
    for _ in range(round(steps / stride)):  # Runge and Kutta's fourth order
        one = velocity(u)
        two = velocity(u + stride / 2 * one)
        three = velocity(u + stride / 2 * two)
        u = u + stride / 6 * (one + 2 * two + 2 * three + velocity(u + stride * three))
    return u


def _maps(full: dict[str, Array], single: dict[str, Array], settings: Settings) -> list[Axes]:
    """The paths over both level lines, and both quantities over time."""
    x, y = np.linspace(-0.1, 1.2, 41), np.linspace(-0.1, 0.9, 33)
    each = 2 * curvatures(torch.tensor(np.stack(np.meshgrid(x, y), axis=-1))).numpy()
    one = f"1-SAM, η = {settings['single'][0][0]:g}"
    paths, ends = [], []
    series = [(full["u"][i], *_METHODS[i]) for i in (2, 1, 0)]
    for path, name, role in [*series, (single["u"][0, 0], one, "neutral")]:
        keep = np.unique(np.linspace(0, len(path) - 1, 250).astype(int))
        paths.append(Line(path[keep, 0].tolist(), path[keep, 1].tolist(), name, role))
        if name != one:
            last = path[-1].tolist()
            ends.append(Line([last[0]], [last[1]], "", role, points="points"))
    trace, law = single_example_end(0.0), single_example_end(settings["single"][0][0])
    marks = {
        "least λ_max": SHARPEST,
        "least trace": trace,
        "least Σ 2/(2 − ηλ), the predicted end of 1-SAM": law,
    }
    maps = []
    for title, height, shown in (
        ("λ_max", each.max(-1), ["least λ_max"]),
        ("trace", each.sum(-1), list(marks)[1:]),
    ):
        targets = [
            Line([float(marks[k][0])], [float(marks[k][1])], k, "theory", points="points")
            for k in shown
        ]
        level = Contours(x.tolist(), y.tolist(), height.tolist())
        maps.append(Axes(f"Paths over the {title}", "u₁", "u₂", [level, *paths, *ends, *targets]))
    times = []
    for key, title in (("lambda_max", "λ_max of the Hessian"), ("trace", "Trace of the Hessian")):
        lines = []
        values = [(full[key][i], *_METHODS[i]) for i in range(3)]
        for value, name, role in [*values, (single[key][0].mean(0), one, "neutral")]:
            keep = np.unique(np.geomspace(1, len(value) - 1, 150).astype(int))
            t = (keep * settings["every"]).tolist()
            lines.append(Line(t, value[keep].tolist(), name, role))
        times.append(Axes(title, "step", title, lines, x_log=True))
    return [*maps, *times]


CLAIM = Claim(
    name="flatness",
    title="Which flatness SAM looks for: the top eigenvalue or the trace",
    statement=(
        "On L = F₁(u)z₁² + F₂(u)z₂², whose minima fill the plane z = 0, full-batch SAM goes to the "
        "point where the Hessian's largest eigenvalue is least. With one example a step it goes "
        "where Σ 2/(2 − ηλ) over the examples' curvatures λ is least, which is the least trace as "
        "η → 0; a power below 1 leads nearer to the least top eigenvalue, one above 1 further "
        "from it. Gradient descent and USAM stay where they reach the plane."
    ),
    source=(
        "Full batch and single examples in the limit of small step size: Wen, Ma and Li, How Does "
        "Sharpness-Aware Minimization Minimize Sharpness?, 2023. The factor of finite step size, "
        "and the end by single examples at finite step size, are derived here."
    ),
    paper=(
        "Wen, Ma and Li, 2023: as the step size goes to 0, full-batch SAM minimizes the top "
        "eigenvalue of the Hessian along the minima, SAM with one example a step its trace."
    ),
    derived=(
        "at finite step size the drift of the full batch is (2/(2−ηλ))² times as fast, and single "
        "examples minimize Σ 2/(2−ηλ) instead of the trace; at p ≤ 1, as η → 0, Σ λ^(4/p−3)"
    ),
    expected="holds",
    because="Both follow from the bounce across the plane, exact on a quadratic, at small ρ.",
    measure=measure,
    takes=(3.5, 11.0, 24.0),
    settings={
        "start": [0.2, 0.8],
        "full_eta": 0.1,
        "full_rho": 0.1,
        "full_steps": 8000,
        "stays": 0.02,
        "near": 0.01,
        # 1-SAM: η, ρ, power, that take about as long as one another; the first one is drawn
        "single": [
            [0.01, 0.2, 1.0],
            [0.02, 0.15, 1.0],
            [0.05, 0.1, 1.0],
            [0.1, 0.05, 1.0],
            [0.02, 0.3, 0.75],
            [0.1, 0.05, 0.75],
            [0.1, 0.05, 1.25],
        ],
        "single_steps": 20_000,
        "seeds": 64,
        "every": 40,
        "leg_start": [0.0, 0.8],
        "leg_steps": 20_000,
        "legs": [[0.01, 0.05], [0.05, 0.02], [0.1, 0.01], [0.15, 0.006]],
        "law": 1e-3,
    },
    quick={
        "full_rho": 0.12,
        "full_steps": 2200,
        "single": [[0.01, 0.3, 1.0], [0.1, 0.08, 1.0], [0.1, 0.05, 0.75], [0.1, 0.07, 1.25]],
        "single_steps": 4000,
        "seeds": 64,
        "leg_steps": 2000,
    },
    full={"full_steps": 40_000, "single_steps": 60_000},
)
