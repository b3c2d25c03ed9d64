"""The bound on how far USAM travels, against maps and against its own derivation."""

import math

import numpy as np
import pytest

from thalweg import theory
from thalweg.errors import ThalwegError


def travel_of(gradient, x, eta, rho, steps):
    """Length of USAM's path in one dimension, and its end."""
    travel = 0.0
    for _ in range(steps):
        step = -eta * gradient(x + rho * gradient(x))
        travel, x = travel + abs(step), x + step
    return travel, x


def polyak(x):
    """Gradient of x**2 + 3 sin(x)**2, not convex, with smoothness 8 and mu 1/32."""
    return 2 * x + 3 * math.sin(2 * x)


def polyak_loss(x):
    return x**2 + 3 * math.sin(x) ** 2


def test_the_example_has_the_constants_it_is_used_with():
    points = [x for x in np.linspace(-20, 20, 20_000) if x != 0]
    assert min(polyak(x) ** 2 / (2 * polyak_loss(x)) for x in points) > 1 / 32
    assert max(abs(2 + 6 * math.cos(2 * x)) for x in points) == pytest.approx(8, rel=1e-5)


@pytest.mark.parametrize("product", [0.02, 0.3, 1.0, 1.5, 1.99])
@pytest.mark.parametrize("reach", [0.0, 0.3, 0.9])
def test_usam_travels_no_further_than_the_bound(product, reach):
    beta, start = 8.0, 3.0
    eta, rho = product / beta / (1 + reach), reach / beta
    travel, end = travel_of(polyak, start, eta, rho, 20_000)
    assert abs(end) < 1e-6
    assert travel < theory.travel_bound(eta, rho, beta, 1 / 32, polyak_loss(start))


# At reach 0 by every step size; otherwise only where the SAM gradient's largest size decides.
@pytest.mark.parametrize(
    ("reach", "product"),
    [(0.0, 0.3), (0.0, 1.0), (0.0, 1.5), (0.1, 1.2), (0.1, 1.999), (0.9, 1.95)],
)
def test_a_quadratic_attains_the_bound(reach, product):
    beta, start = 3.0, 0.4
    eta, rho = product / beta / (1 + reach), reach / beta
    travel, _ = travel_of(lambda x: beta * x, start, eta, rho, 50_000)
    bound = theory.travel_bound(eta, rho, beta, beta, 0.5 * beta * start**2)
    assert travel == pytest.approx(bound, rel=1e-9)


def test_sam_has_no_bound():
    # On its bounce every step is twice the amplitude long.
    w, eta, rho = 1.0, 0.1, 0.1
    travel = []
    for _ in range(1000):
        step = -eta * (w + rho * math.copysign(1.0, w))
        travel.append(abs(step))
        w += step
    amplitude = theory.bounce_amplitude(eta, rho, 1.0)
    assert travel[-500:] == pytest.approx([2 * amplitude] * 500, rel=1e-6)


def test_the_bound_is_the_best_that_its_derivation_gives():
    # One step's length over its fall of sqrt(loss), maximized by brute force over how far the
    # SAM gradient can differ from the gradient, in size and direction.
    rng = np.random.default_rng(0)
    worst = []
    for _ in range(200):
        reach, mu = rng.uniform(0, 0.98), rng.choice([1e-3, 0.1, 0.6, 1.0])
        eta = rng.uniform(0.01, 1.99) / (1 + reach)
        off = np.linspace(0, reach, 30)[:, None]
        cosine = np.linspace(-1, 1, 401)[None, :]
        squared = 1 + 2 * off * cosine + off**2
        fall = 1 - np.sqrt(1 - 2 * eta * mu * (1 + off * cosine - 0.5 * eta * squared))
        longest = (eta * np.sqrt(2 * mu * squared) / fall).max()
        worst.append(longest / theory.travel_bound(eta, reach, 1.0, mu, 1.0))
    assert max(worst) < 1 + 1e-9
    assert min(worst) > 0.99


@pytest.mark.parametrize(("product", "stays"), [(1.999, True), (2.001, False)])
def test_beyond_usams_threshold_there_is_no_bound(product, stays):
    beta, rho = 3.0, 0.1
    eta = product / beta / (1 + rho * beta)
    _, end = travel_of(lambda x: beta * x, 1.0, eta, rho, 9000)
    assert (abs(end) < 1) is stays
    if stays:
        assert theory.travel_bound(eta, rho, beta, beta, 1.0) < 1e4
    else:
        with pytest.raises(ThalwegError, match="must be < 2, USAM's threshold"):
            theory.travel_bound(eta, rho, beta, beta, 1.0)


def test_arrays_equal_floats():
    etas, rhos = np.array([[0.01], [0.1], [0.5]]), np.array([0.0, 0.1, 0.5])
    bounds = theory.travel_bound(etas, rhos, 1.0, 0.5, 2.0)
    floats = [[theory.travel_bound(e[0], r, 1.0, 0.5, 2.0) for r in rhos] for e in etas]
    np.testing.assert_allclose(bounds, floats, rtol=1e-15)
    assert type(theory.travel_bound(1, 0, 1, 1, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    travel = {"eta": 0.1, "rho": 0.1, "beta": 1.0, "mu": 0.5, "loss_gap": 1.0}
    bad_arguments(theory.travel_bound, travel, positive={"eta", "beta", "mu"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": 1.1}, "mu must be <= beta"),
        ({"rho": 1.0}, r"rho \* beta must be < 1"),
        ({"eta": 1.9}, r"eta \* beta \* \(1 \+ rho \* beta\) must be < 2"),
    ],
)
def test_ranges_without_a_travel_bound_are_refused(arguments, message):
    good = {"eta": 0.1, "rho": 0.1, "beta": 1.0, "mu": 0.5, "loss_gap": 1.0}
    with pytest.raises(ThalwegError, match=message):
        theory.travel_bound(**{**good, **arguments})
