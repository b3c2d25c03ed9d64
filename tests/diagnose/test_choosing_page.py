"""docs/choosing-rho.md shows what its commands print, and quotes what the benchmark wrote."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "choosing-rho.md").read_text(encoding="utf-8")
SOURCE = (DOCS / "recommendation.md").read_text(encoding="utf-8")
#: One number, and nothing of a name such as "head.weight" or "5.weight".
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.?\d*(?:e-?\d+)?(?![\w])")

spec = importlib.util.spec_from_file_location("choosing_rho_docs", DOCS / "choosing_rho.py")
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)


def differences(page, fresh):
    """What two outputs differ in: other words, or numbers farther apart than another machine's."""
    found = [] if NUMBER.sub("#", page) == NUMBER.sub("#", fresh) else ["words"]
    pairs = zip(NUMBER.findall(page), NUMBER.findall(fresh), strict=False)
    numbers = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    # Three digits are printed: half a unit of the last one is at most .5 %.
    return found + [pair for pair in numbers if pair[0] != pytest.approx(pair[1], rel=0.02)]


@pytest.mark.parametrize("name", ["convnet", "transformer"])
def test_the_output_is_what_the_commands_print(name):
    fresh = docs.with_output(PAGE, name, docs.diagnosis(name))
    assert differences(PAGE, fresh) == []
    assert differences(PAGE.replace("at power 1", "at power 2"), fresh) != []
    shown = re.search(rf"diagnose_{name}\.py.*?  rho +([\d.]+)  at", PAGE, re.S)
    wrong = f"{PAGE[: shown.start(1)]}{1.05 * float(shown[1]):.3g}{PAGE[shown.end(1) :]}"
    assert differences(wrong, fresh) != []


def test_the_regret_is_the_one_that_was_measured():
    assert docs.with_regret(PAGE, SOURCE) == PAGE
    other = re.sub(r"(\*diagnose\* \(c = [\d.]+\) \+)[\d.]+", r"\g<1>9.87", SOURCE)
    assert "costs 9.9 ±" in docs.with_regret(PAGE, other).replace("\n   > ", " ")


def test_the_constant_that_is_shipped_is_the_one_that_was_fitted():
    shipped = docs.thalweg.diagnose.rule.LEVEL
    (fitted,) = re.findall(r"^\*diagnose\* \(c = ([\d.]+)\)", SOURCE, re.M)
    assert float(fitted) == shipped
    assert f"{shipped:g}".removeprefix("0") + " of the rho at which" in PAGE


def test_it_is_one_page():
    assert len(PAGE.splitlines()) <= 120
