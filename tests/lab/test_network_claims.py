"""What the claims on networks measure: the clock's books, and the curvature of two gradients."""

import numpy as np
import pytest
import torch

from thalweg import theory
from thalweg.lab.claims import clock_runs, network_edge
from thalweg.lab.claims.clock import CLAIM, _one_curve, _thrown
from thalweg.lab.claims.clock_runs import Ways, clock
from thalweg.lab.networks import TanhMLP
from thalweg.lab.spectrum import flat, hessian


def ways(curvature, cells, every=10):
    """Ways whose curvature is given: settings first, then minima, then looks."""
    c = np.array(curvature, dtype=float)
    tau = np.stack([clock(cell, c[i], every) for i, cell in enumerate(cells)])
    return Ways("a net", cells, {"lambda_max": c}, tau, every, {})


def test_a_passage_is_interpolated():
    found = ways([[[10, 8, 4, 3], [10, 10, 10, 6]]], [[1.0, 0.1, 0.1]])
    steps = np.broadcast_to(10.0 * np.arange(4), found.tau.shape)
    np.testing.assert_allclose(found.passage(0.5, steps), [[17.5, np.nan]])
    np.testing.assert_allclose(found.passage(0.9, steps), [[5, 22.5]])
    tau = found.tau[0, 0]
    np.testing.assert_allclose(
        found.passage(0.5, found.tau)[0, 0], tau[1] + 0.75 * (tau[2] - tau[1])
    )


def test_the_clock_is_theorys_and_stops_where_the_bounce_does():
    curvature = np.array([[10.0, 9.0, 8.0], [10.0, 3.9, 8.0], [20.1, 3.0, 8.0]])
    np.testing.assert_array_equal(
        clock([1.0, 0.1, 0.02], curvature[:1], 5),
        theory.drift_clock(0.1, 0.02, curvature[:1], 1.0, every=5),
    )
    # p = 5/4 has a stable bounce for ηλ > .4 alone, and no power has one from ηλ = 2 on
    tau = clock([1.25, 0.1, 0.02], curvature, 5)
    assert np.isnan(tau).tolist() == [[False] * 3, [False, True, True], [True] * 3]


@pytest.mark.parametrize(
    ("speeds", "holds"), [([1.0, 4.0], True), ([1.0, 1.0], False), ([1.0, 5.5], False)]
)
def test_one_curve(speeds, holds):
    """A double radius is four times as fast; other speeds are noticed, one alone says nothing."""
    t = np.arange(400.0)
    curvature = [[10 * np.exp(-0.005 * speed * t)] for speed in speeds]
    rho = [0.01, 0.01 * (1 if speeds[1] == 1 else 2)]
    found = ways(curvature, [[1.0, 0.05, r] for r in rho])
    assert _one_curve(found, 0.5, 0.2).holds is holds


def test_a_level_that_one_setting_alone_reaches_shows_nothing():
    t = np.arange(100.0)
    found = ways([[10 * np.exp(-0.01 * t)], [10 + 0 * t]], [[1.0, 0.05, 0.01], [1.0, 0.05, 0.01]])
    check = _one_curve(found, 0.5, 0.2)
    assert check.holds is False
    assert "not reached" in check.measured


def test_a_power_above_one_is_thrown_out_of_the_valley():
    part = {**CLAIM.settings["networks"][0], "examples": 40, "search_steps": 3000, "steps": 1}
    found = clock_runs.ways(part, every=1, noise=1e-4)
    check = _thrown(part, found, 1e-4)
    assert check.holds, check.measured
    assert check.measured.endswith("1.000000 and 1.000000")


def test_free_curvature_is_the_hessian_averaged_over_the_segment():
    net, seeds = TanhMLP(30), torch.tensor([0, 1])
    w, batch, rho = net.start(seeds), net.stream(seeds)(0), 0.3
    g = net.gradient(w, batch)
    size = torch.linalg.vector_norm(flat(g), dim=1)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    average = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        there = {k: w[k] + node * rho * g[k] / size.reshape(-1, 1, 1) for k in w}
        unit = flat(g) / size[:, None]
        average = average + weight * (hessian(net, there, batch)[1](unit) * unit).sum(1)
    free = network_edge.free_curvature(net, {k: v.numpy() for k, v in w.items()}, seeds, rho)
    np.testing.assert_allclose(free, average, rtol=1e-10)


def test_a_run_that_diverged_is_not_on_the_edge():
    slope = np.array([1.0, np.inf, np.nan, 0.0])
    np.testing.assert_array_equal(
        network_edge._edge(0.1, 0.05, slope, 1.0), [theory.edge(0.1, 0.05, 1.0), *3 * [np.nan]]
    )
    check = network_edge._on_the_edge(
        network_edge.CLAIM.settings, (1.0, 0.05), np.array([1.0, np.nan]), np.array([5.0, np.nan])
    )
    assert check.holds is False
