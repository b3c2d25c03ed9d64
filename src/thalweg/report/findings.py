"""The findings as text: what papers say, what was derived, what was measured, and whether it holds.

Made from the results alone, so that no number in it is written by hand.
"""

from __future__ import annotations

from thalweg.results import Chart, ClaimRecord, ResultsFolder
from thalweg.results.record import VERDICTS

_HEADS = ("finding", "what the paper says", "what we derived", "what we measured", "holds?")
_ANSWERS = {"holds": "yes", "does not hold": "no", "open": "undecided"}


def markdown(results: ResultsFolder) -> tuple[str, dict[str, Chart]]:
    """Return the findings of a results folder as a page of Markdown, and the figures it shows.

    Args:
        results: The folder, opened.

    Returns:
        The text: a table of all claims, then every claim with its figures and checks; and the
        chart for each file name that it takes from the folder ``figures``.

    Raises:
        ThalwegError: If a claim cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     print(markdown(ResultsFolder.create(empty))[0].splitlines()[0])
        # Findings
    """
    records = [results.read(name) for name in results.names()]
    size = results.manifest.get("size", "standard")
    lines = [
        "# Findings",
        "",
        f"Written by `python docs/findings.py` from a {size} study; do not edit. What a law is and "
        "where it comes from: [theory](theory.md). An empty field: nothing known to us, or nothing "
        "to derive.",
        "",
        _tally(records),
        "",
        _row(*_HEADS),
        _row(*["---"] * len(_HEADS)),
    ]
    for record in records:
        lines.append(
            _row(
                f"[{record.title}](#{_anchor(record.title)})",
                record.paper,
                record.derived,
                record.found,
                _ANSWERS[record.verdict],
            )
        )
    figures: dict[str, Chart] = {}
    for record in records:
        names = [f"{record.name}-{place}.svg" for place in range(1, 1 + len(record.charts))]
        figures |= zip(names, record.charts, strict=True)
        lines += ["", *_section(record, names)]
    return "\n".join(lines) + "\n", figures


def _tally(records: list[ClaimRecord]) -> str:
    verdicts: list[str] = [record.verdict for record in records]
    yes, no, unknown = (verdicts.count(verdict) for verdict in VERDICTS)
    return (
        f"Claims: {len(records)}, of which {yes} hold, {no} do not, {unknown} are undecided. A "
        "claim does not hold if one of its checks fails."
    )


def _section(record: ClaimRecord, names: list[str]) -> list[str]:
    alarm = "" if record.as_recorded else f" (on record: {record.expected})"
    return [
        f"## {record.title}",
        "",
        _safe(record.statement),
        "",
        f"**{record.verdict.capitalize()}**{alarm}. {_safe(record.found)}",
        "",
        f"*Source.* {_safe(record.source)} *Why this verdict is expected.* {_safe(record.because)}",
        "",
        *(
            line
            for name, chart in zip(names, record.charts, strict=True)
            for line in (f"![](figures/{name})", "", f"*{_safe(chart.caption)}*", "")
        ),
        _row("quantity", "predicted", "measured", "tolerance", "holds"),
        _row(*["---"] * 5),
        *(
            _row(
                check.what + ("" if check.decides else " (reported)"),
                check.predicted,
                check.measured,
                check.tolerance,
                {True: "yes", False: "no", None: "undecided"}[check.holds],
            )
            for check in record.checks
        ),
        "",
        f"{record.runs:,} runs, {len(record.seeds)} seed{'s' * (len(record.seeds) != 1)}, "
        f"{record.dtype}, {record.seconds:.0f} s, {record.measured_at[:10]}, torch "
        f"{record.versions.get('torch', 'unknown')}: `thalweg study --only {record.name}`.",
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(_safe(cell) for cell in cells)} |"


def _safe(text: str) -> str:
    """Keep bars and line breaks from ending a cell; stars and what looks like a tag are text."""
    one = " ".join(text.split())
    return one.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
