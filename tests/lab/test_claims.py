"""The claims reach the verdict on record, and stop reaching it when SAM is spoiled."""

import importlib
import json
import math

import numpy as np
import pytest
import torch

from thalweg.lab.claims import CLAIMS, Evidence
from thalweg.lab.claims import digits as room
from thalweg.lab.claims.claim import within
from thalweg.lab.claims.digits import Scores
from thalweg.report import write_report
from thalweg.results import Check, ResultsFolder

simulate = importlib.import_module("thalweg.lab.simulate")  # the package gives the function
BY_NAME = {claim.name: claim for claim in CLAIMS}
#: Smaller than a quick study, and still decisive: no cell of this map stands next to an edge.
SMALL = {
    "stability": lambda quick: {
        "bounded_rhos": 4,
        "bounded_steps": 2000,
        "cells": 16,
        "map_steps": 2000,
    },
    "drift": lambda quick: {"steps": 4000, "legs": quick["legs"][:1]},
    "loss-scale": lambda quick: {
        "problems": [[*others, steps // 3] for *others, steps in quick["problems"]]
    },
}
TINY_DIGITS = {
    "n_train": 128,
    "seeds": 3,
    "steps": 4,
    "powers": [0.0, 1.0, 2.0],
    "decade": 1.0,
    "log_rho": {"0.0": [-2, 0], "1.0": [-2, 0], "2.0": [-2, 0]},
    "bootstrap": 20,
}


def measured(name):
    claim = BY_NAME[name]
    quick = claim.settings_for(quick=True)
    return claim.measure({**quick, **SMALL[name](quick)})


def failed(evidence):
    return [check.what for check in evidence.checks if check.holds is not True]


def test_names_are_unique_and_serve_as_file_names():
    assert len(BY_NAME) == len(CLAIMS)
    assert all(name.replace("-", "").isalnum() and name != "manifest" for name in BY_NAME)


@pytest.mark.parametrize("claim", CLAIMS, ids=list(BY_NAME))
@pytest.mark.parametrize("quick", [True, False])
def test_settings_are_plain_data(claim, quick):
    settings = claim.settings_for(quick=quick)
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings
    assert set(claim.quick) <= set(claim.settings)  # a quick study brings no setting of its own
    assert (settings == claim.settings) is not quick


@pytest.mark.parametrize("name", SMALL)
def test_the_verdict_on_record_is_reached(name):
    evidence = measured(name)
    assert failed(evidence) == []
    assert evidence.verdict == BY_NAME[name].expected == "holds"
    # The record is as useful as the verdict.
    assert all(c.predicted and c.measured and c.tolerance for c in evidence.checks)
    assert all(axes.layers for chart in evidence.charts for axes in chart.axes)


EPSILON = simulate.Step.epsilon


def no_rho(self, gradient, settings):
    return {name: torch.zeros_like(g) for name, g in gradient.items()}


def other_sign(self, gradient, settings):
    return {name: -e for name, e in EPSILON(self, gradient, settings).items()}


def always_normalized(self, gradient, settings):
    return EPSILON(self, gradient, settings._replace(power=1.0))


def never_normalized(self, gradient, settings):
    return EPSILON(self, gradient, settings._replace(power=0.0))


def twice_as_far(self, gradient, settings):
    return {name: 2 * e for name, e in EPSILON(self, gradient, settings).items()}


SPOILED = [
    (name, spoil)
    for name, spoils in {
        "stability": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "drift": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        # An identity between two runs of SAM: whatever both do alike is none of its business.
        "loss-scale": [no_rho, always_normalized, never_normalized],
    }.items()
    for spoil in spoils
]


@pytest.mark.parametrize(("name", "spoil"), SPOILED)
def test_a_spoiled_sam_is_noticed(monkeypatch, name, spoil):
    monkeypatch.setattr(simulate.Step, "epsilon", spoil)
    evidence = measured(name)
    assert evidence.verdict == "does not hold", failed(evidence)


def test_a_part_of_the_drift_that_never_came_is_told(monkeypatch):
    monkeypatch.setattr(simulate.Step, "epsilon", no_rho)
    (check,) = [check for check in measured("drift").checks if check.what.startswith("steps from")]
    assert check.holds is False
    assert check.measured.startswith("inf")


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([], "open"),
        ([True], "holds"),
        ([True, True], "holds"),
        ([None], "open"),
        ([True, None], "open"),
        ([False], "does not hold"),
        ([True, False], "does not hold"),
        ([None, False, True], "does not hold"),
        ([(False, False)], "open"),  # reported only: decides nothing
        ([True, (False, False), (None, False)], "holds"),
        ([None, (True, False)], "open"),
        ([False, (True, False)], "does not hold"),
    ],
)
def test_verdict(checks, verdict):
    pairs = [check if isinstance(check, tuple) else (check, True) for check in checks]
    lines = [Check("a", "b", "c", "d", *pair) for pair in pairs]
    assert Evidence(lines, [], runs=1, seeds=[0], dtype="float64").verdict == verdict


