"""What a claim's numbers rest on, as a text that changes when any of it does."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg.lab.claims.claim import Claim


def fingerprint(claim: Claim, settings: dict[str, Any]) -> str:
    """Return a text that changes when anything changes that the claim's numbers rest on.

    Args:
        claim: The claim.
        settings: Its settings.

    Returns:
        A hexadecimal digest.
    """
    digest = hashlib.sha256()
    said = [claim.title, claim.statement, claim.source, claim.paper, claim.derived, claim.because]
    verdicts = [claim.expected, claim.quick_expected, claim.full_expected]
    rests_on = [claim.name, said, verdicts, settings]
    versions = [torch.__version__, np.__version__]
    digest.update(json.dumps([rests_on, versions], sort_keys=True).encode())
    for module in sorted(sources(claim.measure.__module__)):
        digest.update(module.encode())
        digest.update(_source(module).encode())
    return digest.hexdigest()[:16]


def sources(module: str) -> set[str]:
    """Return a module and every module of thalweg that it imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    return seen


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if name.startswith("thalweg.") and _path(name)]
            # Of a package whose modules alone are named, the rest does not matter.
            names += modules if len(modules) == len(inside) else [*modules, node.module]
    # The root resolves its names lazily: whoever imports from it imports the module that is named.
    homes = sys.modules["thalweg"]._HOMES
    names = [homes.get(n.removeprefix("thalweg."), n) for n in names]
    return tuple(n for n in names if n.startswith("thalweg.") and _path(n) is not None)


@functools.cache
def _source(module: str) -> str:
    path = _path(module)
    return path.read_text(encoding="utf-8") if path else ""


@functools.cache
def _path(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name inside a module, not a module
        return None
    except ValueError:  # a script that is run, or a cell of a notebook, has no spec
        file = getattr(sys.modules.get(module), "__file__", None)
        return Path(file) if file else None
    return Path(found.origin) if found and found.origin else None
