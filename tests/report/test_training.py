"""The page of a training run: what a monitor wrote is what is drawn, and nothing else."""

import json
import math
import os
import re
import shutil
import subprocess

import pytest
import torch

from thalweg import SAM, ThalwegError
from thalweg.curvature.monitor import Monitor
from thalweg.curvature.records import Lines, Record, read_records
from thalweg.report.figures import COLOURS
from thalweg.report.training import charts, write_training_report

HOSTILE = "</script><script>alert(1)</script> & <b>bold</b>"


def record(step, **changed):
    numbers = {
        "loss": 1 / (1 + step),
        "lambda_max": 10 - step / 100,
        "edge": 9.0,
        "ratio": (10 - step / 100) / 9,
        "alignment": 0.5,
        "loss_rise": 0.02,
        "loss_rise_predicted": 0.021,
        "cosine": 0.9,
        "change": 0.3,
        "relative_perturbation": 0.01,
        "trace": 50.0,
        "trace_error": 5.0,
        "lr": 0.1,
        "rho": 0.05,
        "power": 1.0,
        "seconds": 0.25,
        "curvature_steps": [step - 1, step],
        "curvatures": [8.0, 8.5],
    }
    return Record(step=step, time=0.0, **(numbers | changed))


def write(file, records):
    for one in records:
        Lines(file)(one.as_dict())
    return file


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "run.jsonl", [record(step) for step in range(0, 500, 100)])


def figures(page):
    found = re.search(r'id="figures">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found.group(1))


def curves(figure):
    return {trace["name"]: trace for trace in figure["data"] if trace.get("name")}


def text_of(page):
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)


def test_the_curves_are_the_records(file):
    page = write_training_report(file)
    assert page == file.with_suffix(".html")
    first, second = figures(page)
    drawn, records = curves(first), read_records(file)
    steps = [r["step"] for r in records]
    for label, name in (
        ("loss", "loss"),
        ("λ_max", "lambda_max"),
        ("edge of this lr, rho, ‖g‖", "edge"),
    ):
        assert drawn[label]["x"] == steps
        assert drawn[label]["y"] == [r[name] for r in records]
    free = drawn["along ε, each step"]
    assert free["x"] == [s for r in records for s in r["curvature_steps"]]
    assert free["y"] == [v for r in records for v in r["curvatures"]]
    assert curves(second)["measured"]["y"] == [0.02] * 5
    assert curves(second)["⟨g, ε⟩ + ½⟨ε, Hε⟩"]["y"] == [0.021] * 5
    ys = [trace["y"] for trace in second["data"]]
    assert [r["ratio"] for r in records] in ys
    assert [0.5] * 5 in ys  # the alignment


def test_loss_and_curvature_lie_on_one_time_axis(file):
    first, _ = figures(write_training_report(file))
    drawn = curves(first)
    assert (
        drawn["loss"]["yaxis"]
        != drawn["λ_max"]["yaxis"]
        == drawn["edge of this lr, rho, ‖g‖"]["yaxis"]
    )
    ((_, layout),) = first["layouts"]
    assert layout["xaxis2"]["matches"] == "x"
    assert layout["xaxis"]["domain"] == layout["xaxis2"]["domain"] == [0, 1]
    assert layout["yaxis"]["domain"][0] > layout["yaxis2"]["domain"][1]  # one above the other
    assert layout["xaxis2"]["title"]["text"] == "step"
    assert "parameter unit" in layout["yaxis2"]["title"]["text"]


@pytest.mark.parametrize(
    ("power", "rho", "role"),
    [
        (1.0, 0.05, "p=1"),
        (0.0, 0.05, "p=0"),
        (0.5, 0.1, "p=0.5"),
        (0.3, 0.1, "neutral"),
        (1.0, 0.0, "gd"),
    ],
)
def test_colours_are_those_of_every_figure(tmp_path, power, rho, role):
    file = write(tmp_path / "run.jsonl", [record(s, power=power, rho=rho) for s in (0, 1)])
    drawn = curves(figures(write_training_report(file))[0])
    assert drawn["λ_max"]["line"]["color"] == COLOURS[role]
    edge = drawn["edge of this lr, rho, ‖g‖"]["line"]
    assert (edge["color"], edge["dash"]) == (COLOURS["theory"], "dash")


def test_what_was_said_and_the_last_sample_are_text(tmp_path):
    file = write(tmp_path / "run.jsonl", [record(0), record(1200, says=["λ_max sits at the edge"])])
    text = text_of(write_training_report(file))
    assert "Step 1,200: λ_max sits at the edge." in text
    assert "<td>0.1, 0.05, 1</td>" in text  # lr, rho, power
    assert "<td>50 ± 5</td>" in text
    assert "<td>2, 0.5 s together</td>" in text


def test_without_an_edge_the_reason_stands_there(tmp_path):
    rows = [record(s, edge=math.nan, ratio=math.nan, edge_missing="AdamW scales") for s in (0, 1)]
    page = write_training_report(write(tmp_path / "run.jsonl", rows))
    assert "AdamW scales" in text_of(page)
    first, second = figures(page)
    assert set(curves(first)) == {"loss", "λ_max", "along ε, each step"}
    assert "edge" not in curves(second)


def test_numbers_that_are_missing_are_gaps(tmp_path):
    rows = [record(0, lambda_max=90.0), record(1, loss=math.inf, lambda_max=math.nan)]
    rows.append(record(2, loss=-1.0))
    first, _ = figures(write_training_report(write(tmp_path / "run.jsonl", rows)))
    assert curves(first)["loss"]["y"] == [1.0, None, -1.0]
    assert curves(first)["λ_max"]["y"] == [90.0, None, 9.98]
    ((_, layout),) = first["layouts"]
    assert "type" not in layout["yaxis"]  # no logarithm of a loss below 0
    assert layout["yaxis2"]["type"] == "log"
    assert layout["yaxis2"]["tickformat"] == "~g"  # between two decades, no single digits


