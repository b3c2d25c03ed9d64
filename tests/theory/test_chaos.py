"""Powers above 1 on a quadratic: the Cauchy law, the exponents, the tails and the cap."""

import math

import numpy as np
import pytest

from thalweg import theory
from thalweg.errors import ThalwegError

# eta * curvature; Lyapunov exponent and the transverse one at half the curvature, measured before
# this code with 200,000 chains.
EXPONENTS = [
    (0.05, 0.3620, -0.0126),
    (0.3, 0.6505, -0.0782),
    (0.5, 0.6932, -0.1335),
    (0.9, 0.4700, -0.2547),
]


def walk(product, power, steps, chains, seed=0, rho=1.0):
    """Yield the iterates of many chains on ``w**2 / 2``, after some steps to forget the start."""
    w = np.random.default_rng(seed).normal(size=chains)
    for taken in range(steps + 300):
        if taken >= 300:
            yield w
        w = w - product * (w + rho * np.sign(w) * np.abs(w) ** (1 - power))
    yield w


@pytest.mark.parametrize("product", [0.05, 0.5, 0.9])
def test_power_2_follows_the_cauchy_law(product):
    chains, curvature, rho = 100_000, 4.0, 0.09
    scale = theory.cauchy_scale(rho, curvature)
    assert scale == pytest.approx(0.15)
    eta = product / curvature
    w = np.random.default_rng(1).normal(size=chains)
    for _ in range(300):
        w = w - eta * curvature * (w + rho / (curvature * w))
    ordered = np.sort(np.abs(w)) / scale
    between = (np.arange(chains) + 0.5) / chains

    def distance(stretch):
        return np.abs(2 / np.pi * np.arctan(ordered * stretch) - between).max()

    # Kolmogorov's statistic: above 1.95 / sqrt(n) once in a thousand times. A scale 5 % off fails.
    assert distance(1.0) < 1.95 / chains**0.5 < min(distance(1.05), distance(0.95))
    assert np.mean(w > 0) == pytest.approx(0.5, abs=0.006)
    # Half of the time the loss is more than rho / 2 above the minimum.
    assert np.median(curvature * w * w / 2) == pytest.approx(rho / 2, rel=0.03)
    if product == 0.5:
        measured = [0.413, 0.999, 2.414, 6.37, 65.4]  # before this code, 200,000 chains
        quantiles = np.quantile(ordered, [0.25, 0.5, 0.75, 0.9, 0.99])
        np.testing.assert_allclose(quantiles[:4], measured[:4], rtol=0.02)
        assert quantiles[4] == pytest.approx(measured[4], rel=0.12)


@pytest.mark.parametrize(("product", "parting", "dying"), EXPONENTS)
def test_the_exponents_are_those_measured(product, parting, dying):
    predicted = theory.lyapunov_exponent(product, 1.0)
    across = theory.transverse_exponent(product, 1.0, 0.5)
    assert predicted == pytest.approx(parting, abs=5e-4)
    assert across == pytest.approx(dying, abs=5e-4)
    logs, others = [], []
    for w in walk(product, 2.0, steps=1000, chains=10_000):
        logs.append(np.mean(np.log(np.abs(1 - product + product / w**2))))
        others.append(np.mean(np.log(np.abs(1 - product * 0.5 * (1 + 0.5 / w**2)))))
    assert np.mean(logs) == pytest.approx(predicted, abs=5e-3)
    assert np.mean(others) == pytest.approx(across, abs=3e-3)


def test_chaos_ends_where_the_bounce_begins_to_attract():
    assert theory.lyapunov_exponent(0.999, 1.0) > 0 > theory.lyapunov_exponent(1.001, 1.0)
    assert theory.lyapunov_exponent(1.0, 1.0) == pytest.approx(0.0, abs=1e-15)
    assert theory.lyapunov_exponent(1.5, 1.0) == -math.inf
    assert theory.lyapunov_exponent(0.5, 1.0) == pytest.approx(math.log(2))
    for product in (1.01, 1.2, 1.9):
        expected = math.log(abs(theory.bounce_multiplier(product, 1.0, 2.0)))
        assert theory.lyapunov_exponent(product, 1.0) == pytest.approx(expected, rel=1e-9)
        mode = math.log(abs(theory.transverse_multiplier(product, 1.0, 0.3)))
        assert theory.transverse_exponent(product, 1.0, 0.3) == pytest.approx(mode, rel=1e-12)


@pytest.mark.parametrize("product", [1.1, 1.9])
def test_above_1_every_start_goes_to_the_bounce(product):
    amplitude = theory.bounce_amplitude(product, 1.0, 1.0, 2.0)
    *_, w = walk(product, 2.0, steps=300, chains=2000)
    np.testing.assert_allclose(np.abs(w), amplitude, rtol=1e-9)


def test_in_many_dimensions_one_mode_is_left_and_follows_the_law():
    hessian = np.linspace(0.1, 1.0, 8)
    w = np.random.default_rng(2).normal(size=(4000, 8))
    for _ in range(1500):
        g = hessian * w
        w = w - 0.5 * hessian * (w + g / np.square(g).sum(1, keepdims=True))
    scale = theory.cauchy_scale(1.0, 1.0)
    assert np.median(np.abs(w[:, -1])) == pytest.approx(scale, rel=0.08)
    assert np.median(np.abs(w[:, :-1]).max(1)) < 1e-10


