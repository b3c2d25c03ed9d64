"""SAM, the production form, is what the simulator has on paper: the engines tie to rounding."""

import math

import numpy as np
import pytest
import torch

from thalweg import SAM, Method
from thalweg.lab import Digits, Quadratic, SingleNeuron, simulate


class DoubleDigits(Digits):
    """The digits task in float64; what it observes is beside the point here."""

    dtype = torch.float64
    quantities = ()

    def start(self, seeds):
        return {name: value.double() for name, value in super().start(seeds).items()}

    def stream(self, seeds):
        batch = super().stream(seeds)

        def double(step):
            images, labels = batch(step)
            return images.double(), labels

        return double

    def observe(self, params, seeds):
        return {}

    def final_loss(self, params, seeds):
        return torch.zeros(len(seeds), dtype=self.dtype)


def digits(**changes):
    return DoubleDigits(n_train=200, batch_size=50, width=8, label_noise=0.2, **changes)


class DecayFirst(torch.optim.SGD):
    """SGD that shrinks the weights before its step, as AdamW does; SGD itself cannot."""

    def __init__(self, params, weight_decay, **words):
        super().__init__(params, **words)
        self.decay = weight_decay

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * self.decay)
        super().step()


def by_sam(problem, eta, rho, method, steps, seed=0, momentum=0.0, decoupled=False, **words):
    """Run one cell by SAM around torch's SGD; return its parameters without the cell's axis."""
    seeds = torch.tensor([seed])
    w = {name: t.clone().requires_grad_() for name, t in problem.start(seeds).items()}
    kind = DecayFirst if decoupled else torch.optim.SGD
    optimizer = kind(w.values(), lr=eta, momentum=momentum, **words)
    sam = SAM(optimizer, None, rho, method=method)
    stream = problem.stream(seeds)
    for step in range(steps):
        batch = stream(step) if stream else None
        parts = batch if isinstance(batch, list) else [batch]
        optimizer.zero_grad()
        for part in parts:
            for _ in sam.passes():
                problem.loss(w, part).sum().backward()
        for t in w.values():
            t.grad /= len(parts)
        optimizer.step()
    return {name: t.detach().numpy()[0] for name, t in w.items()}


def assert_twins(found, simulated, tolerance=1e-12):
    assert set(found) == set(simulated)
    for name, value in found.items():
        np.testing.assert_allclose(simulated[name], value, rtol=tolerance, atol=tolerance)


PROBLEMS = {
    "quadratic": (Quadratic([3.0, 1.0, 0.1], start=[1.0, -2.0, 0.5]), 0.2, 0.05, 0.0),
    "quadratic with momentum": (Quadratic([3.0, 0.1], start=[1.0, -2.0]), 0.1, 0.05, 0.9),
    "log_cosh": (SingleNeuron("log_cosh", start=(0.7, 2.0)), 0.2, 0.05, 0.0),
    "sqrt": (SingleNeuron("sqrt", start=(0.7, 2.0), loss_scale=1.5), 0.1, 0.05, 0.0),
    "digits": (digits(), 0.05, 0.05, 0.9),
}


@pytest.mark.filterwarnings("ignore:nothing was perturbed")  # some cells come to rest
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_hundred_steps(name, power):
    problem, eta, rho, momentum = PROBLEMS[name]
    result = simulate(problem, eta=eta, rho=rho, power=power, momentum=momentum, steps=100, seed=3)
    method = Method(power=power, max_norm=math.inf)
    found = by_sam(problem, eta, rho, method, 100, seed=3, momentum=momentum)
    assert_twins(found, result.final)
    # and it is SAM that both run, not gradient descent
    plain = simulate(problem, eta=eta, momentum=momentum, steps=100, seed=3)
    assert any(np.abs(plain.final[k] - v).max() > 1e-6 for k, v in found.items())


BASES = {
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.03},
    "decay": {"weight_decay": 0.03},
    "decay of its own": {"weight_decay": 0.03, "decoupled": True},
    "decay of its own and momentum": {"momentum": 0.5, "weight_decay": 0.03, "decoupled": True},
    "Nesterov": {"momentum": 0.8, "nesterov": True},
    "Nesterov and decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.03},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["quadratic", "log_cosh", "digits"])
