"""The interpolated ascent: its edge, thresholds and bounce, on both sides, against the map."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import theory
from thalweg.errors import ThalwegError

sizes = st.floats(1e-2, 1e2)
shares = st.floats(0, 1)
BASES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.3},
    {"momentum": 0.9, "weight_decay": 0.3, "decoupled": True},
    {"momentum": 0.9, "nesterov": True},
]


def step(w, v, eta, rho, share, curvature, *, momentum=0.0, weight_decay=0.0, **kind):
    """One step on the quadratic ``curvature * w**2 / 2``, written out; w and v may be arrays."""
    g = curvature * w
    h = curvature * (w + rho * ((1 - share) * g + share * np.sign(g)))
    d = h if kind.get("decoupled") else h + weight_decay * w
    v = momentum * v + d
    shrink = 1 - eta * weight_decay if kind.get("decoupled") else 1
    return shrink * w - eta * (d + momentum * v if kind.get("nesterov") else v), v


def end(w, steps, *setting, **base):
    """Distance from the minimum after many steps."""
    v = np.zeros_like(w)
    for _ in range(steps):
        w, v = step(w, v, *setting, **base)
    return abs(w)


@given(eta=sizes, rho=sizes, share=shares, grad_norm=sizes)
def test_a_step_shrinks_below_the_edge_and_grows_above_it(eta, rho, share, grad_norm):
    edge = theory.interpolated_edge(eta, rho, share, grad_norm)
    for factor, side in ((0.999, -1), (1.001, 1)):
        w = grad_norm / (factor * edge)
        after, _ = step(w, 0.0, eta, rho, share, factor * edge)
        assert math.copysign(1, abs(after) - w) == side


@given(eta=sizes, rho=sizes, grad_norm=sizes, momentum=st.floats(0, 0.9), nesterov=st.booleans())
def test_its_ends_are_usam_and_sam(eta, rho, grad_norm, momentum, nesterov):
    base = {"momentum": momentum, "weight_decay": 0.1 / eta, "nesterov": nesterov}
    for share in (0.0, 1.0):
        here = theory.interpolated_edge(eta, rho, share, grad_norm, **base)
        assert here == pytest.approx(theory.edge(eta, rho, grad_norm, share, **base), rel=1e-12)
    curvature = 0.8 * theory.edge(eta, **base)
    usam = theory.largest_stable_rho(eta, curvature, **base)
    assert theory.interpolated_largest_rho(eta, curvature, 0.0, **base) == usam
    assert theory.interpolated_largest_rho(eta, curvature, 1.0, **base) == math.inf
    usam = theory.largest_stable_eta(rho, curvature, **base)
    assert theory.interpolated_largest_eta(rho, curvature, 0.0, **base) == usam
    free = theory.largest_stable_eta(0.0, curvature, **base)
    assert theory.interpolated_largest_eta(rho, curvature, 1.0, **base) == free


@given(eta=sizes, rho=sizes, product=st.floats(0.1, 1.9))
def test_at_its_ends_the_bounce_is_that_of_sam_and_none(eta, rho, product):
    curvature = product / eta
    sam = theory.bounce_amplitude(eta, rho, curvature)
    found = theory.interpolated_bounce_amplitude(eta, rho, curvature, 1.0)
    assert found == pytest.approx(sam, rel=1e-10)
    sam = theory.bounce_multiplier(eta, curvature)
    found = theory.interpolated_bounce_multiplier(eta, rho, curvature, 1.0)
    assert found == pytest.approx(sam, abs=1e-12)
    rho = 0.9 * theory.largest_stable_rho(eta, curvature)
    assert theory.interpolated_bounce_amplitude(eta, rho, curvature, 0.0) == 0.0
    found = theory.interpolated_bounce_multiplier(eta, rho, curvature, 0.0)
    assert found == pytest.approx(-step(1.0, 0.0, eta, rho, 0.0, curvature)[0], abs=1e-12)


#: The step size at which the iterate begins to diverge, at rho .5 and curvature 10, by share.
FIGURES = {0.0: 0.03333, 0.25: 0.04211, 0.5: 0.05714, 0.75: 0.08889, 0.9: 0.13333, 1.0: 0.2}


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("share", FIGURES)
def test_where_the_iterate_begins_to_diverge(share, base):
    rho, curvature = 0.5, 10.0
    predicted = theory.interpolated_largest_eta(rho, curvature, share, **base)
    if not base:
        assert predicted == pytest.approx(FIGURES[share], abs=5e-6)
    etas = predicted * np.linspace(0.99, 1.01, 41)
    # So far out that the normalized part, which moves the iterate by no more than 2 * eta *
    # curvature * rho a step, cannot bring it in from there.
    grows = end(np.full_like(etas, 1e9), 4000, etas, rho, share, curvature, **base) > 1e9
    assert etas[grows.argmax()] == pytest.approx(predicted, rel=6e-4)
    assert (grows == (etas > predicted))[abs(etas / predicted - 1) > 1e-4].all()


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_on_both_sides_of_its_largest_radius(share, base):
    curvature = 10.0
    eta = 0.3 * theory.largest_stable_eta(0.0, curvature, **base)
    rho = theory.interpolated_largest_rho(eta, curvature, share, **base)
    start, setting = np.float64(1e9), (share, curvature)
    assert end(start, 4000, eta, 0.999 * rho, *setting, **base) < 1e8
    assert end(start, 4000, eta, 1.001 * rho, *setting, **base) > 1e10


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("product", [0.1, 0.9, 1.2])
def test_the_map_ends_on_the_bounce(share, product):
    curvature = 10.0
    eta = product / curvature
    rho = min(0.5, 0.9 * theory.interpolated_largest_rho(eta, curvature, share))
    amplitude = theory.interpolated_bounce_amplitude(eta, rho, curvature, share)
    starts = amplitude * np.array([1e-3, 0.5, 1.5, 30.0])
    ends = end(starts, 3000, eta, rho, share, curvature)
    assert ends == pytest.approx(amplitude, rel=1e-12)
    edge = theory.interpolated_edge(eta, rho, share, curvature * amplitude)
    assert edge == pytest.approx(curvature, rel=1e-12)
    deviation = 1e-6
    after, _ = step(amplitude * (1 + deviation), 0.0, eta, rho, share, curvature)
    multiplier = theory.interpolated_bounce_multiplier(eta, rho, curvature, share)
    assert (-after / amplitude - 1) / deviation == pytest.approx(multiplier, abs=1e-8)


@pytest.mark.parametrize("share", [0.25, 0.9, 1.0])
def test_with_momentum_the_bounce_attracts_what_comes_near(share):
    momentum, curvature, rho = 0.9, 10.0, 0.2
    eta = 0.7 * theory.interpolated_largest_eta(rho, curvature, share, momentum)
    amplitude = theory.interpolated_bounce_amplitude(eta, rho, curvature, share, momentum)
    # On the bounce the velocity is minus the next gradient over 1 + momentum.
    h = curvature * (amplitude + rho * ((1 - share) * curvature * amplitude + share))
    w, v = 1.01 * amplitude, -h / (1 + momentum)
    for _ in range(2000):
        w, v = step(w, v, eta, rho, share, curvature, momentum=momentum)
    assert abs(w) == pytest.approx(amplitude, rel=1e-12)
    after, _ = step(w, v, eta, rho, share, curvature, momentum=momentum)
    assert after == pytest.approx(-w, rel=1e-12)


def test_the_bounce_is_lost_on_the_other_side_of_the_largest_radius():
    eta, curvature, share = 0.05, 10.0, 0.5
    rho = theory.interpolated_largest_rho(eta, curvature, share)
    assert theory.interpolated_bounce_amplitude(eta, 0.999 * rho, curvature, share) > 0
    assert 0.99 < theory.interpolated_bounce_multiplier(eta, 0.999 * rho, curvature, share) < 1
    for function in (theory.interpolated_bounce_amplitude, theory.interpolated_bounce_multiplier):
        with pytest.raises(ThalwegError, match=r"^rho must be < interpolated_largest_rho"):
            function(eta, 1.001 * rho, curvature, share)
        with pytest.raises(
            ThalwegError, match=r"^curvature must be < the edge of this eta at rho = 0"
        ):
            function(eta, rho, 2 / eta, share)


def test_arrays_equal_floats():
    floats, etas = (0.0, 0.5, 1.0), np.array([[0.1], [0.05]])
    shares = np.array(floats)
    for call in (
        lambda eta, share: theory.interpolated_edge(eta, 0.1, share, 0.3, 0.9, 0.1, True, True),
        lambda eta, share: theory.interpolated_largest_rho(eta, 3.0, share, 0.9, 0.1),
        lambda eta, share: theory.interpolated_largest_eta(eta, 3.0, share, 0.9, 0.1),
        lambda eta, share: theory.interpolated_bounce_amplitude(eta, 0.1, 3.0, share, 0.9),
        lambda eta, share: theory.interpolated_bounce_multiplier(eta, 0.1, 3.0, share),
    ):
        expected = [[call(eta, share) for share in floats] for eta in (0.1, 0.05)]
        assert all(type(value) is float for row in expected for value in row)
        np.testing.assert_allclose(call(etas, shares), expected, rtol=1e-15)
    assert theory.interpolated_largest_rho(etas, 3.0, 1.0).tolist() == [[math.inf], [math.inf]]


def test_every_bad_argument_is_named(bad_arguments):
    base = {"momentum": 0.5, "weight_decay": 0.1}
    eta, rho, curvature = {"eta": 0.1}, {"rho": 0.1}, {"curvature": 3.0}
    share = {"share": 0.5}
    for function, good in (
        (theory.interpolated_edge, eta | rho | share | {"grad_norm": 1.0} | base),
        (theory.interpolated_largest_rho, eta | curvature | share | base),
        (theory.interpolated_largest_eta, rho | curvature | share | base),
        (theory.interpolated_bounce_amplitude, eta | rho | curvature | share | {"momentum": 0.5}),
        (theory.interpolated_bounce_multiplier, eta | rho | curvature | share),
    ):
        bad_arguments(function, good, positive={"eta", "curvature", "grad_norm"} & set(good))
        with pytest.raises(ThalwegError, match=r"^share must be >= 0 and <= 1, got 1.1"):
            function(**{**good, "share": 1.1})
