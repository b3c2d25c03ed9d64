"""A study: every claim measured, or taken from the folder where nothing it rests on has changed."""

from __future__ import annotations

import concurrent.futures
import datetime
import multiprocessing
import pickle
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg import __version__
from thalweg.errors import ThalwegError, brief, flag, whole
from thalweg.lab.claims import CLAIMS, Claim, Evidence
from thalweg.lab.fingerprint import fingerprint
from thalweg.lab.parts import keeping
from thalweg.lab.run import threads
from thalweg.results import SIZES, ClaimRecord, ResultsFolder, Size

#: Processes cost seconds to start; claims that take fewer together are measured in this one.
_PAYS = 10.0


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
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ThalwegError(f"names must be a list of names, got {brief(names)}: write [name]")
    known = [claim.name for claim in claims]
    for name in names:
        if name not in known:
            raise ThalwegError(f"claim must be one of {', '.join(known)}, got {name!r}")
    return [claim for claim in claims if claim.name in names or not names]


def study(
    claims: Claim | Iterable[Claim],
    folder: ResultsFolder | str | Path,
    *,
    size: Size = "standard",
    fresh: bool = False,
    jobs: int = 1,
    command: str = "",
    begin: Callable[[Claim], None] = lambda claim: None,
) -> Iterator[tuple[ClaimRecord, bool]]:
    """Measure claims, each written to the folder as soon as it is finished.

    A claim on file is taken as it is when its settings, its module with all of thalweg that it
    imports, and the versions of torch and numpy are unchanged. Those come first, then the others
    as they are finished.

    Args:
        claims: The claims, or a single one.
        folder: Where the records go; a path is opened, or made, for a study of this size.
        size: Which settings are used.
        fresh: Whether to measure again what is on file.
        jobs: How many claims are measured side by side, each in a process of its own with one
            thread, where that pays. More than one needs a main module that may be imported again.
        command: The command line, for the manifest.
        begin: Called before a claim is measured.

    Yields:
        The record of each claim, and whether it was taken from the folder.

    Raises:
        ThalwegError: If something is no claim; if two claims have one name; if the folder cannot
            be used; if a file in it is damaged and ``fresh`` is not set; if a measurement gives no
            evidence; if a process was ended by the system.
    """
    several = isinstance(claims, Iterable) and not isinstance(claims, str)
    claims = list(claims) if several else [claims]  # type: ignore[arg-type, list-item]
    for claim in claims:
        if not isinstance(claim, Claim):
            raise ThalwegError(
                f"claims must be a Claim or a list of them, got {brief(claim)}: choose() gives "
                "those of a name"
            )
    if size not in list(SIZES):
        raise ThalwegError(f"size must be one of {', '.join(SIZES)}, got {brief(size)}")
    flag("fresh", fresh)
    jobs = whole("jobs", jobs, at_least=1)
    if not isinstance(folder, ResultsFolder | str | Path):
        raise ThalwegError(
            f"folder must be a path or a ResultsFolder, got {brief(folder)}: name one, such as "
            '"results"'
        )
    if not isinstance(folder, ResultsFolder):
        folder = ResultsFolder.create(folder, size=size)
    names = [claim.name for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ThalwegError(
            f"claims must have names of their own, got {', '.join(twice)} more than once: "
            "rename one"
        )
    # Damaged files are told of before hours are spent, not after.
    again = {claim.name for claim in claims} if fresh else set()
    found = {name: folder.read(name) for name in folder.names() if name not in again}
    everything = {claim.name: claim for claim in (*CLAIMS, *claims)}
    marks = {n: fingerprint(c, c.settings_for(size)) for n, c in everything.items()}
    shipped = [name for name, claim in everything.items() if claim in CLAIMS]
    folder.write_manifest(
        command=command, size=size, order=list(marks), shipped=shipped, fingerprints=marks
    )
    due = []
    for claim in claims:
        old = found.get(claim.name)
        if old is not None and old.fingerprint == marks[claim.name]:
            yield old, True
        else:
            due.append(claim)
    works = {claim.name: (claim, size, marks[claim.name], str(folder.path)) for claim in due}
    for record in _measured(works, jobs, begin):
        folder.write(record)
        folder.forget_parts(record.name)
        for entry, value in (
            ("seconds", round(record.seconds, 2)),
            ("seeds", list(record.seeds)),
            ("dtype", record.dtype),
            ("versions", record.versions),
        ):
            folder.manifest[entry] = {**folder.manifest.get(entry, {}), record.name: value}
        folder.write_manifest()
        yield record, False


def expected_seconds(claim: Claim, size: Size) -> float:
    """Return how long a claim takes on one core, as was measured once.

    Args:
        claim: The claim.
        size: The size of the study.

    Returns:
        Seconds.
    """
    return claim.takes[SIZES.index(size)]


#: A claim, the size, its mark, and the folder.
_Work = tuple[Claim, Size, str, str]


def _measured(
    works: dict[str, _Work], jobs: int, begin: Callable[[Claim], None]
) -> Iterator[ClaimRecord]:
    """Measure claims, the longest first where several are measured side by side."""
    long = {name: expected_seconds(*work[:2]) for name, work in works.items()}
    apart = jobs > 1 and sum(long.values()) > _PAYS
    here = [name for name, work in works.items() if not (apart and _can_travel(work))]
    for name in here:
        begin(works[name][0])
        yield _measure(works[name])
    rest = sorted(works.keys() - set(here), key=lambda name: -long[name])
    if not rest:
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_one_thread
    )
    running: dict[concurrent.futures.Future[ClaimRecord], str] = {}
    try:
        while rest or running:
            while rest and len(running) < jobs:
                work = works[rest[0]]
                begin(work[0])
                running[pool.submit(_measure, work)] = rest.pop(0)
            wait = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
            for future in wait.done:
                name = running.pop(future)
                try:
                    yield future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    raise ThalwegError(
                        f"claim {name} must be measured in a process that lives, and the system "
                        "ended it (too little memory?): run the same command again, with --jobs 1"
                    ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def _can_travel(work: _Work) -> bool:
    """Whether a claim can be sent to another process; one made of lambdas cannot."""
    try:
        pickle.dumps(work)
    except Exception:
        return False
    return True


def _measure(work: _Work) -> ClaimRecord:
    claim, size, mark, folder = work
    settings = claim.settings_for(size)
    clock = time.perf_counter()
    # In every process as many, so that the digits are the same.
    with threads(1), keeping(folder, claim.name, mark):
        evidence = claim.measure(settings)
    if not isinstance(evidence, Evidence):
        raise ThalwegError(
            f"measure of claim {claim.name} must return an Evidence, got {brief(evidence)}: end it "
            "with return Evidence(checks, charts, runs=..., seeds=..., dtype=...)"
        )
    expected, at_full = claim.expected_for(size), claim.expected_for("full")
    return ClaimRecord(
        name=claim.name,
        title=claim.title,
        statement=claim.statement,
        source=claim.source,
        verdict=evidence.verdict,
        expected=expected,
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
        at_full=at_full if at_full != expected else None,
        paper=claim.paper,
        derived=claim.derived,
        found=evidence.found or _deciding(evidence.checks),
    )


def _deciding(checks: Sequence[Any]) -> str:
    """The lines that decide, as a sentence."""
    return "; ".join(
        f"{check.what}: {check.measured} (predicted: {check.predicted})"
        for check in checks
        if check.decides
    )


def _versions() -> dict[str, str]:
    return {
        "thalweg": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, 1 thread",
    }