def test_a_hundred_steps_of_other_bases(name, base):
    problem, eta, rho, _ = PROBLEMS[name]
    words = {"momentum": 0.0} | BASES[base]
    result = simulate(problem, eta=eta, rho=rho, steps=100, seed=3, **words)
    found = by_sam(problem, eta, rho, Method(), 100, seed=3, **words)
    assert_twins(found, result.final)
    plain = {"nesterov", "weight_decay"} & set(words)
    # without momentum, decay of its own is the usual one
    for word in plain | ({"decoupled"} & set(words) if words["momentum"] else set()):
        less = simulate(
            problem, eta=eta, rho=rho, steps=100, seed=3, **words | {word: type(words[word])()}
        )
        assert any(np.abs(less.final[k] - v).max() > 1e-5 for k, v in found.items()), word


class Micro(DoubleDigits):
    """The digits, each minibatch of 50 in five parts of 10."""

    def stream(self, seeds):
        whole = super().stream(seeds)

        def parts(step):
            images, labels = whole(step)
            return list(zip(images.split(10, 1), labels.split(10, 1), strict=True))

        return parts


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_hundred_steps_of_m_sam(power):
    task = Micro(n_train=200, batch_size=50, width=8, label_noise=0.2)
    result = simulate(task, eta=0.05, rho=0.05, power=power, steps=100, seed=3)
    found = by_sam(task, 0.05, 0.05, Method(power=power), 100, seed=3, momentum=task.momentum)
    assert_twins(found, result.final)
    one = simulate(digits(), eta=0.05, rho=0.05, power=power, steps=100, seed=3)
    assert max(np.abs(one.final[k] - v).max() for k, v in found.items()) > 1e-5


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_digits_as_shipped_in_float32(power):
    task = Digits(n_train=200, batch_size=50, width=8)
    result = simulate(task, rho=0.05, power=power, steps=20, seed=1)
    method = Method(power=power)
    found = by_sam(task, task.eta, 0.05, method, 20, seed=1, momentum=task.momentum)
    assert_twins(found, result.final, tolerance=1e-4)


def scattered(problem, draw):
    """The problem, started from another random state in each cell: the seed numbers it."""
    many = {
        name: 2 * torch.randn(100, *t.shape[1:], generator=draw, dtype=t.dtype)
        for name, t in problem.start(torch.tensor([0])).items()
    }

    class Scattered(type(problem)):
        def start(self, seeds):
            return {name: t[seeds] for name, t in many.items()}

        def stream(self, seeds):  # the same minibatch for all
            return super().stream(torch.zeros_like(seeds))

    problem.__class__ = Scattered
    return problem


MAKE = {
    "quadratic": lambda: Quadratic([3.0, 1.0, -0.1]),
    "log_cosh": lambda: SingleNeuron("log_cosh"),
    "sqrt": lambda: SingleNeuron("sqrt"),
    "digits": digits,
}


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("power", [1.5, 2.0])
@pytest.mark.parametrize("name", MAKE)
def test_above_power_1_one_step_from_each_of_100_states(name, power, capped):
    problem = scattered(MAKE[name](), torch.Generator().manual_seed(5))
    method = Method(power=power, max_norm=0.3 if capped else math.inf)
    kind = {"method": method} if capped else {"power": power}
    result = simulate(problem, eta=0.1, rho=0.05, steps=1, seed=np.arange(100), momentum=0, **kind)
    for seed in range(100):
        found = by_sam(problem, 0.1, 0.05, method, 1, seed=seed)
        assert_twins(found, {name: value[seed] for name, value in result.final.items()})


def test_another_direction_and_combine_in_both():
    method = Method(
        power=0.5,
        direction=lambda g, _: [torch.sin(t) for t in g],
        combine=lambda g, h, _: [0.25 * a + 0.75 * b for a, b in zip(g, h, strict=True)],
    )
    problem = SingleNeuron("log_cosh", start=(0.7, 2.0))
    result = simulate(problem, eta=0.2, rho=0.05, method=method, steps=100)
    assert_twins(by_sam(problem, 0.2, 0.05, method, 100), result.final)
