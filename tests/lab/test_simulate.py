"""The simulator's books: grids, cells that leave, what the result says, and what it refuses."""

import math
import os

import numpy as np
import pytest
import torch

from thalweg import Method, ThalwegError
from thalweg.ascent import L2, AdamMetric, Every, Linear, Momentum, Within
from thalweg.lab import Digits, Maximum, Problem, Quadratic, SingleNeuron, simulate
from thalweg.lab.simulate import has_compiler

NEURON = SingleNeuron("log_cosh", start=(0.7, 2.0))


def plain_loop(eigenvalues, start, eta, rho, power, steps, ceiling, momentum=0.0):
    """SAM on a quadratic in plain Python: w, steps within bounds, and whether it left them."""
    w, v = np.array(start, float), np.zeros(len(start))
    eigenvalues = np.array(eigenvalues)
    for step in range(steps):
        g = eigenvalues * w
        n = math.sqrt((g * g).sum())
        epsilon = 0.0 * g if n == 0 and power > 0 else rho * n**-power * g
        v = eigenvalues * (w + epsilon) + momentum * v
        after = w - eta * v
        if not (np.abs(after) <= ceiling).all():
            return w, step, True
        w = after
    return w, steps, False


ETA = [0.1, 0.9, 1.5, 2.2, 8.0]
RHO = [0.0, 0.05, 0.4]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ceiling", [50.0, 1e30])
def test_every_cell_is_the_plain_loop(power, ceiling, momentum):
    problem = Quadratic([1.0, 0.3], start=[1.0, -2.0])
    result = simulate(
        problem,
        eta=np.array(ETA)[:, None],
        rho=RHO,
        power=power,
        steps=350,
        ceiling=ceiling,
        momentum=momentum,
    )
    assert result.final["w"].shape == (5, 3, 2)
    assert result.loss.shape == result.diverged.shape == result.steps_run.shape == (5, 3)
    for i, eta in enumerate(ETA):
        for j, rho in enumerate(RHO):
            w, steps, left = plain_loop(
                [1.0, 0.3], [1.0, -2.0], eta, rho, power, 350, ceiling, momentum
            )
            assert result.diverged[i, j] == left
            if left:
                assert result.steps_run[i, j] == steps
            assert np.abs(result.final["w"][i, j]).max() <= ceiling
            # a cell that stays keeps its digits; one on its way out loses some
            np.testing.assert_allclose(
                result.final["w"][i, j], w, rtol=1e-7 if left else 1e-9, atol=1e-12
            )
            loss = 0.5 * (w[0] ** 2 + 0.3 * w[1] ** 2)
            assert result.loss[i, j] == pytest.approx(loss, rel=1e-6, abs=1e-15)
    assert result.diverged.any()
    assert not result.diverged.all()


@pytest.mark.parametrize("problem", [NEURON, SingleNeuron("sqrt", start=(0.7, 2.0))])
def test_a_grid_equals_its_cells_one_by_one(problem):
    eta, rho, power = [0.05, 0.3, 3.0], [0.0, 0.1], [0.0, 0.5, 1.0]
    grid = np.ix_(eta, rho, power)
    together = simulate(problem, eta=grid[0], rho=grid[1], power=grid[2], steps=150)
    assert together.steps_run.shape == (3, 2, 3)
    for index in np.ndindex(3, 2, 3):
        e, r, p = eta[index[0]], rho[index[1]], power[index[2]]
        alone = simulate(problem, eta=e, rho=r, power=p, steps=150)
        assert alone.loss.shape == ()
        assert together.steps_run[index] == alone.steps_run
        assert together.diverged[index] == alone.diverged
        for name in ("x", "y"):
            np.testing.assert_allclose(
                together.final[name][index], alone.final[name], rtol=1e-9, atol=1e-13
            )


def test_digits_grid_equals_its_cells_one_by_one():
    task = Digits(n_train=100, batch_size=25, width=4)
    rho, seed = np.array([0.0, 0.1])[:, None], [0, 1, 0]
    together = simulate(task, rho=rho, seed=seed, steps=12)
    assert together.final["weight1"].shape == (2, 3, 64, 4)
    for i, j in np.ndindex(2, 3):
        alone = simulate(task, rho=rho[i, 0], seed=seed[j], steps=12)
        np.testing.assert_allclose(
            together.final["weight1"][i, j], alone.final["weight1"], rtol=1e-4, atol=1e-5
        )
        for name in ("test_accuracy", "validation_accuracy"):
            assert abs(together.observed[name][i, j] - alone.observed[name]) < 0.01
    same = {k: v[:, 0] for k, v in together.final.items()}
    np.testing.assert_array_equal(same["bias2"], together.final["bias2"][:, 2])
    assert np.abs(together.final["bias2"][0] - together.final["bias2"][1]).max() > 1e-5


