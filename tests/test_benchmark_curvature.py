"""The benchmark of curvature: all look for the same number, and the page tells who found it."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    import curvature
    import curvature_contestants as who
finally:
    sys.path.remove(str(FOLDER))


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
    found = re.findall(r"^\| .* \| (met|\*\*not met\*\*)[^|]*\|$", page, flags=re.MULTILINE)
    assert len(found) == 7


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
