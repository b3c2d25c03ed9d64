"""The benchmark of trainers: the two of a trainer train the same, and its page tells the ratio."""

from __future__ import annotations

import re

import pytest
import torch
import trainers
import trainers_contestants as who
from our_warnings import OURS_FAIL
from own_accelerator import fresh  # noqa: F401 (a fixture)

pytestmark = OURS_FAIL


@pytest.mark.parametrize("trainer", list(who.CONTESTANTS))
def test_the_two_of_a_trainer_take_the_same_steps(trainer, tmp_path, monkeypatch):
    times = trainers.in_turn(trainer, who.QUICK, rounds=2, steps=6, folder=str(tmp_path))
    assert [len(each) for each in times] == [2, 2]
    assert all(float(each.min()) > 0 for each in times)
    through, _ = who.CONTESTANTS[trainer]
    monkeypatch.setattr(who, "RHO", 0.5)  # and SAM is at work in it
    _, far = through(who.QUICK, 6, str(tmp_path))
    monkeypatch.setattr(who, "RHO", 0.0)
    _, off = through(who.QUICK, 6, str(tmp_path))
    assert not all(torch.equal(a, b) for a, b in zip(far, off, strict=True))


def test_who_trains_something_else_is_found_out(tmp_path, monkeypatch):
    def longer(task, steps, folder):
        return who.accelerate_by_hand(task, steps + 1, folder)

    monkeypatch.setitem(who.CONTESTANTS, "Accelerate", (who.accelerate_prepared, longer))
    with pytest.raises(SystemExit, match="did not train the same weights"):
        trainers.in_turn("Accelerate", who.QUICK, rounds=1, steps=6, folder=str(tmp_path))


def test_the_page_tells_ratio_interval_and_verdict():
    by_hand = torch.full((9,), 20.0, dtype=torch.float64)
    spread = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64)
    found = {
        "Lightning": [1.01 * by_hand, by_hand],
        "Transformers": [1.1 * by_hand, by_hand],
        "Accelerate": [1.028 * by_hand + spread, by_hand],
    }
    text = trainers.page(found, who.QUICK, 6, load=0.1, quick=True)
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| 20.00 \| ([\d.]+) \[.*\] \| (.*) \|$", text, re.M)
    assert rows == [
        ("Lightning", "1.010", "met"),
        ("Transformers", "1.100", "**not met**"),
        ("Accelerate", "1.028", "met, within the noise"),
    ]
    assert "over 9 rounds" in text
    assert "numbers mean nothing" in text
