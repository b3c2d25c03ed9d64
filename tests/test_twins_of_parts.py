"""Every part of a method does in the simulator, for each cell of a grid, what it does in SAM."""

import functools

import numpy as np
import pytest
import torch
from named_net import Tanh, model_of
from test_twins import assert_twins, digits

from thalweg import SAM, Method
from thalweg.ascent import (
    L2,
    Across,
    Adaptive,
    Between,
    Cosine,
    Decoupled,
    Every,
    FanRatio,
    Fisher,
    FollowLR,
    Gaussian,
    Given,
    LargestEntries,
    LargestTensors,
    Linear,
    LInf,
    Magnitude,
    Mix,
    Momentum,
    Monge,
    Named,
    Nuclear,
    Previous,
    Random,
    Rescaled,
    Spectral,
    Spherical,
    SurrogateGap,
    Trust,
    Window,
    WithMean,
)
from thalweg.ascent.scale import Radii
from thalweg.lab import simulate

STEPS = 30
#: Each cell is a run of SAM of its own.
CELLS = {
    "tanh": {"eta": [0.05, 0.02], "rho": [0.05, 0.2], "seed": [3, 1]},
    "digits": {"eta": [0.05], "rho": [0.05], "seed": [3]},
}


@functools.cache
def problem_of(name):
    problem = Tanh() if name == "tanh" else digits()
    problem.inputs_first = False  # SAM gets the tensors here as they lie
    return problem


