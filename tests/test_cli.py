"""The command: what it prints, how it exits, and that no bad input ends in a traceback."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from thalweg import __main__, __version__
from thalweg.lab import study
from thalweg.lab.claims import CLAIMS, Claim, Evidence
from thalweg.results import Check, ResultsFolder

CALLS = []


def measure(settings):
    CALLS.append(settings["name"])
    if settings["holds"] == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
    return Evidence([Check("a", "1", "1", "0", settings["holds"])], [], 1, [0], "float64")


def tiny(name, expected="holds", holds=True, **more):
    settings = {"name": name, "holds": holds}
    return Claim(name, f"Title {name}", "s", "here", expected, "b", measure, settings, **more)


@pytest.fixture
def claims(monkeypatch):
    """Put other claims in place of the study's."""
    CALLS.clear()

    def put(*claims):
        monkeypatch.setattr(study, "CLAIMS", claims)
        monkeypatch.setattr(study.choose, "__defaults__", (claims,))

    put(tiny("one"), tiny("two", "open", None))
    return put


def test_version(command):
    found = command("--version")
    assert (found.code, found.out) == (0, f"thalweg {__version__}\n")


@pytest.mark.parametrize(("missing", "by"), [("typer", "the command"), ("numpy", "thalweg.lab")])
@pytest.mark.usefixtures("command")  # which undoes what the command sets for its process
def test_a_library_that_is_missing_is_named(missing, by, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "thalweg.cli")
    monkeypatch.delitem(sys.modules, "thalweg.lab")
    monkeypatch.delitem(sys.modules, "thalweg.lab.study")
    monkeypatch.setattr(sys, "argv", ["thalweg", "study", "--list"])
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"thalweg: {by} needs {missing}, which is not installed")
    assert "pip install 'thalweg[lab]'" in told


def test_list(command, tmp_path):
    found = command("study", "--list")
    assert found.code == 0
    first, *lines, last = found.out.splitlines()
    assert first.split()[:4] == ["claim", "quick", "usual", "full"]
    assert last == "Seconds on one core."
    for line, claim in zip(lines, CLAIMS, strict=True):
        assert line.split()[:4] == [claim.name, *(f"{seconds:.0f}" for seconds in claim.takes)]
        assert claim.title in line
        assert claim.needs in line
    listed = json.loads(command("study", "--list", "--json", "--only", "drift,stability").out)
    assert [(row["claim"], row["title"]) for row in listed] == [
        (claim.name, claim.title) for claim in CLAIMS if claim.name in ("drift", "stability")
    ]
    assert list(tmp_path.iterdir()) == []


