"""A study measures what has changed, keeps what has not, and loses nothing when broken off."""

import dataclasses
import functools
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab.claims import CLAIMS, Claim, Evidence
from thalweg.lab.parts import part
from thalweg.results import Check, ResultsFolder

room = importlib.import_module("thalweg.lab.study")
marks = importlib.import_module("thalweg.lab.fingerprint")
CALLS = []


def measure(settings):
    CALLS.append(settings)
    if settings.get("fails"):
        raise RuntimeError("the machine is on fire")
    lines = [Check("a", "1", "1", "0", settings.get("holds", True))]
    return Evidence(lines, [], runs=len(CALLS), seeds=[0], dtype="float64")


def tiny(name="tiny", **changed):
    fields = {"settings": {"rho": [0.1]}, "quick": {"few": True}, "expected": "holds"}
    fields |= {"title": "Tiny", "statement": "s", "source": "here", "because": "b"}
    return Claim(**(fields | {"name": name, "measure": measure} | changed))


@pytest.fixture(autouse=True)
def new_process():
    """Forget what was read from the sources, as a new process has."""
    CALLS.clear()
    for cached in (marks._imports, marks._source, marks._path):
        cached.cache_clear()
    yield
    for cached in (marks._imports, marks._source, marks._path):
        cached.cache_clear()


@pytest.fixture
def run(tmp_path):
    def run(*claims, **options):
        folder = ResultsFolder.create(tmp_path / "results", size=options.get("size", "standard"))
        found = [(record.name, kept) for record, kept in room.study(claims, folder, **options)]
        assert ResultsFolder.open(folder.path).manifest == folder.manifest
        return found

    return run


@pytest.fixture
def folder(tmp_path):
    return lambda: ResultsFolder.open(tmp_path / "results")


def test_measured_once_then_kept(run, folder):
    begun = []
    assert run(tiny(), begin=begun.append, command="thalweg study") == [("tiny", False)]
    before = (folder().path / "tiny.json").read_bytes()
    assert run(tiny(), begin=begun.append) == [("tiny", True)]
    assert len(CALLS) == 1
    assert begun == [tiny()]  # told of what is measured, not of what is kept
    assert (folder().path / "tiny.json").read_bytes() == before
    manifest = folder().manifest
    shipped = [claim.name for claim in CLAIMS]
    assert (manifest["order"], manifest["shipped"]) == ([*shipped, "tiny"], shipped)
    assert manifest["versions"]["tiny"]["torch"] == torch.__version__
    assert set(manifest["seconds"]) == {"tiny"}
    run(tiny(shipped[0]))  # which is one of them by its name alone
    assert folder().manifest["shipped"] == shipped[1:]


def test_the_record_is_the_claim_and_its_evidence(run, folder):
    claim = tiny(quick_expected="open", quick={"holds": None})
    run(claim, size="quick")
    record = folder().read("tiny")
    assert (record.verdict, record.expected, record.as_recorded) == ("open", "open", True)
    assert record.settings == {"rho": [0.1], "holds": None} == CALLS[0]
    assert (record.runs, record.seeds, record.dtype) == (1, [0], "float64")
    assert (record.title, record.statement, record.because) == ("Tiny", "s", "b")
    assert record.at_full == "holds"
    assert record.seconds >= 0
    assert record.measured_at.endswith("+00:00")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"rho": [0.2]}},
        {"settings": {"rho": [0.1], "more": 1}},
        {"expected": "open"},
        {"quick_expected": "open"},
        {"because": "another reason"},
    ],
)
def test_measured_again_when_the_claim_changes(run, folder, change):
    run(tiny())
    assert run(tiny(**change)) == [("tiny", False)]
    assert run(tiny(**change)) == [("tiny", True)]
    assert len(CALLS) == 2
    assert folder().read("tiny").expected == change.get("expected", "holds")


@pytest.mark.parametrize("module", ["thalweg.lab.simulate", "thalweg.ascent.ball", __name__])
def test_measured_again_when_code_changes(run, monkeypatch, module):
    # This file imports the study, and with it the simulator and its parts.
    run(tiny())
    source = marks._source
    monkeypatch.setattr(marks, "_source", lambda m: source(m) + "\n" * (m == module))
    assert run(tiny()) == [("tiny", False)]


