"""What a claim is made of: plain settings, and a verdict that follows from its checks."""

import dataclasses
import json
import math

import pytest

from thalweg import ThalwegError
from thalweg.lab.claims import CLAIMS, Evidence
from thalweg.lab.claims.claim import within
from thalweg.lab.study import study
from thalweg.results import SIZES, Check, ResultsFolder

BY_NAME = {claim.name: claim for claim in CLAIMS}


def test_names_are_unique_and_serve_as_file_names():
    assert len(BY_NAME) == len(CLAIMS)
    assert all(name.replace("-", "").isalnum() and name != "manifest" for name in BY_NAME)


@pytest.mark.parametrize("claim", CLAIMS, ids=list(BY_NAME))
@pytest.mark.parametrize("size", SIZES)
def test_settings_are_plain_data(claim, size):
    settings = claim.settings_for(size)
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings
    changes = {"quick": claim.quick, "standard": {}, "full": claim.full}[size]
    assert set(changes) <= set(claim.settings)  # no size brings a setting of its own
    assert (settings != claim.settings) is bool(changes)


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expected": "yes"}, "expected must be one of holds, does not hold, open, got 'yes'"),
        ({"quick_expected": "no"}, "quick_expected must be one of holds, .*got 'no'"),
        ({"name": "a/b"}, "name must be letters, digits and dashes, got 'a/b'"),
    ],
)
def test_what_a_claim_is_made_of_is_looked_at(changed, message):
    with pytest.raises(ThalwegError, match=message):
        dataclasses.replace(CLAIMS[0], **changed)


def test_two_claims_of_one_name_are_refused(tmp_path):
    twice = study([CLAIMS[0], CLAIMS[0]], ResultsFolder.create(tmp_path))
    with pytest.raises(ThalwegError, match=f"claims must have names of their .*{CLAIMS[0].name}"):
        next(twice)
