"""The page in a real browser: every figure drawn, no error, no request."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from thalweg.report import write_report
from thalweg.results import Axes, Chart, Contours, Heat, Line, ResultsFolder

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the test itself must not reach anyone either
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
    "--dump-dom",
]
INSIDE = ("data:", "blob:", "file:")


@pytest.fixture
def browse(tmp_path):
    """Open a page: its DOM once it has settled, what the console said, and which hosts it asked."""
    program = shutil.which("chromium")
    if program is None and os.environ.get("THALWEG_CI") == "1":
        pytest.fail("chromium is not installed, and THALWEG_CI=1 wants this test to run")
    if program is None:
        pytest.skip("needs chromium")

    def open_page(file, *more):
        log = tmp_path / "net.json"
        places = [f"--user-data-dir={tmp_path}/profile", f"--log-net-log={log}", file.as_uri()]
        done = subprocess.run(
            [program, *FLAGS, *more, *places],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        requests = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        # What the browser asks on its own account (the time, updates) has no origin.
        asked = {
            r["url"] for r in requests if r.get("initiator", "not an origin") != "not an origin"
        }
        return done.stdout, console, {url for url in asked if not url.startswith(INSIDE)}

    return open_page


def expected(chart):
    """How many curves, maps and sets of contours the records of a chart ask for."""
    layers = [layer for axes in chart.axes for layer in axes.layers]
    maps = [layer for layer in layers if isinstance(layer, Heat)]
    gone = [heat for heat in maps if any(value is None for row in heat.z for value in row)]
    # A map of states is one map for each of them, and each is named.
    of_states = [heat for heat in maps if heat.states]
    cells = [(heat, v) for heat in of_states for row in heat.z for v in row if v is not None]
    states = {(id(heat), heat.states[v]) for heat, v in cells}
    return {
        "axes": len(chart.axes),
        "maps": len(maps) - len(of_states) + len(states) + len(gone),
        "contours": sum(isinstance(layer, Contours) for layer in layers),
        "named": len({(x.name, x.role) for x in layers if isinstance(x, Line) and x.name})
        + len({name for _, name in states})
        + bool(gone),
    }


def found(figure):
    return {
        "axes": len(re.findall(r'<g class="subplot x\d*y\d*"', figure)),
        "maps": len(re.findall(r'<image [^>]*href="data:image/png', figure)),
        "contours": len(re.findall(r'<g class="contour"', figure)),
        "named": len(re.findall(r'<g class="traces"', figure)),
    }


def test_every_figure_is_drawn_and_nothing_is_asked_of_any_host(folder, records, browse):
    dom, console, asked = browse(write_report(folder))

    assert console == []
    assert re.search(r'<html[^>]* data-errors="0"', dom)
    assert asked == set()

    charts = [chart for r in sorted(records, key=lambda r: r.name) for chart in r.charts]
    figures = re.findall(r"<figure.*?</figure>", dom, re.DOTALL)
    assert len(figures) == len(charts)
    for figure, chart in zip(figures, charts, strict=True):
        assert 'class="main-svg"' in figure
        assert found(figure) == expected(chart)
        lines = [x for axes in chart.axes for x in axes.layers if isinstance(x, Line)]
        drawn = re.findall(r'<path class="js-line" d="M|<path class="point', figure)
        assert len(drawn) >= len(lines)


def test_the_test_above_can_fail(folder, browse):
    page = write_report(folder)
    text = page.read_text(encoding="utf-8")
    broken = text.replace("<h2>Verdicts</h2>", '<img src="http://127.0.0.1:9/x">')
    broken = broken.replace("Plotly.react(place, data", "Plotly.react(place, nothing")
    assert broken.count("127.0.0.1:9") == broken.count("(place, nothing") == 1
    page.write_text(broken, encoding="utf-8")

    dom, console, asked = browse(page)

    assert any("nothing is not defined" in line for line in console)
    assert 'data-errors="4"' in dom
    assert dom.count("This figure could not be drawn.") == 4 + 1  # once in the script
    assert 'class="main-svg"' not in dom
    assert asked == {"http://127.0.0.1:9/x"}


LABELS = """<script>setTimeout(() => {
  const along = (a, b, one, other) => a[one] < b[other] && b[one] < a[other];
  const meet = (a, b) => along(a, b, "left", "right") && along(a, b, "top", "bottom");
  const axes = {};
  document.querySelectorAll('[class$="tick"] text').forEach((label) => {
    const box = label.getBoundingClientRect();
    (axes[label.parentNode.classList[0]] ??= []).push([label.textContent, box]);
  });
  const told = [];
  for (const labels of Object.values(axes)) {
    told.push(labels.map(([text]) => text).join(" "));
    labels.forEach(([a, one], i) => labels.slice(i + 1).forEach(([b, other]) => {
      // A letter is lower than the box of its line.
      const low = new DOMRect(other.x, other.y + 4, other.width, other.height - 4);
      if (meet(one, low)) document.body.dataset.meeting = `${a} and ${b}`;
    }));
  }
  const bar = document.querySelector(".modebar").getBoundingClientRect();
  const svg = document.querySelector(".main-svg").getBoundingClientRect();
  if (bar.bottom > svg.top + 1) document.body.dataset.covering = "the mode bar";
  document.body.dataset.labels = told.join("; ");
}, 3000)</script></body>"""


@pytest.mark.parametrize("width", [1200, 760, 500])
def test_no_labels_meet_and_the_mode_bar_covers_nothing(tmp_path, records, browse, width):
    spans = (0.6, 0.9, 1.2, 1.5, 2.2, 4.0)
    lines = [Line([4e-3, 4e-3 * 10**s], [4e-5, 4e-5 * 10**s], "a", "p=1", "both") for s in spans]
    panels = [Axes("a", "x", "y", [line], x_log=True, y_log=True) for line in lines]
    panels.append(Axes("a", "x", "y", [Line([200, 20000], [200, 20000], "a", "p=1")]))
    results = ResultsFolder.create(tmp_path / "results")
    results.write(replace(records[0], charts=[Chart(panels, "Ticks")]))
    results.write_manifest()
    page = write_report(results.path)
    text = page.read_text("utf-8")
    head, _, tail = text.rpartition("</body>")
    page.write_text(head + LABELS + tail, "utf-8")

    dom, console, _ = browse(page, f"--window-size={width},2000")

    assert console == []
    told = re.search(r'data-labels="([^"]*)"', dom)[1].split("; ")
    assert len(told) == 2 * len(panels)
    assert [axis for axis in told if len(axis.split()) < 2] == [], told
    assert "10000" in told[-1].split()
    assert not re.search(r'data-meeting="[^"]*"', dom)
    assert 'data-covering="' not in dom