def test_measured_again_when_the_claims_own_file_changes(run, tmp_path, monkeypatch):
    file = tmp_path / "own_claim.py"
    file.write_text("from test_study import measure as other\ndef measure(s): return other(s)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_study", sys.modules[__name__])
    claim = tiny(measure=importlib.import_module("own_claim").measure)
    assert run(claim) == [("tiny", False)]
    assert run(claim) == [("tiny", True)]
    file.write_text(file.read_text() + "# changed\n")
    marks._source.cache_clear()
    assert run(claim) == [("tiny", False)]


@pytest.mark.parametrize("library", [torch, np])
def test_measured_again_with_another_version(run, folder, monkeypatch, library):
    run(tiny())
    monkeypatch.setattr(library, "__version__", "99.0")
    assert run(tiny()) == [("tiny", False)]
    assert folder().manifest["versions"]["tiny"][library.__name__] == "99.0"


def test_measured_again_when_asked(run):
    run(tiny("a"), tiny("b"))
    assert run(tiny("a"), fresh=True) == [("a", False)]
    assert run(tiny("a"), tiny("b")) == [("a", True), ("b", True)]
    assert len(CALLS) == 3


COMMON = ("simulate", "step", "run", "cells", "grid", "observe", "problems", "claims.claim")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_a_claim_rests_on(claim):
    rests_on = marks.sources(claim.measure.__module__)
    wanted = {f"thalweg.lab.{name}" for name in COMMON} | {claim.measure.__module__}
    wanted |= {f"thalweg.ascent.{part}" for part in ("ball", "method", "combine", "direction")}
    wanted |= {"thalweg.parameters", "thalweg.results.record"}
    if claim.name in ("digits", "robustness", "yoked"):
        wanted |= {f"thalweg.lab.{name}" for name in ("digits", "data", "nets")}
    elif claim.name != "limits-of-the-claims":  # whose formula stands in its own file
        wanted |= {"thalweg.theory.edges", "thalweg.theory.bounce", "thalweg.theory.neuron"}
    assert wanted <= rests_on
    for other in ("cli", "report", "report.page", "sam", "hold", "base", "telemetry", "lab.study"):
        assert f"thalweg.{other}" not in rests_on
    assert not rests_on & {c.measure.__module__ for c in CLAIMS if c is not claim}


@pytest.mark.parametrize("module", ["simulate", "problems", "observe"])
def test_the_mark_follows_the_sources_and_no_others(monkeypatch, module):
    claim = CLAIMS[0]
    source, mark = marks._source, marks.fingerprint(claim, claim.settings)
    for changed, follows in ((f"thalweg.lab.{module}", True), ("thalweg.sam", False)):
        spoiled = functools.partial(lambda c, m: source(m) + "#" * (m == c), changed)
        monkeypatch.setattr(marks, "_source", spoiled)
        assert (marks.fingerprint(claim, claim.settings) != mark) is follows


def test_a_claim_of_a_script_or_notebook_can_be_measured(run, monkeypatch):
    # As __main__ has it under `python script.py` and in a notebook.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    claim = tiny(measure=lambda settings: measure(settings))
    claim.measure.__module__ = "__main__"
    assert run(claim) == [("tiny", False)]
    assert run(claim) == [("tiny", True)]


def test_a_failure_leaves_what_was_finished(run, folder):
    bad = tiny("b", settings={"fails": True})
    with pytest.raises(RuntimeError, match="on fire"):
        run(tiny("a"), bad, tiny("c"))
    assert folder().names() == ["a"]
    assert set(folder().manifest["seconds"]) == {"a"}
    mended = [tiny("a"), tiny("b"), tiny("c")]
    assert run(*mended) == [("a", True), ("b", False), ("c", False)]


def test_each_claim_is_on_file_before_the_next_begins(run, folder):
    seen = []
    run(tiny("a"), tiny("b"), begin=lambda claim: seen.append(folder().names()))
    assert seen == [[], ["a"]]


