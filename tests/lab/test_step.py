"""The step: its base, several minibatches, the lengths of ε, and what methods cost."""

import math

import numpy as np
import pytest
import torch

from thalweg import Method, ThalwegError
from thalweg.ascent import Between, Every, Gaussian, Linear, Momentum, WithMean
from thalweg.lab import Digits, Problem, Quadratic, SingleNeuron, simulate

NEURON = SingleNeuron("log_cosh", start=(0.7, 2.0))
VALLEY = Quadratic([3.0, 0.3], start=[1.0, -2.0])
MATRICES = torch.tensor(
    [[[2.0, 0.3], [0.3, 1.0]], [[0.5, -0.2], [-0.2, 3.0]], [[1.0, 0.0], [0.0, 0.1]]],
    dtype=torch.float64,
)


class Noisy(Problem):
    """½ w'Aw with one of several A per minibatch; a step has as many minibatches as told."""

    quantities = ()

    def __init__(self, each):
        self.each = each

    def start(self, seeds):
        return {"w": torch.tensor([[1.0, -2.0]], dtype=self.dtype).repeat(len(seeds), 1)}

    def loss(self, params, batch=None):
        matrix = MATRICES.mean(0) if batch is None else batch
        return torch.einsum("bi,ij,bj->b", params["w"], matrix, params["w"]) / 2

    def stream(self, seeds):
        def batch(step):
            chosen = [MATRICES[(step + i) % 3] for i in range(self.each or 1)]
            return chosen if self.each else chosen[0]

        return batch


def written_out(each, eta, rho, power, steps):
    """m-SAM in plain numpy; the weights at the end, and the mean length of ε at every step."""
    w, lengths = np.array([1.0, -2.0]), []
    for step in range(steps):
        total, length = np.zeros(2), 0.0
        for i in range(each):
            matrix = MATRICES[(step + i) % 3].numpy()
            g = matrix @ w
            epsilon = rho * g / np.linalg.norm(g) ** power
            total += matrix @ (w + epsilon) / each
            length += np.linalg.norm(epsilon) / each
        w = w - eta * total
        lengths.append(length)
    return w, lengths


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("each", [1, 2, 3])
def test_several_minibatches_each_take_their_own_ascent(each, power):
    found = simulate(Noisy(each), eta=0.1, rho=[0.1, 0.3], power=power, steps=30, lengths=True)
    for i, rho in enumerate([0.1, 0.3]):
        w, lengths = written_out(each, 0.1, rho, power, 30)
        np.testing.assert_allclose(found.final["w"][i], w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.lengths[i], lengths, rtol=1e-12)
    # one ascent for the mean of the minibatches would end elsewhere
    if each == 3:
        together = simulate(Together(), eta=0.1, rho=[0.1, 0.3], power=power, steps=30)
        assert np.abs(together.final["w"] - found.final["w"]).max() > 1e-4


class Together(Noisy):
    """The mean of all the minibatches at once."""

    def __init__(self):
        super().__init__(0)

    def stream(self, seeds):
        return None


def test_a_list_of_one_minibatch_is_that_minibatch():
    settings = {"eta": [0.1, 9.0], "rho": 0.2, "steps": 150, "lengths": True}
    one, plain = simulate(Noisy(1), **settings), simulate(Noisy(0), **settings)
    assert plain.diverged.tolist() == [False, True]
    for name in ("loss", "steps_run", "diverged", "lengths"):
        np.testing.assert_array_equal(getattr(one, name), getattr(plain, name))
    np.testing.assert_array_equal(one.final["w"], plain.final["w"])


