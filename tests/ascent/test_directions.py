"""What points uphill: noise, momentum, what was learnt; and what the base gets of two gradients."""

import contextlib
import itertools

import pytest
import torch
from torch import nn

from thalweg import SAM, Method, ThalwegError, presets
from thalweg.ascent import (
    Context,
    Every,
    Gaussian,
    Given,
    Momentum,
    Previous,
    Spherical,
    WithMean,
)


def test_noise_is_normal_and_that_of_other_tensors_steps_and_points_is_other_noise():
    n = 10**5
    w = [torch.zeros(n, dtype=torch.float64), torch.zeros(250, 400, dtype=torch.float64)]
    places = ((0, 0), (1, 0), (0, 1))
    each = [Gaussian(1)([], Context(weights=w, step=s, point=p)) for s, p in places]
    each = [*itertools.chain(*each), *Gaussian(2)([], Context(weights=w))]
    noise = torch.stack([z.flatten() for z in each])
    five = 5 / n**0.5  # standard errors
    assert noise.mean(1).abs().max() < five
    for power, moment, spread in ((2, 1, 2), (3, 0, 15), (4, 3, 96)):  # and its variance
        away = (noise**power).mean(1) - moment
        assert away.abs().max() < five * spread**0.5
    together = torch.corrcoef(noise) - torch.eye(len(noise), dtype=torch.float64)
    assert together.abs().max() < five


@pytest.mark.parametrize("per_filter", [False, True])
@pytest.mark.parametrize("cells", [0, 1])
def test_noise_carries_no_graph(per_filter, cells):
    w = torch.ones(2, 3, requires_grad=True)
    (z,) = Gaussian(per_filter=per_filter)([], Context(weights=[w], cells=cells))
    assert not z.requires_grad


class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("key", ["momentum_buffer", "exp_avg"])
def test_a_base_optimizer_without_that_momentum_is_told_what_to_do(adam, key):
    model = Kept()
    make = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = make(model.parameters(), lr=0.1)
    sam = SAM(optimizer, model, 0.1, method=presets.momentum(key))

    def step():
        for _ in sam.passes():
            (model.weight**2).sum().backward()
        optimizer.step()

    step()  # before the first step nobody has any
    told = rf'must keep "{key}", got none of it: give it a momentum, .*key="exp_avg" for Adam'
    has_it = adam and key == "exp_avg"
    with contextlib.nullcontext() if has_it else pytest.raises(ThalwegError, match=told):
        step()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Momentum(sign=True), "sign must be 1 or -1, got True"),
        (lambda: Momentum(sign=2), "sign must be 1 or -1, got 2"),
        (lambda: Momentum(key=3), 'key must be a name such as "exp_avg", got 3'),
        (lambda: presets.momentum([1]), r"key must be a name .* got \[1\]"),
        (lambda: Given(3), "of must be a function of the weights, got 3"),
        (lambda: Gaussian(per_filter="no"), "per_filter must be True or False, got 'no'"),
        (lambda: presets.gaussian(per_filter=0), "per_filter must be True or False, got 0"),
        (lambda: presets.largest_entry(biases="no"), "biases must be True or False, got 'no'"),
    ],
)
def test_what_a_part_is_given(make, told):
    with pytest.raises(ThalwegError, match=told):
        make()


def test_steps_whose_gate_is_closed_are_not_learnt_from():
    """And every ascent of a step is: as the docstrings say."""

    def kept(method, name):
        model, found = Kept(), []
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.5, method=method)
        for slope in (1.0, 2.0, 4.0):
            for _ in sam.passes():
                (slope * model.weight).sum().backward()
            found.append(sam.state_dict()["memory"]["tensors"][0][name][0].item())
        return found

    assert kept(Method(direction=Previous()), "previous") == [1.0, 2.0, 4.0]
    assert kept(Method(direction=Previous(), gate=Every(2)), "previous") == [1.0, 1.0, 4.0]
    mean = WithMean(decay=0.5)
    assert kept(Method(direction=mean), "mean") == [0.5, 1.25, 2.625]
    assert kept(Method(direction=mean, gate=Every(2)), "mean") == [0.5, 0.5, 2.25]
    assert kept(Method(direction=mean, ascents=2), "mean")[0] == 0.75


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_in_line_span_no_plane_to_turn_in(alpha, sign):
    g = [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)]
    h = [3.0 * sign * t for t in g]
    for found, expected in zip(Spherical(alpha)(g, h, Context()), h, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
