"""How runs on digits become numbers: radii picked on validation, intervals; and the page."""

import dataclasses
import importlib

import numpy as np
import pytest

from thalweg.lab import Digits
from thalweg.lab.claims import CLAIMS
from thalweg.lab.claims import digit_runs as room
from thalweg.lab.claims.digit_runs import Scores
from thalweg.report import write_report
from thalweg.results import ResultsFolder

simulate = importlib.import_module("thalweg.lab.simulate")  # the package gives the function
BY_NAME = {claim.name: claim for claim in CLAIMS}
TINY_DIGITS = {
    "task": {"n_train": 128, "batch_size": 64, "eta": 0.05, "momentum": 0.9, "width": 8},
    "seeds": 3,
    "steps": 4,
    "eta": [0.01, 0.05],
    "look": 2,
    "powers": [0.0, 1.0, 2.0],
    "decade": 1.0,
    "log_rho": {"0.0": [-2, 0], "1.0": [-2, 0], "2.0": [-2, 0]},
    "bootstrap": 20,
}


def scores(validation, test=None, rho=(0.1, 1.0, 10.0)):
    """Scores of some tasks and radii: every number once per seed, spread by ± .01 (2 seeds)."""
    spread = np.array([-0.01, 0.01])
    both = [
        np.array(a)[..., None] + spread for a in (validation, validation if test is None else test)
    ]
    return Scores(np.array(rho), *both)


#: Task 0 is best at radius 0, tasks 1 and 2 at radius 2; radius 1 is the best compromise.
VALIDATION = [[0.9, 0.85, 0.2], [0.5, 0.7, 0.75], [0.5, 0.8, 0.85]]
TEST = [[0.80, 0.70, 0.60], [0.50, 0.60, 0.70], [0.30, 0.40, 0.45]]
BOTH = np.array([0, 1])


def test_radii_are_picked_on_validation():
    s = scores(VALIDATION, TEST)
    assert s.picked(BOTH).tolist() == [0, 2, 2]


def test_points_are_of_the_test_images():
    s = scores(VALIDATION, TEST)
    np.testing.assert_allclose(s.points(s.picked(BOTH), BOTH), [80.0, 70.0, 45.0], atol=1e-9)
    np.testing.assert_allclose(s.points(1, BOTH), [70.0, 60.0, 40.0], atol=1e-9)
    # one seed alone: its own accuracies
    np.testing.assert_allclose(s.points([0, 0, 0], np.array([1, 1])), [81, 51, 31], atol=1e-9)


def test_a_pick_follows_the_seeds_that_are_drawn():
    seeds_disagree = np.array([[[0.9, 0.1], [0.5, 0.5], [0.1, 0.95]]])
    s = Scores(np.arange(3.0), seeds_disagree, seeds_disagree)
    assert [s.picked(np.array(drawn)).tolist() for drawn in ([0, 0], [1, 1], [0, 1])] == [
        [0],
        [2],
        [2],
    ]


def test_interval():
    values = np.random.default_rng(1).normal(size=50)
    settings = {"seeds": 50, "bootstrap": 4000}
    value, low, high = room.interval(settings, lambda seeds: values[seeds].mean())
    assert value == values.mean()
    half = 1.96 * values.std() / 50**0.5
    assert [low, high] == pytest.approx([value - half, value + half], abs=0.1 * half)
    assert room.interval(settings, lambda seeds: values[seeds].mean()) == (value, low, high)
    assert room.interval({"seeds": 1, "bootstrap": 5}, lambda seeds: 3.0) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("values", "sign", "holds"),
    [
        ([1.0, 1.1, 1.2], 1, True),
        ([1.0, 1.1, 1.2], -1, False),
        ([-1.0, -1.1, -1.2], -1, True),
        ([-1.0, 1.0, 0.1], 1, None),
        ([0.0, 0.0, 0.0], 1, False),  # no spread: the two are one and the same
        ([1.0, 1.1, 1.2], 0, None),
    ],
)
def test_the_sign_of_a_difference(values, sign, holds):
    settings = {"seeds": 3, "bootstrap": 200}
    mean = np.array(values)
    check = room.difference(
        settings, "a minus b", "?", lambda seeds: mean[seeds].mean(), sign, decides=True
    )
    assert check.holds is holds
    assert f"{mean.mean():+.2f} points" in check.measured
    assert "n = 3 seeds" in check.measured


def test_sgd_is_read_off_its_history_at_the_right_step_size_and_step():
    settings = {**BY_NAME["digits"].settings, **TINY_DIGITS}
    room._train.cache_clear()
    runs = room.train(settings)
    task = Digits(label_noise=0.3, **settings["task"])
    for steps, found in ((4, runs.sgd), (8, runs.longer)):
        alone = simulate.simulate(task, steps=steps, seed=np.arange(3))
        np.testing.assert_allclose(found.test[1, 0], alone.observed["test_accuracy"], atol=1e-6)
    looks = 2 * (1 + 8 // 2)  # step sizes times looks, the start included
    assert runs.stopped.test.shape == (2, looks, 3)


def test_the_digits_claim_from_training_to_the_page(tmp_path):
    study = importlib.import_module("thalweg.lab.study")
    claim = BY_NAME["digits"]
    tiny = dataclasses.replace(claim, quick={**claim.quick, **TINY_DIGITS})
    record = study._measure((tiny, "quick", "f00d", str(tmp_path)))
    # 2 tasks: (3 powers of 3 radii, and SGD with 2 step sizes) with 3 seeds each
    assert record.runs == 2 * (3 * 3 + 2) * 3
    assert record.seeds == [0, 1, 2]
    assert record.expected == claim.expected_for("quick")
    folder = ResultsFolder.create(tmp_path, size="quick")
    folder.write(record)
    folder.write_manifest()
    assert write_report(tmp_path).stat().st_size > 1e6
