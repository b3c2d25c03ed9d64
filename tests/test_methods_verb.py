"""``thalweg methods``: the whole family, or one preset, as text or as JSON."""

import json

import pytest

from thalweg import ThalwegError, presets
from thalweg.methods_verb import run

NAMES = [preset.__name__ for preset in presets.PRESETS]


@pytest.fixture
def said(capsys):
    def call(name=None, *, json_=False, all_=False):
        run(name, json_=json_, all_=all_)
        found = capsys.readouterr()
        assert found.err == ""
        return json.loads(found.out) if json_ else found.out

    return call


def words(text):
    return " ".join(text.split())


def test_the_list_has_formula_cost_evidence_and_defaults_of_each(said):
    text = said()
    heads = [line for line in text.split("\n\n")[0].splitlines() if not line.startswith(" ")]
    assert [head.split()[0] for head in heads] == NAMES
    for known, head in zip(presets.cards(), heads, strict=True):
        assert words(head) == f"{known.name} {known.gradients} {known.verdict}"
        assert known.summary in words(text)
        assert known.formula.replace(",  ", ", ").replace(";  ", "; ") in words(text)
        for argument, default in known.defaults.items():
            assert f"{argument}={default!r}" in words(text)
    assert max(map(len, text.splitlines())) <= 100
    assert "SAMPa" not in text


@pytest.mark.parametrize("name", NAMES)
def test_one_preset_whole(said, name):
    text, known = said(name), presets.card(name)
    held = words(text)
    parts = (known.call, known.summary, known.formula, known.rho, known.cost, known.memory)
    for part in (*parts, known.evidence, known.source, *known.arguments.values()):
        assert words(part) in held
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", [None, "friendly"])
def test_all_adds_what_no_preset_expresses_and_why(said, name):
    text = said(name, all_=True)
    assert text.startswith(said(name))
    for names, reason in presets.MISSING.items():
        assert words(f"{names}: {reason}") in words(text)


def test_json(said):
    rows = said(json_=True)
    assert [row["name"] for row in rows] == NAMES
    assert said("mix", json_=True) == rows[NAMES.index("mix")]
    assert rows[NAMES.index("mix")]["defaults"] == {"k": 0.8}
    assert rows[NAMES.index("mix")]["gradients"] == "2"
    assert set(rows[0]) == {
        "name",
        "summary",
        "formula",
        "rho",
        "cost",
        "gradients",
        "memory",
        "evidence",
        "verdict",
        "source",
        "arguments",
        "defaults",
    }
    whole = said(json_=True, all_=True)
    assert whole == {"presets": rows, "missing": presets.MISSING}
    assert said("mix", json_=True, all_=True)["presets"] == [rows[NAMES.index("mix")]]


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(ThalwegError, match=r"one of sam, usam.*averaged, got 'NOSAM'"):
        run("NOSAM", json_=False, all_=False)


#: As papers have them, with the preset that each is.
ACRONYMS = {
    "GSAM": "surrogate_gap",
    "LookSAM": "look_back",
    "F-SAM": "friendly",
    "VaSSO": "variance_suppressed",
    "MSAM": "momentum",
    "AE-SAM": "adaptive_gate",
    "SS-SAM": "random_gate",
    "StableSAM": "stable",
    "SAM-ON": "normalization_only",
    "AsyncSAM": "previous_gradient",
    "LE-SAM": "power",
    "XSAM": "spherical",
    "ASAM": "asam",
    "m-SAM": "micro_batch",
    "mSAM": "micro_batch",
}


@pytest.mark.parametrize("name", ACRONYMS)
def test_the_name_that_a_paper_gives_leads_to_the_preset(said, name):
    assert name in said()
    for spelt in (name, name.lower()):
        if spelt not in NAMES:
            # In small letters two methods have one name.
            both = "micro_batch, momentum" if spelt == "msam" else ACRONYMS[name]
            with pytest.raises(ThalwegError, match=rf"got '{spelt}': see {both}( \(|$)"):
                run(spelt, json_=False, all_=False)


def test_a_name_that_no_preset_has_is_told_with_the_reason_or_alone():
    with pytest.raises(ThalwegError, match=r"got 'SAMPa' \(SAMPa: It trains two .* devices\.\)$"):
        run("SAMPa", json_=False, all_=False)
    with pytest.raises(ThalwegError, match=r"got 'SAM': see sam$"):
        run("SAM", json_=False, all_=False)
    with pytest.raises(ThalwegError, match=r"got 'NOSAM'$"):
        run("NOSAM", json_=False, all_=False)
