"""Floors on convex losses: attained where they are sharp, kept by random losses everywhere."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError

ALPHA, BETA, RHO = 1.0, 10.0, 0.1
# eta * beta; the largest final excess found in a search before this code; the bound then.
FLOORS = [(1.3, 0.172, 1.72), (1.6, 0.800, 5.00), (1.85, 7.6056, 7.6056), (1.95, 76.05, 76.05)]


def quadratic(product, rho, power, steps=3000):
    """The distances that follow on the quadratic of curvature ``BETA``, from its bounce."""
    eta = product / BETA
    w, seen = 1.01 * theory.bounce_amplitude(eta, rho, BETA, power), []
    for _ in range(steps):
        g = BETA * w
        w = w - eta * BETA * (w + rho * g / abs(g) ** power)
        seen.append(abs(w))
    return max(seen[-10:])


@functools.cache
def losses_of(seed, dimension):
    return Losses(seed, dimension)


class Losses:
    """Random strongly convex losses: a stretched bowl and softened hinges, minimum found."""

    def __init__(self, seed, dimension):
        draw = np.random.default_rng(seed)
        hinges = draw.integers(1, 4)
        self.to = draw.normal(size=(hinges, dimension)) * np.exp(draw.normal(size=(hinges, 1)))
        self.at, self.sharp = draw.normal(size=hinges), np.exp(2 * draw.normal(size=hinges))
        bend = np.linalg.norm(self.to.T @ (self.sharp[:, None] * self.to), 2)
        # Scaled so that the Hessian lies between ALPHA and BETA.
        self.weight = (BETA - ALPHA) / bend
        minimum = np.zeros(dimension)
        for _ in range(4000):
            minimum = minimum - self.gradient(minimum) / BETA
        assert np.linalg.norm(self.gradient(minimum)) < 1e-10
        self.minimum, self.least = minimum, self.loss(minimum)

    def loss(self, w):
        z = self.sharp * (w @ self.to.T + self.at)
        bends = np.logaddexp(z, -z) / self.sharp
        return self.weight * bends.sum(-1) + ALPHA * np.square(w).sum(-1) / 2

    def gradient(self, w):
        return self.weight * np.tanh(self.sharp * (w @ self.to.T + self.at)) @ self.to + ALPHA * w


def final(losses, product, rho, power, dimension, steps=800):
    """Every iterate's excess and distance, by step and start."""
    eta = product / BETA
    w = losses.minimum + np.random.default_rng(1).normal(size=(8, dimension))
    excess, distance = [], []
    for _ in range(steps):
        g = losses.gradient(w)
        w = w - eta * losses.gradient(w + rho * g / np.linalg.norm(g, axis=1)[:, None] ** power)
        excess.append(losses.loss(w) - losses.least)
        distance.append(np.linalg.norm(w - losses.minimum, axis=1))
    return np.array(excess), np.array(distance)


@pytest.mark.parametrize(("product", "measured", "bound"), FLOORS)
def test_floors_measured_before(product, measured, bound):
    floor = theory.convex_floor(product / BETA, RHO, ALPHA, BETA)
    assert floor == pytest.approx(bound, rel=3e-3)
    # The search's worst case is the quadratic's bounce.
    assert BETA * quadratic(product, RHO, 1.0) ** 2 / 2 == pytest.approx(measured, rel=3e-3)


