"""The yoked control: whose lengths are replayed, and a SAM that is spoiled."""

import importlib

import numpy as np
import pytest
from spoiled import never_normalized, no_rho, other_sign

from thalweg.ascent import Method
from thalweg.lab.claims import yoked as room
from thalweg.lab.claims.yoked import CLAIM
from thalweg.lab.statistics import Mean

simulate = importlib.import_module("thalweg.lab.simulate").simulate
#: Four times the loss: ‖g‖ is far from 1, and no power of it passes for another.
LOUD = {"n_train": 200, "label_noise": 0.5, "width": 16, "loss_scale": 4.0, "eta": 0.0125}
TINY = {
    "tasks": [["a", "perceptron", LOUD]],
    "rho": [-12, -9, -6],
    "seeds": 8,
    "steps": 250,
    # wide enough for eight seeds of a small network
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
    evidence = CLAIM.measure({**CLAIM.settings, **TINY, "steps": 5, "seeds": 4})
    (own, usam), (first, _), (second, _), (third, _), (last, _) = runs
    assert own["power"] == 0.0
    for seed in range(4):
        np.testing.assert_array_equal(first["replay"][:, (seed + 1) % 4], usam.lengths[:, seed])
    np.testing.assert_array_equal(np.sort(second["replay"]), np.sort(first["replay"]))
    assert not np.array_equal(second["replay"], first["replay"])
    assert (np.ptp(third["replay"], axis=-1) == 0).all()
    np.testing.assert_allclose(third["replay"].mean(-1), first["replay"].mean(-1), rtol=1e-6)
    assert "rho" not in last
    assert evidence.runs == 4 * 3 * 4 + 4


def test_lengths_alone_give_usams_accuracy():
    evidence, found = measured()
    assert found[0] is True
    assert found[2] is True
    assert "(1 tasks, 8 seeds" in evidence.found
    assert all(c.predicted and c.measured and c.tolerance for c in evidence.checks)
    assert all(axes.layers for chart in evidence.charts for axes in chart.axes)


def test_a_best_rho_at_an_end_of_the_grid_decides_nothing():
    tiny = {**TINY, "steps": 5, "seeds": 4, "rho": [-12, -9]}  # of two values each is an end
    evidence = CLAIM.measure({**CLAIM.settings, **tiny})
    assert [c.holds for c in evidence.checks if c.decides][:2] == [None, None]
    assert evidence.found.endswith("an end of the grid: a.")


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
        ((-1.8, 0.9, 9), False),
        ((-0.2, 1.3, 9), None),
    ],
)
def test_the_margin(value, holds):
    middle, half, n = value
    found = Mean(np.array(middle), np.array(middle - half), np.array(middle + half), n)
    check = room._within("a", found, 1.0, [])
    assert check.holds is holds
    assert "end of the grid" not in check.measured
    # a best ρ at an end of the grid decides nothing
    check = room._within("a", found, 1.0, ["a task"])
    assert check.holds is None
    assert check.measured.endswith("extend it: a task")
