"""Rules for the radius, against the symmetry, the mean force, or the network they are about."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError


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


class Logistic:
    """Logistic regression on Gaussian inputs, with its exact mean force of micro-batches."""

    def __init__(self, n=600, d=100):
        self.rng = rng = np.random.default_rng(1)
        self.x = rng.normal(size=(n, d))
        self.y = np.sign(self.x @ rng.normal(size=d) + 4 * rng.normal(size=n))
        self.w = np.zeros(d)
        for _ in range(20):
            self.w = self.w - 0.5 * self.moments(self.w)[0]

    def gradients(self, w, rows):
        """Gradient of every row's loss, (..., D), at weights that broadcast with it."""
        x, y = self.x[rows], self.y[rows]
        return -(y / (1 + np.exp(y * (x * w).sum(-1))))[..., None] * x

    def moments(self, w):
        g = self.gradients(w, np.arange(len(self.y)))
        mean = g.mean(0)
        return mean, ((g - mean) ** 2).sum(1).mean()

    def forces(self):
        """The mean gradient's own force H g, and the gradient of the trace of the covariance."""
        towards = np.eye(len(self.w)) * 1e-5
        ups, downs = ([self.moments(self.w + s * t) for t in towards] for s in (1, -1))
        half = np.array([(u[0] @ u[0] - d[0] @ d[0]) for u, d in zip(ups, downs, strict=True)])
        trace = np.array([u[1] - d[1] for u, d in zip(ups, downs, strict=True)])
        return half / 4e-5, trace / 2e-5

    def measured(self, rho, m, power, batches):
        """Mean of the SAM gradient minus the gradient, over micro-batches of m rows."""
        rows = self.rng.integers(0, len(self.y), size=(batches, m))
        mean = self.gradients(self.w, rows).mean(1)
        size = np.linalg.norm(mean, axis=1, keepdims=True)
        above = self.gradients((self.w + rho * mean / size**power)[:, None], rows).mean(1)
        return (above - mean).mean(0)


