"""The findings as text: everything that was found, and nothing that breaks the table."""

import runpy
import sys
from pathlib import Path

import pytest

from thalweg import ThalwegError
from thalweg.report.findings import markdown
from thalweg.results import Check, ResultsFolder


@pytest.fixture
def results(folder):
    return ResultsFolder.open(folder)


SCRIPT = Path(__file__).parents[2] / "docs" / "findings.py"


def test_every_claim_has_a_row_and_a_section_that_the_row_leads_to(results):
    text = markdown(results)
    table = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(table) == len(results.names())
    for name, line in zip(results.names(), table, strict=True):
        record = results.read(name)
        assert f"## {record.title}\n" in text
        answer = {"holds": "yes", "does not hold": "**no**", "open": "undecided"}[record.verdict]
        cells = line.strip("| ").split(" | ")
        assert cells[1:] == [record.paper, record.derived, record.found, answer]
        for check in record.checks:
            assert check.measured.replace("|", "\\|").replace("<", "&lt;") in text


def test_text_of_a_claim_cannot_break_the_table(results):
    record = results.read(results.names()[0])
    check = Check("a | b\nc", "<b>1</b>", "1", "0", holds=None)
    object.__setattr__(record, "checks", [check])
    results.write(record)
    lines = [line for line in markdown(results).splitlines() if "a \\| b c" in line]
    assert lines == ["| a \\| b c | &lt;b>1&lt;/b> | 1 | 0 | undecided |"]


def test_the_script_writes_the_page(results, tmp_path, monkeypatch):
    out = tmp_path / "found.md"
    monkeypatch.setattr(sys, "argv", ["findings.py", str(results.path), str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert out.read_text("utf-8") == markdown(ResultsFolder.open(results.path))
    monkeypatch.setattr(sys, "argv", ["findings.py", str(tmp_path / "nothing"), str(out)])
    with pytest.raises(ThalwegError, match="no such folder"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert out.exists()
