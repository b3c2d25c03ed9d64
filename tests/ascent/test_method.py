"""A method is a frozen record of parts."""

import dataclasses
import math
import operator
import pickle

import pytest
import torch

from thalweg import Method, ThalwegError, presets
from thalweg.ascent import (
    L2,
    Across,
    AllParameters,
    Always,
    Constant,
    Context,
    Cosine,
    Every,
    Given,
    Gradient,
    LargestEntries,
    LInf,
    Magnitude,
    Mix,
    Momentum,
    Monge,
    Named,
    SAMGradient,
    Spectral,
    WithMean,
    check_method,
)


def test_the_parts_that_a_method_has_unless_told_otherwise():
    method = Method()
    assert method.power == 1
    assert (method.direction, method.filter, method.ball) == (Gradient(), AllParameters(), L2())
    assert (method.schedule, method.gate, method.combine) == (Constant(), Always(), SAMGradient())


def test_methods_are_values():
    assert Method(power=1) == Method(power=1.0)
    assert Method(power=1) != Method(power=0)
    assert hash(Method(power=0.5)) == hash(Method(power=0.5))
    assert pickle.loads(pickle.dumps(Method(power=0.5))) == Method(power=0.5)
    assert dataclasses.replace(Method(power=0.5), max_norm=2).cap == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Method().power = 2


@pytest.mark.parametrize(
    ("power", "given", "cap"),
    [
        (0, None, math.inf),
        (1, None, math.inf),
        (1.0000001, None, 1.0),
        (2, None, 1.0),
        (2, math.inf, math.inf),
        (2, 0.25, 0.25),
        (0, 0.25, 0.25),
    ],
)
def test_the_cap(power, given, cap):
    assert Method(power=power, max_norm=given).cap == cap


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_scaled_gradient_gives_the_same_epsilon(power):
    method = Method(power=power, max_norm=0.4)
    g = [torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([[12.0]], dtype=torch.float64)]
    for rho in (0.01, 3.0):  # below the cap and above it
        plain = method.perturbation(g, rho)
        scale = torch.tensor(65536.0, dtype=torch.float64)
        scaled = method.perturbation([65536 * t for t in g], rho, scale=scale)
        assert float(scaled.norm) == pytest.approx(13, rel=1e-12)
        assert float(scaled.length) == pytest.approx(float(plain.length), rel=1e-12)
        for a, b in zip(scaled.direction, plain.direction, strict=True):
            torch.testing.assert_close(scaled.factor * a, plain.factor * b, rtol=1e-12, atol=0)


def test_the_power_can_be_overridden_for_a_grid():
    g = [torch.tensor([3.0, 4.0], dtype=torch.float64)]
    assert float(Method(power=1).perturbation(g, 0.5, power=0.0).factor) == 0.5
    assert float(Method(power=0).perturbation(g, 0.5, power=1.0).factor) == pytest.approx(0.1)


def test_the_usual_parts_do_nothing_of_their_own():
    g, h = [torch.ones(2)], [torch.zeros(2)]
    assert Gradient()(g, Context()) is g
    assert SAMGradient()(g, h, Context()) is h
    assert AllParameters()(torch.zeros(3), "", None) is True
    assert [Always()(step) for step in (0, 1, 10**9)] == [True] * 3
    assert Constant()(0.05, step=7, lr=0.1) == 0.05


def test_epsilon_of_the_euclidean_ball_writes_nothing_of_the_size_of_the_model():
    g = [torch.ones(3)]
    p = Method().perturbation(g, 0.5)
    assert p.direction[0] is g[0]
    assert p.factor.ndim == p.norm.ndim == p.length.ndim == 0


#: Each with what it is: parallel, plain, one whose dual norm may hide what is not finite.
KINDS = [
    (Method(), "parallel plain"),
    (Method(0.5, 2.0, filter=Named("w"), schedule=Cosine(9)), "parallel plain"),
    (Method(size=Monge()), "parallel"),
    (Method(gate=Every(2), reuse=Across()), "parallel"),
    (Method(combine=Mix(0.5)), "parallel"),
    (Method(ascents=2), "parallel"),
    (Method(points=(0.5,)), "parallel"),
    (Method(ball=L2(over="tensor")), ""),
    (Method(ball=L2(scale=Magnitude())), ""),
    (Method(ball=LInf()), ""),
    (Method(direction=WithMean(1.0, -1.0)), ""),
    (Method(direction=Momentum()), ""),
    (Method(direction=Given(tuple)), ""),
    (Method(mask=LargestEntries(0.5)), "hides"),
    (Method(ball=Spectral()), "hides"),
]


@pytest.mark.parametrize(("method", "kinds"), KINDS, ids=str)
def test_what_a_method_is_asked(method, kinds):
    asked = {name for name in ("parallel", "plain", "hides") if getattr(method, name)}
    assert asked == set(kinds.split())


@pytest.mark.parametrize("method", [m for m, _ in KINDS if m.looks], ids=str)
def test_what_a_parallel_method_does_to_a_gradient_and_what_others_do(method):
    g = [torch.tensor([3.0, -4.0]), torch.tensor([[1.0, 2.0], [0.5, 1.0]])]
    context = Context(weights=[torch.tensor([1.0, 2.0]), torch.ones(2, 2)])
    found = method.perturbation(g, 0.1, context=context).direction
    assert all(map(operator.is_, found, g)) == method.parallel


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("method", [m for m, _ in KINDS if m.looks and not m.hides], ids=str)
def test_what_is_not_finite_shows_unless_the_method_hides_it(method, bad):
    g = [torch.tensor([3.0, -4.0]), torch.tensor([[bad, 2.0], [0.5, 1.0]])]
    context = Context(weights=[torch.tensor([1.0, 2.0]), torch.zeros(2, 2)])
    assert not math.isfinite(float(method.perturbation(g, 0.1, context=context).norm))


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("asam", r"write .*, or call a preset such as presets.asam\(\): `thalweg methods` lists"),
        (presets.asam, r"call it, write method=asam\(\)"),
        (Method, r"call it, write method=Method\(\)"),
        (Mix(0.5), r"write method=Method\(power=...\)"),
    ],
)
def test_what_is_no_method_is_told_how_to_become_one(given, remedy):
    with pytest.raises(ThalwegError, match=rf"method must be a thalweg.Method, got .*: {remedy}"):
        check_method(given, None)
