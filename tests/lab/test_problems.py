"""The problems: closed forms against differentiation, and what they refuse."""

import math

import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Digits, Problem, Quadratic, SingleNeuron, simulate
from thalweg.lab.problems import Quartic

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
        (lambda: Quadratic([]), r"eigenvalues must be a list of numbers, at least one, got \[\]"),
        (lambda: Quadratic(4), r"^eigenvalues must be a list of numbers, .* got 4: write \[4\]$"),
        (lambda: Quadratic([1.0], start=5), r"^start must be a list .* got 5: write \[5\]$"),
        (lambda: Quadratic([[1.0], [2.0]]), r"each of eigenvalues must be .*, got \[1\.0\]"),
        (lambda: Quartic("2"), r"^start must be a finite number, got '2' \(pass a number"),
        (lambda: Quadratic([1.0], start=[1.0, 2.0]), "2 numbers for 1 eigenvalues"),
        (lambda: Quadratic([math.nan]), "eigenvalues must be a finite number, got nan"),
        (lambda: Quadratic(["1"]), "eigenvalues must be a finite number"),
        (lambda: Quadratic([1.0], start=[math.inf]), "start must be a finite number"),
        (lambda: SingleNeuron("tanh"), 'loss must be "log_cosh" or "sqrt"'),
        (lambda: SingleNeuron(start=(1.0, math.nan)), "start must be a finite number"),
        (lambda: SingleNeuron(loss_scale=0.0), "loss_scale must be a finite number > 0"),
        (lambda: Digits(n_train=0), "n_train must be a whole number >= 1"),
        (lambda: Digits(n_train=60.0), "n_train must be a whole number"),
        (lambda: Digits(n_train=1796), "at most 1795 of 1797"),
        (lambda: Digits(label_noise=-0.1), "label_noise must be a finite number >= 0"),
        (lambda: Digits(label_noise=1.1), "label_noise must be .* <= 1, got 1.1"),
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


class Own(Problem):
    """A problem of one's own, all of it right."""

    quantities = ("w",)

    def start(self, seeds):
        return {"w": torch.ones(len(seeds), 2, dtype=self.dtype)}

    def loss(self, params, batch=None):
        return (params["w"] ** 2).sum(-1)

    def observe(self, params, seeds):
        return {"w": params["w"][:, 0]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"start": lambda self: {}}, r"Own\.start must be called with \(seeds\)"),
        ({"start": lambda self, seeds: {}}, r"Own\.start\(\) must return a dict .* an empty one"),
        ({"loss": lambda self, params: None}, r"write def loss\(self, params, batch=None\)$"),
        (
            {"loss": lambda self, params, batch=None: params["w"].detach()[:, 0]},
            r"Own\.loss\(\) must depend on the parameters, got one without a graph: make it",
        ),
        ({"observe": lambda self, params, seeds: None}, r"Own\.observe\(\) must return a dict"),
        ({"quantities": "w"}, r"Own\.quantities must be a tuple of names such as .* got 'w'$"),
        ({"dtype": "float64"}, r"Own\.dtype must be a floating-point type .* got 'float64'$"),
        ({"dtype": torch.int64}, r"Own\.dtype must be a floating-point type .* got torch\.int64$"),
        ({"stream": lambda self, seeds: 5}, r"Own\.stream\(\) must return a function .* got 5$"),
        (
            {"final_loss": lambda self, params, seeds: 1.0},
            r"Own\.final_loss\(\) must be one number per cell",
        ),
        (
            {"gradient": lambda self, params, batch=None: None},
            r"Own\.gradient\(\)\['w'\] must be a tensor like the parameter, \(3, 2\) of .* None$",
        ),
        (
            {"gradient": lambda self, params, batch=None: {"w": params["w"][:, :1]}},
            r"got \(3, 1\) of torch\.float64$",
        ),
        (
            {"gradient": lambda self, params, batch=None: {"w": params["w"].float()}},
            r"got \(3, 2\) of torch\.float32$",
        ),
    ],
)
def test_a_problem_of_ones_own_is_looked_at_before_the_first_step(wrong, told):
    own = type("Own", (Own,), wrong)
    with pytest.raises(ThalwegError, match=told):
        simulate(own(), eta=[0.1, 0.2, 0.3], rho=0.1, steps=3)


def test_a_parameter_that_the_loss_does_not_see_stays():
    class Spare(Own):
        def start(self, seeds):
            return {**super().start(seeds), "v": torch.ones(len(seeds), dtype=self.dtype)}

    final = simulate(Spare(), eta=0.1, rho=0.1, steps=5).final
    assert final["v"] == 1
    assert (final["w"] < 1).all()
