"""Parts that ask for fans or rows do to a network of the laboratory what they do to torch's layers.

Most networks there have their inputs first and biases of one row; torch has outputs first.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from test_twins import digits
from test_twins_of_parts import by_sam
from torch import nn
from torch.nn import functional

from thalweg import SAM, Method, lab
from thalweg.ascent import (
    L2,
    Context,
    FanRatio,
    Gaussian,
    LargestEntries,
    LargestTensors,
    LInf,
    Magnitude,
    Nuclear,
    Spectral,
    Trust,
)
from thalweg.lab import Problem
from thalweg.lab.networks import TanhConvNet, TanhMLP

STEPS = 20
METHODS = {
    "fans": Method(ball=L2(scale=FanRatio(), over="tensor")),
    "fans of all": Method(ball=L2(scale=FanRatio())),
    "spectral": Method(ball=Spectral()),
    "spectral fans": Method(ball=Spectral(scale=FanRatio())),
    "nuclear": Method(ball=Nuclear(scale=Trust())),
    "largest entry": Method(ball=LInf(scale=FanRatio())),
    "entries": Method(mask=LargestEntries(0.2), ball=L2(scale=FanRatio())),
    "tensors": Method(mask=LargestTensors(2), ball=L2(scale=FanRatio())),
    "magnitude": Method(ball=L2(scale=Magnitude())),
    "fans around": Method(ball=L2(scale=FanRatio()), points=(0.5, 1.0)),
}
#: A network of the laboratory, its widths, and what is between layers in torch.
NETWORKS = {
    "digits": (digits(), (64, 8, 10), nn.ReLU),
    "tanh": (TanhMLP(examples=20), (10, 40, 40, 1), nn.Tanh),
}


def layers(widths, kind):
    """Torch's own layers, with biases."""
    pairs = [(nn.Linear(a, b), kind()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*pairs))[:-1].double()


def turned(params):
    """What the laboratory calls weight1 and bias1, as torch's layers have it."""
    return [t.mT if name.startswith("weight") else t[0] for name, t in params.items()]


@functools.cache
def by_torch(name, method, rho):
    """The weights after torch's layers were trained by SAM."""
    problem, widths, kind = NETWORKS[name]
    seeds = torch.tensor([3])
    model = layers(widths, kind)
    start = turned({k: t[0] for k, t in problem.start(seeds).items()})
    with torch.no_grad():
        for p, value in zip(model.parameters(), start, strict=True):
            p.copy_(value)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sam = SAM(optimizer, model, rho, method=METHODS.get(method, Method()))
    for step in range(STEPS):
        x, y = (part[0] for part in problem.stream(seeds)(step))
        optimizer.zero_grad()
        for _ in sam.passes():
            out = model(x)
            loss = functional.cross_entropy(out, y) if name == "digits" else _squares(out, y)
            loss.backward()
        optimizer.step()
    return [p.detach().numpy() for p in model.parameters()]


def _squares(out, y):
    return (out - y).square().sum(1).mean() / 2


def simulated(problem, method, rho, steps=STEPS):
    words = {"eta": 0.05, "momentum": 0.9, "seed": 3, "steps": steps}
    return lab.simulate(problem, rho=rho, method=method, **words).final


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_twenty_steps(name, method):
    theirs, plain = by_torch(name, method, 0.05), by_torch(name, "plain", 0.0)
    final = simulated(NETWORKS[name][0], METHODS[method], 0.05)
    ours = turned({k: torch.as_tensor(v) for k, v in final.items()})
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    assert max(np.abs(a - b).max() for a, b in zip(plain, theirs, strict=True)) > 1e-4


def test_a_network_with_its_outputs_first_is_taken_as_it_is():
    """The convolutional one has a row for each filter, as torch has."""
    problem = lab.DigitsConv(n_train=200, batch_size=50, width=4)
    theirs, counts, _ = by_sam(problem, METHODS["fans"], 0.05, 0.05, 3)
    plain = simulated(problem, Method(), 0.0, len(counts))
    for name, ours in simulated(problem, METHODS["fans"], 0.05, len(counts)).items():
        np.testing.assert_allclose(ours, theirs[name], rtol=0, atol=1e-4)
        assert np.abs(ours - plain[name]).max() > 1e-2


@pytest.mark.parametrize("problem", [lab.Text(), TanhConvNet(), lab.WideDigits()])
def test_other_networks_of_the_laboratory_say_that_their_inputs_come_first(problem):
    fans = {
        "Text": {"widen1": 2**0.5, "narrow1": 0.5**0.5},
        "TanhConvNet": {"1": (12 / 16) ** 0.5, "bias1": 12**0.5},
        "WideDigits": {"weight3": problem.scales[2] if hasattr(problem, "scales") else 0},
    }[type(problem).__name__]
    seen = {}

    def direction(gradient, context):
        scales = FanRatio()(gradient, context)
        seen.update(zip(context.names(), scales, strict=True))
        return gradient

    lab.simulate(problem, eta=0.01, rho=0.1, method=Method(direction=direction), steps=1)
    for name, fan in fans.items():
        name = name if name in seen else f"weight{name}"
        assert seen[name] == pytest.approx(fan), name


def test_rows_of_noise_are_those_of_torchs_layers():
    """Every output's weights are as far from w as they are long; a bias as one vector."""
    w = {"weight": torch.randn(2, 5, 3), "bias": torch.randn(2, 1, 3)}
    shapes = {k: t.double() for k, t in w.items()}
    theirs = [shapes["weight"].mT, shapes["bias"][:, 0]]
    noise = Gaussian(1, per_filter=True)
    ours = noise([], Context(weights=list(shapes.values()), cells=1, inputs_first=True))
    far = [ours[0].mT.norm(dim=2), ours[1][:, 0].norm(dim=1)]
    torch.testing.assert_close(far[0], theirs[0].norm(dim=2))
    torch.testing.assert_close(far[1], theirs[1].norm(dim=1))
    assert not torch.allclose(ours[1].abs(), shapes["bias"].abs())  # its entries are no rows


def test_a_problem_of_ones_own_has_its_outputs_first_unless_it_says_otherwise():
    assert Problem.inputs_first is False
