"""The findings as text: everything that was found, and nothing that breaks the table."""

import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from thalweg import ThalwegError
from thalweg.report.findings import markdown
from thalweg.results import Check, ResultsFolder


@pytest.fixture
def results(folder):
    return ResultsFolder.open(folder)


ANSWERS = ("yes", "no", "undecided")
SCRIPT = Path(__file__).parents[2] / "docs" / "findings.py"


def test_every_claim_has_a_row_and_a_section_that_the_row_leads_to(results):
    text, figures = markdown(results)
    captions = [chart.caption for chart in figures.values()]
    assert [caption.split(" <")[0] in text for caption in captions] == [True] * 4
    assert all(f"](figures/{name})" in text for name in figures)
    table = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(table) == len(results.names())
    yes, no, unknown = (sum(line.endswith(f"| {w} |") for line in table) for w in ANSWERS)
    told = f"{len(table)}, of which {yes} hold, {no} do not, {unknown} are undecided"
    assert f"Claims: {told}." in text
    for name, line in zip(results.names(), table, strict=True):
        record = results.read(name)
        assert f"## {record.title}\n" in text
        answer = {"holds": "yes", "does not hold": "no", "open": "undecided"}[record.verdict]
        cells = line.strip("| ").split(" | ")
        assert cells[1:] == [record.paper, record.derived, record.found, answer]
        for check in record.checks:
            assert check.measured.replace("|", "\\|").replace("<", "&lt;") in text


def test_text_of_a_claim_cannot_break_the_table(results):
    record = results.read(results.names()[0])
    check = Check("a | b\nc", "<b>1</b>", "ρ* and η*", "0", holds=None)
    object.__setattr__(record, "checks", [check])
    results.write(record)
    lines = [line for line in markdown(results)[0].splitlines() if "a \\| b c" in line]
    assert lines == ["| a \\| b c | &lt;b>1&lt;/b> | ρ\\* and η\\* | 0 | undecided |"]


def test_the_script_writes_the_page_and_its_figures(results, tmp_path, monkeypatch):
    if shutil.which("chromium") is None and os.environ.get("THALWEG_CI") != "1":
        pytest.skip("needs chromium")
    out = tmp_path / "found.md"
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(sys, "argv", ["findings.py", str(results.path), str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    text, figures = markdown(ResultsFolder.open(results.path))
    assert out.read_text("utf-8") == text
    drawn = {file.name: file.read_text("utf-8") for file in (tmp_path / "figures").iterdir()}
    assert set(drawn) == set(figures)
    assert all(svg.startswith("<svg") and svg.endswith("</svg>\n") for svg in drawn.values())
    monkeypatch.setattr(sys, "argv", ["findings.py", str(tmp_path / "nothing"), str(out)])
    with pytest.raises(ThalwegError, match="no such folder"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert out.exists()
