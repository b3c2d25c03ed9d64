"""Saddles: who is held and who leaves, on both sides of each end of the law."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError

sizes = st.floats(1e-2, 1e2)


def descend(eta, rho, size, power, start, steps=3000):
    """The distance from the saddle of ``-size * y**2 / 2`` after some steps, up to 1e30."""
    y = np.array(start, float)
    for _ in range(steps):
        g = -size * y
        y = y + eta * size * (y + rho * g * np.abs(g) ** -power)
        y = np.clip(y, -1e30, 1e30)
    return np.abs(y)


@pytest.mark.parametrize("step", [0.2, 1.5])
def test_power_0_is_trapped_between_two_radii(step):
    size = 2.0
    eta = step / size
    for pull, held in ((0.999, 0), (1.001, 1), (0.999 * (1 + 2 / step), 1), (1.001 + 2 / step, 0)):
        rho = pull / size
        trap = theory.saddle_trap(eta, rho, -size, 0.0)
        assert trap == (math.inf if held else 0.0)
        end = descend(eta, rho, size, 0.0, [1e-3, 1.0, 1e3], steps=5000)
        assert (end < [1e-3, 1.0, 1e3]).all() if held else (end > [1e-3, 1.0, 1e3]).all()


@pytest.mark.parametrize("step", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("power", [0.25, 0.5, 0.75, 1.0])
def test_up_to_power_1_the_trap_holds_within_and_not_beyond(power, step):
    size, rho = 3.0, 0.1
    eta = step / size
    trap = theory.saddle_trap(eta, rho, -size, power)
    assert trap == pytest.approx((rho * size) ** (1 / power) / size)
    inside = trap * np.linspace(-0.999, 0.999, 1000)
    assert descend(eta, rho, size, power, inside).max() <= trap
    outside = trap * np.array([1.001, 1.1, 10.0, -1.001])
    assert descend(eta, rho, size, power, outside).min() > 1e20


# Largest eta * |curvature| at which the trap holds. At power 1 it is 1, at .5 it is 2 + sqrt(8);
# the others were found by bisection on the map, before this code.
LARGEST_STEP = {0.25: 12.0437, 0.5: 4.8284, 0.75: 2.379, 0.9: 1.518, 1.0: 1.0}


@pytest.mark.parametrize(("power", "largest"), LARGEST_STEP.items())
def test_with_larger_steps_every_start_leaps_out(power, largest):
    inside = np.linspace(1e-4, 0.999, 1000)  # the trap's size is 1 here
    assert theory.saddle_trap(0.99 * largest, 1.0, -1.0, power) == 1.0
    assert theory.saddle_trap(1.01 * largest, 1.0, -1.0, power) == 0.0
    assert descend(0.99 * largest, 1.0, 1.0, power, inside).max() <= 1.0
    # Few starts leap at once, so this takes its time.
    assert descend(1.01 * largest, 1.0, 1.0, power, inside, steps=20_000).min() > 1.0


@pytest.mark.parametrize(("step", "share"), [(0.2, 1.0), (0.9, 1.0), (1.5, 0.0)])
def test_power_1_at_the_steps_measured(step, share):
    # Measured before this code: all trapped at .2 and .9, none at 1.5.
    start = 0.1 * np.random.default_rng(0).uniform(-1, 1, 500)
    trapped = descend(step, 0.1, 1.0, 1.0, start) <= 0.1
    assert trapped.mean() == share
    assert (theory.saddle_trap(step, 0.1, -1.0) > 0) is (share > 0)


@pytest.mark.parametrize("power", [1.1, 1.5, 2.0])
def test_above_power_1_nothing_is_trapped(power):
    assert theory.saddle_trap(1.0, 0.1, -1.0, power) == 0.0
    start = np.random.default_rng(0).uniform(-1, 1, 500)
    assert descend(1.0, 0.1, 1.0, power, start).min() > 1e20


@pytest.mark.parametrize(("power", "step", "stays"), [(2.0, 1.0, 1 / 2), (1.0, 1.5, 2 / 2.5)])
def test_a_fixed_share_leaves_at_each_step(power, step, stays):
    # Of starts spread evenly over the would-be trap: 1 / (1 + s) stays at power 2, 2 / (1 + s) at
    # power 1, at each of the steps.
    inside = np.random.default_rng(0).uniform(-1, 1, 200_000)
    for taken in range(1, 7):
        inside = descend(step, 1.0, 1.0, power, inside, steps=1)
        inside = inside[inside <= 1]
        assert len(inside) / 200_000 == pytest.approx(stays**taken, abs=0.005)


@pytest.mark.parametrize(("power", "step", "attracts"), [(0.5, 1.9, True), (0.5, 2.1, False)])
def test_in_the_trap_it_bounces_or_is_chaotic(power, step, attracts):
    # The bounce's own condition, with -step for eta * curvature: p (2 + s) < 2, which is s < 2.
    norm = (step * 0.1 / (2 + step)) ** (1 / power)
    end = descend(step, 0.1, 1.0, power, [norm * (1 + 1e-4)])
    assert bool(abs(end[0] / norm - 1) < 1e-4) is attracts
    assert end[0] < theory.saddle_trap(step, 0.1, -1.0, power)


HOLDING = [(1.0, 0.2), (1.0, 0.5), (1.0, 1.5), (0.5, 0.5), (2.0, 1.5), (1.5, 0.9)]


def across(power, product, other, momentum=0.0, steps=4000):
    """How much a tiny distance from the saddle has grown, starting on the bounce along 1."""
    eta, hessian = product * (1 + momentum), np.array([1.0, other])
    a = theory.bounce_amplitude(eta, 0.1, 1.0, power, momentum)
    now, before = np.array([a, 1e-12 * a]), np.array([-a, 1e-12 * a])
    for _ in range(steps):
        g = hessian * now
        lifted = now + 0.1 * g / np.linalg.norm(g) ** power
        now, before = now + momentum * (now - before) - eta * hessian * lifted, now
        if abs(now[1]) > 1e-6 * a:
            break
    return abs(now[1]) / (1e-12 * a)


@pytest.mark.parametrize(("power", "product"), HOLDING)
def test_a_bounce_across_holds_a_saddle_between_two_curvatures(power, product):
    low, high = theory.held_saddle(product, 1.0)
    for other, held in ((1.05 * low, 0), (0.95 * low, 1), (1.05 * high, 1), (0.95 * high, 0)):
        assert (abs(theory.transverse_multiplier(product, 1.0, other)) < 1) is bool(held)
        growth = across(power, product, other)
        assert growth < 0.1 if held else growth > 10


def test_momentum_holds_the_same_saddles_at_the_reduced_step_size():
    momentum, product = 0.5, 0.5
    low, high = theory.held_saddle(product * (1 + momentum), 1.0, momentum)
    assert (low, high) == pytest.approx(theory.held_saddle(product, 1.0))
    assert across(1.0, product, 1.02 * high, momentum) < 0.5
    assert across(1.0, product, 0.98 * high, momentum) > 1e4
    assert across(1.0, product, 0.98 * low, momentum) < 0.5
    assert across(1.0, product, 1.02 * low, momentum) > 1e4


def test_power_1_is_held_from_every_start_near_by_and_power_2_from_none():
    hessian = np.array([1.0, -0.5])  # the bounce holds from -4/3 to -1/3
    for power, held in ((1.0, True), (2.0, False)):
        w = 0.01 * np.random.default_rng(0).normal(size=(200, 2))
        for _ in range(2000):
            g = hessian * w
            w = w - 0.5 * hessian * (w + 0.1 * g / np.linalg.norm(g, axis=1)[:, None] ** power)
            w = np.clip(w, -1e9, 1e9)
        assert (np.abs(w[:, 1]) < 1e-9).mean() == held
    # At power 2 the top mode is chaotic there, and the other one grows on average.
    assert theory.transverse_exponent(0.5, 1.0, -0.5) > 0


@given(rho=sizes, size=sizes, power=st.floats(0.2, 1))
def test_the_trap_ends_where_the_step_leaves_the_distance_as_it_is(rho, size, power):
    trap = theory.saddle_trap(0.5 / size, rho, size, power)
    assert trap == theory.saddle_trap(0.5 / size, rho, -size, power)
    assert rho * size / (size * trap) ** power == pytest.approx(1.0, rel=1e-9)


def test_arrays_equal_floats():
    powers, steps = np.array([[0.0], [0.5], [1.0], [2.0]]), np.array([0.5, 1.5, 6.0])
    np.testing.assert_array_equal(
        theory.saddle_trap(steps, 1.1, -1.0, powers),
        [[theory.saddle_trap(s, 1.1, -1.0, float(p[0])) for s in steps] for p in powers],
    )
    low, high = theory.held_saddle(np.array([0.5, 1.5]), 1.0)
    np.testing.assert_allclose([low, high], [[-4 / 3, -4], [-1 / 3, -3]])
    assert type(theory.saddle_trap(1, 1, -1, 1)) is float
    assert theory.saddle_trap(1, 0, -1, 0.5) == 0.0
    assert theory.saddle_trap(1.0, 1e3, -1.0, 1e-3) == math.inf


def test_every_bad_argument_is_named(bad_arguments):
    trap = {"eta": 0.1, "rho": 0.1, "power": 1.0}
    bad_arguments(lambda **k: theory.saddle_trap(curvature=-1.0, **k), trap, positive={"eta"})
    held = {"eta": 0.1, "curvature": 1.0, "momentum": 0.5}
    bad_arguments(theory.held_saddle, held, positive={"eta", "curvature"})
    for bad, message in ((0.0, "other than 0"), (math.nan, "finite"), ("1", "a number")):
        with pytest.raises(ThalwegError, match=f"curvature must be {message}"):
            theory.saddle_trap(0.1, 0.1, bad)
