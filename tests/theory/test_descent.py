"""Descent and Polyak-Lojasiewicz floors: a search for violations, and the cases that are sharp."""

import numpy as np
import pytest

from thalweg import theory
from thalweg.errors import ThalwegError


def cosines(draw, terms, dimension):
    """A random sum of cosines, its gradient and a bound on its curvature."""
    to, at = draw.normal(size=(terms, dimension)), draw.uniform(0, 7, terms)
    size = draw.normal(size=terms)
    beta = np.linalg.norm(to.T @ (np.abs(size)[:, None] * to), 2)
    return (
        lambda w: (size * np.cos(w @ to.T + at)).sum(-1),
        lambda w: -(size * np.sin(w @ to.T + at)) @ to,
        beta,
    )


def valleys(draw, terms, dimension):
    """A random convex sum of log cosh, its gradient and a bound on its curvature."""
    to, at = draw.normal(size=(terms, dimension)), draw.normal(size=terms)
    size = np.exp(draw.normal(size=terms))
    beta = np.linalg.norm(to.T @ (size[:, None] * to), 2)
    return (
        lambda w: (size * np.logaddexp(w @ to.T + at, -(w @ to.T + at))).sum(-1),
        lambda w: (size * np.tanh(w @ to.T + at)) @ to,
        beta,
    )


@pytest.mark.parametrize(("family", "convex"), [(cosines, False), (valleys, True)])
def test_no_step_with_a_larger_gradient_raises_the_loss(family, convex):
    draw, closest, steps = np.random.default_rng(0), {True: 0.0, False: 0.0}, 0
    for _ in range(600):
        dimension = draw.integers(1, 4)
        loss, gradient, beta = family(draw, draw.integers(1, 5), dimension)
        product, rho = draw.uniform(0.05, 1.98), 10 ** draw.uniform(-2, 1)
        power, eta = draw.choice([0.5, 1.0, 1.5]), product / beta
        w = draw.normal(size=(500, dimension)) * draw.choice([0.1, 1.0, 5.0])
        g = gradient(w)
        norm = np.linalg.norm(g, axis=1)
        end = loss(w - eta * gradient(w + rho * g / norm[:, None] ** power))
        rises = end > loss(w) + 1e-12 * (1 + np.abs(loss(w)))
        edge = theory.descent_gradient_norm(eta, rho, beta, power, convex)
        assert norm[rises].max(initial=0.0) <= edge
        near = norm[rises].max(initial=0.0) / edge
        closest[product < 1] = max(closest[product < 1], near)
        steps += len(w)
    assert steps == 300_000
    # The search comes close, so the bound is not idle: neither for small steps nor for large.
    assert min(closest.values()) > 0.9


def after(eta, rho, curvature, power, norm):
    """How many times as large the loss is after a step that starts at this gradient norm."""
    w = norm / abs(curvature)
    g = curvature * w
    return ((w - eta * curvature * (w + rho * g / abs(g) ** power)) / w) ** 2


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("product", [0.1, 0.9, 1.5, 1.9])
def test_the_threshold_is_sharp(product, power):
    beta, rho = 3.0, 0.2
    eta = product / beta
    edge = theory.descent_gradient_norm(eta, rho, beta, power, convex=True)
    # On the quadratic, the loss rises just below the edge and falls just above it.
    assert (
        after(eta, rho, beta, power, 1.001 * edge) < 1 < after(eta, rho, beta, power, 0.999 * edge)
    )
    general = theory.descent_gradient_norm(eta, rho, beta, power)
    if product < 1:
        # The quadratic of curvature -beta: towards its top the loss rises.
        assert general > edge
        assert after(eta, rho, -beta, power, 1.001 * general) > 1
        assert after(eta, rho, -beta, power, 0.999 * general) < 1
    else:
        assert general == edge


def waves(w):
    """``w**2 + 3 sin(w)**2``, which is not convex, and its slope."""
    return w * w + 3 * np.sin(w) ** 2, 2 * w + 3 * np.sin(2 * w)


