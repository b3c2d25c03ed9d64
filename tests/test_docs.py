"""The code on the pages is the code of the examples, and what the pages show runs."""

from __future__ import annotations

import importlib
import re
import runpy
import warnings
from pathlib import Path

import pytest
import pytorch_optimizer
import torch
from torch import nn

from thalweg import compat, testing
from thalweg.lab.claims import CLAIMS

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
MIGRATION = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_recipe_is_a_file_to_the_letter():
    found = {}
    for block in blocks(RECIPES):
        name = re.match(r"# examples/(\w+)\.py", block)
        assert name, block
        found[name.group(1)] = block
    on_disk = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")}
    # The README's, and those of choosing-rho.md: no loops of their own.
    for name in ("digits", "diagnose_convnet", "diagnose_transformer"):
        del on_disk[name]
    assert found == on_disk


def test_every_recipe_says_what_goes_wrong_in_few_words():
    for section in re.split(r"^## ", RECIPES, flags=re.M)[1:]:
        _, text, _ = re.split(r"\n\n(?=\S)", section, maxsplit=2)
        assert 20 < len(text.split()) < 80, section[:40]


def test_your_own_problem_is_measured_as_the_page_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "your-own-problem.md").read_text(encoding="utf-8")
    for block in blocks(page):
        (tmp_path / re.match(r"# (\w+\.py)", block).group(1)).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for state in ("measured now", "on file"):
        runpy.run_path("measure.py")
        assert f"ellipse holds {state}" in capsys.readouterr().out
    assert (tmp_path / "own-results" / "report.html").exists()
    own = importlib.import_module("ellipse")
    gd, sam = (own.measure({"seeds": [0, 1, 2], "steps": n}).verdict for n in (5, 5000))
    assert (gd, sam) == ("does not hold", "holds")  # it can fail
    at_least = importlib.import_module("at_least").at_least
    assert at_least("x", 10, 11.0).holds
    assert not at_least("x", 10, 9.0).holds


def test_your_own_problem_takes_30_lines():
    page = (ROOT / "docs" / "your-own-problem.md").read_text(encoding="utf-8")
    header, *lines = blocks(page)[0].splitlines()
    assert header.startswith("# ")
    assert sum(bool(line.strip()) for line in lines) <= 30
    assert max(map(len, lines)) <= 100


PAGES = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
LINKED = sorted(name for name, text in PAGES.items() if "](" in text)


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        path, _, anchor = target.partition("#")
        page = ROOT / "docs" / (path or name)
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


def test_the_findings_have_every_claim():
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, flags=re.M)
    assert titles == [claim.title for claim in CLAIMS]


def laws():
    """Return the sections of the theory that state a law, by title."""
    sections = {}
    for part in re.split(r"^## ", THEORY, flags=re.M)[1:]:
        title, text = part.split("\n", 1)
        for one in re.split(r"^### ", text, flags=re.M)[1:]:
            name, law = one.split("\n", 1)
            sections[f"{title}: {name}"] = law
        if title != "Notation":
            assert f"{title}: " in " ".join(sections), title
    return sections


def test_every_law_is_checked_by_tests_and_claims_that_exist():
    known, named = {claim.name for claim in CLAIMS}, set()
    for title, law in laws().items():
        checks = re.findall(r"^\*Checked by\*.*?(?=\n\n|\Z)", law, flags=re.M | re.S)
        assert checks, title
        words = " ".join(" ".join(checks).split())
        files = re.findall(r"`(tests/[^`]+)`", words)
        claims = re.findall(r"claims? ((?:[^.;:]*?`[a-z-]+`)+)", words)
        named |= set(re.findall(r"`([a-z-]+)`", " ".join(claims)))
        assert all((ROOT / file).exists() for file in files), title
        assert files or claims or "the same" in words, title
    assert named <= known
    assert known - named == {"digits", "robustness", "yoked"}  # those are no laws


def test_every_part_of_the_theory_shows_a_figure():
    for part in re.split(r"^## ", THEORY, flags=re.M)[1:]:
        assert "](figures/" in part or part.startswith("Notation"), part.split("\n")[0]


def test_the_theory_is_written_in_one_way():
    lines = THEORY.splitlines()
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line.startswith(">")]  # formulas are indented


