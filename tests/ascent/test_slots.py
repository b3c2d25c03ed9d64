"""What fills a slot, and what the parts give, is looked at: in training and in the simulator."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from thalweg import SAM, Method, ThalwegError, curvature
from thalweg.ascent import L2, LInf, Spectral
from thalweg.ascent.slots import SLOTS
from thalweg.lab import Quadratic, simulate


def trained(method):
    """Take a step of training."""
    model = nn.Linear(3, 2)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, method=method)
    sam.step(lambda: model(torch.ones(4, 3)).square().sum().backward())


def on_paper(method):
    """Take a step in the simulator."""
    simulate(Quadratic([1.0, 2.0]), eta=0.1, rho=[0.1, 0.2], steps=3, method=method)


def measured(method):
    """Measure a sharpness in the ball of a method."""
    model = nn.Linear(3, 2)
    batches = [torch.ones(4, 3)]
    curvature.sharpness(model, lambda m, x: m(x).square().sum(), batches, 0.1, ball=method.ball)


WAYS = [trained, on_paper, measured]


class Ball:
    """Gives what it is told to."""

    def __init__(self, gives):
        self.gives = gives

    def sharp(self, direction, context):
        return self.gives(direction)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("gives", "came"),
    [
        (lambda d: d, "got .*tensor.* of"),
        (lambda d: None, "got None of"),
        (lambda d: torch.ones(2), r"got tensor\(\[1., 1.\]\) of"),
        (lambda d: (d, None), r"got \(s, None\) of"),
        (lambda d: (d, "long"), r"got \(s, 'long'\) of"),
        (lambda d: (d, [1.0 for _ in d]), r"got \(s, \[1\.0.*\]\) of"),
        (lambda d: (d, torch.ones(2, 2)), r"got \(s, tensor.*\) of"),
    ],
)
def test_a_ball_gives_a_pair(gives, came, way):
    with pytest.raises(ThalwegError, match=rf"^ball must give a pair by sharp\(\), .* {came} .*"):
        way(Method(ball=Ball(gives)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ball", [L2, LInf, Spectral])
@pytest.mark.parametrize(
    ("gives", "came"),
    [
        (lambda d: None, "gave NoneType"),
        (lambda d: 2.0, "gave float"),
        (lambda d: [1.0, *(1.0 for _ in d)], r"gave a list of \d for \d"),
        (lambda d: ["x" for _ in d], "gave something in the list that is no tensor"),
        (lambda d: [torch.ones(4, 5) for _ in d], r"gave \(4, 5\) at place 0"),
    ],
)
def test_a_scale_gives_numbers_or_tensors(gives, came, ball, way):
    told = rf"^scale must give one number or one tensor for each parameter.*; function {came}"
    with pytest.raises(ThalwegError, match=told):
        way(Method(ball=ball(scale=lambda direction, context: gives(direction))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ball", [L2, LInf])
def test_a_scale_may_give_both(ball, way):
    for unit in (lambda d: 2.0, lambda d: 2, lambda d: d.abs() + 1, lambda d: torch.tensor(2.0)):

        def scale(direction, context, unit=unit):
            return [unit(d) for d in direction]

        way(Method(ball=ball(scale=scale)))


def test_a_scale_must_be_called_as_it_is():
    for scale in (lambda direction: direction, 5, "tensor", LInf, nn.Linear(1, 1), nn.MSELoss()):
        with pytest.raises(ThalwegError, match=r"^scale must be a part such as FanRatio\(\), call"):
            L2(scale=scale)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("layer", [nn.Linear(1, 1), nn.MSELoss(), nn.Bilinear(1, 1, 1)])
def test_a_layer_of_torch_is_no_part(slot, layer):
    with pytest.raises(ThalwegError, match=rf"^{slot} must be ") as error:
        Method(**{slot: layer})
    assert SLOTS[slot].example in str(error.value)


class Doubled(nn.Module):
    """A part that happens to be a module."""

    def forward(self, gradient, context):
        return [2 * g for g in gradient]


def test_a_module_of_ones_own_that_fits_is_a_part():
    trained(Method(direction=Doubled()))
    with pytest.raises(
        ThalwegError, match=r"^gate must be called with \(step\), and Doubled\(\) d"
    ):
        Method(gate=Doubled())


class Narrow(Ball):
    """Its n is of numpy."""

    def sharp(self, direction, context):
        return direction, np.float32(context.norm(direction))


def test_numbers_of_numpy_are_numbers():
    trained(Method(ball=Narrow(None)))
    trained(Method(size=lambda norm, step: np.float32(0.5)))
    trained(Method(ball=L2(scale=lambda given, context: [np.float32(2) for _ in given])))


def test_a_part_that_would_fill_pages_is_told_of_in_a_line():
    class Large:
        def __repr__(self):
            return 1000 * "x"

        def __call__(self):
            pass

        def judge(self, gradient, context):
            return True

    class Silent(Large):
        judge = None

        def __call__(self, step):
            pass

    for make in (
        lambda: Method(gate=Large()),
        lambda: trained(Method(gate=Silent())),
    ):
        with pytest.raises(ThalwegError) as error:
            make()
        assert len(str(error.value)) < 300


class Past:
    """A combine that passes the base step by with what it is told to."""

    def __init__(self, gives):
        self.gives = gives

    def __call__(self, here, uphill, context):
        return here

    def beside(self, here, uphill, context):
        return self.gives(uphill)


class Again(Past):
    """A reuse that gives what it is told to."""

    def learn(self, here, uphill, context):
        pass

    def __call__(self, gradient, context):
        return self.gives(gradient)


@pytest.mark.parametrize("way", [trained, on_paper])
@pytest.mark.parametrize(
    "gives", [lambda ts: None, lambda ts: ts[0], lambda ts: [t.sum() for t in ts]]
)
def test_what_goes_past_the_base_step_and_what_is_used_again(gives, way):
    with pytest.raises(ThalwegError, match=r"^beside must give one tensor .* Past gave"):
        way(Method(combine=Past(gives)))
    with pytest.raises(ThalwegError, match=r"^reuse must give one tensor .* Again gave"):
        way(Method(reuse=Again(gives), gate=lambda step: step > 5))


@pytest.mark.parametrize("way", [trained, on_paper])
@pytest.mark.parametrize("gives", [None, -0.1, math.nan, "0.1"])
def test_a_schedule_gives_a_radius(gives, way):
    with pytest.raises(ThalwegError, match=r"^what the schedule .* gives must be .* >= 0, got"):
        way(Method(schedule=lambda rho, step, lr: gives))


@pytest.mark.parametrize("way", [trained, on_paper])
def test_a_law_of_size_gives_a_number(way):
    with pytest.raises(ThalwegError, match=r"^size must give a number, got None of .*: return f"):
        way(Method(size=lambda norm, step: None))
