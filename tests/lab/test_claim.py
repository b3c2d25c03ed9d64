"""What a claim is made of: plain settings, and a verdict that follows from its checks."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_nothing_is_within_a_share_of_0():
    with pytest.raises(ThalwegError, match=r"predicted must not be 0.*'drift': build the check"):
        within("drift", 0.0, 0.1, 0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expected": "yes"}, "expected must be one of holds, does not hold, open, got 'yes'"),
        ({"quick_expected": "no"}, "quick_expected must be one of holds, .*got 'no'"),
        ({"name": "a/b"}, "name must be letters, digits and dashes, got 'a/b'"),
        ({"settings": [1]}, r"settings must be a dict of settings .*, got \[1\]"),
        (
            {"settings": {"eta": 0.1, "rho": torch.ones(1)}},
            r"settings must be plain data .* got tensor\(\[1\.\]\) for 'rho': .* \.tolist\(\)",
        ),
        ({"quick": {"rho": [np.ones(1)]}}, r"quick must be plain data .* for 'rho'"),
        ({"full": {"rho": {1, 2}}}, r"full must be plain data .* got \{1, 2\} for 'rho'"),
    ],
)
def test_what_a_claim_is_made_of_is_looked_at(changed, message):
    with pytest.raises(ThalwegError, match=message):
        dataclasses.replace(CLAIMS[0], **changed)


def test_two_claims_of_one_name_are_refused(tmp_path):
    twice = study([CLAIMS[0], CLAIMS[0]], ResultsFolder.create(tmp_path))
    with pytest.raises(ThalwegError, match=f"claims must have names of their .*{CLAIMS[0].name}"):
        next(twice)


def measured(settings):
    return Evidence([Check("a", "1", "1", "0", True)], [], runs=1, seeds=[0], dtype="float64")


def forgotten(settings):
    measured(settings)


def own(name="own", measure=measured):
    return dataclasses.replace(CLAIMS[0], name=name, measure=measure)


@pytest.mark.parametrize("make", [str, Path], ids=["a str", "a Path"])
def test_one_claim_and_a_path_will_do(tmp_path, make):
    out = tmp_path / "results"
    for kept in (False, True):
        ((record, found),) = study(own(), make(out), size="quick")
        assert (record.name, found) == ("own", kept)
    assert ResultsFolder.open(out).manifest["size"] == "quick"
    ((record, _),) = study((claim for claim in [own("other")]), make(out), size="quick")
    assert record.name == "other"


@pytest.mark.parametrize("wrong", ["drift", ["drift"], None, measured, [CLAIMS]])
def test_what_is_no_claim_is_told_of(tmp_path, wrong):
    with pytest.raises(ThalwegError, match="claims must be a Claim or a list of them, got"):
        next(study(wrong, tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_a_measurement_without_evidence_is_told_of(tmp_path):
    told = "measure of claim own must return an Evidence, got None: end it with return Evidence"
    with pytest.raises(ThalwegError, match=told):
        next(study(own(measure=forgotten), tmp_path))
    assert ResultsFolder.open(tmp_path).names() == []
