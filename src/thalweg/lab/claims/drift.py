"""Claim: normalization lets SAM drift along a continuum of minima (a non-convex problem)."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.drift_speed import legs, momentum
from thalweg.lab.observe import Final, History, Observer
from thalweg.lab.problems import SingleNeuron
from thalweg.lab.simulate import simulate
from thalweg.results import Axes, Chart, Check, Contours, Line
from thalweg.results.record import Role

#: Name, role in the figures, and (as multiples of the radius, and power) the settings.
_METHODS: list[tuple[str, Role, float, float]] = [
    ("gradient descent", "gd", 0.0, 1.0),
    ("USAM, p = 0", "p=0", 1.0, 0.0),
    ("p = ½", "p=0.5", 1.0, 0.5),
    ("SAM, p = 1", "p=1", 1.0, 1.0),
]


def measure(settings: Settings) -> Evidence:
    """Run the four methods from several starts; time the drift against its law."""
    checks: list[Check] = []
    drawn: list[Axes] = []
    where: dict[str, float] = {}
    runs = 0
    for eta, rho, x0, y0, steps, look, links in settings["ends"]:
        for link in links:
            found, axes, end = _ends(settings, eta, rho, (x0, y0), (steps, look), link)
            checks += found
            drawn, where = drawn or axes, where or end
            runs += len(_METHODS)
    timed, speed, ratio = legs(settings)
    carried, cycles, more = momentum(settings)
    return Evidence(
        checks=[*checks, *timed, *carried],
        charts=[
            Chart(
                drawn,
                "Left: the path of each method over the loss; every point with xy = 0 is a "
                "minimum, the flattest is the origin. Gradient descent stops where it enters the "
                "valley's stable part, USAM at its own threshold; SAM walks on along the floor. "
                "Dashed is where theory has each of them at the end. "
                "Right: the curvature y² over time, with the predicted stops dashed.",
            ),
            Chart(
                [*speed, *cycles],
                "The speed of the drift. Left: how far each leg is off its law, which leaves out "
                "the second order of the distance at which the gradient is taken (dashed). "
                "Middle: the same legs against the law of vanishing step size, which misses where "
                "ηy² is not small. Right: with momentum, cycles of more than two steps coexist "
                "with the bounce; the law is that of the bounce, and they go faster.",
            ),
        ],
        runs=runs + len(settings["legs"]) + more,
        seeds=[0],
        dtype="float64",
        found=(
            f"y² at the end: gradient descent {where['gradient descent']:.4g}, USAM "
            f"{where['USAM, p = 0']:.4g}, SAM {where['SAM, p = 1']:.2g}; steps of the drift over "
            f"those predicted, on {len(settings['legs'])} legs with p from "
            f"{min(leg[0] for leg in settings['legs']):g} to "
            f"{max(leg[0] for leg in settings['legs']):g}: {ratio}"
        ),
    )


def _ends(
    settings: Settings, eta: float, rho: float, start: Any, until: tuple[int, int], link: Any
) -> tuple[list[Check], list[Axes], dict[str, float]]:
    """Where each method is at the end, and the figure of how it went there."""
    problem = _Watched(link, start=start)
    every, (steps, look) = settings["every"], until
    observe: dict[str, Observer] = {
        "x": History("x", every=every),
        "y": History("y", every=every),
        "end": Final("y_squared", every=steps),
    }
    run = simulate(
        problem,
        eta=eta,
        rho=[rho * share for *_, share, _ in _METHODS],
        power=[power for *_, power in _METHODS],
        steps=steps,
        observe=observe,
        compile=False,
        progress=f"drift: {link}",
    )
    end = [float(value) for value in run.observed["end"]]
    stops = [theory.single_neuron_limit(0.0, eta, r, *start) for r in (0.0, rho)]
    half, sam = end[2], end[3]
    loss = "log cosh(xy)" if link == "log_cosh" else "√(1+x²y²)"
    loss = f"{loss}, η = {eta:g}, ρ = {rho:g}"
    checks = [
        # The law is of leading order in η: a gap of 1 to 1.6 η below it belongs to it.
        Check(
            f"{loss}: {_METHODS[i][0]} stops at y²",
            predicted=f"{stops[i]:.4g} {law}",
            measured=f"{end[i]:.4g}",
            tolerance=f"2η = {2 * eta:g}: the law is of leading order in η",
            holds=abs(end[i] - stops[i]) <= 2 * eta,
        )
        for i, law in ((0, "(2/η)"), (1, "(y²(1+ρy²) = 2/η)"))
    ]
    checks += [
        Check(
            f"{loss}: SAM goes on; y² after {steps} steps",
            predicted="towards 0",
            measured=f"{sam:.3g} ({run.observed['y'][3, look // every] ** 2:.3g} at step {look})",
            tolerance="below a twentieth of USAM's stop",
            holds=sam < stops[1] / 20,
        ),
        Check(
            f"{loss}: p = ½ goes on, too, more slowly; y² after {steps} steps",
            predicted="below USAM's stop and above SAM",
            measured=f"{half:.3g}",
            tolerance="below nine tenths of USAM's stop, above twice SAM's y²",
            holds=2 * sam < half < 0.9 * stops[1],
        ),
    ]
    # Once the drift is far below 2/η, it has forgotten where it began.
    drifted = [theory.single_neuron_s_after(eta, rho, 1.99 / eta, steps, p) for p in (0.5, 1.0)]
    axes = [_paths(run.observed, start[1], [*stops, *drifted]), _clock(run.observed, stops, every)]
    names = [name for name, *_ in _METHODS]
    return checks, axes, dict(zip(names, end, strict=True))


class _Watched(SingleNeuron):
    """The single neuron with its coordinates in sight, for the figure."""

    quantities = ("x", "y", "y_squared")

    def observe(self, params: Any, seeds: Any) -> Any:
        return {**super().observe(params, seeds), "x": params["x"], "y": params["y"]}


def _paths(seen: dict[str, Any], y0: float, predicted: list[float]) -> Axes:
    x, y = np.linspace(-1.1, 1.1, 45), np.linspace(0, 1.06 * y0, 45)
    z = np.log(np.cosh(x[None, :] * y[:, None]))
    keep = _thin(seen["x"].shape[1])
    paths = [
        Line(seen["x"][i, keep].tolist(), seen["y"][i, keep].tolist(), name, role)
        for i, (name, role, *_) in enumerate(_METHODS)
    ]
    ends = [
        Line([float(seen["x"][i, -1])], [float(seen["y"][i, -1])], "", role, points="points")
        for i, (_, role, *_) in enumerate(_METHODS)
    ]
    across = [place for _ in predicted for place in (-0.25, 0.25, None)]
    along = [place for s in predicted for place in (s**0.5, s**0.5, None)]
    theirs = Line(across, along, "", "theory", dash=True)
    return Axes(
        "Paths on the loss log cosh(xy)",
        "x",
        "y",
        [Contours(x.tolist(), y.tolist(), z.tolist()), theirs, *reversed(paths), *ends],
        x_range=(-1.1, 1.1),
        y_range=(0.0, 1.06 * y0),
    )


def _thin(looks: int) -> np.ndarray[Any, Any]:
    """Looks enough for a figure: the first ones all, later ones ever fewer."""
    return np.unique([0, *np.geomspace(1, looks - 1, 250).astype(int)])


def _clock(seen: dict[str, Any], stops: list[float], every: int) -> Axes:
    t = np.arange(seen["y"].shape[1]) * every
    thin = _thin(len(t))[1:]
    lines = [
        Line(t[thin].tolist(), (seen["y"][i, thin] ** 2).tolist(), name, role)
        for i, (name, role, *_) in enumerate(_METHODS)
    ]
    ends = [float(t[thin[0]]), float(t[-1])]
    predicted = [Line(ends, [stop, stop], "predicted stop", "theory", dash=True) for stop in stops]
    return Axes(
        "Curvature along the way",
        "step",
        "y²",
        [*lines, *predicted],
        x_log=True,
        y_log=True,
        y_range=(0.01, 100.0),
    )


CLAIM = Claim(
    name="drift",
    title="Normalization lets SAM drift along the minima",
    statement=(
        "On L(x, y) = ℓ(xy), whose minima fill two lines, gradient descent stops at y² ≈ 2/η and "
        "USAM (p = 0) at y²(1 + ρy²) ≈ 2/η. With normalization the iterate never stops: p = 1 goes "
        "on exponentially fast towards the flattest minimum, p = ½ ever more slowly, and every p "
        "with a stable bounce at a speed known in advance, at any step size. With momentum the "
        "law is that of the two-point bounce; longer cycles coexist with it, and go faster."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization lets SAM drift). Gradient descent's limit "
        "is the subject of Ahn, Bubeck, Chewi, Lee, Suarez and Zhang, 2023. Where USAM stops, and "
        "the law of the speed for every p, step size and momentum, are derived here, to leading "
        "order in η and the length of the bounce; small η at p = 1: Wen, Ma and Li, 2023."
    ),
    paper="Dai, Ahn and Sra, NeurIPS 2023: normalization lets SAM drift along the minima.",
    derived=(
        "USAM stops at y²(1+ρy²) = 2/η; for p > 0, with s = y², "
        "ds = −(8/(ηs³)) (ηρs²/(2−ηs))^(2/p) a step, while p(2−ηs) < 2; momentum μ puts "
        "η/(1+μ) across and η/(1−μ) along the valley"
    ),
    expected="holds",
    because="The law of the drift follows from the bounce, which is exact on a quadratic.",
    measure=measure,
    takes=(2.0, 15.5, 19.0),
    settings={
        # η, ρ, x and y at the start, steps, a step to report, losses
        "ends": [
            [0.1, 0.1, 1.0, 61**0.5, 20_000, 1500, ["log_cosh", "sqrt"]],
            [0.05, 0.02, 1.0, 61**0.5, 75_000, 75_000, ["log_cosh"]],
            [0.4, 0.1, 2.0, 40**0.5, 1000, 376, ["log_cosh", "sqrt"]],
        ],
        # An even number: the bounce across the valley is not drawn, only the way along it.
        "every": 4,
        # power, η, ρ, from, to
        "legs": [
            [0.5, 0.1, 0.05, 8.0, 5.0],
            [0.5, 0.1, 0.1, 6.0, 4.0],
            [0.75, 0.1, 0.05, 4.0, 2.0],
            [0.9, 0.1, 0.02, 4.0, 2.0],
            [1.0, 0.1, 0.02, 2.0, 0.2],
            [1.0, 0.1, 0.05, 2.0, 0.2],
            [1.0, 0.4, 0.05, 0.5, 0.05],
            [1.0, 0.1, 0.05, 4.0, 2.0],
            [1.25, 0.1, 0.01, 12.0, 9.0],
            [1.5, 0.1, 0.005, 16.0, 14.0],
            [2.0, 0.1, 0.002, 17.0, 15.0],
        ],
        # momentum, η, ρ; and how far from the floor to start, in amplitudes of the bounce
        "momentum": [[0.0, 0.1, 0.02], [0.5, 0.3, 0.02], [0.5, 0.1, 0.02]],
        "momentum_starts": [0.1, 0.3, 1.0, 3.0],
        "momentum_marks": [1.5, 0.75],
        "momentum_tolerance": 0.002,
    },
    quick={
        "ends": [[0.1, 0.1, 1.0, 61**0.5, 5000, 1500, ["log_cosh", "sqrt"]]],
        "legs": [
            [1.0, 0.1, 0.05, 4.0, 2.0],
            [0.5, 0.1, 0.1, 6.0, 4.0],
            [1.25, 0.1, 0.01, 12.0, 9.0],
            [1.5, 0.1, 0.005, 16.0, 14.0],
            [2.0, 0.1, 0.002, 17.0, 15.0],
        ],
        "momentum": [[0.5, 0.1, 0.04]],
    },
    full={
        "ends": [
            [0.1, 0.1, 1.0, 61**0.5, 20_000, 1500, ["log_cosh", "sqrt"]],
            [0.05, 0.02, 1.0, 61**0.5, 75_000, 75_000, ["log_cosh", "sqrt"]],
            [0.4, 0.1, 2.0, 40**0.5, 1000, 376, ["log_cosh", "sqrt"]],
        ],
        "momentum_starts": [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0],
    },
)
