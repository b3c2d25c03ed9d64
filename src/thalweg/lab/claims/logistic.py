"""Claim: the thresholds and floors of convex losses, on logistic regression with real data."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.logistic_accuracy import accuracy
from thalweg.lab.claims.logistic_runs import Runs, measured
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import role_of


def measure(settings: Settings) -> Evidence:
    """Cross the thresholds beside the minimum, go to large radii, and compare with the floors."""
    found = [measured(settings, n, r) for n in settings["data"] for r in settings["ridges"]]
    tested, drawn, trained = accuracy(settings)
    usam, floor = np.array([r.usam for r in found]), max(float(r.floor.max()) for r in found)
    unbounded = sum(int(np.isinf(r.reach).sum()) for r in found)
    shown = next(r for r in found if (r.problem.name, r.problem.ridge) == tuple(settings["shown"]))
    return Evidence(
        checks=[
            *_local(settings, found),
            *_global(settings, found),
            *_constants(found),
            *tested,
        ],
        charts=[
            Chart(
                [*(_gaps(settings, shown, i) for i in (0, -1)), drawn],
                f"Ridge {shown.problem.ridge:g}: excess loss at the end over ρ, at a small and a "
                "large step. Below ρ* USAM finds the minimum itself: it has no points there. "
                "Above, it is thrown off, and above ρ∞ (no points again) to infinity. SAM never "
                "finds the minimum and always stays about it: small radii end on the bounce of the "
                "minimum's top curvature, all far below the floor, which is that of the largest "
                "curvature anywhere. Right: test accuracy "
                "minus gradient descent's, over random splits, with paired 95 % t intervals.",
            )
        ],
        runs=sum(r.cells for r in found) + trained,
        seeds=list(range(settings["splits"])),
        dtype="float64",
        found=(
            f"on {len(found)} problems: USAM started beside the minimum ends at most "
            f"{usam[..., 0].max():.1g} times as far from it at .98 of ρ*, at least "
            f"{usam[..., 1].min():.3g} times at 1.02; of {sum(r.reach.size for r in found)} runs "
            f"with p > 0 and ρ up to {settings['radii'][-1]:g} ρ*, {unbounded} diverged, the "
            f"highest ended at {floor:.2g} of its floor"
        ),
    )


def _crossing(what: str, law: str, ratio: Array, n: int) -> list[Check]:
    """Beside the minimum: on which side of an edge does the iterate come back to it?"""
    below, above = float(ratio[..., 0].max()), float(ratio[..., 1].min())
    return [
        Check(
            f"{what}, .98 of the edge: distance from the minimum over that at the start, the "
            f"largest (n = {n} runs)",
            predicted=f"falls to 0 ({law})",
            measured=f"{below:.2g}",
            tolerance="below .01",
            holds=below < 0.01,
        ),
        Check(
            f"{what}, 1.02 of the edge: the same, the smallest (n = {n} runs)",
            predicted=f"grows: the minimum repels ({law})",
            measured=f"{above:.2g}",
            tolerance="above 100",
            holds=above > 100,
        ),
    ]


def _local(settings: Settings, found: list[Runs]) -> list[Check]:
    gd, usam = np.array([r.gd for r in found]), np.array([r.usam for r in found])
    near, far = settings["small"]
    small = np.concatenate([r.small for r in found])
    limit = (far * small[:, 0] - near * small[:, 1]) / (far - near)
    return [
        *_crossing("gradient descent", "ηλ = 2", gd, len(gd)),
        *_crossing("USAM", "ρ* = (2/(ηλ) − 1)/λ", usam, usam.size // 2),
        Check(
            f"SAM, ρ = {near:g} and {far:g}: excess loss at the end over the bounce's ½λa², "
            f"a = ηρλ/(2−ηλ), and both extrapolated to ρ = 0 (n = {small.size} runs)",
            predicted="1 and a term of order ρ, so 1 at ρ = 0",
            measured=(
                f"1 + {small[:, 0].max() - 1:.2g} and 1 + {small[:, 1].max() - 1:.2g} at most; "
                f"extrapolated {limit.min():.5g} to {limit.max():.5g}"
            ),
            tolerance="extrapolated: .001",
            holds=bool(np.abs(limit - 1).max() <= 1e-3),
        ),
    ]


def _global(settings: Settings, found: list[Runs]) -> list[Check]:
    infinity = np.array([r.infinity for r in found])
    inside, outside = float(infinity[..., 0].max()), float(infinity[..., 1].min())
    checks = [
        Check(
            f"USAM from the origin, .98 of ρ∞ = (2/(ηα) − 1)/α: largest "
            f"distance in the second half of the run over that in the first "
            f"(n = {infinity.size // 2} runs)",
            predicted="bounded: far away the ridge is all the curvature there is",
            measured=f"{inside:.4g}, the largest",
            tolerance="at most 1.1",
            holds=inside <= 1.1,
        ),
        Check(
            "USAM from the origin, 1.02 of ρ∞: the same",
            predicted="grows without bound",
            measured=f"{outside:.2g}, the smallest",
            tolerance="above 1000",
            holds=outside > 1000,
        ),
    ]
    for i, power in enumerate(settings["powers"]):
        reach = max(float(r.reach[:, i].max()) for r in found)
        floors = np.array([r.floor[:, i] for r in found])
        checks += [
            Check(
                f"p = {power:g} from the origin, ρ up to {settings['radii'][-1]:g} ρ*: largest "
                f"distance from the minimum over what contraction allows (n = {floors.size} runs)",
                predicted="at most 1 at every ρ",
                measured=f"{reach:.4g}",
                tolerance="rounding, 1e-9",
                holds=reach <= 1 + 1e-9,
            ),
            Check(
                f"p = {power:g}: excess loss at the end over its floor with the global α and β "
                f"(n = {floors.size} runs)",
                predicted="at most 1",
                measured=f"{floors.min():.1e} to {floors.max():.2g}",
                tolerance="rounding, 1e-9",
                holds=bool(floors.max() <= 1 + 1e-9),
            ),
        ]
    return checks


def _constants(found: list[Runs]) -> list[Check]:
    """The measured curvatures, for the reader."""
    return [
        Check(
            f"{r.problem.name} (n = {len(r.problem.train)}, {len(r.problem.minimum)} weights), "
            f"ridge α = {r.problem.ridge:g}",
            predicted="curvatures between α and β",
            measured=(
                f"β = {r.problem.beta:.4g} (at the origin); at the minimum "
                f"{float(r.problem.curvatures[-1]):.4g} to "
                f"λ = {float(r.problem.curvatures[0]):.4g}; the highest end is at "
                f"{float(r.floor.max()):.2g} of its floor"
            ),
            tolerance="reported only",
            holds=None,
            decides=False,
        )
        for r in found
    ]


def _gaps(settings: Settings, shown: Runs, i: int) -> Axes:
    """Excess loss at the end over ρ/ρ*, with floor and bounce, at one step size."""
    problem, x = shown.problem, settings["products"][i]
    radii, rho = settings["radii"], shown.rho[i]
    eta, top = x / problem.beta, float(problem.curvatures[0])
    lines = []
    for j, power in enumerate([0.0, *settings["powers"]]):
        # A gap of this size is rounding: USAM has found the minimum.
        gap = [float(g) if g > 1e-12 else None for g in shown.excess[i, j]]
        name = f"p = {power:g}" + {0.0: " (USAM)", 1.0: " (SAM)"}.get(power, "")
        lines.append(Line(radii, gap, name, role_of(power), points="both"))
    floor = theory.convex_floor(eta, rho, problem.ridge, problem.beta)
    bounce = 0.5 * top * theory.bounce_amplitude(eta, rho, top) ** 2
    return Axes(
        f"{problem.name}, ηβ = {x:g}",
        "ρ / ρ*",
        "excess loss at the end",
        [
            *lines,
            Line(radii, floor.tolist(), "floor, p = 1", "theory", dash=True),
            Line(radii, bounce.tolist(), "bounce at the minimum, p = 1", "neutral", dash=True),
        ],
        x_log=True,
        y_log=True,
    )


CLAIM = Claim(
    name="logistic",
    title="Thresholds and floors on logistic regression",
    statement=(
        "On ridge logistic regression with real data, the minimum holds gradient descent up to "
        "ηλ = 2 and USAM up to ρ*, λ being its top curvature; USAM is thrown to infinity above ρ∞, "
        "where the ridge takes the place of λ. SAM has no such radius, at p = ½ and 1: it ends "
        "below its floor, and for a small ρ on the bounce at the minimum."
    ),
    source="Derived here. The data are scikit-learn's.",
    paper="Dai, Ahn and Sra, NeurIPS 2023: normalization stabilizes SAM.",
    derived=(
        "USAM comes back to the minimum iff ηλ(1+ρλ) < 2 there, and is bounded from every start "
        "iff ηα(1+ρα) < 2 with the ridge α; SAM is bounded at every ρ, by a floor of α and β"
    ),
    expected="holds",
    because=(
        "The edges are exact beside the minimum and at infinity; the floors are proved, but loose "
        "here: the curvature at the minimum is far below the largest, which is at the origin."
    ),
    measure=measure,
    settings={
        "data": ["breast cancer", "digits 3 8", "digits 4 9"],
        "ridges": [0.01, 0.1, 1.0],
        "shown": ["breast cancer", 0.1],
        "products": [1.0, 1.8],
        "powers": [0.5, 1.0],
        "radii": [0.01, 0.1, 0.5, 0.98, 1.02, 2.0, 5.0, 20.0, 100.0],
        "away": 1e-5,
        "small": [1e-4, 1e-3],
        "steps": 1500,
        "tested_ridge": 0.01,
        "tested_rho": [0.1, 1.0, 10.0, 100.0],
        "tested_steps": 1000,
        "splits": 5,
    },
    quick={
        "data": ["breast cancer", "digits 3 8"],
        "ridges": [0.1],
        "radii": [0.1, 0.98, 1.02, 10.0, 100.0],
        "steps": 800,
        "tested_steps": 300,
        "splits": 3,
    },
    full={
        "data": ["breast cancer", "digits 3 8", "digits 4 9", "digits 1 8"],
        "products": [0.3, 1.0, 1.5, 1.8, 1.95],
        "steps": 6000,
        "tested_steps": 3000,
        "splits": 20,
    },
    takes=(2.4, 13.0, 105.0),
    needs="scikit-learn's breast cancer and digits data",
)