@pytest.mark.parametrize("power", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("product", [1.819, 1.85, 1.95])
def test_above_two_over_alpha_plus_beta_the_quadratic_attains_the_floors(power, product):
    eta = product / BETA
    assert eta > 2 / (ALPHA + BETA)
    end = quadratic(product, RHO, power)
    assert theory.convex_distance_floor(eta, RHO, ALPHA, BETA, power) == pytest.approx(end)
    assert theory.convex_floor(eta, RHO, ALPHA, BETA, power) == pytest.approx(BETA * end**2 / 2)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("product", [0.1, 0.5, 0.95, 1.3, 1.6, 1.85])
def test_no_random_loss_stays_above_its_floors(product, power):
    eta = product / BETA
    floor = theory.convex_floor(eta, RHO, ALPHA, BETA, power)
    near = theory.convex_distance_floor(eta, RHO, ALPHA, BETA, power)
    descent = theory.descent_gradient_norm(eta, RHO, BETA, power, convex=True) ** 2 / 2 / ALPHA
    rate = theory.convex_rate(eta, ALPHA, BETA, power)
    for seed in range(9):
        dimension = 1 + seed % 3
        losses = losses_of(seed, dimension)
        excess, distance = final(losses, product, RHO, power, dimension)
        assert excess[-200:].max() <= floor * (1 + 1e-9)
        assert distance[-200:].max() <= near * (1 + 1e-9)
        # On the way down every step keeps to the rate, too.
        over = excess - descent
        above = over[:-1] > 1e-9
        assert (over[1:][above] <= rate * over[:-1][above] + 1e-9).all()


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("product", [0.2, 1.0, 1.9])
def test_the_distance_keeps_to_its_rate(product, power):
    eta = product / BETA
    kappa = max(1 - eta * ALPHA, product - 1)
    floor = (eta * BETA**2 * RHO / (1 - kappa)) ** (1 / power) / BETA
    rate = theory.convex_distance_rate(eta, ALPHA, BETA, power)
    for seed in range(6):
        losses = losses_of(seed, 2)
        start = losses.minimum + (floor + 10 ** np.linspace(-3, 2, 40))[:, None] * [[0.6, 0.8]]
        g = losses.gradient(start)
        lifted = start + RHO * g / np.linalg.norm(g, axis=1)[:, None] ** power
        end = np.linalg.norm(start - eta * losses.gradient(lifted) - losses.minimum, axis=1)
        before = np.linalg.norm(start - losses.minimum, axis=1)
        assert (end - floor <= rate * (before - floor) + 1e-12).all()


def test_for_small_steps_the_quadratic_is_not_the_worst_loss():
    # Why the floor there is more than the quadratic's bounce: this loss stays 2.6 times as high.
    bounce = BETA * theory.bounce_amplitude(0.02, RHO, BETA) ** 2 / 2
    excess, _ = final(losses_of(11, 3), 0.2, RHO, 1.0, 3)
    assert excess[-400:-200].max() == pytest.approx(excess[-200:].max())
    assert 2.5 * bounce < excess[-200:].max() < theory.convex_floor(0.02, RHO, ALPHA, BETA)


def test_small_steps_have_a_small_floor():
    floors = [theory.convex_floor(x / BETA, RHO, ALPHA, BETA) for x in (0.01, 0.02)]
    assert floors[1] / floors[0] == pytest.approx(4.0, rel=0.03)
    # The bowl of every eigenvalue alike needs the factor (2 - x)^2, and stays below the bound.
    even = theory.convex_floor(0.01, RHO, BETA, BETA)
    assert even == pytest.approx(0.5 * BETA * (0.01 * BETA * RHO) ** 2)
    assert BETA * quadratic(0.1, RHO, 1.0) ** 2 / 2 < even


@given(
    product=st.floats(0.05, 1.95),
    ratio=st.floats(1, 100),
    power=st.floats(0.3, 1),
    rho=st.floats(1e-2, 1),
)
def test_loss_and_distance_agree(product, ratio, power, rho):
    eta, alpha = product / BETA, BETA / ratio
    floor = theory.convex_floor(eta, rho, alpha, BETA, power)
    near = theory.convex_distance_floor(eta, rho, alpha, BETA, power)
    # The excess is between those of the flattest and the steepest bowl at the same distance, and
    # no floor lies below what the quadratic shows.
    shown = theory.bounce_amplitude(eta, rho, BETA, power)
    assert shown * (1 - 1e-9) <= near
    assert BETA * shown**2 / 2 * (1 - 1e-9) <= floor <= BETA * near**2 / 2 * (1 + 1e-9)
    assert 0 <= theory.convex_rate(eta, alpha, BETA, power) < 1
    assert 0 <= theory.convex_distance_rate(eta, alpha, BETA, power) < 1


def test_the_cases_meet_at_one_over_beta_and_nothing_jumps():
    for function in (theory.convex_floor, theory.convex_distance_floor):
        left, right = (function((1 + s) / BETA, RHO, ALPHA, BETA) for s in (-1e-9, 1e-9))
        assert left == pytest.approx(right, rel=1e-7)
    left, right = (theory.convex_rate((1 + s) / BETA, ALPHA, BETA) for s in (-1e-9, 1e-9))
    assert left == pytest.approx(right, rel=1e-7)


def test_arrays_equal_floats():
    etas, powers = np.array([0.01, 0.1, 0.15, 0.19]), np.array([[0.5], [1.0]])
    for function, first in (
        (theory.convex_floor, (RHO,)),
        (theory.convex_distance_floor, (RHO,)),
        (theory.convex_rate, ()),
        (theory.convex_distance_rate, ()),
    ):
        np.testing.assert_allclose(
            function(etas, *first, ALPHA, BETA, powers),
            [[function(e, *first, ALPHA, BETA, p) for e in etas] for p in (0.5, 1.0)],
            rtol=1e-14,
        )
        assert type(function(0.1, *first, 1, 10, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    good = {"eta": 0.1, "alpha": 1.0, "beta": 2.0, "power": 1.0}
    bad_arguments(theory.convex_rate, good)
    bad_arguments(theory.convex_distance_rate, good)
    for function in (theory.convex_floor, theory.convex_distance_floor):
        bad_arguments(function, {**good, "rho": 0.1}, positive=set(good))
        with pytest.raises(ThalwegError, match="power must be > 0 and <= 1"):
            function(0.1, 0.1, 1.0, 2.0, 1.5)
        with pytest.raises(ThalwegError, match="alpha must be <= beta"):
            function(0.1, 0.1, 3.0, 2.0)
        with pytest.raises(ThalwegError, match=r"eta \* beta must be < 2"):
            function(1.0, 0.1, 1.0, 2.0)
        assert function(0.1, 0.0, 1.0, 2.0) == 0.0
    assert math.isinf(theory.convex_distance_floor(0.15, 1e3, 1.0, 10.0, 1e-3))
