"""What ``thalweg study`` shows: what there is, how far it is, the table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from thalweg.lab.claims import Claim
from thalweg.lab.estimate import Estimate, between, span
from thalweg.lab.study import expected_seconds, study
from thalweg.results import ClaimRecord, ResultsFolder, Size

Row = dict[str, Any]
#: How many of the slowest claims are named at the end.
_SLOWEST = 3
#: How a verdict is told where the records' word may be misread; the page says it so, too.
_SAID = {"open": "undecided"}


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
                "at_full": record.at_full,
                "seconds": round(record.seconds, 1),
                "from_file": kept,
            }


class _Teller:
    """Tells what is begun and finished, and how much time is left; on a terminal as a bar."""

    def __init__(self, claims: Sequence[Claim], size: Size, jobs: int) -> None:
        due = {claim.name: expected_seconds(claim, size) for claim in claims}
        self._estimate = Estimate(due, jobs)
        self._draws = jobs > 1 and any(due.values())  # alone, a claim has its own bar
        self._told = False
        self._stop = threading.Event()
        self._bar: threading.Thread | None = None

    def __enter__(self) -> _Teller:
        if sys.stderr.isatty() and self._draws:
            self._bar = threading.Thread(target=self._draw, daemon=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._bar:
            self._bar.join()

    def begin(self, claim: Claim) -> None:
        if not self._told:  # what is on file has been taken off by now
            self._told = True
            if told := self._estimate.on_record():
                sys.stderr.write(f"{told}\n")
        self._estimate.begun[claim.name] = time.monotonic()
        sys.stderr.write(f"measuring {claim.name}: {claim.title}\n")

    def finish(self, record: ClaimRecord, *, kept: bool) -> None:
        self._estimate.finish(record.name, None if kept else record.seconds)
        if kept:
            return
        left = self._estimate.left(time.monotonic())
        rest = f"; {between(*left)} left" if left else ""
        sys.stderr.write(
            f"finished {record.name}: {_said(record.verdict)}, {span(record.seconds)}{rest}\n"
        )

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        begun = time.monotonic()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=1.0, left="")
            while not self._stop.wait(0.5):
                now = time.monotonic()
                if left := self._estimate.left(now):
                    bar.update(
                        task,
                        description=", ".join(self._estimate.begun.copy()),
                        completed=(now - begun) / (now - begun + sum(left) / 2),
                        left=f"{between(*left)} left",
                    )


def _said(verdict: str) -> str:
    return _SAID.get(verdict, verdict)


def show(rows: list[Row]) -> None:
    """Print the table of verdicts and name the slowest claims.

    Args:
        rows: What :func:`run` gave.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table()
    # --only wants names whole, however narrow the terminal is.
    table.add_column("claim", no_wrap=True, min_width=max(len(row["claim"]) for row in rows))
    for head in ("verdict", "on record", "seconds", "measured"):
        table.add_column(head)
    for row in rows:
        colour = "green" if row["as_recorded"] else "red"
        differs = "" if row["as_recorded"] else " (differs)"
        table.add_row(
            row["claim"],
            f"[{colour}]{_said(row['verdict'])}{differs}[/]",
            _said(row["on_record"]),
            f"{row['seconds']:.1f}",
            "on file" if row["from_file"] else "now",
        )
    console = Console()
    console.print(table)
    at_full = [f"{row['claim']} {_said(row['at_full'])}" for row in rows if row["at_full"]]
    if at_full:
        told = f"On record at full size: {', '.join(at_full)}."
        console.print(told, highlight=False, soft_wrap=True)
    slow = sorted((row for row in rows if not row["from_file"]), key=lambda row: -row["seconds"])
    if len(slow) > _SLOWEST:
        named = ", ".join(f"{row['claim']} {span(row['seconds'])}" for row in slow[:_SLOWEST])
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
