"""Presets are values, short, and say of themselves what the lists print."""

import ast
import dataclasses
import importlib.util
import inspect
import pickle
import re
import types
from pathlib import Path

import pytest

from thalweg import Method, ThalwegError, presets
from thalweg.presets import listing

DOCS = Path(__file__).parent.parent / "docs"
#: What must be given where there is no default.
NEEDED = {"total": 100, "first": 10, "m": 4, "m_ref": 16}
#: For every argument a value that is not its default.
OTHER = {
    "alpha": 1.25,
    "biases": True,
    "decay": 0.5,
    "early": 0.3,
    "first": 11,
    "floor": 0.25,
    "k": 7,
    "key": "exp_avg",
    "late": 0.2,
    "lr_max": 3.0,
    "lr_min": 0.5,
    "m": 5,
    "m_ref": 17,
    "max_norm": 0.3,
    "offset": 0.5,
    "p": 0.25,
    "per_filter": False,
    "points": (1.0, 2.0),
    "power": 0.25,
    "probability": 0.75,
    "rho_min": 0.25,
    "seed": 9,
    "share": 0.75,
    "sigma": 0.3,
    "theta": 0.6,
    "total": 101,
}
NAMES = [preset.__name__ for preset in presets.PRESETS]
EACH = pytest.mark.parametrize("preset", presets.PRESETS, ids=NAMES)


def needed(preset):
    return {name: NEEDED[name] for name in inspect.signature(preset).parameters if name in NEEDED}


@EACH
def test_a_preset_gives_a_method_that_is_a_value(preset):
    given = {
        k: v for k, v in needed(preset).items() if k not in presets.card(preset.__name__).defaults
    }
    method = preset(**given)
    assert isinstance(method, Method)
    assert (method, hash(method)) == (preset(**given), hash(preset(**given)))
    assert pickle.loads(pickle.dumps(method)) == method
    assert dataclasses.replace(method, points=(0.25,)) != method


def test_no_two_presets_are_the_same():
    methods = [preset(**needed(preset)) for preset in presets.PRESETS]
    assert len(set(methods)) == len(methods) >= 22


@EACH
def test_every_argument_counts_and_is_told_of(preset):
    known = presets.card(preset.__name__)
    given = needed(preset)
    if preset is presets.surrogate_gap:
        given = {"lr_max": 2.0}  # without it the others of the schedule are not looked at
    if preset is presets.gaussian:
        given = {}
    assert list(known.arguments) == list(inspect.signature(preset).parameters)
    for name in known.arguments:
        assert preset(**given | {name: OTHER[name]}) != preset(**given), name


@EACH
def test_a_preset_is_six_lines_at_most(preset):
    (function,) = ast.parse(inspect.getsource(preset)).body
    body = function.body[1:]
    assert body[-1].end_lineno - body[0].lineno < 6


@EACH
def test_a_card_is_whole(preset):
    known = presets.card(preset.__name__)
    for field in dataclasses.fields(known):
        value = getattr(known, field.name)
        texts = list(value.values()) if field.name == "arguments" else [value]
        if field.name != "defaults":
            assert all(text and "\n" not in text and ">>>" not in text for text in texts)
    for text in (known.summary, known.rho, known.cost, known.memory, known.evidence, known.source):
        assert text.endswith(".")
    assert "ε" in known.formula or "u = " in known.formula
    assert re.match(r"\d", known.gradients)
    assert len(known.verdict) < 40
    assert eval(f"presets.{known.call}", {"presets": presets}, NEEDED) == preset(
        **{k: v for k, v in NEEDED.items() if k in known.arguments and k not in known.defaults}
    )


def test_the_module_offers_every_preset_and_nothing_that_is_none():
    functions = {
        name
        for name in presets.__all__
        if isinstance(getattr(presets, name), types.FunctionType) and name not in ("card", "cards")
    }
    assert functions == set(NAMES)
    assert [known.name for known in presets.cards()] == NAMES


