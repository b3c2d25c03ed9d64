"""Claim: where the minima form a continuum, USAM's path is finite and SAM's is not."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings, within
from thalweg.lab.claims.travel_losses import LOSSES, PlacedValley, bounded, endless
from thalweg.lab.observe import History, Observer
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role


def measure(settings: Settings) -> Evidence:
    """Follow the paths in the valley, then hold those on four losses against their bound."""
    checks, drawn, lengths = _in_the_valley(settings)
    more, scatter, runs, tightest = bounded(settings)
    return Evidence(
        checks=[*checks, *more, *endless(settings)],
        charts=[
            Chart(
                [*drawn, scatter],
                "Left: the length of the path on ½x²(1+y²), on which SAM alone goes on for ever, "
                "at the rate of its bounce. Middle: meanwhile it walks down the valley as the law "
                "of the drift has it. Right: gradient descent and USAM on four losses, each point "
                "a start and a pair (η, ρ): none is above the bound, and the quadratic lies on it.",
            )
        ],
        runs=4 + runs + len(settings["powers"]) * len(LOSSES),
        seeds=[settings["seed"]],
        dtype="float64",
        found=(
            f"path lengths after {settings['steps']} steps on ½x²(1+y²): gradient descent "
            f"{lengths[0]:.3f}, USAM {lengths[1]:.3f}, SAM {lengths[2]:.4g}; of {runs} paths of "
            "gradient descent and USAM on four losses none is longer than its bound (the nearest "
            f"has {tightest:.6g} of it)"
            if tightest <= 1 + 1e-9
            else f"a path of {tightest:.4g} times its bound"
        ),
    )


def _in_the_valley(settings: Settings) -> tuple[list[Check], list[Axes], list[float]]:
    """The three methods from one start, and SAM from its bounce."""
    eta, rho, steps = settings["eta"], settings["rho"], settings["steps"]
    x0, y0 = settings["start"]
    on_the_bounce = theory.bounce_amplitude(eta, rho, 1 + y0 * y0)
    watch: dict[str, Observer] = {"place": History("place")}
    run = simulate(
        PlacedValley([(x0, y0), (x0, y0), (x0, y0), (on_the_bounce, y0)]),
        eta=eta,
        rho=[0.0, rho, rho, rho],
        power=[1.0, 0.0, 1.0, 1.0],
        seed=[0, 1, 2, 3],
        steps=steps,
        observe=watch,
        compile=False,
        progress="travel: the valley",
    )
    place = run.observed["place"]
    path = np.abs(np.diff(place)).cumsum(1)
    rests = path[:, -1] - path[:, steps // 2 - 1]
    y, length = _predicted(eta, rho, y0, steps)
    # Gradient descent leaves the box of its start by no side.
    beta = float(LOSSES["½x²(1+y²)"].beta(np.array(x0), np.array(y0)))
    bound = theory.travel_bound(eta, 0.0, beta, 1.0, x0 * x0 * (1 + y0 * y0) / 2)
    checks = [
        Check(
            f"path of {name} on ½x²(1+y²) from ({x0:g}, {y0:g}), η = {eta:g}{radius}: length",
            predicted=f"finite{extra}",
            measured=f"{path[i, -1]:.3f}, of it {rests[i]:.1g} in the second half of the steps",
            tolerance=f"below 1e-9 in the second half{', at most the bound' if extra else ''}",
            holds=bool(rests[i] < 1e-9 and (not extra or path[i, -1] <= bound)),
        )
        for i, name, radius, extra in (
            (0, "gradient descent", "", f", at most {bound:.4g}"),
            # ρβ > 1: outside the bound's range, and short all the same
            (1, "USAM", f", ρ = {rho:g} (outside the bound's range)", ""),
        )
    ]
    checks += [
        within(
            f"path of SAM from there, {steps} steps: length",
            length[-1],
            float(path[2, -1]),
            settings["from_afar"],  # falling into the valley is not in the law
        ),
        within(
            f"path of SAM from its bounce, {steps} steps: length",
            length[-1],
            float(path[3, -1]),
            settings["tolerance"],
        ),
        within(
            f"of it, in the last {steps - steps // 2} steps",
            length[-1] - length[steps // 2 - 1],
            float(rests[3]),
            settings["tolerance"],
        ),
        within(
            f"steps of SAM from y = {y0:g} to {settings['level']:g}",
            float(np.argmax(y <= settings["level"])),
            float(np.argmax(place[3].imag <= settings["level"]) or np.inf),
            settings["tolerance"],
        ),
    ]
    return checks, _drawn(path, place, y, length), path[:, -1].tolist()


def _predicted(eta: float, rho: float, y: float, steps: int) -> tuple[Array, Array]:
    """SAM on the slow manifold: y at every step, and the path, twice the amplitude a step."""
    floor = np.empty(steps + 1)
    for t in range(steps + 1):
        floor[t] = y
        y += theory.drift_velocity(eta, rho, 1 + y * y, 2 * y)
    return floor, (2 * theory.bounce_amplitude(eta, rho, 1 + floor[:-1] ** 2)).cumsum()


def _drawn(path: Array, place: Array, y: Array, length: Array) -> list[Axes]:
    keep = np.unique(np.geomspace(1, len(length), 200).astype(int))
    names: list[tuple[str, Role]] = [
        ("gradient descent", "gd"),
        ("USAM, p = 0", "p=0"),
        ("SAM, p = 1", "p=1"),
    ]
    t = keep.tolist()
    paths = [Line(t, path[i, keep - 1].tolist(), *name) for i, name in enumerate(names)]
    down = [Line(t, np.abs(place[i, keep].imag).tolist(), *name) for i, name in enumerate(names)]
    law = Line(t, length[keep - 1].tolist(), "predicted", "theory", dash=True)
    walk = Line(t, y[keep].tolist(), "predicted", "theory", dash=True)
    return [
        Axes("Length of the path", "step", "length", [*paths, law], x_log=True, y_log=True),
        Axes(
            "Along the valley",
            "step",
            "y",
            [*down, walk],
            x_log=True,
            y_log=True,
            y_range=(1e-3, 10.0),
        ),
    ]


CLAIM = Claim(
    name="travel",
    title="USAM's path is finite, SAM's is not",
    statement=(
        "On losses with the Polyak-Lojasiewicz property, whose minima may fill a line, gradient "
        "descent and USAM (p = 0) travel no further than a bound known in advance, so they stay "
        "near where they began. SAM's path is infinite: every step is twice its bounce long, and "
        "along the way it walks down the valley."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization lets SAM drift). The bound, that a "
        "quadratic attains it, and the length of SAM's path are derived here."
    ),
    paper="Dai, Ahn and Sra, NeurIPS 2023: normalization lets SAM drift along the minima.",
    derived=(
        "a bound on the path of USAM for every loss with the Polyak-Lojasiewicz property while "
        "ρβ < 1 and ηβ(1+ρβ) < 2, attained by a quadratic; SAM's path grows by 2ηρλ/(2−ηλ) a step"
    ),
    expected="holds",
    because="The bound is proved; SAM's bounce never dies out where the curvature is positive.",
    measure=measure,
    takes=(1.4, 6.2, 6.0),
    settings={
        "eta": 0.05,
        "rho": 0.1,
        "start": [0.3, 3.0],
        "level": 0.5,
        "steps": 40_000,
        "tolerance": 0.002,
        "from_afar": 0.01,
        # ηβ(1+ρβ) and ρβ at the starts, and the box of the starts
        "products": [0.1, 0.5, 1.0, 1.5, 1.9],
        "reaches": [0.0, 0.1, 0.3, 0.6],
        "starts": 20,
        "box": [0.3, 1.5],
        "bound_steps": 1000,
        "seed": 0,
        "powers": [0.5, 1.0],
        "endless_start": [0.3, 1.0],
        "endless_eta": 0.1,
        "endless_rho": 0.05,
        "endless_steps": 2000,
        "endless_tolerance": 0.02,
    },
    quick={"steps": 6000, "starts": 6, "bound_steps": 400, "endless_steps": 1000},
    full={"starts": 100, "bound_steps": 2000},
)
