"""Threshold neurons: whether the sum of the two outer weights swings, against the network."""

import math

import numpy as np
import pytest

from thalweg import theory
from thalweg.errors import ThalwegError

D = 100


def mirrored_data(n=400, signal=3.0):
    """Noisy inputs with one large coordinate, every example with its mirror image."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n // 2, D))
    x[:, 0] += signal
    return np.concatenate([x, -x]), np.repeat([1.0, -1.0], n // 2)


def gradient(params, x, y):
    """Gradient of the logistic loss with respect to (a-, a+, b)."""
    minus, plus, b = params
    left, right = np.maximum(b - x, 0), np.maximum(b + x, 0)
    f = minus * left.sum(1) + plus * right.sum(1)
    slope = -y / (1 + np.exp(y * f)) / len(y)
    fire = minus * (left > 0).sum(1) + plus * (right > 0).sum(1)
    return np.array([slope @ left.sum(1), slope @ right.sum(1), slope @ fire])


def swing(eta, rho, x, y, steps):
    """How many times larger the sum a- + a+ is after the steps than at the start."""
    params = np.array([1e-9, 1e-9, 0.0])
    for _ in range(steps):
        g = gradient(params, x, y)
        params = params - eta * gradient(params + rho * g, x, y)
    return abs(params[0] + params[1]) / 2e-9


def test_the_curvature_is_the_mean_square_of_the_sums_of_moduli():
    x, y = mirrored_data()
    step = 1e-6 * np.eye(3)
    hessian = [(gradient(e, x, y) - gradient(-e, x, y)) / 2e-6 for e in step]
    curvature = (np.abs(x).sum(1) ** 2).mean() / 8
    assert np.linalg.eigvalsh(np.array(hessian)[:2, :2])[-1] == pytest.approx(curvature, rel=1e-6)
    # Without a signal it is the closed form's, to order 1/d; with one of 3, 6 % more at d = 100.
    noise, _ = mirrored_data(40_000, signal=0.0)
    pure = 16 / (np.abs(noise).sum(1) ** 2).mean()
    assert pure == pytest.approx(theory.threshold_neuron_eta(D), rel=1e-2)
    exact = theory.threshold_neuron_eta(D) / (1 + (math.pi / 2 - 1) / D)
    assert pure == pytest.approx(exact, rel=2e-3)
    many, _ = mirrored_data(40_000)
    with_signal = 16 / (np.abs(many).sum(1) ** 2).mean()
    assert with_signal / theory.threshold_neuron_eta(D) == pytest.approx(0.94, abs=5e-3)


def test_gradient_descent_swings_on_one_side_of_the_threshold_only():
    x, y = mirrored_data()
    threshold = 16 / (np.abs(x).sum(1) ** 2).mean()
    # Few steps: as the weights grow, the logistic loss and its curvature saturate.
    assert swing(0.95 * threshold, 0.0, x, y, 10) == pytest.approx(0.9**10, rel=0.3)
    assert swing(1.05 * threshold, 0.0, x, y, 10) == pytest.approx(1.1**10, rel=0.3)


def test_usam_swings_above_its_radius_only():
    x, y = mirrored_data()
    threshold = 16 / (np.abs(x).sum(1) ** 2).mean()
    # An effective number of coordinates stands for the data's own threshold.
    d = math.sqrt(8 * math.pi / threshold)
    eta = 0.25 * threshold
    rho = theory.threshold_neuron_rho(eta, d)
    assert rho == pytest.approx(theory.largest_stable_rho(eta, 2 / threshold), rel=1e-12)
    assert swing(eta, 0.95 * rho, x, y, 20) == pytest.approx(0.925**20, rel=0.3)
    assert swing(eta, 1.05 * rho, x, y, 20) == pytest.approx(1.075**20, rel=0.3)


def test_the_figures_known_before():
    eta = theory.threshold_neuron_eta(100)
    assert eta == pytest.approx(8 * math.pi / 1e4, rel=1e-15)
    assert theory.threshold_neuron_rho(0.25 * eta, 100) == pytest.approx(0.00377, abs=5e-6)


def test_arrays_equal_floats():
    ds = np.array([10, 100])
    etas = theory.threshold_neuron_eta(ds)
    np.testing.assert_allclose(etas, [theory.threshold_neuron_eta(int(d)) for d in ds], rtol=1e-15)
    rhos = theory.threshold_neuron_rho(0.5 * etas, ds)
    np.testing.assert_allclose(rhos, 0.5 * etas, rtol=1e-15)


def test_every_bad_argument_is_named(bad_arguments):
    bad_arguments(theory.threshold_neuron_eta, {"d": 10.0})
    bad_arguments(theory.threshold_neuron_rho, {"eta": 0.05, "d": 10.0})
    with pytest.raises(ThalwegError, match=r"eta must be < threshold_neuron_eta\(d\)"):
        theory.threshold_neuron_rho(theory.threshold_neuron_eta(10), 10)