def test_every_part_that_a_preset_could_have_is_in_one():
    """No slot of a method is left without a preset."""
    usual, methods = Method(), [preset(**needed(preset)) for preset in presets.PRESETS]
    for field in dataclasses.fields(Method):
        differ = [m for m in methods if getattr(m, field.name) != getattr(usual, field.name)]
        assert differ or field.name == "max_norm", field.name


BAD = {
    "late: share": (lambda: presets.late(100, 1.5), "share must be .* > 0 and <= 1, got 1.5"),
    "late: none": (lambda: presets.late(100, 0), "share must be .* > 0 and <= 1, got 0"),
    "late: total": (lambda: presets.late(0), "total must be a whole number >= 1, got 0"),
    "modern: total": (lambda: presets.modern(0.5), "total must be a whole number >= 1, got 0.5"),
    "micro_batch": (lambda: presets.micro_batch(0, 64), "^m must be .* > 0, got 0"),
    "m_ref": (lambda: presets.micro_batch(4, [64]), r"^m_ref must be .* > 0, got \[64\]"),
    "lr_min": (lambda: presets.surrogate_gap(lr_min=0.1), r"^lr_max must be .* > 0\.1, got None"),
    "rho_min": (lambda: presets.surrogate_gap(rho_min=0.1), "^lr_max must be .* > 0, got None"),
    "card": (lambda: presets.card(presets.sam), r"^the name must be one of sam, .* got <function"),
    "theta": (
        lambda: presets.variance_suppressed(0),
        "theta must be a finite number > 0 and < 1, got 0",
    ),
    "theta above": (
        lambda: presets.variance_suppressed("x"),
        "theta must be a finite number > 0 and < 1, got 'x'",
    ),
    "first": (lambda: presets.warm_start(-1), "first must be a whole number >= 0, got -1"),
    "points": (lambda: presets.averaged(()), "points must be a tuple of numbers"),
    "sigma": (lambda: presets.friendly(None), "sigma must be a finite number, got None"),
    "adaptive_gate": (lambda: presets.adaptive_gate(0), "total must be a whole number >= 1"),
    "k": (lambda: presets.multi_step(0), "k must be a whole number >= 1, got 0"),
    "p": (lambda: presets.power(-1), "p must be a finite number >= 0, got -1"),
    "probability": (lambda: presets.random_gate(2), "probability must be .* >= 0 and <= 1, got 2$"),
    "unknown": (lambda: presets.card("SAM"), "must be that of a preset, got 'SAM': see sam"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_out_of_range_is_told_by_the_name_of_the_argument(kind):
    call, told = BAD[kind]
    with pytest.raises(ThalwegError, match=told):
        call()


def test_the_shares_of_late():
    starts = [presets.late(100, share).gate.start for share in (1, 0.25, 0.05, 1e-9)]
    assert starts == [0, 75, 95, 99]


def test_without_docstrings_the_cards_say_so(monkeypatch):
    monkeypatch.setattr(listing.inspect, "getdoc", lambda _: None)
    with pytest.raises(ThalwegError, match="python must keep docstrings"):
        presets.card("sam")


def test_what_is_missing_has_reasons():
    assert len(presets.MISSING) > 10
    for names, reason in presets.MISSING.items():
        assert names
        assert reason.endswith(".")
        assert "|" not in names + reason
        for word in re.findall(r"\b[a-z]+_[a-z]+\b", reason):
            assert word in NAMES


def test_the_page_is_what_the_presets_say():
    spec = importlib.util.spec_from_file_location("methods_page", DOCS / "methods.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert text == page.markdown(), "run python docs/methods.py"
    assert re.findall(r"(?m)^## (\w+)$", text) == NAMES
    (code,) = re.findall(r"(?s)```python\n(.*?)```", text)
    held = {}
    exec(code, held)
    assert held["sam"].method == presets.per_tensor()
    every = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert every == {3, 5}  # no formula breaks a table