def test_a_list_of_minibatches_must_not_be_empty():
    class Empty(Noisy):
        def stream(self, seeds):
            return lambda step: []

    with pytest.raises(
        ThalwegError, match=r"Empty\.stream\(\) must give at least one minibatch a step"
    ):
        simulate(Empty(1), eta=0.1, rho=0.1, steps=3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
def test_lengths_are_those_of_epsilon(power):
    eta, rho = np.array([0.1, 0.3])[:, None], np.array([0.0, 0.1, 0.4])
    kept = simulate(VALLEY, eta=eta, rho=rho, power=power, steps=20, lengths=True).lengths
    assert kept.shape == (2, 3, 20)
    w = np.broadcast_to([1.0, -2.0], (2, 3, 2)).copy()
    curvature = np.array([3.0, 0.3])
    for step in range(20):
        g = curvature * w
        n = np.linalg.norm(g, axis=-1)
        factor = (rho * n**-power)[..., None]
        np.testing.assert_allclose(kept[..., step], np.linalg.norm(factor * g, axis=-1), rtol=1e-9)
        w = w - eta[..., None] * curvature * (w + factor * g)
    assert simulate(VALLEY, eta=0.1, steps=1).lengths is None


def test_lengths_under_a_cap_are_the_capped_ones():
    method = Method(power=1.5, max_norm=0.25)
    kept = simulate(VALLEY, eta=0.1, rho=0.3, method=method, steps=40, lengths=True).lengths
    assert kept.max() == pytest.approx(0.25, rel=1e-12)
    assert kept.min() < 0.2


def test_lengths_of_cells_that_left():
    # stays, diverges, converges
    run = simulate(Quadratic([1.0]), eta=[0.1, 2.5, 0.5], rho=0.3, power=0, steps=900, lengths=True)
    stays, diverged, rests = run.lengths
    assert np.isfinite(stays).all()
    assert run.steps_run.tolist()[0] == 900
    assert run.steps_run[2] < 900
    until = run.steps_run[1]
    assert run.diverged.tolist() == [False, True, False]
    assert np.isfinite(diverged[:until]).all()
    assert np.isnan(diverged[until:]).all()
    assert (rests[run.steps_run[2] :] == rests[run.steps_run[2] - 1]).all()


@pytest.mark.parametrize("problem", [VALLEY, NEURON, Noisy(2), Noisy(0)])
def test_its_own_lengths_replayed_give_the_same_run(problem):
    settings = {"eta": np.array([0.1, 0.4])[:, None], "steps": 60, "lengths": True}
    run = simulate(problem, rho=[0.0, 0.1, 0.2], power=1.0, **settings)
    again = simulate(problem, replay=run.lengths, **settings)
    assert again.loss.shape == (2, 3)  # the shape of what is replayed joins the grid's
    for name, value in run.final.items():
        np.testing.assert_allclose(again.final[name], value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(again.lengths, run.lengths, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_lengths_of_another_power_are_yoked(power):
    run = simulate(VALLEY, eta=0.1, rho=[0.1, 0.3], power=power, steps=60, lengths=True)
    yoked = simulate(VALLEY, eta=0.3, rho=9.0, replay=run.lengths, steps=60, lengths=True)
    np.testing.assert_allclose(yoked.lengths, run.lengths, rtol=1e-12)
    for i in range(2):
        w, curvature = np.array([1.0, -2.0]), np.array([3.0, 0.3])
        for step in range(60):
            g = curvature * w
            w = w - 0.3 * curvature * (w + run.lengths[i, step] * g / np.linalg.norm(g))
        np.testing.assert_allclose(yoked.final["w"][i], w, rtol=1e-10)


def test_a_replay_keeps_its_cells_apart_when_others_leave():
    replay = np.linspace(0.1, 0.5, 3)[:, None] * (1 + np.sin(np.arange(400)))
    settings = {"rho": 0.0, "steps": 400, "lengths": True}
    eta = np.array([1.5, 0.05, 0.5])  # the first one leaves, the others move up
    together = simulate(VALLEY, eta=eta, replay=replay, **settings)
    assert together.diverged.tolist() == [True, False, False]
    for i in range(3):
        alone = simulate(VALLEY, eta=eta[i], replay=replay[i], **settings)
        assert alone.lengths.shape == (400,)
        assert alone.steps_run == together.steps_run[i]
        np.testing.assert_allclose(together.lengths[i], alone.lengths, rtol=1e-12)
        np.testing.assert_allclose(together.final["w"][i], alone.final["w"], rtol=1e-9)


def test_nothing_to_replay_ends_a_cell():
    replay = np.full((2, 300), 0.1)
    replay[1, 120:] = math.nan
    run = simulate(VALLEY, eta=0.1, replay=replay, steps=300, lengths=True)
    assert run.diverged.tolist() == [False, True]
    assert run.steps_run.tolist() == [300, 120]
    assert np.isfinite(run.final["w"]).all()
    np.testing.assert_array_equal(np.isnan(run.lengths), np.isnan(replay))


def test_a_cell_that_stands_still_may_be_moved_again_by_what_is_replayed():
    slow = Quadratic([1.0], start=[1e-150])  # moves by less than what counts as rest
    assert simulate(slow, eta=1e-6, steps=200).steps_run == 100
    replay = np.concatenate([np.zeros(151), np.full(49, 0.5)])  # it bounces: odd
    run = simulate(slow, eta=1e-6, replay=replay, steps=200)
    assert run.steps_run == 200
    assert abs(run.final["w"][0]) == pytest.approx(0.5e-6, rel=1e-3)


def test_digits_lengths_and_replay():
    task = Digits(n_train=100, batch_size=25, width=4)
    run = simulate(task, rho=[[0.05], [0.2]], seed=[0, 1], power=0, steps=12, lengths=True)
    assert run.lengths.shape == (2, 2, 12)
    assert run.lengths.dtype == np.float32
    yoked = simulate(task, seed=[0, 1], replay=run.lengths, steps=12, lengths=True)
    np.testing.assert_allclose(yoked.lengths, run.lengths, rtol=1e-5)
    other = simulate(task, seed=[0, 1], replay=run.lengths[::-1], steps=12)
    assert np.abs(other.final["bias2"] - yoked.final["bias2"]).max() > 1e-5


def test_where_rho_is_0_it_is_the_gradient_whatever_is_made_of_it():
    def half(g, h, context):
        return [0.5 * t for t in h]

    plain = simulate(VALLEY, eta=0.1, steps=20)
    both = simulate(VALLEY, eta=0.1, rho=[0.0, 0.2], method=Method(combine=half), steps=20)
    np.testing.assert_array_equal(both.final["w"][0], plain.final["w"])
    warm = Method(combine=half, schedule=Linear(10, start=0.0, end=1.0))
    first = simulate(VALLEY, eta=0.1, rho=0.2, method=warm, steps=1)
    np.testing.assert_allclose(first.final["w"], [1 - 0.1 * 3, -2 + 0.1 * 0.6], rtol=1e-14)


def test_a_step_takes_as_many_gradients_as_in_training():
    class Counted(Quadratic):
        def gradient(self, params, batch=None):
            self.count += 1
            return super().gradient(params, batch)

    for method, wanted in (
        (Method(), 2),
        (Method(direction=Momentum()), 1),
        (Method(direction=Gaussian(), points=(1.0, 1.0)), 2),
        (Method(ascents=3, points=(0.5, 1.0)), 5),
        (Method(gate=Every(4)), 1.25),
        (Method(schedule=Linear(4, start=1.0, end=0.0)), 1.2),
    ):
        problem = Counted([1.0, 2.0])
        problem.count = 0
        simulate(problem, eta=0.1, rho=0.1, method=method, momentum=0.5, steps=20, observe={})
        assert problem.count == 1 + wanted * 20  # one to look at its form, before the first step


def test_lengths_are_replayed_whatever_the_law_was():
    method = Method(size=Between(0.3), schedule=Linear(10), direction=WithMean(0.5, 0.5))
    settings = {"eta": 0.1, "method": method, "steps": 30, "lengths": True}
    run = simulate(VALLEY, rho=[0.1, 0.3], **settings)
    assert len(np.unique(run.lengths.round(6))) > 10
    again = simulate(VALLEY, replay=run.lengths, **settings)
    np.testing.assert_allclose(again.lengths, run.lengths, rtol=1e-12)
    np.testing.assert_allclose(again.final["w"], run.final["w"], rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nesterov": True}, r"nesterov must come with a momentum above 0, got momentum=0"),
        ({"weight_decay": -0.1}, r"weight_decay must be a finite number >= 0"),
        ({"weight_decay": "0.1"}, r"weight_decay must be a finite number"),
        ({"replay": 0.1}, r"replay must have one length for each of the 3 steps.*shape \(\)"),
        ({"replay": [0.1, 0.2]}, r"replay must have one length .*shape \(2,\): pass the lengths"),
        ({"replay": [0.1, -0.2, 0.1]}, r"replay must be >= 0 and finite everywhere.*-0\.2"),
        ({"replay": [0.1, math.inf, 0.1]}, r"replay must be >= 0 and finite.*to inf"),
        ({"replay": "lengths"}, r"replay must be an array of numbers, got 'lengths'"),
        ({"replay": [[0.1] * 3, [0.1]]}, r"replay must be an array of numbers"),
        (
            {"rho": [0.1, 0.2], "replay": np.ones((3, 3))},
            r"shapes must broadcast.*rho \(2,\).*replay without its steps \(3,\)",
        ),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ThalwegError, match=message):
        simulate(NEURON, **({"eta": 0.1, "rho": 0.1, "steps": 3} | changes))