def test_a_damaged_file_is_told_of_before_anything_is_measured(run, folder):
    run(tiny("a"), tiny("b"))
    (folder().path / "b.json").write_text("{")
    before = {file.name: file.read_bytes() for file in folder().path.iterdir()}
    with pytest.raises(ThalwegError, match=r"b\.json cannot be used .*study\(\.\.\., fresh=True"):
        run(tiny("a", settings={"rho": [0.3]}), tiny("b"))
    assert len(CALLS) == 2
    assert {file.name: file.read_bytes() for file in folder().path.iterdir()} == before
    assert run(tiny("b"), fresh=True) == [("b", False)]
    assert run(tiny("a"), tiny("b")) == [("a", True), ("b", True)]


def elsewhere(settings):
    """Holds in a process of its own with one thread, where the other one has finished."""
    if "wait_for" in settings:
        while not Path(settings["wait_for"]).exists():
            time.sleep(0.01)
        os._exit(1)
    apart = os.getpid() != settings["pid"] and torch.get_num_threads() == 1
    return Evidence([Check("a", "1", "1", "0", apart)], [], runs=1, seeds=[0], dtype="float64")


def test_claims_side_by_side_and_one_whose_process_is_ended(run, folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # another process imports this file
    good_file = str(tmp_path / "results" / "good.json")
    long = {"measure": elsewhere, "takes": (6.0, 6.0, 6.0)}
    good = tiny("good", settings={"pid": os.getpid()}, **long)
    bad = tiny("bad", settings={"wait_for": good_file}, **long | {"takes": (7.0, 7.0, 7.0)})
    here = tiny("here", measure=lambda settings: measure(settings))
    begun = []
    with pytest.raises(ThalwegError, match=r"claim bad must be .* --jobs 1"):
        run(here, good, bad, jobs=2, begin=lambda claim: begun.append(claim.name))
    assert begun == ["here", "bad", "good"]  # the longest first of those that can be sent
    assert folder().read("good").verdict == "holds"
    assert folder().read("here").verdict == "holds"  # measured here: it cannot be sent


def test_a_measurement_that_was_broken_off_takes_up_its_parts(run, folder):
    made = []

    def in_parts(settings):
        for i in range(4):
            found = part(lambda i=i: made.append(i) or {"i": np.array(i)}, "part", i)
            assert found["i"] == i
            if i == 2 and len(made) == 3:
                raise KeyboardInterrupt
        return measure(settings)

    with pytest.raises(KeyboardInterrupt):
        run(tiny(measure=in_parts))
    kept = sorted(folder().path.glob(".parts/tiny/*/*.npz"))
    assert len(kept) == 3
    kept[0].write_bytes(b"PK")  # as if the disk had been full
    assert run(tiny(measure=in_parts)) == [("tiny", False)]
    assert len(made) == 5
    assert sorted(made) == sorted([0, 1, 2, 3, made[3]])
    assert [file.name for file in folder().path.glob(".*")] == []


def test_choose():
    names = [claim.name for claim in CLAIMS]
    assert [claim.name for claim in room.choose([])] == names
    some = [name for name in names if name in ("drift", "stability")]
    assert [claim.name for claim in room.choose(["drift", "stability", "drift"])] == some
    for name in ("", "Drift", "manifest", "../drift"):
        with pytest.raises(ThalwegError, match=f"claim must be one of {names[0]}, {names[1]}, "):
            room.choose(["drift", name])


def test_a_killed_study_goes_on_where_it_was(tmp_path):
    out = tmp_path / "results"
    code = "from thalweg.cli import main; main()"
    options = ["study", "--quick", "--only", "stability,drift", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", code, *options], stderr=subprocess.DEVNULL)
    for _ in itertools.count():
        if (out / "stability.json").exists() or process.poll() is not None:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not finished by itself
    (out / ".broken_off.part").write_text('{"name"')  # as if killed in the middle of a write
    whole = (out / "stability.json").read_bytes()
    assert json.loads(whole)["verdict"] == "holds"
    folder = ResultsFolder.create(out, size="quick")
    chosen = room.choose(["stability", "drift"])
    first = chosen[1].quick["legs"][:1]
    legs = {**chosen[1].quick, "legs": first}  # the second one may be short here
    chosen[1] = dataclasses.replace(chosen[1], quick=legs)
    assert [kept for _, kept in room.study(chosen, folder, size="quick")] == [True, False]
    assert (out / "stability.json").read_bytes() == whole
    assert folder.names() == ["stability", "drift"]