def test_the_barest_record_is_drawn(tmp_path):
    file = tmp_path / "run.jsonl"
    file.write_text('{"step": 3, "loss": 0.5}\n{"step": 4, "loss": "much", "says": 7}\n')
    (first,) = figures(write_training_report(file))
    assert curves(first)["loss"]["y"] == [0.5, None]


def test_what_a_monitor_ends_with_is_no_sample(tmp_path):
    rest = Record(174, 0.0, curvatures=[7.0, 8.0], curvature_steps=[173, 174])
    file = write(tmp_path / "run.jsonl", [record(0, curvatures=[], curvature_steps=[]), rest])
    page = write_training_report(file)
    text = text_of(page)
    assert "1 sample in 174 steps: for the course of λ_max pass every= to the Monitor" in text
    assert "<td>0 of 174</td>" in text
    assert "<td>50 ± 5</td>" in text  # of the sample
    first, second = figures(page)
    drawn = curves(first)
    assert (drawn["along ε, each step"]["x"], drawn["λ_max"]["x"]) == ([173, 174], [0])
    # A line of one number would be invisible.
    alone = [trace for one in (first, second) for trace in one["data"] if len(trace["x"]) == 1]
    assert [50.0] in [trace["y"] for trace in alone]
    assert {trace["mode"] for trace in alone} == {"lines+markers"}
    many = write(tmp_path / "many.jsonl", [record(step) for step in range(0, 60, 10)])
    assert "6 samples in 50 steps." in text_of(write_training_report(many))


def test_the_caption_tells_of_what_is_drawn(file, tmp_path):
    assert "two gradients" in text_of(write_training_report(file))
    rows = [record(s, curvatures=[], curvature_steps=[]) for s in (0, 1)]
    page = write_training_report(write(tmp_path / "plain.jsonl", rows))
    assert "two gradients" not in text_of(page)


def test_a_run_that_went_back_is_drawn_once(tmp_path):
    steps = [0, 100, 200, 300, 150, 250]
    file = write(tmp_path / "run.jsonl", [record(s, loss=1.0 + i) for i, s in enumerate(steps)])
    page = write_training_report(file)
    drawn = curves(figures(page)[0])["loss"]
    assert (drawn["x"], drawn["y"]) == ([0, 100, 150, 250], [1.0, 2.0, 5.0, 6.0])
    assert "2 earlier records of steps" in text_of(page)


def test_a_long_run_is_thinned_and_ends_where_it_ends():
    rows = [record(step).as_dict() for step in range(3001)]
    for chart in charts(rows):
        for axes in chart.axes:
            for line in axes.layers:
                assert len(line.x) == len(line.y) <= 401
                assert line.x[-1] == 3000


def test_a_folder_has_a_section_for_each_run(tmp_path, file):
    write(tmp_path / f"b {HOSTILE.replace('/', '')}.jsonl", [record(0, says=[HOSTILE])])
    page = write_training_report(tmp_path)
    assert page == tmp_path / "training.html"
    text = page.read_text(encoding="utf-8")
    assert text.count('<section id="run-') == 2
    assert "<h2>run</h2>" in text
    assert "alert(1)</script>" not in text
    assert "<b>" not in text_of(page)
    assert len(figures(page)) == 4
    assert re.findall(r'data-figure="(\d+)"', text) == ["0", "1", "2", "3"]


def test_the_page_needs_nothing_else_and_is_the_same_each_time(file):
    page = write_training_report(file)
    text = page.read_bytes()
    assert write_training_report(file).read_bytes() == text
    assert not re.findall(r'(?:src|href)="(?!data:,)[^"#]', text_of(page))


def test_what_is_no_run(tmp_path):
    with pytest.raises(ThalwegError, match="must be a file of a monitor's records"):
        write_training_report(tmp_path / "none.jsonl")
    with pytest.raises(ThalwegError, match="must hold records of a monitor, got none"):
        write_training_report(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    for path in (tmp_path, tmp_path / "empty.jsonl"):
        with pytest.raises(ThalwegError, match="must hold records of a monitor, got none"):
            write_training_report(path)


def test_a_page_that_cannot_be_written(file):
    file.with_suffix(".html").mkdir()
    with pytest.raises(ThalwegError, match="must be writable"):
        write_training_report(file)


def test_from_a_training_to_a_page_in_a_browser(tmp_path):
    program = shutil.which("chromium")
    if program is None and os.environ.get("THALWEG_CI") == "1":
        pytest.fail("chromium is not installed, and THALWEG_CI=1 wants this test to run")
    if program is None:
        pytest.skip("needs chromium")
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh()), torch.randn(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sam = SAM(optimizer, model, rho=0.1, telemetry=True)

    def loss_of(model, x):
        return ((model(x) - 0.5) ** 2).mean()

    with Monitor(sam, loss_of, x, every=5, to=tmp_path / "run.jsonl"):
        for _ in range(30):
            for _ in sam.passes():
                loss_of(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()
    page = write_training_report(tmp_path / "run.jsonl")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]
    place = f"--user-data-dir={tmp_path}/profile"
    done = subprocess.run(
        [program, *flags, place, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert re.search(r'<html[^>]* data-errors="0"', done.stdout)
    drawn = re.findall(r"<figure.*?</figure>", done.stdout, re.DOTALL)
    assert len(drawn) == 2
    axes = [len(re.findall(r'<g class="subplot x\d*y\d*"', figure)) for figure in drawn]
    assert axes == [2, 6]
    assert all('class="main-svg"' in figure for figure in drawn)
