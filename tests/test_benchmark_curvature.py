"""The benchmark of curvature: all look for the same number, and the page tells who found it."""

from __future__ import annotations

import re
import warnings

import curvature
import curvature_contestants as who
import numpy as np
import pytest
from curvature_monitor import Watched


def targets(page):
    """Return target, what was found and verdict, row by row."""
    rows = page[page.index("## Targets") : page.index("## Time")].splitlines()[4:]
    return [row.strip("| ").split(" | ") for row in rows if row]


@pytest.fixture(scope="module")
def page():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # curvlinops' own
        return curvature.page(who.Task.quick(), 1, None, quick=True)


def test_those_who_search_find_the_same(page):
    rows = re.findall(r"^\| ([^|]*) \| \d+ \| (\d+) \| ([^|]*) \| [^|]* \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for name, products, error in rows:
        assert int(products) > 1
        assert name.startswith("power") or float(error) < 2e-3


def test_the_page_begins_with_a_warning_and_the_targets(page):
    assert "the numbers mean nothing" in page
    assert page.index("## Targets") < page.index("## Time") < page.index("## How")
    found = targets(page)
    assert len(found) == 2 * len(who.Task.quick().stages) + 2 + 1 + 2
    for target, _, told in found:
        assert target
        assert re.fullmatch(r"(met|\*\*not met\*\*)(, within the noise)?", told)


def stage(steps=100, **counts):
    usual = {"cold": 8, "cold_error": 1e-3, "warm": 6, "warm_error": 1e-3}
    return who.Stage(steps, 2.0, **(usual | counts))


def made(monkeypatch, stages, ours=3.0, gradients=3.004, start=4.0, own=1.0):
    """Return the targets of a page of these measurements."""
    times = {curvature.OURS: ours, curvature.WARM: 1.0, curvature.SCIPY: 10.0, curvature.POWER: 4.0}
    times = {name: np.full(5, seconds) for name, seconds in times.items()}
    watched = Watched("a net", 50, 2, training=100.0, start=start, own=own)
    instead = {
        "contestants": lambda task: ({}, 2.0),
        "measure": lambda *_: (dict.fromkeys(times, (2.0, 4)), times),
        "products_by_stage": lambda task: stages,
        "held": lambda task: (gradients, 155.0),
        "cost_of_products": lambda *_: (2.4, 3.5),
        "both": lambda *_: [watched, watched],
    }
    for name, value in instead.items():
        monkeypatch.setattr(curvature, name, value)
    return targets(curvature.page(who.Task.quick(), 5, None, quick=True))


GOOD = ["met"] * 7


def test_what_is_just_within_every_target_meets_it(monkeypatch):
    rows = made(monkeypatch, [stage()])
    assert [told for _, _, told in rows] == GOOD
    assert [found for _, found, _ in rows] == [
        "8, error 1.0e-03",
        "6, error 1.0e-03",
        "0.30 [0.30, 0.30]",
        "0.75 [0.75, 0.75]",
        "3.00",
        *["5.0 %: 1.0 % in training (2 samples in 50 steps), the rest at the start, 4.0 s"] * 2,
    ]
    assert "one product on it, which alone takes 155.00" in rows[4][0]


@pytest.mark.parametrize(
    ("given", "missed"),
    [
        ({"stages": [stage(cold=9)]}, {0}),
        ({"stages": [stage(cold_error=1.1e-3)]}, {0}),
        ({"stages": [stage(warm=7)]}, {1}),
        ({"stages": [stage(warm_error=1.1e-3)]}, {1}),
        ({"ours": 3.3}, {3}),
        ({"ours": 3.6}, {2, 3}),
        ({"gradients": 3.01}, {4}),
        ({"start": 4.1}, {5, 6}),
        ({"own": 5.1, "start": 0.0}, {5, 6}),
    ],
)
def test_what_misses_a_target_is_told_there_alone(monkeypatch, given, missed):
    rows = made(monkeypatch, **({"stages": [stage()]} | given))
    assert {i for i, row in enumerate(rows) if row[2] == "**not met**"} == missed
    assert len(rows) == 7


def test_every_stage_has_verdicts_of_its_own(monkeypatch):
    rows = made(monkeypatch, [stage(0, cold=21, warm=11), stage(5, warm=13), stage(100)])
    told = ["**not met**", "**not met**", "met", "**not met**", "met", "met"]
    assert [row[2] for row in rows[:6]] == told
    assert ["after 0 steps" in row[0] for row in rows[:6]] == [True, True] + [False] * 4


def test_noise_across_a_target_is_told(monkeypatch):
    times = np.array([0.2, 0.3, 0.34, 0.36, 0.5])
    assert curvature.middle_ratio(times, np.ones(5))[1] == 0.34
    made(monkeypatch, [stage()])
    _, usual = curvature.measure()
    noisy = usual | {curvature.OURS: 10 * times}
    monkeypatch.setattr(curvature, "measure", lambda *_: (dict.fromkeys(noisy, (2.0, 4)), noisy))
    rows = targets(curvature.page(who.Task.quick(), 5, None, quick=True))
    assert rows[2][2] == "met, within the noise"


def test_a_search_holds_three_vectors(monkeypatch):
    task = who.Task.quick()
    three, _ = who.held(task)
    assert 2.9 < three < 3.1
    search = who.curvature.lambda_max
    monkeypatch.setattr(
        who.curvature, "lambda_max", lambda product: search(product, room=6, tolerance=1e-6)
    )
    six, _ = who.held(task)
    assert 5.9 < six < 6.2