def test_a_cell_at_rest_is_frozen_and_counts_its_steps():
    result = simulate(Quadratic([1.0]), eta=[0.5, 0.001], steps=3000)
    assert not result.diverged.any()
    assert result.steps_run[0] < 1000
    assert abs(result.final["w"][0, 0]) < 1e-150
    assert result.steps_run[1] == 3000
    assert result.final["w"][1, 0] == pytest.approx(0.999**3000, rel=1e-9)


def test_no_steps_leave_the_start():
    result = simulate(NEURON, eta=0.1, rho=0.1, steps=0)
    assert (result.final["x"], result.final["y"], result.steps_run) == (0.7, 2.0, 0)


def test_a_method_brings_its_power_and_its_cap():
    problem = Quadratic([1.0], start=[0.1])
    capped = simulate(problem, eta=0.5, rho=1.0, method=Method(power=2), steps=1)
    assert capped.final["w"][0] == pytest.approx(0.1 - 0.5 * (0.1 + 1.0))
    free = simulate(problem, eta=0.5, rho=1.0, power=2, steps=1)
    assert free.final["w"][0] == pytest.approx(0.1 - 0.5 * (0.1 + 10.0))


def test_the_usual_values_are_the_problem_s_own():
    task = Digits(n_train=100, batch_size=25, width=4, eta=0.02, momentum=0.5)
    usual = simulate(task, rho=0.1, steps=5)
    given = simulate(task, eta=0.02, momentum=0.5, rho=0.1, power=1.0, seed=0, steps=5)
    for name, value in usual.final.items():
        np.testing.assert_array_equal(value, given.final[name])
    assert np.abs(simulate(task, rho=0.1, steps=5, momentum=0).final["bias2"] - value).max() > 1e-4


def test_it_leaves_threads_grad_mode_and_random_state_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    simulate(Digits(n_train=100, batch_size=25, width=4), rho=0.1, steps=3)
    simulate(NEURON, eta=0.1, steps=3)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


