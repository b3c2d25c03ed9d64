"""What is said of robustness, from made-up scores: how rho is picked, intervals, widths."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from thalweg.lab.claims import robust_stats as stats
from thalweg.lab.claims.robust_runs import Curve, Rival, Runs
from thalweg.lab.claims.robustness import SAM

SEEDS = 4
EQUAL = stats.weights(SEEDS, 1)[:1]


def curve(validation, test=None, at=None, length=None):
    """Scores that are the same for every seed but for ± .01."""
    spread = np.tile([-0.01, 0.01], SEEDS // 2)
    at = tuple(at or range(len(validation)))
    size = np.repeat(10 ** (np.array(at) / 10), SEEDS).reshape(-1, SEEDS)
    size = size if length is None else np.repeat(length, SEEDS).reshape(-1, SEEDS)
    both = [np.array(a)[:, None] + spread for a in (validation, test or validation)]
    return Curve(at, *both, size, size**2, size)


def study(validation, test=None, sgd=0.4, at=None):
    """A study of one method, called SAM, with these scores of every task."""
    every = [curve(v, t, at) for v, t in zip(validation, test or validation, strict=True)]
    pair = (np.full((1, SEEDS), sgd), np.full((1, SEEDS), sgd))
    rival = Rival(pair, pair, pair, pair)
    names = tuple(f"task {t}" for t in range(len(every)))
    return Runs(names, SEEDS, {SAM: tuple(every)}, {SAM: every[0].at}, (rival,) * len(every), 0)


#: Task 0 is best at radius 0, tasks 1 and 2 at radius 2; radius 1 is the best compromise.
VALIDATION = [[0.9, 0.85, 0.2], [0.5, 0.7, 0.75], [0.5, 0.8, 0.85]]
TEST = [[0.80, 0.70, 0.60], [0.50, 0.60, 0.70], [0.30, 0.40, 0.45]]


def test_the_rho_of_a_task_is_picked_on_its_validation_or_on_all_the_others():
    study_ = study(VALIDATION, TEST)
    own, moved = (rule(study_, SAM, EQUAL) for rule in (stats.tuned, stats.transferred))
    assert own.at.tolist() == [[0, 2, 2]]
    np.testing.assert_allclose(own.points, [[80, 70, 45]])
    # without task 0: 1.0, 1.5, 1.6; without task 1: 1.4, 1.65, 1.05; without task 2: 1.4, 1.55, .95
    assert moved.at.tolist() == [[2, 1, 1]]
    np.testing.assert_allclose(moved.points, [[60, 60, 40]])


def test_a_value_that_only_one_task_was_trained_at_is_picked_by_that_task_alone():
    study_ = study(VALIDATION, TEST, at=[0, 3, 6])
    extra = curve([0.99], [0.9], [1])
    mine = study_.curves[SAM][0].joined(extra)
    assert mine.at == (0, 1, 3, 6)
    assert mine.best == 1
    study_ = dataclasses.replace(study_, curves={SAM: (mine, *study_.curves[SAM][1:])})
    assert stats.tuned(study_, SAM, EQUAL).at.tolist() == [[1, 6, 6]]
    assert stats.transferred(study_, SAM, EQUAL).at.tolist() == [[6, 3, 3]]


def test_a_pick_follows_the_seeds_that_are_drawn():
    validation = np.array([[0.9, 0.1, 0.9, 0.1], [0.5] * 4, [0.1, 0.95, 0.1, 0.95]])
    one = Curve((0, 1, 2), *[validation] * 5)
    pair = (np.zeros((1, SEEDS)),) * 2
    study_ = Runs(("a",), SEEDS, {SAM: (one,)}, {SAM: (0, 1, 2)}, (Rival(*[pair] * 4),), 0)
    w = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0.25] * 4])
    found = stats.tuned(study_, SAM, w)
    assert found.at[:, 0].tolist() == [0, 2, 2]
    np.testing.assert_allclose(found.points[:, 0], [90, 95, 52.5])


def test_sgd_is_picked_on_validation_too():
    validation = np.array([[0.5] * SEEDS, [0.7] * SEEDS])
    test = np.array([[0.9] * SEEDS, [0.6] * SEEDS])
    study_ = dataclasses.replace(study(VALIDATION), rivals=(Rival(*[(validation, test)] * 4),) * 3)
    np.testing.assert_allclose(stats.rival(study_, "stopped", EQUAL), [[60] * 3])


def test_intervals():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(SEEDS, 30)) + 1
    w = stats.weights(SEEDS, 4000)
    found = stats.mean(w @ values)
    row = values.mean(0)
    expected = scipy_stats.ttest_1samp(row, 0)
    low, high = expected.confidence_interval()
    assert [found.value - found.half, found.value + found.half] == pytest.approx([low, high])
    assert found.p_value == pytest.approx(expected.pvalue)
    # over seeds: the means of four numbers, drawn anew
    spread = values.mean(1).std() / SEEDS**0.5
    assert found.high - found.low == pytest.approx(3.92 * spread, rel=0.15)
    assert stats.mean(np.zeros((3, 5))).p_value == 1.0
    assert stats.mean(np.ones((3, 5))).p_value == 0.0
    assert math.isinf(stats.mean(np.ones((3, 1))).half)


def test_holm():
    assert stats.holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_how_far_the_best_may_be_missed():
    # gains over SGD at .4: 0, .2, .4, .1, -.3: half of the best at 1 and at 2⅔; SGD's at 3¼
    at = [0, 10, 20, 30, 40]
    one = curve([0.4, 0.6, 0.8, 0.5, 0.1], at=at)
    rival = study([[0.4]]).rivals[0]
    shape = stats.shape(one, rival)
    assert shape.width["ρ"] == pytest.approx(2 + 2 / 3 - 1)
    assert shape.cliff["ρ"] == pytest.approx(1.25)
    # the same values of ρ, but ‖ε‖ only grows half as fast
    slow = curve([0.4, 0.6, 0.8, 0.5, 0.1], at=at, length=10 ** (np.array(at) / 20))
    assert stats.shape(slow, rival).width["mean ‖ε‖"] == pytest.approx((2 + 2 / 3 - 1) / 2)
    # a grid that ends first has no width
    assert stats.shape(one.only(at[:3]), rival) == stats.Shape({}, {})


def test_how_far_apart_the_best_are():
    study_ = study([[0.9, 0.5, 0.5], [0.5, 0.5, 0.9]], at=[0, 10, 20])
    found = stats.scatter(study_, SAM, EQUAL, [0, 1])
    assert found["ρ"][0] == pytest.approx(2**0.5)  # sd of 0 and 2 decades
    assert found["predicted rise"][0] == pytest.approx(2 * 2**0.5)


def test_tasks_gain_where_the_interval_says_so():
    w = stats.weights(SEEDS, 200)
    assert stats.gains(study([[0.5, 0.3], [0.3, 0.3], [0.401, 0.3]]), SAM, w) == [0]


def test_accuracy_at_a_length():
    study_ = study([[0.2, 0.6, 0.4], [0.4, 0.8, 0.2]], at=[0, 10, 20])
    assert stats.at_length(study_, SAM, [0, 1], 10**0.5) == pytest.approx(0.5)
    assert stats.at_length(study_, SAM, [0], 10**0.5) == pytest.approx(0.4)
    assert stats.at_length(study_, SAM, [0, 1], 0.5) is None
    assert stats.at_length(study_, SAM, [0, 1], 200) is None