@pytest.mark.parametrize(
    ("measured", "holds"),
    [(100.9, True), (101.1, False), (99.1, True), (98.9, False), (math.inf, False), (math.nan, 0)],
)
def test_within(measured, holds):
    assert within("a", 100.0, measured, 0.01).holds is bool(holds)
    assert within("a", -100.0, -measured, 0.01).holds is bool(holds)


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
SGD = np.full((3, 2), 0.5)
BOTH = np.array([0, 1])


def test_radii_are_picked_on_validation():
    s = scores(VALIDATION, TEST)
    assert s.picked(BOTH).tolist() == [0, 2, 2]
    assert s.common(BOTH) == 1
    # without task 0: 1.0, 1.5, 1.6; without task 1: 1.4, 1.65, 1.05; without task 2: 1.4, 1.55, .95
    assert room._others(s, BOTH).tolist() == [2, 1, 1]


def test_gains_are_points_on_the_test_images():
    s = scores(VALIDATION, TEST)
    gain = s.gain(s.picked(BOTH), SGD, BOTH)
    np.testing.assert_allclose(gain, [30.0, 20.0, -5.0], atol=1e-9)
    np.testing.assert_allclose(s.gain(s.common(BOTH), SGD, BOTH), [20.0, 10.0, -10.0], atol=1e-9)
    # one seed alone: its own accuracies, and its own SGD
    sgd = np.array([[0.5, 0.6]] * 3)
    np.testing.assert_allclose(s.gain([0, 0, 0], sgd, np.array([1, 1])), [21, -9, -29], atol=1e-9)


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
    value, low, high = room._interval(settings, lambda seeds: values[seeds].mean())
    assert value == values.mean()
    half = 1.96 * values.std() / 50**0.5
    assert [low, high] == pytest.approx([value - half, value + half], abs=0.1 * half)
    assert room._interval(settings, lambda seeds: values[seeds].mean()) == (value, low, high)
    assert room._interval({"seeds": 1, "bootstrap": 5}, lambda seeds: 3.0) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("usam", "longer", "endpoint", "beats"),
    [
        ([[0.9, 0.1], [0.1, 0.9]], 0.7, True, True),  # USAM's radius does not carry over
        ([[0.95, 0.1], [0.99, 0.1]], 0.95, False, False),  # it does, better; SGD catches up
        ([[0.9, 0.1], [0.8, 0.1]], 0.8, None, None),  # as SAM: an interval of no width at 0
    ],
)
def test_the_signs_of_the_digits_checks(usam, longer, endpoint, beats):
    sam = [[0.9, 0.1], [0.8, 0.1]]  # both tasks pick the first radius
    settings = {"seeds": 2, "bootstrap": 50, "noise": [0.0, 0.3], "decade": 1.0}
    powers = {0.0: scores(usam, rho=(0.1, 1.0)), 1.0: scores(sam, rho=(0.1, 1.0))}
    spread = np.array([-0.01, 0.01])
    found = room._checks(settings, powers, SGD[:2] + spread, np.full((2, 2), longer) + spread)
    assert [check.holds for check in found[:2]] == [endpoint, beats]
    assert [check.decides for check in found] == [True, True] + [False] * (len(found) - 2)
    assert all("extend" in check.measured for check in found if "best ρ" in check.what)


def test_the_digits_claim_from_training_to_the_page(tmp_path):
    study = importlib.import_module("thalweg.lab.study")
    claim = BY_NAME["digits"]
    settings = {**claim.settings_for(quick=True), **TINY_DIGITS}
    record = study._measured(claim, settings, "f00d", quick=True)
    # 2 tasks: (3 powers of 3 radii, and SGD twice) with 3 seeds each
    assert record.runs == 2 * (3 * 3 + 2) * 3
    assert record.seeds == [0, 1, 2]
    assert record.expected == claim.expected_for(quick=True)
    folder = ResultsFolder.create(tmp_path, quick=True)
    folder.write(record)
    folder.write_manifest()
    assert write_report(tmp_path).stat().st_size > 1e6
