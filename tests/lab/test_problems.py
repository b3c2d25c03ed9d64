"""The problems: closed forms against differentiation, and what they refuse."""

import math

import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Digits, Problem, Quadratic, SingleNeuron, simulate

SEEDS = torch.tensor([0, 1, 1, 7])
LINKS = {
    "log_cosh": (lambda z: abs(z) + math.log1p(math.exp(-2 * abs(z))) - math.log(2), math.tanh),
    "sqrt": (lambda z: math.hypot(1, z), lambda z: z / math.hypot(1, z)),
}
#: From below the smallest square to where cosh overflows.
SIZES = [
    0.0,
    1e-300,
    1e-160,
    1e-20,
    1e-9,
    1e-4,
    0.0799,
    0.0801,
    0.1,
    0.14,
    0.3,
    1.0,
    5.0,
    19.0,
    30.0,
    1e3,
]


def points(n=200):
    draw = torch.Generator().manual_seed(0)
    return {k: torch.randn(n, generator=draw, dtype=torch.float64) * 2 for k in "xy"}


def along(link, **options):
    """Gradient and loss for z = x (y = 1) at ± SIZES."""
    z = [sign * size for size in SIZES for sign in (1, -1)]
    x = torch.tensor(z, dtype=torch.float64)
    neuron, w = SingleNeuron(link, **options), {"x": x, "y": torch.ones_like(x)}
    return z, neuron.gradient(w)["x"].tolist(), neuron.loss(w).tolist()


@pytest.mark.parametrize("scale", [1.0, 16.0])
@pytest.mark.parametrize("link", LINKS)
def test_single_neuron_against_differentiation(link, scale):
    neuron = SingleNeuron(link, loss_scale=scale)
    w = points()
    found, expected = neuron.gradient(w), Problem.gradient(neuron, w)
    assert set(found) == {"x", "y"}
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-13, atol=1e-14)
    z = (w["x"] * w["y"]).tolist()
    assert neuron.loss(w).tolist() == pytest.approx([scale * LINKS[link][0](v) for v in z], 1e-13)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("link", LINKS)
def test_single_neuron_to_the_last_digits(monkeypatch, link, compiled):
    # A compiled step computes tanh in another way.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    z, slope, loss = along(link)
    # 2σ(2z) - 1 just above .08 has one rounding of 1/2 in it: 1e-16 / .08
    digits = 3e-15 if compiled and link == "log_cosh" else 5e-16
    assert slope == pytest.approx([LINKS[link][1](v) for v in z], rel=digits, abs=0)
    # near 0 the loss is a difference of two numbers near log 2
    assert loss == pytest.approx([LINKS[link][0](v) for v in z], rel=4e-16, abs=4e-16)


@pytest.mark.parametrize("link", LINKS)
def test_single_neuron_observes_the_curvature_at_the_floor(link):
    neuron = SingleNeuron(link, start=(0.0, 3.0))
    w = neuron.start(torch.tensor([0]))
    assert neuron.observe(w, SEEDS[:1])["y_squared"].tolist() == [9.0]
    x = w["x"].requires_grad_()
    (slope,) = torch.autograd.grad(neuron.loss(w).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope, x)
    assert float(second) == pytest.approx(9.0, 1e-12)


def test_single_neuron_starts_where_told():
    w = SingleNeuron(start=(2, -3)).start(SEEDS)
    assert {k: v.tolist() for k, v in w.items()} == {"x": [2.0] * 4, "y": [-3.0] * 4}
    assert w["x"].dtype == torch.float64


def test_quadratic():
    problem = Quadratic([4.0, 1.0, 0.0, -0.5], start=[1, 2, 3, 4])
    start = problem.start(SEEDS)
    assert start["w"].tolist() == [[1.0, 2.0, 3.0, 4.0]] * 4
    assert problem.loss(start).tolist() == [(4 + 4 + 0 - 8) / 2] * 4
    assert problem.observe(start, SEEDS)["distance"].tolist() == [30**0.5] * 4
    w = {"w": torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))}
    assert torch.equal(problem.gradient(w)["w"], Problem.gradient(problem, w)["w"])
    assert Quadratic([1.0, 2.0]).start(SEEDS[:1])["w"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Quadratic([]), "there must be one"),
        (lambda: Quadratic([1.0], start=[1.0, 2.0]), "2 numbers for 1 eigenvalues"),
        (lambda: Quadratic([math.nan]), "eigenvalue must be a finite number, got nan"),
        (lambda: Quadratic(["1"]), "eigenvalue must be a finite number"),
        (lambda: Quadratic([1.0], start=[math.inf]), "start must be a finite number"),
        (lambda: SingleNeuron("tanh"), 'loss must be "log_cosh" or "sqrt"'),
        (lambda: SingleNeuron(start=(1.0, math.nan)), "start must be a finite number"),
        (lambda: SingleNeuron(loss_scale=0.0), "loss_scale must be a finite number > 0"),
        (lambda: Digits(n_train=0), "n_train must be a whole number >= 1"),
        (lambda: Digits(n_train=60.0), "n_train must be a whole number"),
        (lambda: Digits(n_train=1796), "at most 1795 of 1797"),
        (lambda: Digits(label_noise=-0.1), "label_noise must be a finite number >= 0"),
        (lambda: Digits(label_noise=1.1), "a share from 0 to 1, got 1.1"),
        (lambda: Digits(label_noise=math.nan), "label_noise must be a finite number"),
        (lambda: Digits(batch_size=0), "batch_size must be a whole number >= 1"),
        (lambda: Digits(n_train=50, batch_size=51), "at most n_train=50, got 51"),
        (lambda: Digits(eta=0), "eta must be a finite number > 0"),
        (lambda: Digits(momentum=1.0), "momentum must be a finite number >= 0 and < 1"),
        (lambda: Digits(momentum=-0.5), "momentum must be a finite number >= 0"),
        (lambda: Digits(width=0), "width must be a whole number >= 1"),
        (lambda: Digits(loss_scale=-1), "loss_scale must be a finite number > 0"),
    ],
)
def test_bad_input(make, told):
    with pytest.raises(ThalwegError, match=told):
        make()


@pytest.mark.parametrize("start", [1.0, (1.0,), (1.0, 2.0, 3.0), None])
def test_a_neuron_starts_at_a_pair(start):
    with pytest.raises(ThalwegError, match=r"start must be a pair of numbers \(x, y\), got"):
        SingleNeuron("log_cosh", start=start)


class Startless(Problem):
    def loss(self, params, batch=None):
        return params["w"] ** 2


class Lossless(Problem):
    def start(self, seeds):
        return {"w": torch.ones(len(seeds), dtype=self.dtype)}


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (Startless(), r"Startless must have a method start\(self, seeds\), got none: write one"),
        (Lossless(), r"Lossless must have a method loss\(self, params, batch=None\), got none"),
        (Problem(), r"Problem must have a method start"),
    ],
)
def test_a_problem_that_lacks_something_is_told_what(problem, told):
    with pytest.raises(ThalwegError, match=told):
        simulate(problem, eta=0.1, steps=1)
