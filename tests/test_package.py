"""Whatever is imported beside torch and Python's own modules has an extra, which is named."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import thalweg

SOURCE = Path(thalweg.__file__).parent
PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
FREE = set(sys.stdlib_module_names) | {"torch", "thalweg"}
#: What a room's __init__ has asked for, and what only the command reaches, which has asked.
ASKED = {"lab": {"numpy"}, "verb": {"typer", "rich"}}


def brings(extra, module):
    """Whether an extra brings a module: itself, or through what it names."""
    named = {re.split(r"[^\w-]", text)[0].lower() for text in EXTRAS[extra]}
    through = {
        re.split(r"[^\w.-]", text)[0].lower()
        for name in named
        for text in metadata.requires(name) or ()
        if "extra ==" not in text
    }
    homes = {name.lower() for name in metadata.packages_distributions()[module]}
    return bool(homes & (named | through))


def unnamed(code, asked=frozenset()):
    """Return every other package that is imported outside ``with extra(...)`` of one it is in."""
    found = []

    def visit(node, extra):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("extra("):
            extra = node.items[0].context_expr.args[0].value
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in {name.partition(".")[0] for name in names} - FREE - asked:
            if extra is None or not brings(extra, name):
                found.append(name)
        for child in ast.iter_child_nodes(node):
            visit(child, extra)

    visit(ast.parse(code), None)
    return sorted(found)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_package_has_an_extra_that_is_named(path):
    inside = path.relative_to(SOURCE).parts
    room = inside[0].removesuffix(".py").rpartition("_")[2]
    asked = ASKED.get(room, set()) if inside[1:] != ("__init__.py",) else set()
    assert unnamed(path.read_text(encoding="utf-8"), asked) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import numpy", ["numpy"]),
        ("def f():\n    from sklearn.datasets import load_digits", ["sklearn"]),
        ("with extra('lab', by=''):\n    from sklearn.datasets import load_digits", []),
        ("with extra('lightning', by=''):\n    import scipy", ["scipy"]),
        ("with extra('lightning', by=''):\n    import torchmetrics", []),
        ("import math, torch.nn\nfrom thalweg import lab", []),
    ],
)
def test_the_detector_works(code, found):
    assert unnamed(code) == found
