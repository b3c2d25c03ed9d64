"""The parts of the claims on the power and the edge; the quadratic from many starts."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.ascent import Between, Method
from thalweg.lab import ManyStarts, Problem, simulate
from thalweg.lab.claims import edges, exponent, exponent_bounce, exponent_chaos


def test_a_run_from_many_starts_is_many_runs():
    starts = [[1.0, -2.0], [0.3, 0.1], [-5.0, 4.0]]
    together = simulate(ManyStarts([3.0, 1.0], starts), eta=0.2, rho=0.1, seed=[2, 0, 1], steps=50)
    for row, k in enumerate([2, 0, 1]):
        alone = simulate(ManyStarts([3.0, 1.0], [starts[k]]), eta=0.2, rho=0.1, steps=50)
        np.testing.assert_array_equal(together.final["w"][row], alone.final["w"])


def test_the_gradient_of_many_starts():
    problem = ManyStarts([3.0, -1.0], [[0.5, 2.0], [1.0, 1.0]])
    w = problem.start(torch.tensor([1, 0]))
    assert w["w"].tolist() == [[1.0, 1.0], [0.5, 2.0]]
    assert problem.gradient(w)["w"].tolist() == [[3.0, -1.0], [1.5, -2.0]]
    assert problem.loss(w).tolist() == [1.0, 0.375 - 2.0]
    by_autograd = Problem.gradient(problem, w)["w"]
    torch.testing.assert_close(problem.gradient(w)["w"], by_autograd, rtol=0, atol=1e-15)
    seen = problem.observe(w, torch.tensor([1, 0]))
    assert seen["top"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("starts", [None, 1.0, [1.0], [[1.0]], [[1.0, "a"]], [[1.0, np.inf]]])
def test_starts_that_are_none_are_refused(starts):
    with pytest.raises(ThalwegError, match="starts must be rows of 2 finite numbers"):
        ManyStarts([1.0, 2.0], starts)


def test_a_seed_without_a_row_is_refused():
    with pytest.raises(ThalwegError, match="from 0 to 1, got 2"):
        simulate(ManyStarts([1.0], [[1.0], [2.0]]), eta=0.1, seed=[0, 2], steps=1)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_stretching_is_the_slope_of_the_map(power):
    w, x = np.array([[0.3, -2.0, 1.1]]), 0.4
    found = exponent_bounce.stretching(w, np.array([x]), np.array([power]))
    slope = 1 - x - (1 - power) * x * np.abs(w) ** -power  # of w - x(w + w|w|^-p)
    np.testing.assert_allclose(found, np.log(np.abs(slope)).mean(1), rtol=1e-8)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_the_interpolated_ascent_literally(mix):
    method = Method(size=Between(mix))
    problem, eta, rho = ManyStarts([2.0, 1.0], [[1.5, -4.0]]), 0.1, 0.3
    g = np.array([3.0, -4.0])
    uphill = np.array([1.5, -4.0]) + rho * (1 - mix + mix / 5) * g
    literal = np.array([1.5, -4.0]) - eta * np.array([2.0, 1.0]) * uphill
    run = simulate(problem, eta=eta, rho=rho, method=method, steps=1)
    np.testing.assert_allclose(run.final["w"], literal, rtol=1e-14)


def test_a_law_that_is_not_cauchys_is_told_apart():
    settings = {**exponent.CLAIM.settings_for("quick"), "chain_steps": 0}
    checks, _, _ = exponent_chaos.cauchy(settings)  # still at the normal starts
    assert [c.holds for c in checks if "Kolmogorov" in c.what] == [False]


@pytest.mark.parametrize(("scale", "holds"), [(1.0, True), (0.8, False), (1.25, False)])
def test_excursions_of_another_size_are_told_apart(scale, holds):
    etas, steps = np.array([0.3, 0.5]), 1_000
    rate = 2 * etas[:, None] * steps / np.pi  # of leaps beyond u: rate / u
    largest = scale * rate / np.random.default_rng(3).exponential(size=(2, 4_000))
    assert exponent_chaos._excursions(etas, np.sort(largest), steps).holds is holds


@pytest.mark.parametrize(
    ("path", "period"), [([1, -1], 2), ([1, 2, -3], 3), ([1, 2, -1, -2], 4), ([1], 1)]
)
def test_periods(path, period):
    assert edges._period(np.tile(path, 48)[None, :48].astype(float)).tolist() == [period]
    drifting = np.arange(48.0)[None]
    assert edges._period(drifting).tolist() == [0]
