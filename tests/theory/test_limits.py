"""Where the map goes, against the formulas: the bounce, divergence, the neuron, loss scaling."""

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
    for product, attracts in ((boundary + 0.02, True), (boundary - 0.02, False)):
        multiplier = theory.bounce_multiplier(product, curvature, power)
        assert (abs(multiplier) < 1) is attracts
        amplitude = theory.bounce_amplitude(product, rho, curvature, power)
        w = amplitude * (1 + 1e-6)
        for _ in range(200):
            w = step(w, product, rho, curvature, power)
        # |multiplier|^200 is below .02 or above 50.
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


SLOPES = {"log_cosh": math.tanh, "sqrt": lambda z: z / math.hypot(1.0, z)}


def train_neuron(power, eta, rho, x, y, steps, loss="log_cosh"):
    """Squared second weight after ``steps`` steps on ``loss(x * y)``."""
    slope = SLOPES[loss]
    for _ in range(steps):
        f = slope(x * y)
        size = abs(f) * math.hypot(x, y)
        if size == 0.0:
            break
        lift = rho * f / size**power
        above = slope((x + lift * y) * (y + lift * x))
        x, y = x - eta * above * (y + lift * x), y - eta * above * (x + lift * y)
    return y * y


@pytest.mark.parametrize("loss", SLOPES)
@pytest.mark.parametrize(("eta", "rho"), [(0.1, 0.0), (0.1, 0.1), (0.05, 0.0), (0.05, 0.02)])
@pytest.mark.parametrize("start", [(1.0, 61**0.5), (0.5, 2.0)], ids=["above", "below"])
def test_gradient_descent_and_usam_stop(loss, eta, rho, start):
    predicted = theory.single_neuron_limit(0.0, eta, rho, *start)
    # Leading order in eta: the measured gap is 1.0 eta (sqrt) to 1.5 eta (log cosh) below the
    # edge, with start-dependent corrections of the same order for starts already below it.
    assert train_neuron(0.0, eta, rho, *start, 6000, loss) == pytest.approx(predicted, abs=2 * eta)


def test_measured_limits():
    far, near = (1.0, 61**0.5), (2.0, 40**0.5)
    predicted = [
        theory.single_neuron_limit(0, 0.1, 0.0, *far),
        theory.single_neuron_limit(0, 0.05, 0.0, *far),
        theory.single_neuron_limit(0, 0.4, 0.0, *near),
        theory.single_neuron_limit(0, 0.1, 0.1, *far),
        theory.single_neuron_limit(0, 0.05, 0.02, *far),
        theory.single_neuron_limit(0, 0.4, 0.1, *near),
    ]
    assert predicted == pytest.approx([20, 40, 5, 10, 26.23, 3.66], abs=5e-3)
    assert train_neuron(0, 0.1, 0.0, *far, 2077) == pytest.approx(19.85, abs=5e-3)
    assert train_neuron(0, 0.1, 0.1, *far, 771) == pytest.approx(9.864, abs=5e-4)
    assert train_neuron(1, 0.1, 0.1, *far, 1499) == pytest.approx(0.315, abs=5e-4)
    assert train_neuron(1, 0.1, 0.1, *far, 2999) == pytest.approx(0.015, abs=5e-4)


def test_powers_up_to_1_go_on_to_the_saddle():
    start = (1.0, 61**0.5)
    # Powers below 1 slow down algebraically: at 10,000 steps they are this far, and still moving.
    for power, measured in ((0.5, 3.64), (0.75, 0.952), (0.9, 0.068)):
        assert theory.single_neuron_limit(power, 0.1, 0.1, *start) == 0.0
        assert train_neuron(power, 0.1, 0.1, *start, 10_000) == pytest.approx(measured, rel=1e-2)
    assert theory.single_neuron_limit(1.0, 0.1, 0.1, *start) == 0.0
    assert train_neuron(1.0, 0.1, 0.1, *start, 10_000) < 1e-6


