"""The page as text: complete, self-contained, escaped, and the same each time."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from thalweg import ThalwegError
from thalweg.report import write_report
from thalweg.results import Axes, Chart, Heat, ResultsFolder


class Page(HTMLParser):
    """The tags with their attributes, and the text, scripts and styles apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.styles = [], "", [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside == "style":
            self.styles.append(data)
        else:
            self.text += data


@pytest.fixture
def text(folder):
    file = write_report(folder)
    assert file == folder / "report.html"
    return file.read_text(encoding="utf-8")


@pytest.fixture
def page(text):
    return Page(text)


def test_size(text):
    assert len(text.encode()) < 8_000_000


def test_one_plotly_and_nothing_from_elsewhere(page):
    plotly = [script for script in page.scripts if len(script) > 1_000_000]
    assert len(plotly) == 1
    assert "Plotly, Inc." in plotly[0]
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:"))
        assert not any("url(" in (value or "") for value in attributes.values())
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import", "".join(page.styles))
    own = [s for s in page.scripts if s not in plotly]
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", "".join(own))


def test_everything_in_the_records_is_told(page, records):
    for record in records:
        for part in (record.title, record.statement, record.source, record.because):
            assert part in page.text
        for said in (record.paper, record.derived, record.found):
            assert page.text.count(said) == 1
        for check in record.checks:
            assert check.what in page.text
            assert check.measured in page.text
        for chart in record.charts:
            assert chart.caption in page.text
        anchor = f"claim-{record.name}"
        assert sum(attributes.get("id") == anchor for _, attributes in page.tags) == 1
        assert ("a", {"href": f"#{anchor}"}) in page.tags
    for fact in ("A quick study", "eta · low", "f00d", "1,200", "12.3"):
        assert fact in page.text
    assert "4 claims:\n1 holds,\n2 do not hold,\n1 is undecided." in page.text


def test_a_verdict_off_the_record_is_told_in_words(text):
    table = text.split("<tbody>")[1].split("</tbody>")[0]
    rows = {row.split("#claim-")[1].split('"')[0]: row for row in table.split("<tr")[1:]}
    said = {name: "differs from the record" in row for name, row in rows.items()}
    assert said == {"edge": False, "drift": True, "reverse": True, "agreed": False}
    assert re.search(r">2 differ from the\s+record\.<", text)
    assert re.search(r">does not hold<.*>holds<", rows["reverse"], re.DOTALL)


def test_another_verdict_at_full_size_is_told_beside_that_on_record(tmp_path, records):
    results = ResultsFolder.create(tmp_path / "results")
    results.write(dataclasses.replace(records[0], at_full="does not hold"))
    results.write(records[3])
    results.write_manifest()
    rows = write_report(results.path).read_text("utf-8").split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"at full size: [a-z ]+", rows) == ["at full size: does not hold"]
    assert "at full size" in rows.split("#claim-edge")[1].split("#claim-")[0]


def test_the_page_of_claims_of_ones_own_does_not_speak_of_those_shipped(tmp_path, records):
    results = ResultsFolder.create(tmp_path / "results", size="quick")
    results.write(dataclasses.replace(records[0], paper="", name="own"))
    results.write_manifest(command="thalweg study", shipped=["edge", "drift"])
    text = write_report(results.path).read_text("utf-8").replace(records[0].because, "")
    assert "What does normalization do" not in text
    assert "thalweg study --full" not in text
    assert "What the paper says" not in text
    assert "What we derived" in text


def test_answers_of_the_checks(page, text):
    assert re.findall(r'data-head="Holds"><span class="verdict (\w+)">(\w+)<', text) == [
        ("yes", "yes"),
        ("no", "no"),
        ("open", "undecided"),
    ]


def test_hostile_text_stays_text(text, page):
    assert "<script>alert" not in text
    assert "<b>bold" not in text
    assert len(page.scripts) == 4  # the counter of errors, the data, plotly, the drawing
    assert not any("alert(1)" in script for script in page.scripts if "{" not in script)
    (data,) = [s for s in page.scripts if s.startswith("[")]
    assert "<" not in data
    assert "&lt;script&gt;alert(1)" in json.dumps(json.loads(data))


def test_each_chart_has_a_place_and_a_figure(page, records):
    charts = sum(len(record.charts) for record in records)
    (data,) = [s for s in page.scripts if s.startswith("[")]
    places = [a["data-figure"] for _, a in page.tags if "data-figure" in a]
    assert places == [str(i) for i in range(charts)]
    assert len(json.loads(data)) == charts


def test_two_writes_give_the_same_bytes(folder):
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


def test_missing_folder(tmp_path):
    with pytest.raises(ThalwegError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_folder_of_something_else(tmp_path):
    with pytest.raises(ThalwegError, match="no manifest"):
        write_report(tmp_path)


def test_folder_without_claims(tmp_path):
    ResultsFolder.create(tmp_path).write_manifest()
    with pytest.raises(ThalwegError, match="at least one claim, got none: run `thalweg study"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damage", ["", '{"name": "edge"', "[]", '{"name": "edge"}'])
def test_damaged_claim(folder, damage):
    (folder / "edge.json").write_text(damage)
    with pytest.raises(ThalwegError, match=r"edge\.json cannot be used"):
        write_report(folder)


@pytest.mark.parametrize("layer", [Heat([1], [1], 3, "z", 0, 1), Heat([1], [1], [3], "z", 0, 1)])
def test_claim_that_cannot_be_drawn(folder, layer):
    results = ResultsFolder.open(folder)
    axes = Axes("", "", "", [layer])
    record = results.read("edge")
    record.charts.append(Chart([axes], ""))
    results.write(record)
    with pytest.raises(ThalwegError, match=r"edge\.json must hold a claim that can be drawn"):
        write_report(folder)


def test_folder_that_cannot_be_written(folder):
    (folder / "report.html").mkdir()
    with pytest.raises(ThalwegError, match="must be writable"):
        write_report(folder)
    shutil.rmtree(folder / "report.html")


def test_a_claim_that_the_code_has_left_behind_is_marked(folder):
    results = ResultsFolder.open(folder)
    told = "measured before the code or the settings changed"
    assert told not in " ".join(write_report(folder).read_text(encoding="utf-8").split())
    results.write_manifest(fingerprints={results.names()[0]: "another"})
    assert " ".join(write_report(folder).read_text(encoding="utf-8").split()).count(told) == 1
