"""What ``thalweg study`` shows: what there is, how far it is, the table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from thalweg.lab.claims import Claim
from thalweg.lab.study import expected_seconds, study
from thalweg.results import ClaimRecord, ResultsFolder, Size

Row = dict[str, Any]
#: How many of the slowest claims are named at the end.
_SLOWEST = 3


def listing(claims: Sequence[Claim]) -> list[Row]:
    """Return what claims there are, how long each takes, and what it needs.

    Args:
        claims: The claims.

    Returns:
        One dictionary a claim.
    """
    return [
        {
            "claim": claim.name,
            "title": claim.title,
            "seconds": dict(zip(("quick", "standard", "full"), claim.takes, strict=True)),
            "needs": claim.needs,
        }
        for claim in claims
    ]


def run(
    claims: Sequence[Claim],
    folder: ResultsFolder,
    *,
    size: Size,
    fresh: bool,
    jobs: int,
    command: str,
) -> Iterator[Row]:
    """Measure claims, telling on standard error how far it is.

    Args:
        claims: The claims.
        folder: Where the records go.
        size: Of the study.
        fresh: Whether to measure again what is on file.
        jobs: How many claims are measured side by side.
        command: The command line.

    Yields:
        A row of the table for each finished claim.
    """
    with _Teller(claims, size, jobs) as teller:
        for record, kept in study(
            claims,
            folder,
            size=size,
            fresh=fresh,
            jobs=jobs,
            command=command,
            begin=teller.begin,
        ):
            teller.finish(record, kept=kept)
            yield {
                "claim": record.name,
                "title": record.title,
                "verdict": record.verdict,
                "on_record": record.expected,
                "as_recorded": record.as_recorded,
                "runs": record.runs,
                "seconds": round(record.seconds, 1),
                "from_file": kept,
            }


class _Teller:
    """Tells what is begun and finished, and how much time is left; on a terminal as a bar."""

    def __init__(self, claims: Sequence[Claim], size: Size, jobs: int) -> None:
        self._due = {claim.name: expected_seconds(claim, size) for claim in claims}
        self._jobs, self._total = jobs, sum(self._due.values())
        self._begun: dict[str, float] = {}
        self._pace = 1.0  # seconds for each that was expected, on this machine
        self._stop = threading.Event()
        self._bar: threading.Thread | None = None

    def __enter__(self) -> _Teller:
        if sys.stderr.isatty() and self._total and self._jobs > 1:  # alone, a claim has its own bar
            self._bar = threading.Thread(target=self._draw, daemon=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._bar:
            self._bar.join()

    def begin(self, claim: Claim) -> None:
        self._begun[claim.name] = time.monotonic()
        sys.stderr.write(f"measuring {claim.name}: {claim.title}\n")

    def finish(self, record: ClaimRecord, *, kept: bool) -> None:
        expected = self._due.pop(record.name)
        self._begun.pop(record.name, None)
        if kept:
            self._total -= expected
            return
        if expected:
            share = expected / self._total
            self._pace += share * (record.seconds / expected - self._pace)
        left = f"; about {_span(self.left())} left" if self._due and self._total else ""
        sys.stderr.write(
            f"finished {record.name}: {record.verdict}, {_span(record.seconds)}{left}\n"
        )

    def left(self) -> float:
        """Seconds until all are finished: the work shared out, or the longest one."""
        now = time.monotonic()
        each = [
            max(self._pace * seconds - (now - self._begun.get(name, now)), 0.0)
            for name, seconds in self._due.copy().items()
        ]
        return max([sum(each) / self._jobs, *each])

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=1.0, left="")
            while not self._stop.wait(0.5):
                left = self.left()
                done = 1 - left * self._jobs / max(self._pace * self._total, left * self._jobs, 1)
                bar.update(
                    task,
                    description=", ".join(self._begun.copy()),
                    completed=done,
                    left=f"about {_span(left)} left",
                )


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def show(rows: list[Row]) -> None:
    """Print the table of verdicts and name the slowest claims.

    Args:
        rows: What :func:`run` gave.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "verdict", "on record", "runs", "seconds", "measured")
    for row in rows:
        colour = "green" if row["as_recorded"] else "red"
        differs = "" if row["as_recorded"] else " (differs)"
        table.add_row(
            row["claim"],
            f"[{colour}]{row['verdict']}{differs}[/]",
            row["on_record"],
            f"{row['runs']:,}",
            f"{row['seconds']:.1f}",
            "on file" if row["from_file"] else "now",
        )
    console = Console()
    console.print(table)
    slow = sorted((row for row in rows if not row["from_file"]), key=lambda row: -row["seconds"])
    if len(slow) > _SLOWEST:
        named = ", ".join(f"{row['claim']} {_span(row['seconds'])}" for row in slow[:_SLOWEST])
        console.print(f"The slowest: {named}.", highlight=False)


def show_list(rows: list[Row]) -> None:
    """Print what claims there are.

    Args:
        rows: What :func:`listing` gave.
    """
    lines = [f"{'claim':20} {'quick':>5} {'usual':>5} {'full':>5}   what it says; what it needs"]
    for row in rows:
        seconds = "".join(f" {value:5.0f}" for value in row["seconds"].values())
        needs = row["needs"] and f"; needs {row['needs']}"
        lines.append(f"{row['claim']:20}{seconds}   {row['title']}{needs}")
    typer.echo("\n".join([*lines, "Seconds on one core."]))