@given(eta=sizes, rho=sizes, x0=sizes, excess=st.floats(1e-2, 1e2))
def test_the_limit_of_usam_lies_below_that_of_gradient_descent(eta, rho, x0, excess):
    y0 = math.hypot(x0, excess)
    usam = theory.single_neuron_limit(0.0, eta, rho, x0, y0)
    descent = theory.single_neuron_limit(0.0, eta, 0.0, x0, y0)
    assert 0 < usam <= descent <= 2 / eta * (1 + 1e-15)
    # Without a radius every power is gradient descent.
    assert theory.single_neuron_limit(0.7, eta, 0.0, x0, y0) == descent


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_loss_scaling_keeps_the_trajectory(power):
    def run(eta, rho, scale):
        w = np.array([1.0, -0.3])
        hessian = scale * np.array([2.0, 0.7])
        for _ in range(50):
            g = hessian * w
            w = w - eta * hessian * (w + rho * g / np.linalg.norm(g) ** power)
        return w

    scale = 4.0
    scaled = run(0.3 / scale, theory.rho_for_loss_scale(0.05, scale, power), scale)
    np.testing.assert_allclose(scaled, run(0.3, 0.05, 1.0), rtol=1e-9)
    assert theory.rho_for_loss_scale(0.05, scale, 1.0) == 0.05


def test_arrays_equal_floats():
    powers, rhos = np.array([[0.0], [0.5], [1.0]]), np.array([0.0, 0.05, 0.2])
    limits = theory.single_neuron_limit(powers, 0.1, rhos, 1.0, 5.0)
    floats = [[theory.single_neuron_limit(p, 0.1, r, 1.0, 5.0) for r in rhos] for p in (0, 0.5, 1)]
    np.testing.assert_allclose(limits, floats, rtol=1e-15)
    above = powers[1:]
    np.testing.assert_allclose(
        theory.bounce_amplitude(0.1, rhos, 3.0, above),
        [[theory.bounce_amplitude(0.1, r, 3.0, p) for r in rhos] for p in (0.5, 1.0)],
        rtol=1e-15,
    )
    np.testing.assert_allclose(
        theory.bounce_multiplier(rhos + 0.1, 3.0, above),
        [[theory.bounce_multiplier(e + 0.1, 3.0, p) for e in rhos] for p in (0.5, 1.0)],
        rtol=1e-15,
    )
    # Whole numbers too, where numpy refuses negative powers of integers.
    scaled = theory.rho_for_loss_scale(rhos, np.array([1, 2, 4]), 0)
    np.testing.assert_allclose(scaled, [0.0, 0.025, 0.05])
    assert type(theory.bounce_multiplier(1, 1, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    bounce = {"eta": 0.1, "curvature": 1.0, "power": 1.0}
    bad_arguments(theory.bounce_multiplier, bounce)
    bad_arguments(theory.bounce_amplitude, {**bounce, "rho": 0.1}, positive=set(bounce))
    scaling = {"rho": 0.1, "scale": 2.0, "power": 0.0}
    bad_arguments(theory.rho_for_loss_scale, scaling, positive={"scale"})
    neuron = {"power": 0.5, "eta": 0.1, "rho": 0.1}
    limit = functools.partial(theory.single_neuron_limit, x0=1.0, y0=2.0)  # signed: see below
    bad_arguments(limit, neuron, positive={"eta"})


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"power": 1.5}, "power must be from 0 to 1"),
        ({"x0": 0.0}, "x0 must be other than 0"),
        ({"y0": 0.5}, "y0 must be larger than x0 in modulus"),
        ({"y0": -1.0}, "y0 must be larger than x0 in modulus"),
        ({"x0": "1"}, "x0 must be a number"),
        ({"y0": math.nan}, "y0 must be finite"),
    ],
)
def test_starts_without_a_limit_are_refused(spoiled, message):
    good = {"power": 0.5, "eta": 0.1, "rho": 0.1, "x0": 1.0, "y0": 2.0}
    with pytest.raises(ThalwegError, match=message):
        theory.single_neuron_limit(**{**good, **spoiled})
