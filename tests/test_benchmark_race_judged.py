"""What the race says of a preset: its rival, its gain, its place in the figure."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import race_figure as figures
import race_judge as judging
import race_tasks as tasks

CLEAN = tasks.TASKS[0]


def rival_of(validation, test):
    """Two learning rates around the own one, three looks, two seeds."""
    return {
        "rates": [0.1, 0.3, 0.9],
        "looks": [0, 10, 20],
        "validation": [[row, row] for row in validation],
        "test": [[row, row] for row in test],
    }


RIVAL_RECORD = rival_of(
    [[0.1, 0.5, 0.6], [0.1, 0.6, 0.5], [0.1, 0.2, 0.3]],
    [[0.0, 0.41, 0.42], [0.0, 0.51, 0.52], [0.0, 0.61, 0.62]],
)


def test_a_rivals_rate_is_chosen_by_validation_for_its_steps():
    for steps, test, rate, look in ((11, 0.51, 0.3, 10), (20, 0.42, 0.1, 20), (99, 0.42, 0.1, 20)):
        found = judging.rival_at(RIVAL_RECORD, steps)
        assert found[0].tolist() == [test, test]
        assert found[1:] == (rate, look)
    assert judging.rival_at(RIVAL_RECORD, 20, own=True)[1:] == (0.3, 20)
    assert judging.stopped(RIVAL_RECORD, 20)[1:] in {(0.1, 20), (0.3, 10)}
    assert judging.stopped(RIVAL_RECORD, 10)[1:] == (0.3, 10)


def test_a_gain_is_paired():
    found = judging.gain(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.59, 0.81]))
    assert found.mean == pytest.approx(10.0)
    assert (found.low, found.high) == (
        pytest.approx(10 - 2.484, abs=1e-3),
        pytest.approx(12.484, 1e-3),
    )
    assert found.p_value == pytest.approx(0.00332, abs=1e-5)
    assert found.sign == 1
    assert dataclasses.replace(found, p_value=0.05).sign == 0
    assert judging.gain(np.array([0.5, 0.7]), np.array([0.5, 0.7])).sign == 0


def record(test, *, share=1.0, halves=(0, 1, 2)):
    """Trained for 10 steps; the middle ρ is the best on validation, the last one where it stops."""
    return {
        "settings": {"steps": 10},
        "halves": list(halves),
        "began with": 3,
        "validation": [[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]],
        "test": [[0.9, 0.9], test, [0.9, 0.9]],
        "stop validation": [0.2, 0.2, 0.3],
        "stop test": [test, test, [0.8, 0.81]],
        "share": [0.0, share, 0.0],
        "diverged": [0, 0, 0],
    }


def test_a_row_meets_the_rival_at_its_own_cost():
    records = {"sam": record([0.5, 0.53]), "random_gate": record([0.61, 0.62], share=0.1)}
    times = {
        "sam": (0.8, 0.9, 1.0),
        "random_gate open": (1, 1.8, 2),
        "random_gate closed": (0, 1, 1),
    }
    sam, gated = judging.judge(CLEAN, records, {"sgd": RIVAL_RECORD}, {"times": times})
    assert (sam.gradients, gated.gradients) == (2.0, 1.1)
    assert (sam.time, gated.time) == (0.9, pytest.approx(1.08))
    assert sam.rho == pytest.approx(10**0.5)
    assert sam.test == pytest.approx(51.5)  # at the ρ of validation, not at the best on the test
    assert sam.gains["gradients"].mean == pytest.approx(51.5 - 42)
    assert sam.gains["rate"].mean == pytest.approx(51.5 - 52)
    assert gated.gains["stopped"].mean == pytest.approx(80.5 - 51)
    assert sam.gains["time"].mean == pytest.approx(51.5 - 51)
    assert gated.gains["gradients"].mean == pytest.approx(61.5 - 51)
    assert gated.gains["sam"].mean == pytest.approx(10.0)
    assert "sam" not in sam.gains
    assert not sam.at_end
    single = judging.gain(np.array([0.61, 0.62]), np.array([0.51, 0.51]))
    assert gated.gains["gradients"].p_value == pytest.approx(2 * single.p_value)  # Holm, of two


def row(name, mean, *, cost=2.0, half=0.5, p_value=0.01):
    found = judging.Gain(mean, mean - half, mean + half, p_value)
    gains = {"gradients": found}
    return judging.Row(name, cost, None, (0, 1, 2), 0.1, False, False, 90.0, gains)


def test_the_figure_puts_the_cheapest_first_and_gains_to_the_right():
    rows = [row("b", 1.0), row("a", -1.0), row("c", 0.2, cost=1.0), row("d", 90.0)]
    assert [name for name, _ in figures.ordered({"t": rows})] == ["c", "d", "b", "a"]
    tree = ElementTree.fromstring(figures.draw({"t": rows, "none": []}))
    found = [e for e in tree.iter() if e.tag.endswith("circle")]
    at = {r.name: (float(e.get("cx")), e.get("fill")) for r, e in zip(rows, found, strict=True)}
    assert at["a"][0] < at["c"][0] < at["b"][0] < at["d"][0] <= float(tree.get("width"))
    fills = {name: fill for name, (_, fill) in at.items()}
    assert fills["b"] == fills["d"] == figures.CLEAR[1]
    assert (fills["a"], fills["c"]) == (figures.CLEAR[-1], "#ffffff")
    orange = [e for e in tree.iter() if e.get("stroke") == figures.TICK]
    assert not orange
    early = dataclasses.replace(rows[0].gains["gradients"], mean=-0.5)
    rows[0] = dataclasses.replace(rows[0], gains={**rows[0].gains, "stopped": early})
    tree = ElementTree.fromstring(figures.draw({"t": rows}))
    (tick,) = (e for e in tree.iter() if e.get("stroke") == figures.TICK)
    assert at["a"][0] < float(tick.get("x1")) < at["c"][0]
    assert "+90.0" in figures.draw({"t": rows})  # beyond the axis, so it is written
