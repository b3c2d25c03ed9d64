"""Robustness on real data: the two-stage grid, the training behind it, a SAM that is spoiled."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from spoiled import always_normalized, never_normalized, no_rho, other_sign
from test_robust_stats import curve

from thalweg.ascent import Method
from thalweg.lab import Digits
from thalweg.lab.claims import robust_runs as runs_room
from thalweg.lab.claims.robust_tasks import left_out
from thalweg.lab.claims.robustness import CLAIM


def peak(best, floor=0.4):
    """A task whose accuracy falls off on both sides of a best value, to SGD's and below it."""

    def run(at):
        far = [k - best for k in at]
        height = [floor + 0.3 - 0.02 * abs(d) if d <= 0 else 0.7 - 0.1 * d for d in far]
        return curve(
            [max(h, floor if d < 0 else 0) for h, d in zip(height, far, strict=True)], at=at
        )

    return lambda at: run(sorted(at))


GRID = {"extend": 4, "gain": 0.01, "fine": 2}


def test_the_grid_grows_until_the_ends_are_worse_than_sgd():
    runs = [peak(-7), peak(-7), peak(7)]
    curves, common = runs_room._two_stages(runs, range(-3, 4, 3), [0.4] * 3, GRID)
    assert {-9, -6, 6, 9} <= set(common)
    # the fine grid found them between two values of the coarse one
    assert [c.best for c in curves] == [-7, -7, 7]
    for c in curves:
        assert c.validation[-1].mean() < 0.4
        assert set(common) <= set(c.at)
    # the fine values around a task's own pick are its own; those around the common one are shared
    assert 8 in curves[2].at
    assert 8 not in common


def test_a_task_without_a_gain_does_not_ask_for_smaller_rho():
    def flat(at):
        return curve([0.4 if k < 3 else 0.1 for k in sorted(at)], at=sorted(at))

    _, common = runs_room._two_stages([flat], range(-3, 4, 3), [0.4], {**GRID, "fine": 0})
    assert min(common) == -3


def test_what_a_cap_never_touched_is_not_trained_again(monkeypatch):
    settings = {"seeds": 2, "steps": 3, "looks": 1}
    task, at = Digits(n_train=64, batch_size=32, width=4), (-30, -20, 10)
    free = runs_room._points(task, Method(power=2, max_norm=math.inf), settings, "", None, at)
    assert free.most[-1].max() > 1 > free.most[1].max()
    capped = Method(power=2, max_norm=1.0)
    alone = runs_room._points(task, capped, settings, "", None, at)
    trained = []
    simulate = runs_room.simulate
    monkeypatch.setattr(
        runs_room, "simulate", lambda p, **k: trained.append(k["rho"].size) or simulate(p, **k)
    )
    found = runs_room._points(task, capped, settings, "", free, at)
    assert trained == [1]
    assert found.at == alone.at == at
    for a, b in zip(found.arrays, alone.arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert found.most.max() <= 1.0 + 1e-6
    # one seed at the cap is enough
    most = np.array([[0.1, 0.1], [0.1, 2.0], [2.0, 2.0]])
    runs_room._points(task, capped, settings, "", dataclasses.replace(free, most=most), at)
    assert trained == [1, 2]


def test_lengths_and_rises_are_those_of_the_training():
    settings = {"seeds": 2, "steps": 40, "looks": 40}
    task = Digits(n_train=200, batch_size=50, width=8, loss_scale=4.0, eta=0.0125)
    usam, sam = (
        runs_room._points(task, Method(power=p), settings, "", None, [-10, -7]) for p in (0.0, 1.0)
    )
    np.testing.assert_allclose(sam.length[:, 0], [0.1, 10**-0.7], rtol=1e-5)
    # ρ‖g‖² over (ρ‖g‖)²/ρ: the looks at ‖g‖, on other minibatches, see what the steps saw
    ratio = usam.rise[0] * 0.1 / usam.length[0] ** 2
    assert (usam.length[0] > 0.2).all()  # ‖g‖ is far from 1: no power of it passes for another
    assert (abs(ratio - 1) < 0.25).all()


def control():
    """Two loud tasks and a quiet one: USAM's ρ cannot carry over, SAM's does, by an identity."""
    plain = {"n_train": 200, "width": 16, "label_noise": 0.5, "eta": 0.05, "batch_size": 40}
    quiet = {**plain, "eta": 0.05 * 16, "loss_scale": 1 / 16}
    return {
        **CLAIM.settings,
        "tasks": [
            ["a", "perceptron", plain],
            ["b", "perceptron", quiet],
            ["c", "perceptron", quiet],
        ],
        "methods": [[0.0, None, -12, 9], [1.0, None, -12, 9]],
        "seeds": 3,
        "steps": 200,
        "fine": 0,
        "extend": 0,
        "look": 100,
        "looks": 2,
        "eta": [0, 1],
        "bootstrap": 100,
    }


def measured():
    runs_room._train.cache_clear()
    evidence = CLAIM.measure(control())
    _, over_seeds, gain = (c.holds for c in evidence.checks if c.decides)
    return evidence, over_seeds, gain


def test_a_difference_that_is_there_is_found():
    evidence, over_seeds, gain = measured()
    assert over_seeds is True
    assert gain is True
    assert "Over 3 tasks and 3 seeds" in evidence.found
    assert all(c.predicted and c.measured and c.tolerance for c in evidence.checks)
    assert all(axes.layers for chart in evidence.charts for axes in chart.axes)
    assert evidence.runs == 3 * 3 * (8 + 8 + 1)
    for axes in evidence.charts[1].axes:
        *curves, sgd = axes.layers
        assert sgd.name == "SGD"
        for line in curves:
            bands = list(zip(line.low, line.y, line.high, strict=True))
            assert all(low <= y <= high for low, y, high in bands)
            assert any(low < high for low, _, high in bands)


def test_what_a_smaller_study_leaves_to_the_full_one():
    assert left_out(CLAIM.settings_for("full")) == ""
    standard, quick = (left_out(CLAIM.settings_for(size)) for size in ("standard", "quick"))
    assert "width 128; 1200 images, 60 % noise; text)" in standard
    assert "p = 0.5; p = 1.5; p = 2; p = 1.5, ‖ε‖ ≤ 1)" in standard
    assert "convnet" not in standard
    assert "convnet" in quick


@pytest.mark.parametrize("spoil", [no_rho, other_sign, always_normalized, never_normalized])
def test_a_spoiled_sam_is_noticed(monkeypatch, spoil):
    monkeypatch.setattr(Method, "perturbation", spoil)
    evidence, over_seeds, gain = measured()
    assert (over_seeds, gain) != (True, True)
    if spoil is no_rho:
        assert evidence.verdict == "does not hold"


def test_the_looks_leave_the_training_alone():
    task = Digits(n_train=200, batch_size=50, width=8)
    settings = {"seeds": 2, "steps": 30, "looks": 3}
    watched = runs_room._points(task, Method(), settings, "", None, [-10])
    plain = runs_room.simulate(task, rho=0.1, steps=30, seed=np.arange(2), compile=False)
    np.testing.assert_allclose(watched.test[0], plain.observed["test_accuracy"])
    assert torch.get_default_dtype() is torch.float32
