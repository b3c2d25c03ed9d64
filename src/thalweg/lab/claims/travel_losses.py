"""Paths on losses with the Polyak-Lojasiewicz property, against their bound: for ``travel``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History
from thalweg.lab.problems import Params, Problem, Quadratic
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.lab.valleys import Bend, Ripples, Valley
from thalweg.results import Axes, Check, Line


class _Placed:
    """The place of the iterate as one complex number, whose steps have the lengths of its own."""

    quantities: tuple[str, ...] = ("place",)

    def observe(self, params: Params, seeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return x + iy."""
        x = params["x"] if "x" in params else params["w"][:, 0]
        return {"place": torch.complex(x, params.get("y", torch.zeros_like(x)))}


class PlacedValley(_Placed, Valley):
    """The valley, observed in this way."""


class _PlacedBend(_Placed, Bend):
    pass


class _PlacedRipples(_Placed, Ripples):
    pass


class _PlacedParabola(_Placed, Quadratic):
    pass


class _Loss(NamedTuple):
    """A loss with the Polyak-Lojasiewicz property; in a box |x| ≤ X, |y| ≤ Y, from its X and Y.

    Attributes:
        make: The problem, from its starts (n, 2).
        mu: The property's constant.
        curvature: Of the minimum at (x, y), across the minima.
        steepest: The largest derivatives in the box.
        beta: Smoothness in the box.
    """

    make: Callable[[Array], Problem]
    mu: float
    curvature: Callable[[Array, Array], Array]
    steepest: Callable[[Array, Array], tuple[Array, Array]]
    beta: Callable[[Array, Array], Array]


def _norm(a: Array, b: Array, c: Array) -> Array:
    """Top eigenvalue of [[a, b], [b, c]]: of the Hessian's largest entries, it is a bound."""
    top: Array = (a + c + np.hypot(a - c, 2 * b)) / 2
    return top


LOSSES = {
    "½x²": _Loss(
        make=lambda starts: _PlacedParabola([1.0]),
        mu=1.0,
        curvature=lambda x, y: 1 + 0 * x,
        steepest=lambda x, y: (x, 0 * x),
        beta=lambda x, y: 1 + 0 * x,
    ),
    "x² + 3 sin²x": _Loss(
        make=lambda starts: _PlacedRipples((10 * starts[:, :1]).tolist()),
        mu=1 / 32,
        curvature=lambda x, y: 8 + 0 * x,
        steepest=lambda x, y: (2 * x + 3, 0 * x),
        beta=lambda x, y: 8 + 0 * x,
    ),
    "½x²(1+y²)": _Loss(
        make=lambda starts: PlacedValley(starts.tolist()),
        mu=1.0,
        curvature=lambda x, y: 1 + y * y,
        steepest=lambda x, y: (x * (1 + y * y), x * x * y),
        beta=lambda x, y: _norm(1 + y * y, 2 * x * y, x * x),
    ),
    "½(y−x²)²": _Loss(
        make=lambda starts: _PlacedBend(starts.tolist()),
        mu=1.0,
        curvature=lambda x, y: 1 + 4 * x * x,
        steepest=lambda x, y: (2 * x * (y + x * x), y + x * x),
        beta=lambda x, y: _norm(6 * x * x + 2 * y, 2 * x, 1 + 0 * x),
    ),
}


