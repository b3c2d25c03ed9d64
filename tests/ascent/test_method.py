"""A method is a frozen record of parts."""

import dataclasses
import math
import pickle

import pytest
import torch

from thalweg import Method
from thalweg.ascent import L2, AllParameters, Always, Constant, Context, Gradient, SAMGradient


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
