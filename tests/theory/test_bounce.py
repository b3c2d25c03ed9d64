"""The bounce: the map against the formulas, on both sides of where it attracts."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError

sizes = st.floats(1e-2, 1e2)
# Every (power, eta * curvature) here has a stable bounce.
STABLE = [(p, x) for p in (0.25, 0.5, 1.0) for x in (0.1, 0.9, 1.5)] + [(1.25, 0.5), (2.0, 1.5)]


def step(w, eta, rho, curvature, power):
    """One step on the quadratic ``curvature * w**2 / 2``."""
    g = curvature * w
    return w - eta * curvature * (w + rho * g / abs(g) ** power)


@pytest.mark.parametrize(("power", "product"), STABLE)
def test_the_map_ends_on_the_bounce(power, product):
    curvature, rho = 3.0, 0.2
    eta = product / curvature
    amplitude = theory.bounce_amplitude(eta, rho, curvature, power)
    w = 2.0 * amplitude
    for _ in range(2000):
        w = step(w, eta, rho, curvature, power)
    assert abs(w) == pytest.approx(amplitude, rel=1e-12)
    assert step(w, eta, rho, curvature, power) == pytest.approx(-w, rel=1e-12)
    # The bounce sits on the edge that its own gradient norm makes.
    edge = theory.edge(eta, rho, curvature * amplitude, power)
    assert edge == pytest.approx(curvature, rel=1e-12)


@given(power=st.floats(0.2, 2), product=st.floats(0.05, 1.95), rho=sizes, curvature=sizes)
def test_a_small_deviation_is_multiplied_as_predicted(power, product, rho, curvature):
    eta = product / curvature
    amplitude = theory.bounce_amplitude(eta, rho, curvature, power)
    deviation = 1e-6
    after = -step(amplitude * (1 + deviation), eta, rho, curvature, power) / amplitude - 1
    # The map's curvature adds a relative error of the order of the deviation itself.
    expected = theory.bounce_multiplier(eta, curvature, power)
    assert after / deviation == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("power", [1.1, 1.25, 1.5, 1.75, 2.0])
def test_the_bounce_attracts_on_one_side_of_its_boundary_only(power):
    boundary = 2 - 2 / power
    rho = curvature = 1.0
    for product, attracts in ((boundary + 0.002, True), (boundary - 0.002, False)):
        multiplier = theory.bounce_multiplier(product, curvature, power)
        assert (abs(multiplier) < 1) is attracts
        amplitude = theory.bounce_amplitude(product, rho, curvature, power)
        w = amplitude * (1 + 1e-6)
        for _ in range(2000):
            w = step(w, product, rho, curvature, power)
        # |multiplier|^2000 is below .02 or above 50.
        assert (abs(abs(w) / amplitude - 1) < 1e-6) is attracts


AMPLITUDES = {0.25: 1.57e9, 0.5: 3.96e4, 1.0: 199.0, 1.5: 34.1, 2.0: 14.1}


@pytest.mark.parametrize(("power", "measured"), AMPLITUDES.items())
def test_the_divergence_threshold_does_not_see_the_radius(power, measured):
    amplitude = theory.bounce_amplitude(1.99, 1.0, 1.0, power)
    assert amplitude == pytest.approx(measured, rel=5e-3)
    inside, outside = 10.0 * amplitude, 1.0
    for _ in range(10_000):
        inside = step(inside, 1.99, 1.0, 1.0, power)
    assert abs(inside) == pytest.approx(amplitude, rel=1e-9)
    for _ in range(10_000):
        outside = step(outside, 2.01, 1.0, 1.0, power)
    assert abs(outside) > 1e40
    with pytest.raises(ThalwegError, match=r"eta \* curvature must be < 2"):
        theory.bounce_amplitude(2.01, 1.0, 1.0, power)


@given(rho=sizes, factor=st.floats(1.01, 10), power=st.floats(0.2, 2), product=st.floats(0.1, 1.9))
def test_the_amplitude_scales_as_the_radius_to_one_over_the_power(rho, factor, power, product):
    small = theory.bounce_amplitude(product, rho, 1.0, power)
    large = theory.bounce_amplitude(product, factor * rho, 1.0, power)
    assert large / small == pytest.approx(factor ** (1 / power), rel=1e-12)


def test_the_amplitude_at_the_ends():
    assert theory.bounce_amplitude(0.1, 0.0, 1.0, 0.5) == 0.0
    assert theory.bounce_amplitude(1.0, 10.0, 1.0, 1e-3) == math.inf


def test_in_twenty_dimensions_only_the_top_mode_is_left():
    hessian = np.linspace(0.1, 1.0, 20)
    eta, rho, power = 0.9, 0.3, 0.5
    w = np.random.default_rng(0).normal(size=20)
    for _ in range(4000):
        g = hessian * w
        w = w - eta * hessian * (w + rho * g / np.linalg.norm(g) ** power)
    assert abs(w[-1]) == pytest.approx(theory.bounce_amplitude(eta, rho, 1.0, power), rel=1e-12)
    assert np.abs(w[:-1]).max() < 1e-80


@pytest.mark.parametrize(("power", "product"), STABLE)
def test_the_other_modes_are_multiplied_as_predicted(power, product):
    rho = 0.2
    amplitude = theory.bounce_amplitude(product, rho, 1.0, power)
    tiny = 1e-7 * amplitude
    for other in (-1.2, -0.3, 0.0, 0.2, 0.5, 0.9, 0.999):
        g = np.array([amplitude, other * tiny])
        after = tiny - product * other * (tiny + rho * g[1] / np.linalg.norm(g) ** power)
        expected = theory.transverse_multiplier(product, 1.0, other)
        assert after / tiny == pytest.approx(expected, rel=1e-9, abs=1e-9)
    inside = [abs(theory.transverse_multiplier(product, 1.0, r)) for r in (1e-3, 0.5, 0.999)]
    assert max(inside) < 1
    assert theory.transverse_multiplier(product, 1.0, 1.001) < -1


@given(power=st.floats(0.2, 2), product=st.floats(0.05, 1.95), rho=sizes, curvature=sizes)
def test_a_power_bounces_as_power_1_does_with_the_effective_radius(power, product, rho, curvature):
    eta = product / curvature
    radius = theory.effective_radius(eta, rho, curvature, power)
    amplitude = theory.bounce_amplitude(eta, rho, curvature, power)
    assert theory.bounce_amplitude(eta, radius, curvature) == pytest.approx(amplitude, rel=1e-9)
    # It is the length of the perturbation there.
    assert radius == pytest.approx(rho * (curvature * amplitude) ** (1 - power), rel=1e-9)
    assert theory.effective_radius(eta, rho, curvature, 1.0) == rho


MOMENTUM = [(0.5, 0.5, 1.0), (0.9, 0.5, 0.5), (0.9, 1.9, 1.0), (0.5, 1.5, 2.0), (0.3, 1.0, 1.25)]


def heavy_ball(now, before, eta, rho, power, momentum):
    """The next iterate on the quadratic ``w**2 / 2``, from the latest two."""
    lifted = now + rho * now / abs(now) ** power
    return now + momentum * (now - before) - eta * lifted


@pytest.mark.parametrize(("momentum", "product", "power"), MOMENTUM)
def test_momentum_bounces_where_predicted(momentum, product, power):
    eta, rho = product * (1 + momentum), 0.3  # the product is of the reduced step size
    a = theory.bounce_amplitude(eta, rho, 1.0, power, momentum)
    assert heavy_ball(a, -a, eta, rho, power, momentum) == pytest.approx(-a, rel=1e-12)
    # In the frame that turns with the bounce: the Jacobian of (now, before), by differences.
    h = 1e-6 * a

    def turned(now, before):
        return -heavy_ball(now, -before, eta, rho, power, momentum)

    by_now = (turned(a + h, a) - turned(a - h, a)) / (2 * h)
    by_before = (turned(a, a + h) - turned(a, a - h)) / (2 * h)
    roots = np.linalg.eigvals(np.array([[by_now, by_before], [1.0, 0.0]]))
    largest = roots[np.argmax(np.abs(roots))]
    expected = theory.bounce_multiplier(eta, 1.0, power, momentum)
    if np.isreal(largest):
        assert largest.real == pytest.approx(expected, abs=1e-6)
    else:
        assert abs(largest) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
@pytest.mark.parametrize("power", [1.25, 2.0])
def test_momentum_leaves_the_boundary_where_it_was(momentum, power):
    boundary = 2 - 2 / power
    for product, attracts in ((boundary + 0.02, True), (boundary - 0.02, False)):
        eta = product * (1 + momentum)
        a = theory.bounce_amplitude(eta, 1.0, 1.0, power, momentum)
        assert (abs(theory.bounce_multiplier(eta, 1.0, power, momentum)) < 1) is attracts
        now, before = a * (1 + 1e-6), -a
        for _ in range(2000):
            now, before = heavy_ball(now, before, eta, 1.0, power, momentum), now
        assert (abs(abs(now) / a - 1) < 1e-6) is attracts


@pytest.mark.parametrize(("momentum", "product", "other"), [(0.5, 0.5, 0.5), (0.9, 1.2, 0.3)])
def test_momentum_multiplies_the_other_modes_as_predicted(momentum, product, other):
    eta, rho = product * (1 + momentum), 0.3
    a = theory.bounce_amplitude(eta, rho, 1.0, 1.0, momentum)
    slope = 1 + momentum - eta * other * (1 + rho * other / a)  # a is the gradient norm, too
    roots = np.abs(np.linalg.eigvals(np.array([[slope, -momentum], [1.0, 0.0]])))
    found = theory.transverse_multiplier(eta, 1.0, other, momentum)
    assert abs(found) == pytest.approx(roots.max(), rel=1e-12)


def test_with_momentum_the_two_point_bounce_is_not_the_only_end():
    momentum, product = 0.5, 0.2
    eta = product * (1 + momentum)
    a = theory.bounce_amplitude(eta, 1.0, 1.0, 1.0, momentum)
    now = before = np.random.default_rng(0).normal(size=2000)
    for _ in range(3000):
        now, before = heavy_ball(now, before, eta, 1.0, 1.0, momentum), now
    on_it = np.isclose(np.abs(now), a, rtol=1e-6) & np.isclose(now, -before, rtol=1e-6)
    # About half of these starts; the rest ends on a cycle of four points, not of two.
    assert 0.3 < on_it.mean() < 0.7
    latest = [now[~on_it], before[~on_it]]
    for _ in range(4):
        latest.insert(0, heavy_ball(*latest[:2], eta, 1.0, 1.0, momentum))
    np.testing.assert_allclose(latest[0], latest[4], rtol=1e-6)
    assert np.abs(latest[0] - latest[2]).min() > 0.1 * a


def test_arrays_equal_floats():
    powers, etas = np.array([[0.5], [1.0]]), np.array([0.1, 0.15, 0.3])
    for function, arguments in (
        (theory.bounce_amplitude, (0.2, 3.0)),
        (theory.effective_radius, (0.2, 3.0)),
    ):
        np.testing.assert_allclose(
            function(etas, *arguments, powers),
            [[function(e, *arguments, p) for e in etas] for p in (0.5, 1.0)],
            rtol=1e-15,
        )
    for mu in (0.0, 0.5):
        np.testing.assert_allclose(
            theory.bounce_multiplier(etas, 3.0, powers, mu),
            [[theory.bounce_multiplier(e, 3.0, p, mu) for e in etas] for p in (0.5, 1.0)],
            rtol=1e-15,
        )
        np.testing.assert_allclose(
            theory.transverse_multiplier(etas, 3.0, 1.0, mu),
            [theory.transverse_multiplier(e, 3.0, 1.0, mu) for e in etas],
            rtol=1e-15,
        )
    assert type(theory.bounce_multiplier(1, 1, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    eta_and_curvature = {"eta": 0.1, "curvature": 1.0}
    bounce = {**eta_and_curvature, "power": 1.0}
    bad_arguments(theory.bounce_multiplier, {**bounce, "momentum": 0.5}, positive=set(bounce))
    bad_arguments(theory.bounce_amplitude, {**bounce, "rho": 0.1}, positive=set(bounce))
    bad_arguments(theory.effective_radius, {**bounce, "rho": 0.1}, positive=set(bounce))
    bad_arguments(functools.partial(theory.transverse_multiplier, other=-0.1), eta_and_curvature)
    with pytest.raises(ThalwegError, match="momentum must be >= 0 and < 1"):
        theory.bounce_multiplier(0.1, 1.0, momentum=1.0)
    with pytest.raises(ThalwegError, match="other must be finite"):
        theory.transverse_multiplier(0.1, 1.0, math.nan)
    # With momentum the bounce exists for larger steps.
    assert theory.bounce_amplitude(2.9, 0.1, 1.0, momentum=0.5) > 0
    with pytest.raises(ThalwegError, match=r"eta \* curvature must be < 2 \* \(1 \+ momentum\)"):
        theory.bounce_amplitude(3.1, 0.1, 1.0, momentum=0.5)
