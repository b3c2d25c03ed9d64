"""Single steps: USAM's threshold on convex losses, and where a step descends: for convex."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.convex import Bowls, RandomBowls
from thalweg.lab.observe import History
from thalweg.lab.random_sums import RandomSums
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Check, Line


class Descent(NamedTuple):
    """What following steps found: checks, the figure, runs, steps, rises where there are none."""

    checks: list[Check]
    drawn: list[Axes]
    runs: int
    steps: int
    wrong: int


def usam(settings: Settings) -> tuple[list[Check], int]:
    """USAM at .95 and 1.05 of ηβ(1+ρβ) = 2, on quadratics, and below it on random losses."""
    alpha, beta = settings["alpha"], settings["beta"]
    products = np.array(settings["usam_products"])
    edge = theory.largest_stable_rho(products / beta, beta)[:, None, None]
    eta, sides = products[:, None, None] / beta, np.array([0.95, 1.05])[:, None]
    bowls = Bowls([*settings["spectra"].values()])
    seeds = np.arange(len(settings["spectra"]) * settings["starts"])
    at = ", ".join(f"{x:g}" for x in products)
    grown = {}
    for steps in (0, settings["usam_steps"]):
        run = simulate(bowls, eta=eta, rho=edge * sides, power=0.0, seed=seeds, steps=steps)
        grown[steps] = run.observed["distance"]
    below, above = np.moveaxis(grown[settings["usam_steps"]] / grown[0], 1, 0)
    large = products >= 2 * beta / (alpha + beta)
    seeds = np.arange(settings["losses"])
    run = simulate(
        RandomBowls(alpha, beta),
        eta=eta[:, 0],
        rho=0.95 * edge[:, 0],
        power=0.0,
        seed=seeds,
        steps=settings["usam_steps"],
        progress="convex: USAM",
    )
    left = run.observed["distance"]
    checks = [
        Check(
            f"p = 0, quadratics, ρ = .95 of ρ*, ηβ = {at}: distance over that at the start, the "
            f"largest (n = {below.size} runs)",
            predicted="falls to 0",
            measured=f"{below.max():.2g}",
            tolerance="below .01",
            holds=bool(below.max() < 0.01),
        ),
        Check(
            f"p = 0, quadratics, ρ = 1.05 of ρ*, ηβ = {at}: distance over that at the start, the "
            f"smallest (n = {above.size} runs)",
            predicted="grows without bound",
            measured=f"{above.min():.2g}",
            tolerance="above 100",
            holds=bool(above.min() > 100),
        ),
    ]
    for chosen, words, law in (
        (large, "η ≥ 2/(α+β)", "0: USAM converges"),
        (~large, "smaller η", "none made: proved only for smaller ρ"),
    ):
        checks.append(
            Check(
                f"p = 0, random losses, ρ = .95 of ρ*, {words}: largest distance at the end "
                f"(n = {left[chosen].size} runs)",
                predicted=law,
                measured=f"{left[chosen].max():.2g}",
                tolerance="below .01" if chosen is large else "reported only",
                holds=bool(left[chosen].max() < 0.01) if chosen is large else None,
                decides=chosen is large,
            )
        )
    return checks, 2 * below.size + left.size


def descent(settings: Settings) -> Descent:
    """Follow random losses step by step: does the loss ever rise where it must not?"""
    checks, drawn, total, violations = [], [], 0, 0
    for link, name, convex in (
        ("cos", "cosine sums, not convex", False),
        ("log_cosh", "log cosh sums, convex", True),
    ):
        counts, rises, nearest, wrong, steps = _followed(settings, link, convex)
        total, violations = total + steps, violations + wrong
        law = "(βρ·ηβ/(2−ηβ))^(1/p)" if convex else "(βρ·max(1, ηβ/(2−ηβ)))^(1/p)"
        checks += [
            Check(
                f"{name}: steps with ‖g‖ > N = {law} that raise the loss (n = {steps:,} steps)",
                predicted="none",
                measured=f"{wrong}",
                tolerance="none",
                holds=wrong == 0,
            ),
            Check(
                f"{name}: largest ‖g‖/N from which a step did raise the loss",
                predicted="close to 1: the threshold is sharp",
                measured=f"1 − {1 - nearest:.1g}",
                tolerance="above .9",
                holds=nearest > 0.9,
            ),
        ]
        middle = (_EDGES[1:] * _EDGES[:-1]) ** 0.5
        share = np.where(counts > 0, rises / np.maximum(counts, 1), np.nan)
        shown = [None if np.isnan(v) else float(v) for v in share]
        drawn.append(
            Axes(
                name,
                "‖g‖ / N",
                "share of steps that raise the loss",
                [
                    Line(middle.tolist(), shown, "measured", "neutral", points="points"),
                    Line([1.0, 1.0], [0.0, 0.6], "descent threshold", "theory", dash=True),
                ],
                x_log=True,
                y_range=(0.0, 0.6),
            )
        )
    return Descent(checks, drawn, total // settings["descent_steps"], total, violations)


#: Bins of ‖g‖/N, one of which ends at 1.
_EDGES = 10.0 ** np.linspace(-2, 1, 31)


def _followed(settings: Settings, link: Any, convex: bool) -> tuple[Array, Array, float, int, int]:
    """Steps and rises by bins of ‖g‖/N, the largest ‖g‖/N of a rise, rises above 1, all steps."""
    beta = 1.0  # the scale of the losses
    eta = np.array(settings["descent_products"])[:, None, None, None] / beta
    rho = np.array(settings["descent_rho"])[None, :, None, None] / beta
    power = np.array(settings["descent_powers"])[None, None, :, None]
    edge = theory.descent_gradient_norm(eta, rho, beta, power, convex)[..., None]
    counts, rises = np.zeros(len(_EDGES) - 1), np.zeros(len(_EDGES) - 1)
    nearest, wrong, total = 0.0, 0, 0
    for first in range(0, settings["descent_losses"], 200):
        seeds = np.arange(first, min(first + 200, settings["descent_losses"]))
        run = simulate(
            RandomSums(link, beta=beta),
            eta=eta,
            rho=rho,
            power=power,
            seed=seeds,
            steps=settings["descent_steps"],
            observe={q: History(q) for q in ("loss", "grad_norm")},
            progress=f"convex: descent, {link}",
        )
        loss, size = run.observed["loss"], run.observed["grad_norm"][..., :-1] / edge
        up = loss[..., 1:] > loss[..., :-1] + 1e-12 * (1 + np.abs(loss[..., :-1]))
        counts += np.histogram(size, _EDGES)[0]
        rises += np.histogram(size[up], _EDGES)[0]
        nearest = max(nearest, float(size[up].max(initial=0.0)))
        wrong += int((size[up] > 1).sum())
        total += size.size
    return counts, rises, nearest, wrong, total
