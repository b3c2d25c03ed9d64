"""The yoked control: whose lengths are replayed, and a SAM that is spoiled."""

import importlib

import numpy as np
import pytest

from thalweg.ascent import Method
from thalweg.lab.claims import yoked as room
from thalweg.lab.claims.yoked import CLAIM

simulate = importlib.import_module("thalweg.lab.simulate").simulate
#: Four times the loss: ‖g‖ is far from 1, and no power of it passes for another.
LOUD = {"n_train": 200, "label_noise": 0.5, "width": 16, "loss_scale": 4.0, "eta": 0.0125}
TINY = {
    "tasks": [["a", "perceptron", LOUD]],
    "rho": [-12, -9],
    "seeds": 4,
    "steps": 250,
    # wide enough for four seeds of a small network
    "margin": 5.0,
}


def measured():
    evidence = CLAIM.measure({**CLAIM.settings, **TINY})
    return evidence, [c.holds for c in evidence.checks if c.decides]


def test_lengths_are_those_of_another_seed(monkeypatch):
    runs = []

    def watch(task, **settings):
        runs.append((settings, simulate(task, **settings)))
        return runs[-1][1]

    monkeypatch.setattr(room, "simulate", watch)
    evidence = CLAIM.measure({**CLAIM.settings, **TINY, "steps": 5})
    (own, usam), (first, _), (second, _), (third, _), (last, _) = runs
    assert own["power"] == 0.0
    for seed in range(4):
        np.testing.assert_array_equal(first["replay"][:, (seed + 1) % 4], usam.lengths[:, seed])
    np.testing.assert_array_equal(np.sort(second["replay"]), np.sort(first["replay"]))
    assert not np.array_equal(second["replay"], first["replay"])
    assert (np.ptp(third["replay"], axis=-1) == 0).all()
    np.testing.assert_allclose(third["replay"].mean(-1), first["replay"].mean(-1), rtol=1e-6)
    assert "rho" not in last
    assert evidence.runs == 4 * 2 * 4 + 4


def test_lengths_alone_give_usams_accuracy():
    evidence, found = measured()
    assert found[0] is True
    assert found[2] is True
    assert "(1 tasks, 4 seeds" in evidence.found
    assert all(c.predicted and c.measured and c.tolerance for c in evidence.checks)
    assert all(axes.layers for chart in evidence.charts for axes in chart.axes)


PERTURBATION = Method.perturbation


def no_rho(self, gradient, rho, *args, **kwargs):
    return PERTURBATION(self, gradient, 0 * rho, *args, **kwargs)


def other_sign(self, *args, **kwargs):
    p = PERTURBATION(self, *args, **kwargs)
    return p._replace(factor=-p.factor)


def never_normalized(self, gradient, rho, power=None, **kwargs):
    return PERTURBATION(self, gradient, rho, 0.0, **kwargs)


@pytest.mark.parametrize("spoil", [no_rho, other_sign, never_normalized])
def test_a_spoiled_sam_is_noticed(monkeypatch, spoil):
    monkeypatch.setattr(Method, "perturbation", spoil)
    _, found = measured()
    assert (found[0], found[2]) != (True, True)


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ((0.2, 0.5, 9), True),
        ((0.2, 0.9, 9), None),
        ((1.8, 0.5, 9), False),
        ((-1.8, 0.5, 9), False),
        ((-1.8, 0.9, 9), None),
    ],
)
def test_the_margin(value, holds):
    assert room._within("a", value, 1.0).holds is holds


def test_the_interval():
    value, half, n = room._interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (value, n) == (2.5, 4)
    assert half == pytest.approx(3.182 * (5 / 3) ** 0.5 / 2, rel=1e-3)
    assert room._outside((1.0, 0.5, 4), 0.0, 1) is True
    assert room._outside((1.0, 1.5, 4), 0.0, 1) is None
    assert room._outside((0.0, 0.0, 4), 0.0, 1) is False
    assert room._outside((-1.0, 0.5, 4), 0.0, 1) is False
