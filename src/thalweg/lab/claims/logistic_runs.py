"""Runs of logistic regression beside its minimum and far from it, for the claim logistic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.logistic import Logistic
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array

_SIDES = np.array([0.98, 1.02])


@dataclass(frozen=True)
class Runs:
    """What was measured on one data set with one ridge; arrays begin with the step sizes.

    Attributes:
        problem: The problem.
        gd: Distance at the end over that at the start, on the two sides of ηλ = 2.
        usam: The same for USAM, on the two sides of ρ*, (products, 2).
        infinity: For USAM on the two sides of ρ∞: largest distance in the second half of the run
            over that in the first, (products, 2).
        small: Excess loss of SAM at small ρ, over that of the bounce, (products, 2).
        excess: Largest excess loss at the end, (products, powers, radii).
        reach: Largest distance on the way over what contraction allows, powers above 0 alone.
        floor: Excess loss over its floor, powers above 0 alone.
        rho: The radii, (products, radii).
        cells: How many runs.
    """

    problem: Logistic
    gd: Array
    usam: Array
    infinity: Array
    small: Array
    excess: Array
    reach: Array
    floor: Array
    rho: Array
    cells: int


def measured(settings: Settings, name: str, ridge: float) -> Runs:
    """Run one data set with one ridge.

    Args:
        settings: The claim's.
        name: Data set.
        ridge: α.

    Returns:
        What was measured.
    """
    near = Logistic(name, ridge, away=settings["away"])
    top, beta = float(near.curvatures[0]), near.beta
    eta = np.array(settings["products"]) / beta
    edge = theory.largest_stable_rho(eta, top)
    label = f"logistic: {name}, ridge {ridge:g}"
    # Beside the minimum: gradient descent, USAM, and SAM at a small radius.
    k, small = len(eta), np.array(settings["small"])
    run = simulate(
        near,
        eta=np.concatenate(
            [_SIDES * theory.largest_stable_eta(0.0, top), eta.repeat(2), eta.repeat(2)]
        ),
        rho=np.concatenate([[0.0, 0.0], np.outer(edge, _SIDES).ravel(), np.tile(small, k)]),
        power=np.concatenate([np.zeros(2 + 2 * k), np.ones(2 * k)]),
        steps=settings["steps"],
        observe={q: History(q, every=7) for q in ("excess", "distance")},
        progress=label,
    )
    late = _late(run.observed)
    moved = late["distance"] / settings["away"]
    bounce = 0.5 * top * theory.bounce_amplitude(eta[:, None], small, top) ** 2
    powers = np.array([0.0, *settings["powers"]])
    rho = np.outer(edge, settings["radii"])
    # The slope of the logistic part is bounded, so far away a step is that of the ridge alone.
    outer = theory.largest_stable_rho(eta, ridge)
    far = simulate(
        Logistic(name, ridge),
        eta=eta[:, None, None],
        rho=rho[:, None, :],
        power=powers[:, None],
        steps=settings["steps"],
        observe={q: History(q, every=7) for q in ("excess", "distance")},
        progress=label,
    )
    path, seen = far.observed["distance"], _late(far.observed)
    x, p = np.array(settings["products"])[:, None, None], powers[1:, None]
    slack = np.minimum(x * ridge / beta, 2 - x)
    allowed = (x * beta * rho[:, None] / slack) ** (1 / p) / beta
    reach = path[:, 1:].max(-1) / np.maximum(path[:, 1:, :, 0], allowed)
    bound = theory.convex_floor(x / beta, rho[:, None], ridge, beta, p)
    ends = simulate(
        Logistic(name, ridge),
        eta=eta[:, None],
        rho=np.outer(outer, _SIDES),
        power=0.0,
        steps=settings["steps"],
        observe={"distance": History("distance", every=7)},
        progress=label,
    ).observed["distance"]
    half = ends.shape[-1] // 2
    return Runs(
        problem=near,
        gd=moved[:2],
        usam=moved[2 : 2 + 2 * k].reshape(k, 2),
        infinity=ends[..., half:].max(-1) / ends[..., :half].max(-1),
        small=late["excess"][2 + 2 * k :].reshape(k, 2) / bounce,
        excess=np.where(far.diverged, np.nan, seen["excess"]),
        reach=np.where(far.diverged[:, 1:], np.inf, reach),
        floor=np.where(far.diverged[:, 1:], np.inf, seen["excess"][:, 1:] / bound),
        rho=rho,
        cells=moved.size + far.diverged.size + 2 * k,
    )


def _late(observed: dict[str, Array]) -> dict[str, Array]:
    """The largest values in the last tenth of the run."""
    return {name: seen[..., -(seen.shape[-1] // 10) :].max(-1) for name, seen in observed.items()}