@pytest.fixture
def names():
    """Return the names that the code of the page takes for granted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = [(torch.randn(16, 4).double(), torch.randint(0, 3, (16,))) for _ in range(20)]
    loss_fn = nn.functional.cross_entropy
    return lambda: {"torch": torch, "model": model, "loader": data, "loss_fn": loss_fn}


def code(title):
    (found,) = [block for block in blocks(MIGRATION) if block.startswith(f"# {title}")]
    return found


def test_before_and_after_are_the_same_training(names):
    start = {k: v.clone() for k, v in names()["model"].state_dict().items()}
    ends = {}
    for title in ("before", "the same script", "after", "after with another rho"):
        held = names()
        held["model"].load_state_dict(start)
        script = code(title.removesuffix(" with another rho"))
        with warnings.catch_warnings():
            if title == "before":  # a scheduler on that optimizer warns without need
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            exec(script.replace("0.05", "0.06") if "another" in title else script, held)
        ends[title] = torch.cat([p.detach().flatten() for p in held["model"].parameters()])
    assert (ends["before"] - ends["the same script"]).norm() < 1e-6
    assert (ends["before"] - ends["after"]).norm() < 1e-6
    assert (ends["before"] - ends["after with another rho"]).norm() > 1e-4


def test_one_line_differs():
    before, after = code("before").splitlines(), code("the same script").splitlines()
    assert len(before) == len(after)
    assert [a for a, b in zip(before[1:], after[1:], strict=True) if a != b] == before[1:2]
    assert after[1] == "from thalweg.compat import SAM"


def test_the_checkpoint_loads(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = names()
    model = held["model"]
    theirs = pytorch_optimizer.SAM(
        model.parameters(), torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9
    )
    for x, y in held["loader"][:2]:
        held["loss_fn"](model(x), y).backward()
        theirs.first_step(zero_grad=True)
        held["loss_fn"](model(x), y).backward()
        theirs.second_step(zero_grad=True)
    torch.save({"model": model.state_dict(), "optimizer": theirs.state_dict()}, "old.pt")
    exec(code("checkpoint"), held)
    assert held["sam"].rho == held["optimizer"].param_groups[0]["rho"] == 0.2
    for p in model.parameters():
        held_there = theirs.state[p]["momentum_buffer"]
        assert torch.equal(held["optimizer"].state[p]["momentum_buffer"], held_there)


def test_every_code_block_of_the_page_is_one_of_these():
    assert [block.split("\n")[0] for block in blocks(MIGRATION)] == [
        "# before",
        "# the same script, with one line changed",
        "# after",
        "# checkpoint",
    ]


def test_what_the_page_says_is_refused_is_refused():
    w = torch.ones(1, requires_grad=True)
    assert "`use_gc=True`" in MIGRATION
    with pytest.raises(ValueError, match="use_gc"):
        compat.SAM([w], torch.optim.SGD, lr=0.1, use_gc=True)


def test_every_feature_has_a_test_that_exists():
    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(conformance: \w+|tests/[\w/]+\.py(?:::\w+)?)`", row)
        assert named, row
        for name in named:
            kind, _, check = name.partition(": ")
            path, _, function = name.partition("::")
            if kind == "conformance":
                assert check in testing.CHECKS, name
            else:
                assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8") or (
                    not function and (ROOT / path).exists()
                ), name


def test_the_readme_s_numbers_are_those_of_the_table():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = {
        k: re.findall(r"\d+", rest) for k, rest in re.findall(r"\| \*\*(.+), in all\*\*(.*)", table)
    }
    ours, *theirs = (int(n) for n in rows["yes"])
    applies = {ours - int(n) for n in rows["not offered"][1:]}
    assert len(applies) == 1
    words = " ".join(readme.split())
    counts = f"`thalweg.testing` has {len(testing.CHECKS)} checks for any SAM; two are made at four"
    assert f"{counts} powers each, which gives [{ours} rows]" in words
    assert ours == len(testing.CHECKS) + 2 * 3
    assert f"{theirs[0]} and {theirs[1]} of the {applies.pop()} that apply" in words
    assert rows["no"][0] == rows["not offered"][0] == "0"
