"""A study: every claim measured, or taken from the folder where nothing it rests on has changed."""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg import __version__
from thalweg.errors import ThalwegError
from thalweg.lab.claims import CLAIMS, Claim
from thalweg.results import ClaimRecord, ResultsFolder


def choose(names: Sequence[str], claims: Sequence[Claim] = CLAIMS) -> list[Claim]:
    """Return the claims of these names, in the study's order; all of them for no name.

    Args:
        names: Names of claims.
        claims: What to choose from.

    Returns:
        The claims.

    Raises:
        ThalwegError: If there is no claim of a name.

    Example:
        >>> [claim.name for claim in choose(["drift"])]
        ['drift']
    """
    known = [claim.name for claim in claims]
    for name in names:
        if name not in known:
            raise ThalwegError(f"claim must be one of {', '.join(known)}, got {name!r}")
    return [claim for claim in claims if claim.name in names or not names]


def study(
    claims: Sequence[Claim],
    folder: ResultsFolder,
    *,
    quick: bool = False,
    fresh: bool = False,
    command: str = "",
    begin: Callable[[Claim], None] = lambda claim: None,
) -> Iterator[tuple[ClaimRecord, bool]]:
    """Measure claims one by one, each written to the folder as soon as it is finished.

    A claim on file is taken as it is when its settings, its module with all of thalweg that it
    imports, and the versions of torch and numpy are unchanged.

    Args:
        claims: The claims.
        folder: Where the records go.
        quick: Whether the quick settings are used.
        fresh: Whether to measure again what is on file.
        command: The command line, for the manifest.
        begin: Called before a claim is measured.

    Yields:
        The record of each claim, and whether it was taken from the folder.

    Raises:
        ThalwegError: If a file in the folder is damaged and ``fresh`` is not set.
    """
    # Damaged files are told of before hours are spent, not after.
    again = {claim.name for claim in claims} if fresh else set()
    found = {name: folder.read(name) for name in folder.names() if name not in again}
    everything = {claim.name: claim for claim in (*CLAIMS, *claims)}
    marks = {n: fingerprint(c, c.settings_for(quick=quick)) for n, c in everything.items()}
    folder.write_manifest(command=command, quick=quick, order=list(marks), fingerprints=marks)
    for claim in claims:
        settings, mark = claim.settings_for(quick=quick), marks[claim.name]
        old = found.get(claim.name)
        if old is not None and old.fingerprint == mark:
            yield old, True
            continue
        begin(claim)
        record = _measured(claim, settings, mark, quick=quick)
        folder.write(record)
        for entry, value in (
            ("seconds", round(record.seconds, 2)),
            ("seeds", list(record.seeds)),
            ("dtype", record.dtype),
            ("versions", record.versions),
        ):
            folder.manifest[entry] = {**folder.manifest.get(entry, {}), claim.name: value}
        folder.write_manifest()
        yield record, False


def _measured(claim: Claim, settings: dict[str, Any], mark: str, *, quick: bool) -> ClaimRecord:
    clock = time.perf_counter()
    evidence = claim.measure(settings)
    return ClaimRecord(
        name=claim.name,
        title=claim.title,
        statement=claim.statement,
        source=claim.source,
        verdict=evidence.verdict,
        expected=claim.expected_for(quick=quick),
        because=claim.because,
        checks=list(evidence.checks),
        charts=list(evidence.charts),
        settings=settings,
        seeds=list(evidence.seeds),
        dtype=evidence.dtype,
        runs=evidence.runs,
        seconds=time.perf_counter() - clock,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=mark,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    return {
        "thalweg": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def fingerprint(claim: Claim, settings: dict[str, Any]) -> str:
    """Return a text that changes when anything changes that the claim's numbers rest on.

    Args:
        claim: The claim.
        settings: Its settings.

    Returns:
        A hexadecimal digest.
    """
    digest = hashlib.sha256()
    rests_on = [claim.name, claim.expected, claim.quick_expected, claim.because, settings]
    versions = [torch.__version__, np.__version__]
    digest.update(json.dumps([rests_on, versions], sort_keys=True).encode())
    for module in sorted(_sources(claim.measure.__module__)):
        digest.update(module.encode())
        digest.update(_source(module).encode())
    return digest.hexdigest()[:16]


def _sources(module: str) -> set[str]:
    """A module and every module of thalweg that it imports, directly or through others."""
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
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
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