def test_a_loss_that_is_not_convex_keeps_to_floor_and_rate():
    grid = np.linspace(-30, 30, 600_001)
    value, slope = waves(grid)
    alpha, beta = (slope[value > 0] ** 2 / (2 * value[value > 0])).min(), 8.0
    assert alpha > 0.1
    for product in (0.3, 0.9, 1.2, 1.8):
        for power in (0.5, 1.0):
            eta, rho = product / beta, 0.05
            floor = theory.pl_floor(eta, rho, alpha, beta, power)
            rate = theory.pl_rate(eta, alpha, beta, power)
            w = np.linspace(-20, 20, 2000)
            for _ in range(300):
                slope = waves(w)[1]
                lifted = w + rho * slope * np.abs(slope) ** -power
                end = w - eta * waves(lifted)[1]
                over = waves(w)[0] - floor
                assert (waves(end)[0] - floor <= np.maximum(rate * over, 0) + 1e-9).all()
                w = end
            assert waves(w)[0].max() <= floor


def test_the_floor_is_the_threshold_seen_as_a_loss():
    for product, expected in ((0.5, 0.5), (1.0, 0.5), (1.5, 4.5)):
        assert theory.pl_floor(product / 10, 0.1, 1.0, 10.0) == pytest.approx(expected)
    # Attained by the bounce where all eigenvalues are alike and eta * beta is at least 1.
    bounce = theory.bounce_amplitude(0.15, 0.1, 10.0)
    assert theory.pl_floor(0.15, 0.1, 10.0, 10.0) == pytest.approx(5 * bounce**2)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("product", [1.2, 1.5, 1.9])
def test_near_the_bounce_where_all_eigenvalues_are_alike_the_rates_are_attained(product, power):
    floor = theory.pl_floor(product, 0.1, 1.0, 1.0, power)
    w = (2 * floor * (1 + 1e-6)) ** 0.5
    after_it = (w - product * (w + 0.1 * w ** (1 - power))) ** 2 / 2
    shrunk = (after_it - floor) / (1e-6 * floor)
    assert theory.pl_rate(product, 1.0, 1.0, power) == pytest.approx(shrunk, abs=1e-4)
    assert theory.convex_rate(product, 1.0, 1.0, power) == pytest.approx(shrunk, abs=1e-4)


def test_arrays_equal_floats():
    etas, powers = np.array([0.01, 0.1, 0.15, 0.19]), np.array([[0.5], [1.0]])
    for function, arguments in (
        (theory.descent_gradient_norm, (0.1, 10.0)),
        (theory.pl_floor, (0.1, 1.0, 10.0)),
        (theory.pl_rate, (1.0, 10.0)),
    ):
        np.testing.assert_allclose(
            function(etas, *arguments, powers),
            [[function(e, *arguments, p) for e in etas] for p in (0.5, 1.0)],
            rtol=1e-14,
        )
    assert type(theory.pl_rate(0.1, 1, 10, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    good = {"eta": 0.1, "beta": 2.0, "power": 1.0}
    bad_arguments(theory.descent_gradient_norm, {**good, "rho": 0.1}, positive=set(good))
    bad_arguments(theory.pl_rate, {**good, "alpha": 1.0})
    bad_arguments(theory.pl_floor, {**good, "alpha": 1.0, "rho": 0.1}, positive={*good, "alpha"})
    with pytest.raises(ThalwegError, match=r"eta \* beta must be < 2"):
        theory.descent_gradient_norm(1.0, 0.1, 2.0)
    with pytest.raises(ThalwegError, match="power must be > 0 and <= 1"):
        theory.pl_floor(0.1, 0.1, 1.0, 2.0, 1.5)
    with pytest.raises(ThalwegError, match="alpha must be <= beta"):
        theory.pl_rate(0.1, 3.0, 2.0)


def test_whether_a_loss_is_convex_is_true_or_false():
    with pytest.raises(ThalwegError, match=r"^convex must be True or False, got 'no'$"):
        theory.descent_gradient_norm(0.1, 0.05, 10.0, convex="no")
