"""A record comes back from JSON as it was, with everything that its figure needs."""

import dataclasses
import json
import math

import pytest

from thalweg import ThalwegError
from thalweg.results import Axes, Chart, ClaimRecord, Contours, Heat, Line


def there_and_back(record):
    return ClaimRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))


def test_round_trip(record):
    before = record()
    after = there_and_back(before)
    assert after.to_json() == before.to_json()
    for field in dataclasses.fields(ClaimRecord):
        if field.name != "charts":  # a range comes back as a list
            assert getattr(after, field.name) == getattr(before, field.name)
    assert [check.holds for check in after.checks] == [True, None]
    assert [check.decides for check in after.checks] == [True, False]


def test_every_kind_of_layer_comes_back(record):
    before, after = record(), there_and_back(record())
    (old,), (new,) = before.charts[0].axes, after.charts[0].axes
    assert [type(layer) for layer in new.layers] == [Contours, Heat, Line]
    assert new.layers == old.layers
    assert dataclasses.replace(new, y_range=old.y_range) == old
    assert list(new.y_range) == [0.0, 2.0]


def test_a_record_from_before_maps_had_states_is_read(record):
    data = record().to_json()
    heat = data["charts"][0]["axes"][0]["layers"][1]
    assert heat.pop("states") == []
    (_, read, _) = ClaimRecord.from_json(data).charts[0].axes[0].layers
    assert read.states == []
    heat["states"] = ["rest", "bounce"]
    (_, read, _) = there_and_back(ClaimRecord.from_json(data)).charts[0].axes[0].layers
    assert read.states == ["rest", "bounce"]


def test_arrays_become_lists_and_what_is_not_finite_becomes_none(record, wild):
    chart = Chart([Axes("", "", "", [wild])], "")
    (line,) = there_and_back(record(charts=[chart])).charts[0].axes[0].layers
    assert line.x == [None, None, None, 0.333333]
    assert line.y == [0, 1, 2, 3]
    assert line.low == [2.5, True, 7, None]
    assert isinstance(line.low[1], bool)


def test_numbers_keep_six_digits_and_whole_numbers_all(record):
    settings = {"a": math.pi, "b": 123456789, "c": 1.23456789e-300, "d": math.nan, "e": (1, 2.0)}
    found = there_and_back(record(settings=settings)).settings
    assert found == {"a": 3.14159, "b": 123456789, "c": 1.23457e-300, "d": None, "e": [1, 2.0]}


@pytest.mark.parametrize("verdict", ["holds", "does not hold", "open"])
@pytest.mark.parametrize("expected", ["holds", "does not hold", "open"])
def test_as_recorded(record, verdict, expected):
    found = there_and_back(record(verdict=verdict, expected=expected))
    assert found.as_recorded is (verdict == expected)


@pytest.mark.parametrize(
    "field",
    [
        f.name
        for f in dataclasses.fields(ClaimRecord)
        if f.default is f.default_factory is dataclasses.MISSING
    ],
)
def test_a_missing_part(record, field):
    data = record().to_json()
    del data[field]
    with pytest.raises(ThalwegError, match="not the record of a claim"):
        ClaimRecord.from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"checks": None},
        {"checks": ["a"]},
        {"checks": [{"what": "a"}]},
        {"charts": [{}]},
        {"charts": [{"axes": [{"layers": [{"kind": "pie"}]}], "caption": ""}]},
        {"charts": 3},
        {"verdict": "maybe"},
        {"expected": None},
        {"settings": None},
        {"seeds": 0},
        {"runs": "many"},
        {"seconds": None},
        {"colour": "red"},
    ],
)
def test_a_part_of_the_wrong_form(record, change):
    with pytest.raises(
        ThalwegError, match=r"not the record of a claim|(verdict|expected) must be one of"
    ):
        ClaimRecord.from_json(record().to_json() | change)


@pytest.mark.parametrize("data", [None, [], [1], "text", 3, {}])
def test_something_else(data):
    with pytest.raises(ThalwegError, match="not the record of a claim"):
        ClaimRecord.from_json(data)
