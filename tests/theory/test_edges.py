"""The edge and its thresholds, each on both sides, against the map itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError

sizes = st.floats(1e-3, 1e3)
powers = st.floats(0, 2)


def step(w, eta, rho, curvature, power):
    """One step on the quadratic ``curvature * w**2 / 2``."""
    g = curvature * w
    return w - eta * curvature * (w + rho * g / abs(g) ** power)


@given(eta=sizes, rho=st.floats(0, 1e3), grad_norm=sizes, power=powers)
def test_a_step_at_the_edge_reflects(eta, rho, grad_norm, power):
    curvature = theory.edge(eta, rho, grad_norm, power)
    w = grad_norm / curvature
    assert step(w, eta, rho, curvature, power) == pytest.approx(-w, rel=1e-12)


@given(eta=sizes, rho=st.floats(0, 1e3), grad_norm=sizes, power=powers)
def test_a_step_shrinks_below_the_edge_and_grows_above_it(eta, rho, grad_norm, power):
    edge = theory.edge(eta, rho, grad_norm, power)
    for factor, side in ((0.999, -1), (1.001, 1)):
        w = grad_norm / (factor * edge)
        after = step(w, eta, rho, factor * edge, power)
        assert math.copysign(1, abs(after) - w) == side


@given(eta=sizes, grad_norm=sizes, power=powers)
def test_without_radius_the_edge_is_that_of_gradient_descent(eta, grad_norm, power):
    assert theory.edge(eta, 0.0, grad_norm, power) == pytest.approx(2 / eta, rel=1e-15)


@given(eta=sizes, rho=st.floats(1e-3, 1e3), grad_norm=sizes, power=powers)
def test_the_edge_falls_with_the_radius_and_rises_with_the_gradient(eta, rho, grad_norm, power):
    edge = theory.edge(eta, rho, grad_norm, power)
    assert edge < theory.edge(eta, 0.9 * rho, grad_norm, power) < 2 / eta * (1 + 1e-15)
    assert edge <= theory.edge(eta, rho, 1.1 * grad_norm, power) * (1 + 1e-15)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_edge_vanishes_with_the_gradient_without_overflow(power):
    # For small g the root alone remains: the edge tends to sqrt(2 g^p / (eta rho)).
    small = 1e-200
    expected = math.sqrt(2 / (0.1 * 0.05)) * small ** (power / 2)
    assert theory.edge(0.1, 0.05, small, power) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_edge_is_the_jacobian_s_condition_across_the_gradient_not_along_it(power):
    eta, rho, curvatures = 0.1, 0.3, np.array([4.0, 7.0])
    w = np.array([0.5, 0.0])
    norm = curvatures[0] * w[0]

    def move(w):
        g = curvatures * w
        return w - eta * curvatures * (w + rho * g / np.linalg.norm(g) ** power)

    small = 1e-6
    jacobian = np.array([(move(w + e) - move(w - e)) / (2 * small) for e in small * np.eye(2)])
    pull = eta * rho * curvatures**2 / norm**power
    along = 1 - eta * curvatures[0] - (1 - power) * pull[0]
    across = 1 - eta * curvatures[1] - pull[1]
    np.testing.assert_allclose(jacobian, np.diag([along, across]), atol=1e-8)
    # The edge as a function of its own argument: exactly where `across` would be -1.
    edge = theory.edge(eta, rho, norm, power)
    assert eta * edge * (1 + rho * edge / norm**power) == pytest.approx(2, rel=1e-12)


def test_measured_values():
    # The radius at which the edge of USAM (gradient norm 1, power 0) is 17.08, ..., 4.00.
    edges = [theory.edge(0.1, rho, power=0.0) for rho in (0.01, 0.03, 0.1, 0.3, 1.0)]
    assert edges == pytest.approx([17.08, 14.07, 10.00, 6.67, 4.00], abs=5e-3)
    etas = [theory.largest_stable_eta(rho, 10.0) for rho in (0.05, 0.2, 1.0)]
    assert etas == pytest.approx([0.13333, 0.06667, 0.018182], abs=5e-6)


def end_of_usam(eta, rho, curvature):
    w = 1.0
    for _ in range(20_000):
        w = step(w, eta, rho, curvature, power=0)
    return abs(w)


@pytest.mark.parametrize("curvature", [0.5, 10.0])
@pytest.mark.parametrize("product", [0.3, 1.5])
def test_usam_on_both_sides_of_its_largest_radius(curvature, product):
    eta = product / curvature
    rho = theory.largest_stable_rho(eta, curvature)
    # A thousandth of the radius moves the multiplier by (2 - product) / 1000 from -1.
    assert end_of_usam(eta, 0.999 * rho, curvature) < 1e-3
    assert end_of_usam(eta, 1.001 * rho, curvature) > 1e3


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.2, 1.0])
def test_usam_on_both_sides_of_its_largest_step_size(rho):
    eta = theory.largest_stable_eta(rho, curvature=10.0)
    assert end_of_usam(0.999 * eta, rho, 10.0) < 1e-16
    assert end_of_usam(1.001 * eta, rho, 10.0) > 1e16


@given(eta=sizes, product=st.floats(1e-3, 1.9))
def test_the_thresholds_and_the_edge_at_power_0_are_one_condition(eta, product):
    curvature = product / eta
    rho = theory.largest_stable_rho(eta, curvature)
    assert theory.largest_stable_eta(rho, curvature) == pytest.approx(eta, rel=1e-12)
    assert theory.edge(eta, rho, power=0.0) == pytest.approx(curvature, rel=1e-12)


def test_arrays_equal_floats():
    etas, rhos = np.array([[0.1], [0.4]]), np.array([0.0, 0.05, 1.0])
    edges = theory.edge(etas, rhos, grad_norm=0.3, power=0.7)
    assert edges.shape == (2, 3)
    floats = [[theory.edge(eta, rho, 0.3, 0.7) for rho in (0.0, 0.05, 1.0)] for eta in (0.1, 0.4)]
    np.testing.assert_allclose(edges, floats, rtol=1e-15)
    np.testing.assert_allclose(
        theory.largest_stable_eta(rhos, 3.0), [theory.largest_stable_eta(r, 3.0) for r in rhos]
    )
    np.testing.assert_allclose(
        theory.largest_stable_rho(etas, 3.0),
        [[theory.largest_stable_rho(e, 3.0)] for e in (0.1, 0.4)],
    )
    assert type(theory.edge(1, 0)) is float
    momenta, decays = np.array([[0.0], [0.9]]), np.array([0.0, 0.1, 0.3])
    for call in (
        lambda m, d: theory.edge(0.1, 0.05, 0.3, 0.7, m, d, True, True),
        lambda m, d: theory.largest_stable_rho(0.1, 3.0, 0.3, 0.7, m, d, True),
        lambda m, d: theory.largest_stable_eta(0.05, 3.0, 0.3, 0.7, m, d, False, True),
    ):
        floats = [[call(m, d) for d in (0.0, 0.1, 0.3)] for m in (0.0, 0.9)]
        np.testing.assert_allclose(call(momenta, decays), floats, rtol=1e-15)


def test_every_bad_argument_is_named(bad_arguments):
    more = {"grad_norm": 1.0, "power": 1.0, "momentum": 0.9, "weight_decay": 0.1}
    for function, two, positive in (
        (theory.edge, {"eta": 0.1, "rho": 0.05}, {"eta"}),
        (theory.largest_stable_rho, {"eta": 0.1, "curvature": 1.0}, {"eta", "curvature"}),
        (theory.largest_stable_eta, {"rho": 0.1, "curvature": 1.0}, {"curvature"}),
    ):
        bad_arguments(function, two | more, positive | {"grad_norm"})
        with pytest.raises(ThalwegError, match=r"^momentum must be >= 0 and < 1"):
            function(**two, momentum=1.0)
        for name in ("nesterov", "decoupled"):
            with pytest.raises(ThalwegError, match=rf"^{name} must be True or False, got 0.9"):
                function(**two, **{name: 0.9})
        for size in (1e-200, 1e200):
            with pytest.raises(
                ThalwegError, match=r"^grad_norm must be such that a float holds its power"
            ):
                function(**two, grad_norm=size, power=9.0)


@pytest.mark.parametrize("curvature", [20.0, 25.0, np.array([1.0, 25.0])])
def test_no_radius_is_stable_where_the_base_optimizer_is_not(curvature):
    with pytest.raises(ThalwegError, match=r"^curvature must be < the edge of this eta at rho = 0"):
        theory.largest_stable_rho(0.1, curvature)
    assert np.all(theory.largest_stable_rho(0.1, curvature, momentum=0.9) > 0)
