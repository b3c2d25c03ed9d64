"""What ``thalweg study`` shows: what there is, how far it is, the table at the end."""

from __future__ import annotations

import heapq
import math
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
#: What the times on record weigh beside those measured here, as a share of all of them.
_TRUST = 0.05
#: What a claim that has outrun its time is taken to need yet, as a share of what it took.
_MORE = 0.1


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


class Estimate:
    """How much longer claims take: what is on record, scaled by what finished ones took here.

    Args:
        seconds: How long each claim takes on record, by its name.
        jobs: How many are measured side by side.

    Example:
        >>> estimate = Estimate({"a": 100.0, "b": 100.0, "c": 50.0}, 1)
        >>> estimate.finish("a", 300.0)
        >>> estimate.left(300.0)  # three times what is on record for the other two
        (450.0, 450.0)
    """

    def __init__(self, seconds: dict[str, float], jobs: int) -> None:
        self._due, self._jobs, self._total = dict(seconds), jobs, sum(seconds.values())
        self.begun: dict[str, float] = {}  # when, of each that runs
        self._seen: list[tuple[float, float]] = []  # seconds for each on record; these

    def finish(self, name: str, took: float | None) -> None:
        """Take a claim off the list; one that was on file took nothing."""
        expected = self._due.pop(name)
        self.begun.pop(name, None)
        if took is None:
            self._total -= expected
        elif expected:
            self._seen.append((took / expected, expected))

    def left(self, now: float) -> tuple[float, float] | None:
        """Return the least and the most seconds that are to be expected; ``None`` if unknown."""
        if not (self._due and all(self._due.values())):
            return None
        # Of what a finished claim took for each second on record the middle half is taken: one that
        # went quite otherwise, or that is short, says little. The record counts as a claim, too.
        seen = [(1.0, _TRUST * self._total), *self._seen]
        usual = _quantile(seen, 0.5)
        for name, begun in self.begun.copy().items():
            expected = self._due.get(name, 0.0)
            if now - begun > usual * expected > 0:  # is slower than that by now, already
                seen.append(((now - begun) / expected, expected))
        # The slower pace may end first: a claim that has outrun the faster one is given some more.
        low, high = sorted(self._end(_quantile(seen, share), now) for share in (0.25, 0.75))
        return low, high

    def _end(self, pace: float, now: float) -> float:
        """When the last one ends: those that run, then the longest first, wherever one is free."""
        begun, free = self.begun.copy(), []
        for name, at in begun.items():
            rest = pace * self._due.get(name, 0.0) - (now - at)
            free.append(rest if rest > 0 else _MORE * (now - at))
        free.sort()
        free = [0.0] * (self._jobs - len(free)) + free
        waiting = (took for name, took in self._due.copy().items() if name not in begun)
        for took in sorted(waiting, reverse=True):
            heapq.heapreplace(free, free[0] + pace * took)
        return max(free)


def _quantile(points: list[tuple[float, float]], share: float) -> float:
    """The least value at or below which this share of the weights lies."""
    wanted, below = share * sum(weight for _, weight in points), 0.0
    for value, weight in sorted(points):
        below += weight
        if below >= wanted:
            return value
    return math.nan


class _Teller:
    """Tells what is begun and finished, and how much time is left; on a terminal as a bar."""

    def __init__(self, claims: Sequence[Claim], size: Size, jobs: int) -> None:
        due = {claim.name: expected_seconds(claim, size) for claim in claims}
        self._estimate = Estimate(due, jobs)
        self._draws = jobs > 1 and any(due.values())  # alone, a claim has its own bar
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
        self._estimate.begun[claim.name] = time.monotonic()
        sys.stderr.write(f"measuring {claim.name}: {claim.title}\n")

    def finish(self, record: ClaimRecord, *, kept: bool) -> None:
        self._estimate.finish(record.name, None if kept else record.seconds)
        if kept:
            return
        left = self._estimate.left(time.monotonic())
        rest = f"; {between(*left)} left" if left else ""
        sys.stderr.write(
            f"finished {record.name}: {record.verdict}, {_span(record.seconds)}{rest}\n"
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


def between(low: float, high: float) -> str:
    """Return two times as a range in words, or as one where they are told by the same.

    Args:
        low: Seconds.
        high: Seconds, no fewer.

    Example:
        >>> between(150.0, 290.0), between(20.0, 20.3), between(80.0, 110.0)
        ('2 to 5 min', 'about 20 s', '80 s to 2 min')
    """
    first, last = _span(low), _span(high)
    if first == last:
        return f"about {last}"
    number, unit = first.split()
    return f"{number if last.endswith(unit) else first} to {last}"


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
