"""The time that a study takes yet: it follows the machine, not the one of the record."""

import re

import pytest
from rich.console import Console

from thalweg import study_verb
from thalweg.lab.claims import CLAIMS
from thalweg.lab.estimate import Estimate, between


def run(slower, jobs, takes):
    """Measure claims on a machine; after each, what was said to be left, and what it was."""
    estimate = Estimate(takes, jobs)
    waiting = sorted(takes, key=lambda name: -takes[name])
    running, said, now = {}, [], 0.0
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            running[name] = now + slower(name) * takes[name]
            estimate.begun[name] = now
        name = min(running, key=running.get)
        now = running.pop(name)
        estimate.finish(name, slower(name) * takes[name])
        said.append((now, estimate.left(now)))
    assert said.pop()[1] is None
    return [(left, now - at) for at, left in said]


TAKES = {str(i): 4.0 + 36.0 * (0.618034 * i % 1.0) for i in range(24)}


@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize("slower", [0.3, 1.0, 3.0])
def test_it_follows_the_machine(slower, jobs):
    for (low, high), left in run(lambda name: slower, jobs, TAKES)[len(TAKES) // 4 :]:
        assert low <= high
        assert low == pytest.approx(left, rel=0.05)
        assert high == pytest.approx(left, rel=0.05)


def test_before_much_is_known_it_is_a_range_from_the_record_on():
    estimate = Estimate({"a": 100.0, "b": 900.0}, 1)
    assert estimate.left(0.0) == (1000.0, 1000.0)
    estimate.finish("a", 300.0)
    assert estimate.left(300.0) == (900.0, 2700.0)


def test_one_that_went_quite_otherwise_says_little():
    estimate = Estimate({str(i): 10.0 for i in range(12)}, 1)
    for i, slower in enumerate([2.0, 40.0, 2.0, 2.0, 0.01, 2.0]):
        estimate.finish(str(i), 10 * slower)
    assert estimate.left(500.0) == (120.0, 120.0)


def test_one_that_runs_longer_than_foreseen_is_seen_before_it_is_finished():
    estimate = Estimate({"a": 100.0, "b": 100.0}, 1)
    estimate.begun["a"] = 0.0
    assert estimate.left(50.0) == (150.0, 150.0)
    low, high = estimate.left(400.0)
    assert low >= 400.0  # another one like it
    assert high >= 440.0
    assert Estimate({"a": 0.0}, 1).left(0.0) is None


def test_the_least_is_never_more_than_the_most():
    estimate = Estimate({"a": 10.0, "b": 1000.0, "c": 1000.0}, 1)
    estimate.finish("b", 100.0)
    estimate.finish("c", 10_000.0)
    estimate.begun["a"] = 0.0
    for now in range(200):
        low, high = estimate.left(float(now))
        assert low <= high


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_was_long_ago_says_less(jobs):
    busy = {name for name in TAKES if TAKES[name] > 22.0}  # the first half, as the longest begin
    said = run(lambda name: 2.0 if name in busy else 1.0, jobs, TAKES)
    first = sum(TAKES[name] > 22.0 for name in TAKES)
    assert first < 16
    for (low, _), left in said[first + 3 :]:
        assert low <= 1.1 * left


def test_at_the_start_it_tells_what_is_on_record():
    takes = {"a": 100.0, "b": 60.0, "c": 90.0}
    assert Estimate(takes, 1).on_record().endswith("3; on record, about 4 min on 1 idle core")
    assert Estimate(takes, 2).on_record().endswith("3; on record, about 2 min on 2 idle cores")
    some = Estimate(takes, 8)
    some.finish("a", None)
    assert some.on_record().endswith("2; on record, about 90 s on 2 idle cores")
    assert Estimate({"a": 0.0}, 1).on_record() == ""


@pytest.mark.parametrize("columns", [80, 40])
def test_the_table_cuts_no_name_and_says_what_the_page_says(columns, monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console", lambda: Console(width=columns))
    rows = [
        {
            "claim": claim.name,
            "verdict": claim.expected,
            "on_record": claim.expected,
            "as_recorded": True,
            "at_full": claim.full_expected,
            "seconds": claim.takes[1],
            "from_file": False,
        }
        for claim in CLAIMS
    ]
    study_verb.show(rows)
    out = capsys.readouterr().out
    for claim in CLAIMS:
        assert f"│ {claim.name} " in out
    assert not re.search(r"\bopen\b", out)
    assert "undecided" in out or columns == 40
    told = "On record at full size: network-edge does not hold, threshold-neurons does not hold, "
    assert told in out
    study_verb.show([row | {"at_full": None} for row in rows])
    assert "full size" not in capsys.readouterr().out


def test_what_was_on_file_takes_no_time_and_says_nothing():
    estimate = Estimate({"a": 100.0, "b": 10.0}, 2)
    estimate.finish("a", None)
    assert estimate.left(0.0) == (10.0, 10.0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (12.0, 12.2, "about 12 s"),
        (12.0, 20.0, "12 to 20 s"),
        (80.0, 130.0, "80 s to 2 min"),
        (130.0, 300.0, "2 to 5 min"),
        (125.0, 130.0, "about 2 min"),
    ],
)
def test_in_words(low, high, said):
    assert between(low, high) == said
