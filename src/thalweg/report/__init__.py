"""The report: one HTML page that carries its figures and its script, made from saved results."""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import ThalwegError
from thalweg.report.page import render
from thalweg.results import ResultsFolder
from thalweg.results.folder import write_whole

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a results folder, from what the folder holds and nothing else.

    The page needs no network and no other file; the same folder gives the same bytes.

    Args:
        folder: A folder that a study wrote.

    Returns:
        The page.

    Raises:
        ThalwegError: If the folder is missing, damaged, without claims, or cannot be written.

    Example:
        >>> import tempfile
        >>> from thalweg.results import ClaimRecord, ResultsFolder
        >>> claim = ClaimRecord(
        ...     name="edge", title="The edge", statement="GD is stable below 2/eta.",
        ...     source="derived here", verdict="holds", expected="holds", because="it is exact",
        ...     checks=[], charts=[], settings={}, seeds=[0], dtype="float64", runs=1, seconds=0.1,
        ...     measured_at="2026-01-01T00:00:00Z", fingerprint="0", paper="", derived="", found="",
        ... )
        >>> with tempfile.TemporaryDirectory() as somewhere:
        ...     results = ResultsFolder.create(somewhere, size="quick")
        ...     results.write(claim)
        ...     results.write_manifest()
        ...     write_report(somewhere).name
        'report.html'
    """
    results = ResultsFolder.open(folder)
    file = results.path / "report.html"
    page = render(results)
    try:
        write_whole(file, page)
    except OSError as cause:
        raise ThalwegError(
            f"report {file} must be writable, got {cause.strerror!r}: "
            "copy the results folder to a place you may write to"
        ) from None
    return file
