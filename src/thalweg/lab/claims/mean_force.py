"""The first-order law behind the rule for the micro-batch, on logistic regression."""

from __future__ import annotations

import math

import torch

from thalweg.ascent import Method
from thalweg.lab.claims.claim import Settings
from thalweg.lab.grid import Grid
from thalweg.lab.micro import NoisyLogistic
from thalweg.lab.step import Base, Step
from thalweg.results import Check

#: Examples drawn at once: what is between is not larger than some caches.
_ROWS = 32_000


def mean_force(settings: Settings) -> tuple[list[Check], int]:
    """Compare the mean of SAM gradient minus gradient with the law, along the noise's own force.

    Args:
        settings: ``powers``, ``force_m``, ``force_rows`` (examples drawn for each of the checks, a
            multiple of 32,000) and ``force_error``.

    Returns:
        The checks, and how many micro-batches were drawn.
    """
    checks, drawn = [], 0
    for power in settings["powers"]:
        for m in settings["force_m"]:
            problem = NoisyLogistic(m)
            own, trace = problem.forces
            size = float(trace.norm())
            square = float(problem.mean.square().sum())
            before = (square + problem.variance / m) ** (-power / 2)
            predicted = before * float(own @ trace / size + size / (2 * m))
            each = _forces(problem, power, settings["force_rows"]) @ trace / size
            value, half = float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5
            # The law takes the norm at its root mean square: where it fluctuates, it is not exact.
            decides = power == 0 or m >= 64
            drawn += len(each)
            checks.append(
                Check(
                    f"logistic regression, B = {problem.noise_scale:.0f}, p = {power:g}, m = {m}: "
                    "mean force along ∇tr Σ, over ρ",
                    predicted=f"{predicted:.4f}",
                    measured=f"{value:.4f} ± {half:.4f} (normal 95 %, n = {len(each)})",
                    tolerance=f"{settings['force_error']:g} of the prediction"
                    + ("" if decides else "; reported only: the norm of so few fluctuates"),
                    holds=bool(abs(value / predicted - 1) <= settings["force_error"]),
                    decides=decides,
                )
            )
    return checks, drawn


def _forces(problem: NoisyLogistic, power: float, rows: int) -> torch.Tensor:
    """SAM gradient minus gradient, over ρ, of many micro-batches, (n, D), by the step itself."""
    rho, cells = 1e-3, _ROWS // problem.micro
    step = Step(problem, Method(power=power, max_norm=math.inf), Base(), perturb=True)
    seeds = torch.arange(cells)
    w, like = problem.start(seeds), torch.ones(cells, dtype=problem.dtype)
    batch, found = problem.stream(seeds), []
    for turn in range(rows // _ROWS):
        grid = Grid(eta=like, rho=rho * like, power=power, seeds=seeds)
        uphill, _ = step.sam_gradient(w, grid, batch(turn))
        found.append((uphill["w"] - problem.gradient(w, batch(turn))["w"]) / rho)
    return torch.cat(found)