@pytest.mark.parametrize("power", [1.5, 1.75, 2.0])
def test_tails_have_the_index_measured(power):
    # Hill's estimator on the largest hundredth, over iterates far apart in time.
    sample = [np.abs(w) for i, w in enumerate(walk(0.3, power, 200, 20_000)) if i % 20 == 0]
    largest = np.sort(np.concatenate(sample))[-2000:]
    index = 1 / np.mean(np.log(largest[1:] / largest[0]))
    assert index == pytest.approx(theory.tail_index(power), rel=0.08)


def capped(product, rho, power, cap, start, steps=3000):
    """The iterates on ``w**2 / 2`` after some steps with the perturbation capped."""
    w = np.array(start, float)
    for _ in range(steps):
        length = np.minimum(cap, rho * np.abs(w) ** (1 - power))
        w = w - product * (w + np.sign(w) * length)
    return np.abs(w)


CASES = [(0.5, 2.0), (0.2, 1.5), (0.9, 2.0), (1.2, 4.0)]  # below eta * curvature = 2 - 2 / power


@pytest.mark.parametrize(("product", "power"), CASES)
def test_the_cap_makes_it_sam_up_to_its_bound(product, power):
    rho = 0.3
    bound = theory.cap_bound(product, rho, 1.0, power)
    assert bound == pytest.approx(theory.effective_radius(product, rho, 1.0, power), rel=1e-12)
    for cap, attracts in ((0.999 * bound, True), (1.001 * bound, False)):
        amplitude = theory.bounce_amplitude(product, cap, 1.0)
        end = capped(product, rho, power, cap, [amplitude * (1 + 1e-5)])
        assert bool(abs(end[0] / amplitude - 1) < 1e-9) is attracts


@pytest.mark.parametrize(("product", "power"), [*CASES, (0.01, 2.0), (0.05, 1.5)])
def test_under_the_smaller_bound_every_start_goes_there(product, power):
    start = np.concatenate([np.geomspace(1e-6, 1e3, 501), np.linspace(0.01, 2, 501)])
    cap = 0.999 * theory.cap_bound(product, 0.3, 1.0, power, every_start=True)
    amplitude = theory.bounce_amplitude(product, cap, 1.0)
    end = capped(product, 0.3, power, cap, start, steps=8000)
    np.testing.assert_allclose(end, amplitude, rtol=1e-9)


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_between_the_two_bounds_other_attractors_can_join(power):
    # For small steps at once: the smaller bound is then the true one.
    start = np.linspace(0.01, 2, 501)
    cap = 1.05 * theory.cap_bound(0.05, 0.3, 1.0, power, every_start=True)
    assert cap < theory.cap_bound(0.05, 0.3, 1.0, power)
    end = capped(0.05, 0.3, power, cap, start)
    there = np.isclose(end, theory.bounce_amplitude(0.05, cap, 1.0), rtol=1e-6)
    assert 0 < there.mean() < 1


def test_arrays_equal_floats():
    etas, powers = np.array([0.1, 0.5, 1.0, 1.5, 1.9]), np.array([[1.5], [2.0]])
    for function in (theory.lyapunov_exponent, lambda e, c: theory.transverse_exponent(e, c, 0.3)):
        np.testing.assert_allclose(function(etas, 1.0), [function(e, 1.0) for e in etas])
    for every in (False, True):
        np.testing.assert_allclose(
            theory.cap_bound(etas, 0.1, 1.0, powers, every),
            [[theory.cap_bound(e, 0.1, 1.0, p, every) for e in etas] for p in (1.5, 2.0)],
        )
    np.testing.assert_allclose(theory.cauchy_scale(np.array([1.0, 4.0]), 1), [1.0, 2.0])
    np.testing.assert_allclose(theory.tail_index(powers), [[2.0], [1.0]])
    assert type(theory.lyapunov_exponent(1, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    both = {"eta": 0.1, "curvature": 1.0}
    bad_arguments(theory.lyapunov_exponent, both)
    bad_arguments(lambda **k: theory.transverse_exponent(other=-0.5, **k), both)
    bad_arguments(theory.cauchy_scale, {"rho": 0.1, "curvature": 1.0}, positive={"curvature"})
    bad_arguments(theory.tail_index, {"power": 2.0})
    cap = {**both, "power": 2.0}
    bad_arguments(theory.cap_bound, {**cap, "rho": 0.1}, positive=set(cap))
    for wrong in (1.0, 0.5):
        with pytest.raises(ThalwegError, match="power must be > 1"):
            theory.tail_index(wrong)
    with pytest.raises(ThalwegError, match="other must be <= curvature"):
        theory.transverse_exponent(0.1, 1.0, 1.1)
    with pytest.raises(ThalwegError, match=r"eta \* curvature must be < 2"):
        theory.lyapunov_exponent(2.0, 1.0)


def test_every_start_is_true_or_false():
    with pytest.raises(ThalwegError, match=r"^every_start must be True or False, got 1$"):
        theory.cap_bound(0.1, 0.05, 5.0, 2.0, every_start=1)
