"""The saddle, and the traps as they are measured on it."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError, theory
from thalweg.lab import Problem, Saddle, simulate
from thalweg.lab.claims import saddle_traps, saddles


def test_the_gradient_of_the_saddle():
    problem = Saddle(4.0, [-1.0, -0.5], [[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]])
    w = problem.start(torch.tensor([0, 1]))
    assert problem.loss(w).tolist() == pytest.approx([2 - 2 - 2.25, 0.02 - 0.02 - 0.0225])
    np.testing.assert_allclose(problem.gradient(w)["w"][0], [4.0, -2.0, -1.5])
    torch.testing.assert_close(problem.gradient(w), Problem.gradient(problem, w))
    seen = problem.observe(w, torch.tensor([0, 1]))
    np.testing.assert_allclose(seen["down"][0], 13**0.5)
    np.testing.assert_allclose(seen["top"], [1.0, 0.1])


@pytest.mark.parametrize(
    ("up", "down", "match"),
    [
        (-1.0, [-1.0], "up must be"),
        (0.0, [-1.0], "up must be"),
        (1.0, [1.0], r"down must be numbers below 0, got \[1\.0\]: at a saddle"),
        (1.0, [-1.0, 0.0], "down must be numbers below 0"),
        (1.0, [], r"^down must be a list of numbers, at least one, got \[\]$"),
        (1.0, -1.0, r"^down must be a list .*, got -1\.0: write \[-1\.0\]$"),
    ],
)
def test_what_is_no_saddle_is_refused(up, down, match):
    with pytest.raises(ThalwegError, match=match):
        Saddle(up, down, [[1.0] * (1 + len(down))] if isinstance(down, list) else [[1.0]])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_step_at_the_saddle_literally(power):
    w, curvature, eta, rho = np.array([0.3, -0.7]), np.array([4.0, -1.0]), 0.1, 0.2
    g = curvature * w
    literal = w - eta * curvature * (w + rho * g * np.linalg.norm(g) ** -power)
    run = simulate(Saddle(4.0, [-1.0], [w]), eta=eta, rho=rho, power=power, steps=1)
    np.testing.assert_allclose(run.final["w"], literal, rtol=1e-13)


@pytest.mark.parametrize("power", [0.25, 0.5, 0.75])
def test_the_largest_step_solves_its_equation(power):
    s = saddle_traps.largest_step(power)
    left = power**power * (1 - power) ** (1 - power) * s
    assert left == pytest.approx((1 + s) ** (1 - power), rel=1e-9)
    assert theory.saddle_trap(1.001 * s, 0.5, -1.0, power) == 0


def test_rates_on_the_bounce_are_those_of_single_runs():
    settings = {"held_steps": 5, "held_settle": 0}
    products, ratios = np.array([0.5, 1.2]), np.array([0.4, 0.9, 3.0])
    found = saddles._rates(settings, 1.0, products, ratios)
    for i, x in enumerate(products):
        for k, r in enumerate(ratios):
            start = [[theory.bounce_amplitude(x, 1.0, 1.0), 1e-12]]
            run = simulate(Saddle(1.0, [-r], start), eta=x, rho=1.0, steps=5)
            alone = np.log(abs(run.final["w"][1]) / 1e-12) / 5
            assert found[i, k] == pytest.approx(alone, abs=1e-9)


def test_what_a_check_leaves_out_is_named():
    settings = {**saddles.CLAIM.settings_for("quick"), "map_cells": 4, "held_products": [0.2, 1.0]}
    (check, _), _, _ = saddles._held({**settings, "held_powers": [[1.5, 0.0], [1.0, 0.5]]})
    assert "8 of 8" in check.measured
    assert "attract, or slowly (a factor above .95): (1.5, 0) at 0.2" in check.tolerance
    assert check.tolerance.endswith("attract as well, from most starts: (1, 0.5) at 0.2")
    (check, _), _, _ = saddles._held({**settings, "held_powers": [[0.5, 0.0]]})
    assert "Left out" not in check.tolerance