def by_sam(problem, method, eta, rho, seed):
    """Run one cell by SAM around torch's SGD: parameters, passes and length of ε of every step."""
    start = problem.start(torch.tensor([seed]))
    w = {name: torch.nn.Parameter(t[0].clone()) for name, t in start.items()}
    optimizer = torch.optim.SGD(w.values(), lr=eta, momentum=0.9)
    # Without a dot in the names the simulator knows of no layers.
    layers = getattr(method.ball, "over", "") != "layer" or any("." in name for name in w)
    sam = SAM(optimizer, model_of(w) if layers else None, rho, method=method)
    stream, counts, lengths = problem.stream(torch.tensor([seed])), [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        batch, count = stream(step), 0
        parts = batch if isinstance(batch, list) else [batch]
        for part in parts:
            for _ in sam.passes():
                problem.loss({k: t[None] for k, t in w.items()}, part).sum().backward()
                count += 1
        for t in w.values():
            t.grad /= len(parts)
        optimizer.step()
        counts.append(count)
        lengths.append(float(sam.last.perturbation_norm))
    return {name: t.detach().numpy() for name, t in w.items()}, counts, lengths


ALONE = {
    # direction
    "the mean": {"direction": WithMean()},
    "less the mean": {"direction": WithMean(1.0, -0.6, 0.8)},
    "momentum": {"direction": Momentum()},
    "against momentum": {"direction": Momentum(1)},
    "previous": {"direction": Previous()},
    "given": {"direction": Given(lambda weights: [torch.cos(w) for w in weights])},
    "noise": {"direction": Gaussian(3)},
    "noise by filter": {"direction": Gaussian(3, per_filter=True)},
    # filter and mask
    "names": {"filter": Named("weight")},
    "other names": {"filter": Named("weight", invert=True)},
    "small ones": {"filter": lambda p, name, layer: p.numel() <= 10},
    "largest entries": {"mask": LargestEntries(0.3)},
    "largest tensors": {"mask": LargestTensors(2)},
    # ball
    "ball of a tensor": {"ball": L2(over="tensor")},
    "ball of a layer": {"ball": L2(over="layer")},
    "ASAM": {"ball": L2(scale=Magnitude())},
    "ASAM with biases": {"ball": L2(scale=Magnitude(biases=True))},
    "trust": {"ball": L2(scale=Trust())},
    "fans": {"ball": L2(scale=FanRatio(), over="tensor")},
    "Fisher": {"ball": L2(scale=Fisher())},
    "radii": {"ball": L2(scale=Radii((0.5, 2.0, 1.0, 0.3)), over="tensor")},
    "largest entry": {"ball": LInf()},
    "largest entry of all": {"ball": LInf(over="all", scale=Magnitude())},
    "spectral": {"ball": Spectral()},
    "spectral of a layer": {"ball": Spectral(FanRatio(), over="layer")},
    "nuclear": {"ball": Nuclear()},
    # size
    "power .5": {"power": 0.5},
    "power 0 with a cap": {"power": 0.0, "max_norm": 0.1},
    "between": {"size": Between(0.3)},
    "between over time": {"size": Between()},
    "Monge": {"size": Monge()},
    # schedule
    "rho follows eta": {"schedule": FollowLR(lr_max=0.06, lr_min=0.01, rho_min=0.02)},
    "warm-up": {"schedule": Linear(20, start=0.0, end=1.0)},
    "to zero": {"schedule": Cosine(20)},
    # gate and reuse
    "every third": {"gate": Every(3)},
    "window": {"gate": Window(10, 22)},
    "random": {"gate": Random(0.5, seed=4)},
    "adaptive": {"gate": Adaptive(STEPS)},
    "LookSAM": {"gate": Every(3), "reuse": Across()},
    "adaptive LookSAM": {"gate": Adaptive(STEPS), "reuse": Across(0.5)},
    # combine
    "mix": {"combine": Mix(0.3)},
    "surrogate gap": {"combine": SurrogateGap(0.3)},
    "rescaled": {"combine": Rescaled()},
    "spherical": {"combine": Spherical(1.7)},
    "decoupled": {"combine": Decoupled(1.7)},
    # several gradients
    "three ascents": {"ascents": 3},
    "three points": {"points": (0.5, 1.0, 2.0)},
}
TOGETHER = {
    "a late warm one": {
        "direction": WithMean(0.5, 0.5),
        "gate": Random(0.7, seed=2),
        "schedule": Linear(20, start=0.0, end=1.5),
        "combine": SurrogateGap(),
        "power": 0.5,
    },
    "an adaptive one": {
        "gate": Adaptive(STEPS, early=0.5, late=-0.5),
        "reuse": Across(),
        "schedule": Linear(25),
        "combine": Mix(1.5),
        "filter": Named("weight"),
        "ball": L2(scale=Trust(), over="tensor"),
    },
    "a large one": {
        "ascents": 2,
        "points": (1.0, 0.5),
        "ball": LInf(scale=Fisher()),
        "mask": LargestEntries(0.5),
        "combine": Rescaled(),
        "direction": WithMean(1.0, 1.0),
    },
    "a cheap one": {
        "direction": Previous(),
        "gate": Every(2),
        "filter": Named("0|1"),
        "points": (1.0, 2.0),
        "size": Between(0.5),
    },
    "ASAM twice": {"ascents": 2, "ball": L2(scale=Magnitude())},
    "noise by filter around": {
        "direction": Gaussian(1, per_filter=True),
        "points": (1.0, 1.0),
        "ball": L2(over="tensor", scale=Trust()),
    },
    "an early end of one cell": {
        "gate": Adaptive(STEPS),
        "reuse": Across(),
        "schedule": lambda rho, step, lr: rho * (step < 25 or lr > 0.03),
    },
    "a decoupled one": {
        "gate": Adaptive(STEPS),
        "schedule": Linear(30),
        "combine": Decoupled(3.0),
        "filter": Named("weight"),
    },
    "noise around": {"direction": Gaussian(1), "points": (1.0, 0.3, 1.0), "power": 0.0},
    "momentum beyond": {"direction": Momentum(), "ball": LInf(), "schedule": Cosine(60, end=0.2)},
}
PARTS = ALONE | TOGETHER
METHODS = {name: Method(**parts) for name, parts in PARTS.items()}


@functools.cache
def simulated(problem, name):
    """The grid of cells; "plain SAM" and "no ascent" are what it must differ from."""
    words = CELLS[problem] | ({"rho": 0.0} if name == "no ascent" else {})
    return simulate(
        problem_of(problem),
        **words,
        method=METHODS.get(name, Method()),
        momentum=0.9,
        steps=STEPS,
        lengths=True,
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("problem", CELLS)
def test_thirty_steps(problem, name):
    method, found = METHODS[name], simulated(problem, name)
    for cell, words in enumerate(zip(*CELLS[problem].values(), strict=True)):
        w, counts, lengths = by_sam(problem_of(problem), method, *words)
        assert_twins(w, {k: value[cell] for k, value in found.final.items()})
        ball = method.ball  # of others the simulator keeps the length in their own norm
        euclidean = isinstance(ball, L2) and ball.over == "all" and ball.scale is None
        if euclidean and method.ascents == 1 and (method.looks or len(method.points) == 1):
            np.testing.assert_allclose(found.lengths[cell], lengths, rtol=1e-12, atol=1e-13)
        if "gate" in PARTS[name] and "schedule" not in PARTS[name] and method.looks:
            closed = [count == 1 for count in counts]  # the same steps
            assert (found.lengths[cell] == 0).tolist() == closed
            assert 5 < sum(closed) < STEPS
    for other in ("no ascent", "plain SAM"):
        other = simulated(problem, other)
        apart = max(np.abs(other.final[k] - v).max() for k, v in found.final.items())
        assert apart > 1e-5


class Halves(Tanh):
    """The minibatch of each step in two halves, each of which takes its own ascent."""

    def stream(self, seeds):
        whole = super().stream(seeds)

        def halves(step):
            x, y = whole(step)
            return [(x[:3], y[:3]), (x[3:], y[3:])]

        return halves


MICRO = ("the mean", "noise", "adaptive LookSAM", "warm-up")


@pytest.mark.parametrize("name", MICRO)
def test_every_minibatch_counts_as_a_step(name):
    method = METHODS[name]
    found = simulate(Halves(), **CELLS["tanh"], method=method, momentum=0.9, steps=STEPS)
    for cell, words in enumerate(zip(*CELLS["tanh"].values(), strict=True)):
        w, _, _ = by_sam(Halves(), method, *words)
        assert_twins(w, {k: value[cell] for k, value in found.final.items()})
    whole = simulated("tanh", name)
    assert max(np.abs(whole.final[k] - v).max() for k, v in found.final.items()) > 1e-5
