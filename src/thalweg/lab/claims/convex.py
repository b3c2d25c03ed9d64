"""Claim: on convex losses normalized SAM ends within a floor known in advance, at every radius."""

from __future__ import annotations

import numpy as np

from thalweg.lab.claims import convex_floors, convex_steps
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.results import Chart


def measure(settings: Settings) -> Evidence:
    """Compare where SAM ends, how fast it comes there and which steps descend with the laws."""
    quadratics, random = (
        convex_floors.ends(settings, family) for family in ("quadratics", "random losses")
    )
    usam, usam_runs = convex_steps.usam(settings)
    descent = convex_steps.descent(settings)
    checks = [
        *convex_floors.floors(settings, "quadratics", quadratics),
        *convex_floors.floors(settings, "random losses", random),
        convex_floors.by_step_size(settings, quadratics, random),
        *convex_floors.sharp(settings, quadratics),
        convex_floors.small_steps(settings, random),
        *convex_floors.beyond_small_steps(settings, quadratics, random),
        *convex_floors.rates(settings),
        *usam,
        *descent.checks,
    ]
    runs = quadratics.cells + random.cells
    near = [convex_floors.nearest(settings, ends) for ends in (quadratics, random)]
    return Evidence(
        checks=checks,
        charts=[
            Chart(
                convex_floors.axes(settings, quadratics, random),
                "Excess loss at the end over the step size, in units of ½βa², which is that of the "
                "quadratic's bounce. No loss ends above the dashed floor, and from ηβ = 2β/(α+β) "
                "on, at the far right, the quadratics lie on it. For small steps at p = 1 other "
                "losses end higher than the quadratic. The form for small steps, used beyond "
                "them (p = 1), is too low at the far right.",
            ),
            Chart(
                descent.drawn,
                "How many steps raise the loss, over the gradient they start from, in units of the "
                "descent threshold N. Many do just left of the dashed line, not one does right of "
                "it, whether the loss is convex or not.",
            ),
        ],
        runs=runs + usam_runs + descent.runs,
        seeds=[*range(max(settings["losses"], settings["descent_losses"]))],
        dtype="float64",
        found=(
            f"of {runs:,} runs the highest end is at {near[0]:.6g} of the floor on quadratics, "
            f"{near[1]:.4g} on random losses; of {descent.steps:,} steps, {descent.wrong} with a "
            "gradient above the descent threshold raised the loss"
        ),
    )


CLAIM = Claim(
    name="convex",
    title="On convex losses SAM ends within a floor known in advance",
    statement=(
        "On a loss with curvatures from α to β, gradient descent's own ηβ < 2 keeps SAM with "
        "0 < p ≤ 1 bounded at every ρ: it ends within a floor known in advance, at a known rate, "
        "and for η ≥ 2/(α+β) the floor is attained. A step whose gradient is above a known "
        "threshold lowers the loss, convex or not. USAM (p = 0) has no floor but a threshold, "
        "ηβ(1+ρβ) = 2."
    ),
    source="Derived here: floors, rates, thresholds, and where they are sharp.",
    paper="Dai, Ahn and Sra, NeurIPS 2023: normalization stabilizes SAM.",
    derived=(
        "for 0 < p ≤ 1 and ηβ < 2 the end is within a floor in loss and distance at every ρ, and "
        "steps with ‖g‖ᵖ > βρ·max(1, ηβ/(2−ηβ)) descend (convex: without the 1)"
    ),
    expected="holds",
    because="All of it is proved; where a bound is called sharp, a quadratic attains it.",
    measure=measure,
    settings={
        "alpha": 1.0,
        "beta": 10.0,
        "spectra": {
            "two points": [10.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
            "geometric": np.geomspace(1, 10, 8).round(6).tolist(),
            "uniform": np.linspace(1, 10, 8).round(6).tolist(),
            "clusters": [10.0, 9.9, 9.8, 9.7, 1.3, 1.2, 1.1, 1.0],
        },
        "starts": 4,
        "losses": 500,
        "powers": [0.25, 0.5, 1.0],
        "products": [0.2, 0.5, 0.9, 1.3, 1.6, 1.818, 1.822, 1.85, 1.95],
        "counterexample": 1.822,
        "rho": [0.1, 0.5],
        "steps": 2000,
        "late": 200,
        "followed": 40,
        "way": 150,
        "usam_products": [0.2, 0.5, 1.0, 1.5, 1.85],
        "usam_steps": 2000,
        "descent_losses": 400,
        "descent_steps": 100,
        "descent_products": [0.1, 0.5, 0.9, 1.2, 1.6, 1.9],
        "descent_rho": [0.03, 0.3, 3.0],
        "descent_powers": [0.5, 1.0, 1.5],
    },
    quick={
        "starts": 2,
        "losses": 60,
        "products": [0.2, 0.9, 1.3, 1.6, 1.822, 1.95],
        "steps": 1500,
        "descent_losses": 120,
        "descent_steps": 40,
    },
    takes=(1.3, 9.9, 80.0),
    full={"starts": 25, "losses": 4000, "descent_losses": 4000, "descent_steps": 150},
)
