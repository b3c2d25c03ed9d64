"""Claim: normalization lets SAM drift along a continuum of minima (a non-convex problem)."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings, within
from thalweg.lab.observe import Final, FirstPassage, History, Observer
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
    """Run the four methods from one start; time the drift against its law."""
    checks: list[Check] = []
    axes: list[Axes] = []
    for link in ("log_cosh", "sqrt"):
        found, drawn = _ends(settings, link)
        checks += found
        axes += drawn if link == "log_cosh" else []
    checks += [_timed(settings, *leg) for leg in settings["legs"]]
    return Evidence(
        checks=checks,
        charts=[
            Chart(
                axes,
                "Left: the path of each method over the loss; every point with xy = 0 is a "
                "minimum, the flattest is the origin. Gradient descent stops where it enters the "
                "valley's stable part, USAM at its own threshold; SAM walks on along the floor. "
                "Right: the curvature y² over time, with the predicted stops dashed.",
            )
        ],
        runs=2 * len(_METHODS) + len(settings["legs"]),
        seeds=[0],
        dtype="float64",
    )


def _ends(settings: Settings, link: Any) -> tuple[list[Check], list[Axes]]:
    """Where each method is at the end, and the figure of how it went there."""
    eta, rho, (x0, y0) = settings["eta"], settings["rho"], settings["start"]
    problem = _Watched(link, start=(x0, y0))
    observe: dict[str, Observer] = {
        "x": History("x", every=settings["every"]),
        "y": History("y", every=settings["every"]),
        "end": Final("y_squared", every=settings["steps"]),
    }
    run = simulate(
        problem,
        eta=eta,
        rho=[rho * share for *_, share, _ in _METHODS],
        power=[power for *_, power in _METHODS],
        steps=settings["steps"],
        observe=observe,
        compile=False,
        progress=f"drift: {link}",
    )
    end = [float(value) for value in run.observed["end"]]
    stops = [theory.single_neuron_limit(0.0, eta, r, x0, y0) for r in (0.0, rho)]
    half, sam = end[2], end[3]
    loss = "log cosh(xy)" if link == "log_cosh" else "√(1+x²y²)"
    checks = [
        # The law is of leading order in η: a gap of 1 to 1.5 η below it belongs to it.
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
            f"{loss}: SAM goes on; y² after {settings['steps']} steps",
            predicted="towards 0",
            measured=f"{sam:.3g}",
            tolerance="below a hundredth of USAM's stop",
            holds=sam < stops[1] / 100,
        ),
        Check(
            f"{loss}: p = ½ goes on, too, ever more slowly; y² after {settings['steps']} steps",
            predicted="below USAM's stop and above SAM",
            measured=f"{half:.3g}",
            tolerance="below half of USAM's stop, above twice SAM's y²",
            holds=2 * sam < half < stops[1] / 2,
        ),
    ]
    return checks, [_paths(run.observed, y0), _clock(run.observed, stops, settings)]


class _Watched(SingleNeuron):
    """The single neuron with its coordinates in sight, for the figure."""

    quantities = ("x", "y", "y_squared")

    def observe(self, params: Any, seeds: Any) -> Any:
        return {**super().observe(params, seeds), "x": params["x"], "y": params["y"]}


def _paths(seen: dict[str, Any], y0: float) -> Axes:
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
    return Axes(
        "Paths on the loss log cosh(xy)",
        "x",
        "y",
        [Contours(x.tolist(), y.tolist(), z.tolist()), *reversed(paths), *ends],
        x_range=(-1.1, 1.1),
        y_range=(0.0, 1.06 * y0),
    )


def _thin(looks: int) -> np.ndarray[Any, Any]:
    """Looks enough for a figure: the first ones all, later ones ever fewer."""
    return np.unique([0, *np.geomspace(1, looks - 1, 250).astype(int)])


def _clock(seen: dict[str, Any], stops: list[float], settings: Settings) -> Axes:
    t = np.arange(seen["y"].shape[1]) * settings["every"]
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


def _timed(
    settings: Settings, power: float, eta: float, rho: float, far: float, near: float
) -> Check:
    """How long the drift takes from one curvature to a smaller one."""
    # Start on the bounce itself, a little above the first mark.
    start = 1.02 * far
    across = theory.bounce_amplitude(eta, rho, start, power)
    marks: dict[str, Observer] = {
        "far": FirstPassage("y_squared", below=far),
        "near": FirstPassage("y_squared", below=near),
    }
    predicted = theory.single_neuron_drift_steps(eta, rho, far, near, power)
    run = simulate(
        SingleNeuron("log_cosh", start=(across, start**0.5)),
        eta=eta,
        rho=rho,
        power=power,
        steps=int(1.5 * predicted) + 1000,
        observe=marks,
        compile=False,
        progress=f"drift: p = {power:g}",
    )
    first, last = float(run.observed["far"]), float(run.observed["near"])
    took = last - first if np.isfinite(last) else last  # infinity: it never came there
    return within(
        f"steps from y² = {far:g} to {near:g} at p = {power:g}, η = {eta:g}, ρ = {rho:g}",
        predicted,
        took,
        settings["timing"],
    )


CLAIM = Claim(
    name="drift",
    title="Normalization lets SAM drift along the minima",
    statement=(
        "On L(x, y) = ℓ(xy), whose minima fill two lines, gradient descent stops at y² ≈ 2/η and "
        "USAM (p = 0) at y²(1 + ρy²) ≈ 2/η. With normalization the iterate never stops: p = 1 goes "
        "on exponentially fast towards the flattest minimum, p = ½ ever more slowly, both at a "
        "speed known in advance."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization lets SAM drift). Gradient descent's limit: "
        "Ahn, Bubeck, Chewi, Lee, Suarez and Zhang, 2023. Where USAM stops, and the law of the "
        "speed for every p, are derived here, to leading order in η."
    ),
    expected="holds",
    because="The law of the drift follows from the bounce, which is exact on a quadratic.",
    measure=measure,
    settings={
        "eta": 0.1,
        "rho": 0.1,
        "start": [1.0, 61**0.5],
        "steps": 20_000,
        # An even number: the bounce across the valley is not drawn, only the way along it.
        "every": 4,
        # power, η, ρ, from, to
        "legs": [
            [1.0, 0.1, 0.05, 2.0, 0.2],
            [1.0, 0.1, 0.1, 2.0, 0.2],
            [0.5, 0.1, 0.1, 6.0, 4.0],
            [0.75, 0.1, 0.05, 4.0, 2.0],
        ],
        "timing": 0.01,
    },
    quick={
        "steps": 10_000,
        "legs": [[1.0, 0.1, 0.1, 2.0, 0.2], [0.5, 0.1, 0.1, 6.0, 4.0]],
    },
)
