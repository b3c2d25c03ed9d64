"""Threshold neurons: sums by bisection against relus written out, and the Hessian's threshold."""

import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError, theory
from thalweg.lab import Problem, ThresholdNeurons, simulate

SEEDS = torch.tensor([3, 1, 3, 3, 0])
PROBLEM = ThresholdNeurons(d=12, examples=30)


def points():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(len(SEEDS), 2, generator=draw, dtype=torch.float64) / 5
    return {"a": a, "b": torch.randn(len(SEEDS), generator=draw, dtype=torch.float64)}


def written_out(a, b, seed, problem=PROBLEM):
    x, y = problem.drawn(seed)
    f = a[0] * torch.relu(-x + b).sum(1) + a[1] * torch.relu(x + b).sum(1)
    return torch.log1p(torch.exp(-y * f)).mean()


def test_the_loss_is_the_formula():
    w = points()
    expected = [float(written_out(w["a"][i], w["b"][i], s)) for i, s in enumerate(SEEDS.tolist())]
    found = PROBLEM.loss(w, PROBLEM.examples(SEEDS))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert PROBLEM.final_loss(w, SEEDS).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_against_differentiation():
    w, batch = points(), PROBLEM.stream(SEEDS)(5)
    found, same = PROBLEM.gradient(w, batch), Problem.gradient(PROBLEM, w, batch)
    for name in w:
        torch.testing.assert_close(found[name], same[name], rtol=1e-12, atol=1e-13)
    for i, seed in enumerate(SEEDS.tolist()):
        leaves = [w["a"][i].clone().requires_grad_(), w["b"][i].clone().requires_grad_()]
        a, b = torch.autograd.grad(written_out(*leaves, seed), leaves)
        torch.testing.assert_close(found["a"][i], a, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found["b"][i], b, rtol=1e-12, atol=1e-13)


def test_a_unit_at_its_threshold_does_not_count():
    # As torch has it: relu has slope 0 at 0.
    x, _ = PROBLEM.drawn(0)
    w = {"a": torch.tensor([[0.3, 0.7]], dtype=torch.float64), "b": -x[2, 3].reshape(1)}
    seed = torch.tensor([0])
    for sign in (1, -1):
        here = {"a": w["a"], "b": sign * w["b"]}
        a, b = here["a"][0], here["b"][0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(written_out(a, b, 0), b)
        found = PROBLEM.gradient(here, PROBLEM.examples(seed))["b"]
        assert float(found) == pytest.approx(float(slope), rel=1e-12)


def test_far_out_the_loss_stays_finite():
    w = {"a": torch.tensor([[50.0, -50.0]], dtype=torch.float64), "b": torch.ones(1).double()}
    batch = PROBLEM.examples(torch.tensor([0]))
    assert math.isfinite(float(PROBLEM.loss(w, batch)))
    assert torch.isfinite(PROBLEM.gradient(w, batch)["a"]).all()


def test_what_a_seed_draws():
    x, y = ThresholdNeurons(d=50, examples=4000).drawn(1)
    assert set(y.tolist()) == {-1.0, 1.0}
    assert abs(float(y.mean())) < 0.05
    assert float((x * y[:, None]).mean()) == pytest.approx(3 / 50, rel=0.1)
    # Noise of variance 1 everywhere, and once in 50 a signal of 3: its share is 9/50 - (3/50)².
    assert float(x.var()) == pytest.approx(1 + 9 / 50, rel=0.05)
    start = PROBLEM.start(torch.tensor([1, 2, 1]))
    assert start["b"].tolist() == [0.0] * 3
    assert torch.equal(start["a"][0], start["a"][2])
    many = ThresholdNeurons(d=8).start(torch.arange(2000))["a"]
    assert float(many.var()) == pytest.approx(1 / 16, rel=0.1)


def test_the_threshold_is_that_of_the_hessian_at_the_start():
    dense = torch.autograd.functional.hessian(
        lambda a: written_out(a, torch.tensor(0.0), 0), torch.zeros(2, dtype=torch.float64)
    )
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert PROBLEM.threshold(0) == pytest.approx(2 / top, rel=1e-12)
    wide = ThresholdNeurons(d=400, examples=2000)
    assert wide.threshold(0) == pytest.approx(theory.threshold_neuron_eta(400), rel=0.03)


def test_cells_keep_to_themselves():
    seeds, rho = np.array([1, 0, 1]), np.array([0.0, 0.02, 0.05])
    together = simulate(PROBLEM, eta=0.01, rho=rho, seed=seeds, steps=100).final["b"]
    for i in range(3):
        alone = simulate(PROBLEM, eta=0.01, rho=rho[i], seed=seeds[i], steps=100).final["b"]
        assert float(together[i]) == pytest.approx(float(alone), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"d": 0}, "d must be a whole number >= 1"),
        ({"examples": 0}, "examples must be a whole number >= 1"),
        ({"signal": math.inf}, "signal must be a finite number"),
    ],
)
def test_bad_input(options, told):
    with pytest.raises(ThalwegError, match=told):
        ThresholdNeurons(**options)
