"""Blocks of cells and threads: how the cells are cut up changes nothing but the time.

And cells that leave take what a method remembers of them along.
"""

import sys

import numpy as np
import pytest
import torch

from thalweg import Method
from thalweg.ascent import (
    Across,
    Adaptive,
    Every,
    Gaussian,
    Linear,
    Mix,
    Momentum,
    Previous,
    Window,
    WithMean,
)
from thalweg.lab import Digits, Quadratic, SingleNeuron, simulate

ENGINE = sys.modules["thalweg.lab.run"]
NEURON = SingleNeuron("log_cosh", start=(0.7, 2.0))
VALLEY = Quadratic([3.0, 0.3, 0.1], start=[1.0, -2.0, 0.5])


@pytest.fixture
def seen(monkeypatch):
    """How many cells each call of the step was given."""
    calls = []
    step = ENGINE.Step.__call__

    def watched(self, state, settings, batch):
        calls.append(len(settings.eta))
        assert not torch.is_grad_enabled()
        return step(self, state, settings, batch)

    monkeypatch.setattr(ENGINE.Step, "__call__", watched)
    return calls


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_same(found, wanted):
    for name in ("loss", "diverged", "steps_run", "lengths"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-9)
    for name, value in wanted.final.items():
        np.testing.assert_allclose(found.final[name], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("problem", "momentum"), [(NEURON, 0.0), (NEURON, 0.5), (VALLEY, 0.0), (VALLEY, 0.5)]
)
def test_blocks_change_nothing(problem, momentum, seen, threads, monkeypatch):
    eta = np.array([0.01, 0.1, 0.3, 0.9, 3.0])[:, None]  # some leave on the way
    settings = {"steps": 250, "momentum": momentum, "lengths": True}
    whole = simulate(problem, eta=eta, rho=[0.0, 0.1, 0.4], **settings)
    assert set(seen) != {15}  # some have left
    assert max(seen) == 15
    seen.clear()
    numbers = 3 if problem is VALLEY else 1
    monkeypatch.setattr(ENGINE, "_BLOCK", 4 * numbers)
    cut = simulate(problem, eta=eta, rho=[0.0, 0.1, 0.4], **settings)
    assert max(seen) <= 4
    assert_same(cut, whole)
    seen.clear()
    again = simulate(problem, eta=eta, replay=whole.lengths, **settings)
    assert max(seen) <= 4
    np.testing.assert_array_equal(np.isnan(again.lengths), np.isnan(whole.lengths))


def test_minibatches_short_stretches_and_products_are_for_all_cells(seen, monkeypatch):
    monkeypatch.setattr(ENGINE, "_BLOCK", 1)
    task = Digits(n_train=100, batch_size=25, width=4)
    simulate(task, rho=0.1, seed=[0, 1, 2], steps=20, observe={})
    assert set(seen) == {3}
    seen.clear()
    simulate(NEURON, eta=0.1, rho=[0.1, 0.2, 0.3], steps=5)
    assert set(seen) == {3}
    seen.clear()

    class Products(SingleNeuron):
        elementwise = False

    simulate(Products(), eta=0.01, rho=[0.1, 0.2, 0.3], steps=50)
    assert set(seen) == {3}


def test_what_a_block_raises_comes_out(threads, monkeypatch):
    class Broken(SingleNeuron):
        def gradient(self, params, batch=None):
            raise RuntimeError("broken")

    monkeypatch.setattr(ENGINE, "_BLOCK", 1)
    with pytest.raises(RuntimeError, match="broken"):
        simulate(Broken(), eta=0.1, rho=[0.1, 0.2, 0.3], steps=50)
    assert torch.get_num_threads() == threads


CHANGING = {
    "mean": Method(direction=WithMean(1.0, 1.0)),
    "previous": Method(direction=Previous(), schedule=Linear(90, start=0.0, end=1.0)),
    "momentum": Method(direction=Momentum(), points=(1.0, 0.5)),
    "noise": Method(direction=Gaussian(2)),
    "adaptive": Method(gate=Adaptive(100), reuse=Across(), combine=Mix(0.5)),
    "every second": Method(gate=Every(2), reuse=Across(), ascents=2),
}


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("problem", [VALLEY, NEURON])
def test_what_a_cell_remembers_is_its_own(problem, name):
    eta, rho = np.array([3.0, 0.05, 0.9, 0.2])[:, None], [0.0, 0.1, 0.4]
    settings = {"method": CHANGING[name], "momentum": 0.5, "steps": 120, "lengths": True}
    together = simulate(problem, eta=eta, rho=rho, ceiling=50, **settings)
    assert len(set(together.steps_run.flat)) > 1  # some leave, the others move up
    for i, j in np.ndindex(4, 3):
        alone = simulate(problem, eta=eta[i, 0], rho=rho[j], ceiling=50, **settings)
        assert alone.steps_run == together.steps_run[i, j]
        np.testing.assert_allclose(together.lengths[i, j], alone.lengths, rtol=1e-7, atol=1e-12)
        for k, value in alone.final.items():
            np.testing.assert_allclose(together.final[k][i, j], value, rtol=1e-7, atol=1e-12)


def test_a_cell_that_stands_still_may_be_moved_when_its_gate_opens():
    slow = Quadratic([1.0], start=[1e-150])  # moves by less than what counts as rest
    assert simulate(slow, eta=1e-6, steps=200).steps_run == 100
    gate = Method(gate=Window(151))
    run = simulate(slow, eta=1e-6, rho=0.5, method=gate, steps=200, lengths=True)
    assert run.steps_run == 200
    np.testing.assert_allclose(run.lengths, np.where(np.arange(200) < 151, 0, 0.5), rtol=1e-15)
    assert abs(run.final["w"][0]) == pytest.approx(0.5e-6, rel=1e-3)  # it bounces: odd