BAD = {
    "text for a number": ("edge --lr abc --rho 0.1", "--lr must be a finite number > 0, got 'abc'"),
    "one of two": ("edge --lr 0.1", "two of --lr, --rho and --curvature must be given, got --lr$"),
    "unknown verb": ("measure", "'measure'"),
    "unknown option": ("study --fast", "--fast"),
    "unknown claim": ("study --only nope", "claim must be one of one, two, got 'nope'"),
    "empty claim": ("study --only one,", "claim must be one of one, two, got ''"),
    "two sizes": ("study --quick --full", "one size must be asked for, got --quick and --full"),
    "no jobs": ("study --jobs 0", "--jobs must be a whole number >= 1, got 0"),
    "half a job": ("study --jobs 2.5", "--jobs must be a whole number >= 1, got '2.5'"),
    "text for jobs": ("study --jobs all", "--jobs must be a whole number >= 1, got 'all'"),
    "report of nothing": ("report", "PATH"),
    "missing records": ("report none.jsonl", r"no such file: pass the one that Monitor\(to=...\)"),
    "missing folder": ("report nowhere", "no such folder; run `thalweg study --out nowhere`"),
    "name too long": ("report " + "n" * 300, "cannot be read .*: name another folder"),
    "a file": ("report file", "file must hold records of a monitor, got none"),
    "alien folder": ("report alien", "has no manifest.json"),
    "out is a file": ("study --out file", "file cannot be written .*: choose another --out"),
    "out below a file": ("study --out file/a", "cannot be written .*: choose another --out"),
    "out is alien": ("study --out alien", "has no manifest.json"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_in_a_sentence(command, claims, tmp_path, kind):
    (tmp_path / "file").write_text("text")
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "notes").write_text("mine")
    words, told = BAD[kind]
    found = command(*words.split())
    assert found.code == 2
    # Boxes and colours are drawn around what the parser itself refuses.
    assert re.search(told, re.sub(r"\x1b\[[0-9;]*m", "", found.err))
    assert "Traceback" not in found.err
    assert found.out == ""
    assert CALLS == []
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["alien", "file", "notes"]


def test_a_study_tells_what_is_on_record(command, claims):
    claims(tiny("one", takes=(1, 2, 3)), tiny("two", takes=(1, 2, 3), full_expected="open"))
    found = command("study", "--jobs", "1")
    first, *rest = found.err.splitlines()
    assert first == "to measure: 2; on record, about 4 s on 1 idle core"
    assert not any("to measure" in line for line in rest)
    assert "On record at full size: two undecided." in found.out
    again = command("study", "--jobs", "1", "--json")
    assert again.err == ""  # all of it is on file
    assert [row["at_full"] for row in json.loads(again.out)["claims"]] == [None, "open"]


def test_study_and_report(command, claims, tmp_path):
    found = command("study")
    assert found.code == 0
    assert CALLS == ["one", "two"]
    assert [line for line in found.err.splitlines() if line.startswith("measuring")] == [
        "measuring one: Title one",
        "measuring two: Title two",
    ]
    page = tmp_path / "results" / "report.html"
    assert "│ two " in found.out
    assert "undecided" in found.out
    assert not re.search(r"│\s*open\b", found.out)
    assert "finished two: undecided, " in found.err
    assert "to measure" not in found.err  # it is not on record how long these take
    assert f"The page: {page}" in found.out.replace("\n", " ")
    before = page.read_bytes()
    page.unlink()
    again = command("report", "results")
    assert (again.code, again.out) == (0, "results/report.html\n")
    assert page.read_bytes() == before
    assert ResultsFolder.open("results").manifest["command"] == "thalweg study"


def test_study_as_json_measured_and_kept(command, claims):
    first, second = (json.loads(command("study", "--json").out) for _ in range(2))
    assert CALLS == ["one", "two"]
    for found, kept in ((first, False), (second, True)):
        assert found["differing"] == []
        assert found["page"] == "results/report.html"
        rows = [(r["claim"], r["verdict"], r["on_record"], r["from_file"]) for r in found["claims"]]
        assert rows == [("one", "holds", "holds", kept), ("two", "open", "open", kept)]
    assert json.loads(command("study", "--json", "--fresh").out)["claims"][0]["from_file"] is False


@pytest.mark.parametrize(
    ("expected", "holds", "code"),
    [
        ("holds", True, 0),
        ("holds", False, 1),
        ("holds", None, 1),
        ("does not hold", False, 0),
        ("does not hold", True, 1),  # good news is an alarm, too
        ("open", None, 0),
        ("open", True, 1),
    ],
)
def test_exit_code(command, claims, tmp_path, expected, holds, code):
    claims(tiny("sure"), tiny("other", expected, holds))
    for _ in range(2):  # measured, then kept
        found = command("study")
        assert found.code == code
        assert ("Differs from the record: other." in found.out) is bool(code)
        assert (tmp_path / "results" / "report.html").exists()
    found = command("study", "--json")
    assert found.code == code
    assert json.loads(found.out)["differing"] == ["other"] * code
    assert command("study", "--only", "sure").code == 0


def test_a_quick_study_has_its_own_record(command, claims):
    claims(tiny("one", quick={"holds": None}, quick_expected="open"))
    assert command("study", "--quick").code == 0
    assert command("study").code == 0


@pytest.mark.parametrize(
    "words",
    [["--only", "three,one"], ["--only", "three", "--only", "one"], ["--only", " one , three"]],
)
def test_only(command, claims, tmp_path, words):
    claims(tiny("one"), tiny("two"), tiny("three"))
    assert command("study", *words).code == 0
    assert CALLS == ["one", "three"]  # in the study's order
    assert ResultsFolder.open("results").names() == ["one", "three"]


def test_where_results_go(command, claims, tmp_path):
    for words in ([], ["--quick"], ["--out", "here/there"], ["--quick", "--out", "quick"]):
        assert command("study", *words).code == 0
    made = {file.parent.relative_to(tmp_path) for file in tmp_path.rglob("manifest.json")}
    assert {str(path) for path in made} == {"results", "results-quick", "here/there", "quick"}
    found = command("study", "--quick", "--out", "results")
    assert found.code == 2
    assert "holds a standard study and this is a quick one: choose another --out" in found.err


def test_a_broken_off_study_says_so_and_goes_on(command, claims):
    claims(tiny("one"), tiny("two", holds="interrupt"))
    found = command("study")
    assert found.code == 130
    assert "broken off; one on file in results. The same command goes on from there." in found.err
    assert "Traceback" not in found.err
    claims(tiny("one"), tiny("two"))
    rows = json.loads(command("study", "--json").out)["claims"]
    assert [row["from_file"] for row in rows] == [True, False]


def test_broken_off_before_anything_was_finished(command, claims):
    claims(tiny("one", holds="interrupt"))
    found = command("study")
    assert found.code == 130
    assert "no claim on file" in found.err


@pytest.mark.parametrize("text", ['{"name": "one"', "[]", "null", '{"runs": "many"}'])
def test_a_damaged_claim_is_told_of(command, claims, tmp_path, text):
    command("study")
    (tmp_path / "results" / "one.json").write_text(text)
    for words in (["report", "results"], ["study"]):
        found = command(*words)
        assert found.code == 2
        assert "measure it again with `thalweg study --only one --fresh --out results`" in found.err
    assert command("study", "--only", "one", "--fresh").code == 0
    assert command("study").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["edge", "--lr", ".1", "--rho", ".05"],
        ["edge", "--rho", ".1", "--curvature", "9", "--momentum", ".9", "--nesterov"],
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(words):
    code = """
import sys
from thalweg.cli import main
try:
    main()
finally:
    print(sorted({"torch", "numpy", "sklearn", "plotly"} & set(sys.modules)))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "[]"
    assert used.ru_utime + used.ru_stime < 0.5