# torch warns of itself while it loads its compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_it_is_the_same_up_to_rounding():
    if not has_compiler():
        if os.environ.get("THALWEG_CI") == "1":
            pytest.fail("no C++ compiler was found, and THALWEG_CI=1 asks for one")
        pytest.skip("needs a C++ compiler (g++ or clang++)")
    settings = {"eta": [0.1, 0.3], "rho": 0.1, "power": 1.0, "steps": 250}
    eager = simulate(NEURON, **settings, compile=False)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = simulate(NEURON, **settings, compile=True)
    assert (eager.compiled, compiled.compiled) == (False, True)
    assert not counters["graph_break"]  # in two graphs a step takes twice as long
    for name in ("x", "y"):
        np.testing.assert_allclose(compiled.final[name], eager.final[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(compiled.steps_run, eager.steps_run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": "0.1"}, r"eta must be a number or an array of numbers, got '0\.1'"),
        ({"eta": None}, r"eta must be given: SingleNeuron has none"),
        ({"eta": 0.0}, r"eta must be > 0"),
        ({"eta": [0.1, math.nan]}, r"eta must be finite"),
        ({"eta": [[0.1], [0.1, 0.2]]}, r"eta must be a number or an array of numbers"),
        ({"eta": True}, r"eta must be a number or an array of numbers, got True"),
        ({"rho": -0.1}, r"rho must be >= 0"),
        ({"rho": [0.1, math.inf]}, r"rho must be finite"),
        ({"rho": ["0.1"]}, r"rho must be a number or an array"),
        ({"power": -1}, r"power must be >= 0"),
        ({"power": math.nan}, r"power must be finite"),
        ({"seed": 0.5}, r"seed must be a whole number or an array of them, got 0\.5"),
        ({"seed": -1}, r"seed must be >= 0"),
        ({"seed": "0"}, r"seed must be a number or an array"),
        (
            {"eta": [0.1, 0.2], "rho": [0.1, 0.2, 0.3]},
            r"shapes must broadcast.*eta \(2,\), rho \(3,\).*: give one .* as in rho=\[\[0.0\], ",
        ),
        ({"steps": -1}, r"steps must be a whole number >= 0, got -1"),
        ({"steps": 1.5}, r"steps must be a whole number >= 0, got 1\.5"),
        ({"steps": "10"}, r"steps must be a whole number"),
        ({"momentum": -0.1}, r"momentum must be a finite number >= 0"),
        ({"ceiling": 0}, r"ceiling must be a finite number > 0"),
        ({"power": 1, "method": Method()}, r"power and method must not both.*method=Method\(power"),
        (
            {"method": Method(filter=Within(torch.nn.Linear))},
            r"filter must choose among x, y by name.*Linear.*which chooses none.*no modules",
        ),
        (
            {"method": Method(gate=Every(2)), "compile": True},
            r"compile must be left out, or False, .*got Method",
        ),
        (
            {"method": Method(schedule=Linear(steps=3)), "compile": True},
            r"compile must be left out, or False, .*got Method",
        ),
        (
            {"method": Method(direction=Momentum())},
            r'must keep "momentum_buffer", .*momentum is above 0: set momentum',
        ),
        (
            {"method": Method(ball=L2(scale=AdamMetric())), "momentum": 0.9},
            r'must keep "exp_avg_sq", .*train with thalweg\.SAM',
        ),
        (
            {"observe": {"a": Maximum("z")}},
            r"observer 'a' must .*SingleNeuron observes \(y_squared\)",
        ),
        ({"observe": {"a": "y_squared"}}, r"observer 'a' must be an Observer .*got 'y_squared'"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ThalwegError, match=message):
        simulate(NEURON, **({"eta": 0.1, "rho": 0.1, "steps": 3} | changes))


def test_a_grid_of_networks_may_diverge_as_a_whole():
    run = simulate(Digits(n_train=100, width=4), eta=1e10, seed=[0, 1], steps=150)
    assert run.diverged.all()
    assert (run.steps_run < 150).all()
    assert all(np.isfinite(value).all() for value in run.final.values())


class Own(Problem):
    """A problem of one's own, with one thing wrong."""

    quantities = ("w",)

    def __init__(self, start=None, loss=None, observe=None):
        self.wrong = {"start": start, "loss": loss, "observe": observe}

    def start(self, seeds):
        right = {"w": torch.ones(len(seeds), 2, dtype=torch.float64)}
        return right if self.wrong["start"] is None else self.wrong["start"]

    def loss(self, params, batch=None):
        value = (params["w"] ** 2).sum(-1)
        return value if self.wrong["loss"] is None else self.wrong["loss"](value)

    def observe(self, params, seeds):
        value = params["w"][:, 0]
        return {"w": value if self.wrong["observe"] is None else self.wrong["observe"](value)}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"start": torch.ones(3, 2)}, r"Own\.start\(\) must return a dict .* got Tensor"),
        ({"start": {"w": torch.ones(2)}}, r"\['w'\] must be a tensor with the 3 cells first"),
        (
            {"start": {"w": torch.ones(3, 2)}},
            r"must be of dtype torch\.float64, got torch\.float32",
        ),
        (
            {"loss": lambda v: v.sum()},
            r"Own\.loss\(\) must be one number per cell, .* shape \(3,\)",
        ),
        ({"loss": lambda v: v[:, None]}, r"Own\.loss\(\) must be one number per cell"),
        ({"observe": lambda v: 1.0}, r"Own\.observe\(\)\['w'\] must be one number per cell"),
    ],
)
def test_a_problem_of_the_wrong_form_is_told_of_at_once(wrong, told):
    with pytest.raises(ThalwegError, match=told):
        simulate(Own(**wrong), eta=[0.1, 0.2, 0.3], steps=3)
    assert simulate(Own(), eta=[0.1, 0.2, 0.3], steps=3).observed["w"].shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"problem": Quadratic}, r"problem must be an instance .* got <class"),
        ({"observe": ["distance"]}, r"observe must map names to observers"),
        ({"device": "nowhere"}, r"device must be one that torch can use, got 'nowhere'"),
        ({"device": 0.5}, r"device must be one that torch can use, got 0\.5"),
        ({"momentum": 1}, r"momentum must be a finite number >= 0 and < 1, got 1"),
        ({"nesterov": "yes"}, r"nesterov must be True or False, got 'yes'"),
        ({"decoupled": 1}, r"decoupled must be True or False, got 1"),
        ({"lengths": None}, r"lengths must be True or False, got None"),
        ({"compile": "no"}, r"compile must be True, False or None, got 'no'"),
        ({"progress": True}, r"progress must be a label or None, got True"),
    ],
)
def test_what_cannot_be_simulated_is_told_of(arguments, told):
    with pytest.raises(ThalwegError, match=told):
        simulate(**{"problem": Quadratic([1.0]), "eta": 0.1, "steps": 3, **arguments})
