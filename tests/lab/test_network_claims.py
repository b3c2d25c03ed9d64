"""What the claims on networks measure: the clock's books, and the curvature of two gradients."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError, theory
from thalweg.lab.claims import clock_runs, network_edge
from thalweg.lab.claims.clock import CLAIM, _one_curve, _own_error
from thalweg.lab.claims.clock_runs import Ways, clock, flow_clock, thrown
from thalweg.lab.networks import TanhMLP
from thalweg.lab.simulate import simulate
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
    ("speeds", "holds"),
    [([1.0, 4.0], True), ([1.0, 1.0], False), ([1.0, 2.0], False), ([1.0, 20.0], False)],
)
def test_one_curve(speeds, holds):
    """A double radius is four times as fast; other laws are noticed, equal speeds say nothing."""
    t = np.arange(400.0)
    curvature = [[10 * np.exp(-0.005 * speed * t)] for speed in speeds]
    rho = [0.01, 0.01 * (1 if speeds[1] == 1 else 2)]
    found = ways(curvature, [[1.0, 0.05, r] for r in rho])
    assert _one_curve(found, 0.5).holds is holds


@pytest.mark.parametrize(("goes_by", "holds"), [(0.75, True), (1.0, False)])
def test_a_clock_with_a_dial_left_out_must_do_worse(goes_by, holds):
    """The second run goes by p = ¾, as its setting says, or by 1."""
    cells = [[1.0, 0.05, 0.04], [0.75, 0.05, 0.04], [1.0, 0.05, 0.005]]
    at_ten, powers = np.full((1, 2), 10.0), (1.0, goes_by, 1.0)
    speed = [clock([p, *cell[1:]], at_ten, 1)[0, 1] for p, cell in zip(powers, cells, strict=True)]
    t = np.arange(400.0)
    check = _one_curve(ways([[10 * np.exp(-1e-3 * v / min(speed) * t)] for v in speed], cells), 0.9)
    assert "with p = 1 for all, " in check.measured
    assert "η" not in check.measured  # all have the same
    assert check.holds is holds


def test_most_settings_must_arrive():
    t = np.arange(100.0)
    way, rest = [10 * np.exp(-0.01 * t)], [10 + 0 * t]
    cells = [[1.0, 0.05, 0.01], [1.0, 0.05, 0.02]]
    check = _one_curve(ways([way, rest], cells), 0.5)
    assert check.holds is False
    assert "not reached" in check.measured


def test_who_is_on_the_way_counts_with_the_clock_it_has():
    """Two arrive by the law; the third stays where it is, and its clock runs on."""
    t = np.arange(400.0)
    cells = [[1.0, 0.05, rho] for rho in (0.01, 0.02, 0.03)]
    moving = [[10 * np.exp(-0.005 * speed * t)] for speed in (1, 4)]
    late = ways([*moving, [10 * np.exp(-0.005 * 9 * 0.01 * t)]], cells)
    assert _one_curve(ways(moving, cells[:2]), 0.5).holds is True
    assert _one_curve(late, 0.5).holds is False


def test_the_laws_own_error():
    """It is (a + r)² times the mean of −dλ/dτ over λ², and runs that obey the law are within."""
    t, cells = np.arange(400.0), [[1.0, 0.05, 0.01], [1.0, 0.05, 0.02]]
    found = ways([[10 * np.exp(-0.005 * speed * t)] for speed in (1, 4)], cells)
    check = _own_error(found, 0.5)
    length = theory.bounce_amplitude(0.05, 0.02, 10.0) + 0.02
    own = length**2 * 0.5 / (10 * found.passage(0.5, found.tau).min())
    assert check.predicted.startswith(f"{1 + own:.4f}")
    assert check.holds is True
    off = ways([[10 * np.exp(-0.005 * speed * t)] for speed in (1, 4.2)], cells)
    assert _own_error(off, 0.5).holds is False
    alone = ways([[10 * np.exp(-0.005 * speed * t)] for speed in (0, 4)], cells)
    assert _own_error(alone, 0.5).holds is None


def test_the_limit_of_small_step_size():
    """At small ηλ its clock is τ, elsewhere slower by (2/(2 − ηλ))^(2/p)."""
    curvature = np.array([[10.0, 10.0, 10.0]])
    for power, eta in ((1.0, 1e-6), (0.75, 0.1)):
        cell = [power, eta, 0.02]
        factor = (2 / (2 - eta * 10)) ** (2 / power)
        np.testing.assert_allclose(
            clock(cell, curvature, 5)[0, 1:], factor * flow_clock(cell, curvature, 5)[0, 1:]
        )


def test_a_power_above_one_is_thrown_out_of_the_valley():
    part = {**CLAIM.settings["networks"][0], "examples": 40, "search_steps": 3000, "steps": 1}
    found = clock_runs.ways(part, every=1, noise=1e-4)
    check = thrown(part, found, 1e-4)
    assert check.holds, check.measured
    assert check.measured.endswith("1.000000 and 1.000000")


def test_a_search_that_diverges_has_found_no_minimum():
    """Of seeds 0, 1 and 2 of these digits, that of seed 1 diverges at this step size."""
    part = {**clock_runs.CONV, "minima": 2, "search_steps": 300}
    minima, seeds = clock_runs._search(part)
    assert seeds == [0, 2]
    assert len(minima["weight1"]) == 3  # the row of a seed is that of its number
    with pytest.raises(ThalwegError, match="0 of 4 did: use a smaller one"):
        clock_runs._search({**part, "minima": 1, "search_eta": 100.0})


def test_nothing_is_left_to_look_at_where_every_network_diverged():
    run = simulate(TanhMLP(10), eta=1e3, seed=[0, 1], steps=400, compile=False)
    assert run.diverged.all()
    assert run.observed["lambda_max"].shape == (2,)


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
