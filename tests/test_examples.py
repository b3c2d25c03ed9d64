"""The examples run, and show what they are meant to show."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_digits_sam_beats_sgd_where_labels_are_noisy():
    train = runpy.run_path(str(EXAMPLES[0].parent / "digits.py"))["train"]
    assert train(rho=0.3, epochs=25) > train(rho=0.0, epochs=25) + 0.02
