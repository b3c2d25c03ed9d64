"""The site: every page has its place, every public name its page, and tables are those of the code.

`make docs` builds it, strictly; these tests need nothing of what builds it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import thalweg


def read(path):
    return path.read_text(encoding="utf-8")


ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "thalweg"
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
CONFIG = read(ROOT / "mkdocs.yml")
REFERENCE = {path.stem: read(path) for path in DOCS.glob("reference/*.md")}
#: The tests that run the code of a page. A page with code must be here.
RUNS = {
    "index.md": "test_site.py",
    "curvature-probes.md": "curvature/test_probes_page.py",
    "integrations.md": "test_docs_of_trainers.py",
    "methods.md": "test_site.py",
    "migration.md": "test_docs.py",
    "recipes.md": "test_docs.py",
    "your-own-method.md": "test_own_method.py",
    "your-own-problem.md": "test_docs.py",
}


def python(page):
    return re.findall(r"```python\n(.*?)```", read(page), flags=re.DOTALL)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_a_place_and_every_place_a_page():
    nav = CONFIG.partition("\nnav:\n")[2]
    places = re.findall(r": (\S+\.md)$", nav, flags=re.M)
    assert len(places) == len(set(places))
    assert set(places) == PAGES


def test_the_first_example_is_that_of_the_readme():
    (shown,) = python(DOCS / "index.md")
    assert shown == python(ROOT / "README.md")[0]  # which test_readme.py runs


def test_code_that_is_shown_is_run():
    shown = {name for name in PAGES if python(DOCS / name)}
    assert shown == set(RUNS)
    for name, test in RUNS.items():
        assert name in read(ROOT / "tests" / test), name


def test_the_code_of_the_methods_runs():
    (block,) = python(DOCS / "methods.md")
    held = {}
    exec(block, held)
    assert held["sam"].method == thalweg.presets.per_tensor()


def test_blocks_of_code_name_their_language():
    told = {}
    for name in sorted(PAGES):
        text = read(DOCS / name)
        opened = [line for line in text.splitlines() if line.startswith("```")][::2]
        told[name] = [line for line in opened if line == "```"]
    assert {name for name, bare in told.items() if bare} == set()


def test_the_table_of_imports_is_the_one_that_is_tested():
    law = load(ROOT / "tests" / "test_architecture.py")
    text = read(DOCS / "architecture.md")
    table = text.partition("## Who may import whom")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", table, flags=re.M)
    shown = {room: set(names.split(", ")) - {"nothing"} for room, names in rows}
    assert shown == {room: rooms for room, rooms in law.MAY_IMPORT.items() if room}


def public_modules():
    """The rooms that say what is public, and what may be imported from ``thalweg`` itself."""
    found = {path.parent for path in SOURCE.rglob("__init__.py") if "\n__all__ = " in read(path)}
    names = {".".join(("thalweg", *path.relative_to(SOURCE).parts)) for path in found}
    rooms = {name for name in thalweg.__all__ if (SOURCE / name).with_suffix(".py").exists()}
    return sorted(names - {"thalweg"} | {f"thalweg.{room}" for room in rooms})


@pytest.mark.parametrize("module", public_modules())
def test_every_public_module_is_in_the_reference(module):
    text = "".join(REFERENCE.values())
    assert re.search(rf"^::: {re.escape(module)}$", text, flags=re.M)


def hidden():
    """Names of functions that their files bear, too: the page of a room shows the file instead."""
    for room in public_modules():
        place = SOURCE.parent.joinpath(*room.split("."))
        for name in importlib.import_module(room).__all__:
            if (place / f"{name}.py").exists():
                yield f"{room}.{name}.{name}"


def test_what_hides_behind_its_file_is_named_by_itself():
    named = {name for text in REFERENCE.values() for name in re.findall(r"^::: (\S+)$", text, re.M)}
    wanted = set(hidden())
    assert wanted
    assert wanted <= named


def test_the_numbers_of_the_limits_are_those_of_the_findings():
    limits, findings = (" ".join(read(DOCS / f"{p}.md").split()) for p in ("limits", "findings"))
    tuned = "tuned SAM stands at -2.55 ± 1.83 points"
    assert tuned in limits
    assert tuned in findings
    assert "USAM minus SAM is +0.05 ± 0.50 points" in limits
    assert "USAM minus SAM +0.05 ± 0.50:" in findings