def bounded(settings: Settings) -> tuple[list[Check], Axes, int, float]:
    """Hold paths of gradient descent and USAM against the bound, on every loss.

    Args:
        settings: Those of the claim.

    Returns:
        The checks, the figure, how many paths there were, and the largest share of a bound.
    """
    products, reaches = settings["products"], settings["reaches"]
    checks, points, runs, tightest = [], [], 0, 0.0
    for name, loss in LOSSES.items():
        starts = _starts(settings) if name != "½x²" else np.ones((1, 2))
        problem = loss.make(starts)
        # A first guess at β, from the start; the bound below takes what the path really met.
        guess = loss.beta(*np.abs(starts).T)[:, None, None]
        reach = np.array(reaches)[None, :, None]
        eta = np.array(products)[None, None, :] / guess / (1 + reach)
        rho = reach / guess + 0 * eta
        seeds = np.arange(len(starts))
        run = simulate(
            problem,
            eta=eta,
            rho=rho,
            power=0.0,
            seed=seeds[:, None, None],
            steps=settings["bound_steps"],
            observe={"place": History("place")},
            compile=False,
            progress=f"travel: {name}",
        )
        place = run.observed["place"]
        path = np.abs(np.diff(place)).sum(-1)
        first = problem.loss(problem.start(torch.tensor(seeds))).numpy()[:, None, None] + 0 * eta
        with np.errstate(over="ignore", invalid="ignore"):  # a path that diverged has no bound
            beta = _smoothness_met(loss, place, rho)
            applies = (rho * beta < 1) & (eta * beta * (1 + rho * beta) < 2)
        bound = theory.travel_bound(
            eta[applies], rho[applies], beta[applies], loss.mu, first[applies]
        )
        share = path[applies] / bound
        largest = float(share.max()) if share.size else np.nan
        attained = name == "½x²"
        checks.append(
            Check(
                f"{name}: path of gradient descent or USAM over its bound, the largest of "
                f"{share.size} ({path.size - share.size} of {path.size} outside the bound's range)",
                predicted="at most 1, and 1 is attained" if attained else "at most 1",
                measured=f"{largest:.9g}",
                tolerance="1e-9, attained to 1e-6" if attained else "1e-9",
                holds=bool(1 - 1e-6 < largest <= 1 + 1e-9 if attained else largest <= 1 + 1e-9),
            )
        )
        points.append((bound, path[applies], np.broadcast_to(rho, path.shape)[applies] > 0))
        runs, tightest = runs + share.size, float(np.fmax(tightest, largest))
    return checks, _scatter(points), runs, tightest


def _scatter(points: Sequence[tuple[Array, Array, Array]]) -> Axes:
    bound, path, usam = (np.concatenate(part) for part in zip(*points, strict=True))
    ends = [float(bound.min()), float(bound.max())]
    layers = []
    for kind, name, role in ((usam, "USAM, p = 0", "p=0"), (~usam, "gradient descent", "gd")):
        some = np.linspace(0, kind.sum() - 1, min(int(kind.sum()), 200)).astype(int)
        x, y = bound[kind][some].tolist(), path[kind][some].tolist()
        layers.append(Line(x, y, name, role, points="points"))  # type: ignore[arg-type]
    return Axes(
        "Path against its bound",
        "bound on the length",
        "length",
        [*layers, Line(ends, ends, "the bound", "theory", dash=True)],
        x_log=True,
        y_log=True,
    )


def endless(settings: Settings) -> list[Check]:
    """Check that with p > 0 steps stay twice the bounce long, on every loss.

    Args:
        settings: Those of the claim.

    Returns:
        The checks.
    """
    rows = []
    for name, loss in LOSSES.items():
        x, y = settings["endless_start"]
        powers = np.array(settings["powers"])
        run = simulate(
            loss.make(np.array([[x, y]])),
            eta=settings["endless_eta"],
            rho=settings["endless_rho"],
            power=powers,
            steps=settings["endless_steps"],
            observe={"place": History("place")},
            compile=False,
            progress=f"travel: {name}",
        )
        place = run.observed["place"]
        step = np.abs(np.diff(place[:, -2:])).mean(-1)
        middle = place[:, -2:].mean(-1)
        at = loss.curvature(middle.real, middle.imag)
        eta, rho = settings["endless_eta"], settings["endless_rho"]
        rows.append(step / (2 * theory.bounce_amplitude(eta, rho, at, powers)))
    ratio = np.array(rows)
    return [
        Check(
            f"p = {power:g}, four losses: length of the last of {settings['endless_steps']} steps "
            "over twice the amplitude of the bounce",
            predicted="1",
            measured=f"{ratio[:, i].min():.4f} to {ratio[:, i].max():.4f}",
            tolerance=f"{settings['endless_tolerance']:g}",
            holds=bool(np.abs(ratio[:, i] - 1).max() < settings["endless_tolerance"]),
        )
        for i, power in enumerate(settings["powers"])
    ]


def _starts(settings: Settings) -> Array:
    """Points (x, y), drawn evenly from a box."""
    rng = np.random.default_rng(settings["seed"])
    drawn: Array = rng.uniform(-1, 1, (settings["starts"], 2)) * settings["box"]
    return drawn


def _smoothness_met(loss: _Loss, place: Array, rho: Array) -> Array:
    """β over a box that holds the iterates of every cell, and the points they were pushed to."""
    x, y = np.abs(place.real).max(-1), np.abs(place.imag).max(-1)
    slope_x, slope_y = loss.steepest(x, y)
    return loss.beta(x + rho * slope_x, y + rho * slope_y)