# The fluctuation of the gradient's norm, which the law leaves out, counts more at larger powers.
@pytest.mark.parametrize(("power", "error"), [(0.0, 0.04), (1.0, 0.04), (2.0, 0.08)])
def test_the_rule_for_the_microbatch_holds_the_penalty_of_the_noise(power, error):
    problem = Logistic()
    mean, variance = problem.moments(problem.w)
    scale = variance / (mean @ mean)
    assert 1000 < scale < 1500
    own, trace = problem.forces()
    along = trace / (trace @ trace)
    found = []
    for m in (16, 64, 256):
        rho = theory.rho_for_microbatch(1e-3, 64, m, power, scale)
        coefficient = rho * (mean @ mean + variance / m) ** (-power / 2)
        force = problem.measured(rho, m, power, 80_000 // m) @ along
        # The law itself.
        assert force == pytest.approx(coefficient * (own @ along + 0.5 / m), rel=error)
        found.append(force - coefficient * (own @ along))
    assert found == pytest.approx([found[1]] * 3, rel=1.5 * error)


@given(
    power=st.floats(0, 2),
    m=st.floats(1, 1e4),
    m_ref=st.floats(1, 1e4),
    scale=st.floats(1e-3, 1e6),
    rho=st.floats(1e-3, 10),
)
def test_the_rule_holds_its_coefficient_and_comes_back(power, m, m_ref, scale, rho):
    new = theory.rho_for_microbatch(rho, m_ref, m, power, scale)

    def coefficient(radius, examples):
        return radius * (1 + scale / examples) ** (-power / 2) / examples

    assert coefficient(new, m) == pytest.approx(coefficient(rho, m_ref), rel=1e-10)
    back = theory.rho_for_microbatch(new, m, m_ref, power, scale)
    assert back == pytest.approx(rho, rel=1e-10)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_two_ends_of_the_rule_for_the_microbatch(power):
    noisy = theory.rho_for_microbatch(0.1, 64, 16, power)
    assert noisy == pytest.approx(0.1 * 0.25 ** (1 - power / 2), rel=1e-14)
    assert theory.rho_for_microbatch(0.1, 64, 16, power, 1e12) == pytest.approx(noisy)
    quiet = theory.rho_for_microbatch(0.1, 64, 16, power, 1e-9)
    assert quiet == pytest.approx(0.025, rel=1e-9)


def layers(width, d=20, seed=0):
    """Gradients of the three layers of a network of this width, and what each moves it by."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=d)
    first, middle = rng.normal(size=(width, d)) / d**0.5, rng.normal(size=(width, width))
    middle *= (2 / width) ** 0.5
    last = rng.normal(size=(1, width)) / width
    one = np.maximum(first @ x, 0)
    two = np.maximum(middle @ one, 0)
    delta = last[0] * (two > 0)
    below = (middle.T @ delta) * (one > 0)
    return [np.outer(below, x), np.outer(delta, one), two[None]]


def test_the_rule_for_the_width_keeps_every_layers_effect():
    widths = [64, 256, 1024]
    own, shared = [], []
    for width in widths:
        gradients = [layers(width, seed=seed) for seed in range(4)]
        norms = np.array([[np.linalg.norm(g) for g in layer] for layer in gradients])
        # To first order in the radius the output moves by <gradient, perturbation>.
        fans = [g.shape for g in gradients[0]]
        radii = np.array([theory.rho_for_width(0.1, fan_in, out) for out, fan_in in fans])
        own.append((radii * norms).mean(0))
        shared.append((norms**2 / (norms**2).sum(1, keepdims=True)).mean(0))
    slopes = np.log(np.array(own[2]) / own[0]) / math.log(16)
    assert slopes == pytest.approx([0, 0, 0], abs=0.1)
    # Under one ball the last layer takes it all: the others' shares fall as 1/width and faster.
    slopes = np.log(np.array(shared[2]) / shared[0]) / math.log(16)
    assert slopes == pytest.approx([-2, -1, 0], abs=0.15)
    assert shared[2][2] > 0.99


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
def test_the_penaltys_gradient_is_the_force(power):
    rng = np.random.default_rng(3)
    hessian = rng.normal(size=(4, 4))
    hessian = hessian + hessian.T
    w = rng.normal(size=4)

    def penalty(w):
        return theory.implied_penalty(0.1, float(np.linalg.norm(hessian @ w)), power)

    g = hessian @ w
    epsilon = 0.1 * g / np.linalg.norm(g) ** power
    numeric = [(penalty(w + e) - penalty(w - e)) / 2e-6 for e in 1e-6 * np.eye(4)]
    assert numeric == pytest.approx(list(hessian @ epsilon), rel=1e-6, abs=1e-8)


def test_the_penalty_is_bounded_below_only_under_power_2():
    small = [theory.implied_penalty(1.0, 1e-200, power) for power in (0.5, 1.0, 1.9, 2.0, 3.0)]
    assert small[:2] == pytest.approx([0, 0])
    assert small[3] < -400
    assert small[4] < -1e199


def test_arrays_equal_floats():
    rhos = np.array([0.0, 0.05, 0.2])
    # Whole numbers too, where numpy refuses negative powers of integers.
    scaled = theory.rho_for_loss_scale(rhos, np.array([1, 2, 4]), 0)
    np.testing.assert_allclose(scaled, [0.0, 0.025, 0.05])
    scales = np.array([10.0, math.inf])
    small = theory.rho_for_microbatch(0.1, 64, 16, 1.0, scales)
    floats = [theory.rho_for_microbatch(0.1, 64, 16, 1.0, float(b)) for b in scales]
    np.testing.assert_allclose(small, floats, rtol=1e-15)
    wide = theory.rho_for_width(rhos, 4, np.array([1, 4, 16]))
    np.testing.assert_allclose(wide, [0.0, 0.05, 0.4])
    powers = np.array([0.0, 1.0, 2.0, 3.0])
    penalties = theory.implied_penalty(0.1, 3, powers)
    floats = [theory.implied_penalty(0.1, 3, float(p)) for p in powers]
    np.testing.assert_allclose(penalties, floats, rtol=1e-15)
    assert type(theory.rho_for_microbatch(1, 1, 1, 1)) is float
    assert type(theory.rho_for_width(1, 1, 1)) is float
    assert type(theory.implied_penalty(1, 1, 2)) is float


def test_every_bad_argument_is_named(bad_arguments):
    scaling = {"rho": 0.1, "scale": 2.0, "power": 0.0}
    bad_arguments(theory.rho_for_loss_scale, scaling, positive={"scale"})
    batch = {"rho": 0.1, "m_ref": 64.0, "m": 16.0, "power": 1.0}
    bad_arguments(theory.rho_for_microbatch, batch, positive={"m_ref", "m"})
    width = {"rho": 0.1, "fan_in": 4.0, "fan_out": 2.0}
    bad_arguments(theory.rho_for_width, width, positive={"fan_in", "fan_out"})
    penalty = {"rho": 0.1, "grad_norm": 2.0, "power": 1.0}
    bad_arguments(theory.implied_penalty, penalty, positive={"grad_norm"})


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, "1", None, True, [1.0], 1j, np.array(["1"])])
def test_a_noise_scale_is_positive_or_infinite(bad):
    with pytest.raises(ThalwegError, match=r"^noise_scale must be "):
        theory.rho_for_microbatch(0.1, 64, 16, 1.0, bad)
