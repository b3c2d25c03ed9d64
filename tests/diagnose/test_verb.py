"""``thalweg diagnose``: what it prints and writes, and what it refuses in one sentence."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest
import subjects
import torch
import typer
from subjects import four
from torch import nn

import thalweg
import thalweg.diagnose
from thalweg import SAM, ThalwegError, diagnose_verb
from thalweg.cli import app
from thalweg.diagnose.follow import follow_steps, told

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(target, json_=False, out=None, **settings):
    diagnose_verb.run(target, json_=json_, folder=out, **settings)


@pytest.mark.parametrize("target", ["own_script:build", "own_script.py:build"])
def test_the_table_tells_all(script, monkeypatch, capsys, target):
    monkeypatch.setenv("COLUMNS", "200")
    run(target, train=2)
    said = capsys.readouterr().out
    name = "own_script" if target.startswith("own_script:") else "diagnosed_own_script"
    own = sys.modules[name]
    found = thalweg.diagnose(*own.build())
    for row in found.rows:
        assert row.name in said
        assert row.value in said
    for reason in found.reasons:
        assert reason in " ".join(said.split())
    assert re.search(r"2 steps with SAM, a batch each, the first and the last: loss [.\d]+, ", said)
    assert said.count("λ_max is") == str(found).count("λ_max is")  # the table stands there once


def test_it_fits_a_screen(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    run("own_script:build")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Recommended"
    assert lines[1].startswith("  rho ")
    assert len(lines) <= 45
    # The first lines have scrolled away by then; the last one says it again.
    assert lines[-1].startswith(f"Recommended: rho = {lines[1].split()[1]} at power 1")
    for line in lines:
        if line.startswith("  largest lr "):
            assert lines[-1].endswith(f", largest lr {line.split()[2]}.")
    assert max(map(len, lines)) <= 80


def test_json_and_page(script, capsys):
    run("own_script:build", json_=True, out=script / "deep" / "out", train=2)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((script / "deep" / "out" / "diagnosis.json").read_text())
    found = thalweg.diagnose(*sys.modules["own_script"].build(), train=2)
    assert printed == json.loads(json.dumps(found.to_json()))
    assert len(printed["followed"]) == 2
    page = (script / "deep" / "out" / "diagnosis.html").read_text(encoding="utf-8")
    assert "own_script:build" in page
    for row in found.rows:
        assert row.value.replace(">", "&gt;") in page
    assert not re.search(r'(src|href)="(?!data:)', page.split('<script id="plotly">')[0])
    with pytest.raises(ThalwegError, match=r"`thalweg diagnose`: its page is .*diagnosis.html"):
        app(["report", str(script / "deep" / "out")], standalone_mode=False)


BAD = {
    "own_script": "MODULE:FUNCTION must name a function, got 'own_script'",
    "own_script:": "MODULE:FUNCTION must name a function",
    "missing_script:build": "MODULE must be one that can be imported from here",
    "missing_script.py:build": "MODULE must be a file that exists.*: write its path from here",
    "own_script:absent": r"must have a function absent, got none.*returns \(model, loss, loader",
    "own_script:number": "must have a function number, got int",
    "own_script:needs": r"must take no argument, got needs\(size\)",
    "own_script:three": r"must return \(model, loss, loader, optimizer\): .*got 3 things \(Linear",
    "own_script:nothing": r"must return \(model, loss, loader, optimizer\): .*; got none",
    "own_script:swapped": r"loss must be a function loss\(model, batch\) .*, got list",
}


@pytest.mark.parametrize("target", BAD)
def test_wrong_functions_are_told_what_they_must_return(script, target):
    with pytest.raises(ThalwegError, match=BAD[target]):
        run(target)


def test_an_error_within_the_users_module_is_the_users(script):
    (script / "broken_script.py").write_text("import not_there_at_all\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        run("broken_script:build")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("json_", [False, True])
def test_steps_that_are_broken_off_lose_nothing(script, monkeypatch, capsys, number, json_):
    out = script / "out"

    def broken_off(*given):
        steps = follow_steps(*given)
        # Before the first step all that is known stands there whole.
        assert json.loads((out / "diagnosis.json").read_text())["followed"] == []
        assert "own_script:build" in (out / "diagnosis.html").read_text(encoding="utf-8")
        assert ("uphill from" in capsys.readouterr().out) is not json_
        yield next(steps)
        yield next(steps)
        os.kill(os.getpid(), number)
        yield from steps

    monkeypatch.setattr(diagnose_verb, "follow_steps", broken_off)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        run("own_script:build", json_=json_, out=out, train=50)
    assert ended.value.exit_code == 128 + number
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr()
    assert said.err == f"thalweg: interrupted after 2 of 50 steps; the diagnosis is in {out}\n"
    written = json.loads((out / "diagnosis.json").read_text())
    assert len(written["followed"]) == 2
    assert "2 steps with SAM" in (out / "diagnosis.html").read_text(encoding="utf-8")
    assert json.loads(said.out) == written if json_ else said.out.startswith("2 steps with SAM")


def test_steps_are_told_by_mean_and_spread():
    losses = [4.0, 2.0] * 5 + [9.0] * 30 + [1.0] * 10
    said = told([{"loss": loss, "curvature": 2 * loss} for loss in losses])
    assert said == (
        "50 steps with SAM, a batch each, the first 10 and the last 10: loss 3 ± 1.1, then 1 ± 0; "
        "λ̂ 6 ± 2.1, then 2 ± 0."
    )
    assert told([{"loss": 0.5}]) == "1 step with SAM: loss 0.5."


WRONG = {
    "no model": (0, lambda f: f[0].parameters(), r"model must be a torch.nn.Module, got generat"),
    "a module": (1, lambda f: nn.CrossEntropyLoss(), r"got CrossEntropyLoss, a module: write lam"),
    "one argument": (1, lambda f: lambda batch: batch, r"got one that takes \(batch\)"),
    "no loader": (2, lambda f: 3, "loader must be something to loop over .* got int"),
    "one batch": (2, lambda f: torch.zeros(3), "loader must be .* got Tensor"),
    "a sam": (3, lambda f: SAM(f[3], f[0]), "got SAM: pass its .optimizer"),
    "no optimizer": (3, lambda f: None, "optimizer must be a torch.optim.Optimizer, got None"),
    "not a mean": (
        1,
        lambda f: lambda model, batch: model(batch[0]),
        r"must return the mean loss.* got a tensor of the shape \(32, 10\): take the mean",
    ),
    "a number": (
        1,
        lambda f: lambda model, batch: subjects.loss_of(model, batch).item(),
        "must return the mean loss.* got float",
    ),
    "no graph": (
        1,
        lambda f: lambda m, b: subjects.loss_of(m, b).detach(),
        "got one without: compute",
    ),
    "not finite": (
        1,
        lambda f: lambda m, b: subjects.loss_of(m, b) * torch.inf,
        "loss must be finite",
    ),
    "no slope": (1, lambda f: lambda m, b: subjects.loss_of(m, b) * 0, "a gradient that is not 0"),
    "others": (
        3,
        lambda f: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
        "optimizer must train parameters of the model, got 1 others",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_things_are_told_what_they_must_be(kind):
    place, wrong, told = WRONG[kind]
    given = four()
    given[place] = wrong(given)
    with pytest.raises(ThalwegError, match=told):
        thalweg.diagnose(*given)


@pytest.mark.parametrize(
    "settings",
    [{"rho": 0.0}, {"rho": "1"}, {"power": -1}, {"batches": 0}, {"seed": -1}, {"train": -1}],
)
def test_wrong_numbers(settings):
    (name,) = settings
    with pytest.raises(ThalwegError, match=name):
        thalweg.diagnose(*four(), **settings)


def test_a_loss_of_a_global_model_cannot_be_followed():
    model, _, loader, optimizer = four()

    def loss(_, batch):
        return subjects.loss_of(model, batch)

    with pytest.raises(ThalwegError, match="must use the model that it is given"):
        thalweg.diagnose(model, loss, loader, optimizer, train=2)


def test_steps_are_followed_with_sam():
    model, loss, loader, optimizer = four()
    found = thalweg.diagnose(model, loss, loader, optimizer, train=20)
    assert [one["perturbation_norm"] for one in found.followed] == pytest.approx([found.rho] * 20)
    assert sum(one["loss"] for one in found.followed[-5:]) < 5 * found.followed[0]["loss"] - 1
    assert all(one["ratio"] == one["curvature"] / one["edge"] for one in found.followed)


def test_the_rho_in_the_groups_is_the_one_that_is_asked_about():
    model, loss, loader, optimizer = four()
    optimizer.param_groups[0]["rho"] = 0.123
    found = thalweg.diagnose(model, loss, loader, optimizer)
    assert found.asked == found.measured.rho_now == 0.123
    assert "asked about" in str(found)
    assert thalweg.diagnose(model, loss, loader, optimizer, rho=0.4).asked == 0.4


def test_a_compiled_model_is_measured_as_itself():
    model, loss, loader, optimizer = four()
    compiled = torch.compile(model, backend="eager")
    found = thalweg.diagnose(compiled, loss, loader, optimizer)
    assert found.to_json() == thalweg.diagnose(model, loss, loader, optimizer).to_json()


OPTIONS = {
    "--rho": ("0.3", "asked", 0.3),
    "--start-loss": ("7.5", "start_loss", 7.5),
    "--batches": ("2", "batches", 2),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_reach_the_measurement(script, capsys, name):
    word, key, value = OPTIONS[name]
    said = command(capsys, "own_script:build", "--json", name, word)
    assert (said["asked"] if key == "asked" else said["measured"][key]) == value


def test_seed_and_power_reach_it_too(script, capsys, monkeypatch):
    given = {}
    monkeypatch.setattr(diagnose_verb, "run", lambda target, **settings: given.update(settings))
    command(capsys, "own_script:build", "--seed", "4", "--power", "0.25", parse=False)
    assert (given["seed"], given["power"], given["rho"]) == (4, 0.25, None)
    for wrong in (["--seed", "x"], ["--power", "-1"], ["--rho", "0"], ["--start-loss", "nan"]):
        with pytest.raises(ThalwegError, match=wrong[0]):
            command(capsys, "own_script:build", *wrong)


def command(capsys, *words, parse=True):
    app(["diagnose", *words], standalone_mode=False)
    return json.loads(capsys.readouterr().out) if parse else None


@pytest.mark.parametrize("name", ["diagnose_convnet", "diagnose_transformer"])
def test_examples(name):
    path = EXAMPLES / f"{name}.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 40
    four = runpy.run_path(str(path))["build"]()
    before = {k: v.clone() for k, v in four[0].state_dict().items()}
    found = thalweg.diagnose(*four, batches=4, train=3)
    assert all(torch.equal(v, before[k]) for k, v in four[0].state_dict().items())
    m = found.measured
    assert 0 < m.lower < found.rho < m.upper
    assert found.rho <= 0.5 * m.flip
    assert m.lambda_max > 0
    plain = not m.base.missing
    assert plain is (name == "diagnose_convnet")
    assert all((one.edge is not None) is plain for one in found.edges)
    # Curvature along the gradient is at most λ_max of that batch, and well above a random
    # direction's.
    mean = m.trace / m.parameters
    assert m.scan.curvature[4] > 20 * mean
