"""The command ``thalweg``. Every verb imports its room when it is called: help needs no torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg import __version__
from thalweg.errors import ThalwegError, number

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sharpness-aware minimization (SAM): what normalization does in it, measured.",
)


def main() -> None:
    """Run the command; what the user can mend is told in one sentence, with exit code 2."""
    # One busy neighbour would otherwise slow every parallel operation of torch to 8 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        code = app(standalone_mode=False)
    except ThalwegError as error:
        sys.stderr.write(f"thalweg: {error}\n")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the parser's
            raise
        if message := error.format_message():  # empty where the help has been shown
            sys.stderr.write(f"thalweg: {message} See thalweg --help.\n")
        sys.exit(2)
    sys.exit(code or 0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def study(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this claim; several with commas or repeated."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the claims and stop.")] = False,
    quick: Annotated[bool, typer.Option(help="Coarser grids and fewer seeds.")] = False,
    fresh: Annotated[bool, typer.Option(help="Measure again what is on file.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Results folder; unless told otherwise, results or results-quick."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Measure the claims and write a page. Exits with 1 if a verdict differs from the record.

    A finished claim is kept: a run that was broken off goes on where it was.
    """
    import torch

    torch.set_flush_denormal(True)
    from thalweg.lab import study as room
    from thalweg.report import write_report
    from thalweg.results import ResultsFolder

    names = [name.strip() for text in only or [] for name in text.split(",")]
    claims = room.choose(names)
    if list_:
        titles = {claim.name: claim.title for claim in claims}
        lines = "\n".join(f"{name:12} {title}" for name, title in titles.items())
        typer.echo(json.dumps(titles) if json_ else lines)
        return
    folder = ResultsFolder.create(out or ("results-quick" if quick else "results"), quick=quick)
    command = "thalweg " + " ".join(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    try:
        for record, kept in room.study(
            claims, folder, quick=quick, fresh=fresh, command=command, begin=_begin
        ):
            rows.append(
                {
                    "claim": record.name,
                    "title": record.title,
                    "verdict": record.verdict,
                    "on_record": record.expected,
                    "as_recorded": record.as_recorded,
                    "runs": record.runs,
                    "seconds": round(record.seconds, 1),
                    "from_file": kept,
                }
            )
    except KeyboardInterrupt:
        done = ", ".join(row["claim"] for row in rows) or "no claim"
        sys.stderr.write(
            f"\nthalweg: broken off; {done} on file in {folder.path}. The same command goes on "
            "from there.\n"
        )
        raise typer.Exit(130) from None
    page = write_report(folder.path)
    differing = [row["claim"] for row in rows if not row["as_recorded"]]
    if json_:
        typer.echo(json.dumps({"claims": rows, "page": str(page), "differing": differing}))
    else:
        _table(rows, page, differing)
    if differing:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that study wrote.")],
) -> None:
    """Make the page of a results folder anew, from that folder alone."""
    from thalweg.report import write_report

    typer.echo(write_report(folder))


@app.command()
def edge(
    lr: Annotated[str, typer.Option(metavar="NUMBER", help="Learning rate.")],
    rho: Annotated[str, typer.Option(metavar="NUMBER", help="Rho; 0 is gradient descent.")],
    grad_norm: Annotated[
        str, typer.Option(metavar="NUMBER", help="Norm of the gradient, ‖g‖.")
    ] = "1.0",
    power: Annotated[
        str, typer.Option(metavar="NUMBER", help="Normalization: 0 is USAM, 1 is SAM.")
    ] = "1.0",
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """The largest curvature that a learning rate and a radius can bear."""
    from thalweg import theory

    eta = _number("--lr", lr, above=0)
    size = _number("--rho", rho, at_least=0)
    norm = _number("--grad-norm", grad_norm, above=0)
    p = _number("--power", power, at_least=0)
    try:
        found, plain = theory.edge(eta, size, norm, p), theory.edge(eta)
    except OverflowError:
        found = plain = math.inf
    if not (found > 0 and plain < math.inf):
        raise ThalwegError(
            f"the edge at --lr {lr} --rho {rho} --grad-norm {grad_norm} --power {power} must be a "
            "number that a computer can hold: take less extreme ones"
        )
    if json_:
        numbers = {"lr": eta, "rho": size, "grad_norm": norm, "power": p}
        typer.echo(json.dumps({**numbers, "edge": found, "gradient_descent_edge": plain}))
        return
    typer.echo(f"{found:.6g}")
    if size == 0:
        meaning = "Without a perturbation this is gradient descent's own edge, 2/lr."
    else:
        lasting = (
            "this edge does not move with the gradient: beyond it the iterate diverges"
            if p == 0
            else "this edge falls with ‖g‖, so that near a minimum the iterate bounces for ever"
        )
        meaning = (
            f"Where the curvature along the gradient is larger than this, steps grow; "
            f"plain gradient descent bears {plain:.6g}. At p = {p:g} {lasting}."
        )
    typer.echo(meaning)


def _number(name: str, text: str, **bounds: Any) -> float:
    """A number from the command line; what is none is told of as any other bad number."""
    value: object = text
    with contextlib.suppress(ValueError):
        value = float(text)
    return number(name, value, **bounds)


def _begin(claim: Any) -> None:
    sys.stderr.write(f"measuring {claim.name}: {claim.title}\n")


def _table(rows: list[dict[str, Any]], page: Path, differing: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "verdict", "on record", "runs", "seconds", "measured")
    for row in rows:
        colour = "green" if row["as_recorded"] else "red"
        differs = "" if row["as_recorded"] else " (differs)"
        table.add_row(
            row["title"],
            f"[{colour}]{row['verdict']}{differs}[/]",
            row["on_record"],
            f"{row['runs']:,}",
            f"{row['seconds']:.1f}",
            "on file" if row["from_file"] else "now",
        )
    Console().print(table)
    if differing:
        typer.echo(f"Differs from the record: {', '.join(differing)}.")
    typer.echo(f"The page: {page.resolve()}")
