"""The command ``thalweg``. Every verb imports its room when it is called: help needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from thalweg import __version__
from thalweg.errors import ThalwegError, extra, number, whole

with extra("lab", by="the command"):
    import typer

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
            asked = getattr(getattr(error, "ctx", None), "command_path", "thalweg")
            sys.stderr.write(f"thalweg: {message.rstrip('.')}. See {asked} --help.\n")
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
    list_: Annotated[
        bool, typer.Option("--list", help="List the claims, how long each takes, and stop.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds: the smallest grids.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The full sample sizes: half an hour on two cores.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is on file.")] = False,
    jobs: Annotated[
        str | None, typer.Option(metavar="N", help="Claims side by side; by default one a core.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Results folder; by default results, results-quick or results-full."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Measure the claims and write a page. Exits with 1 if a verdict differs from the record.

    A finished claim is kept: a run that was broken off goes on where it was.
    """
    if quick and full:
        raise ThalwegError("one size must be asked for, got --quick and --full: take one of them")
    side_by_side = os.cpu_count() or 1 if jobs is None else _whole("--jobs", jobs, at_least=1)
    import torch

    torch.set_flush_denormal(True)
    from thalweg import study_verb as verb
    from thalweg.lab.study import choose
    from thalweg.report import write_report
    from thalweg.results import ResultsFolder

    claims = choose([name.strip() for text in only or [] for name in text.split(",")])
    if list_:
        listed = verb.listing(claims)
        typer.echo(json.dumps(listed)) if json_ else verb.show_list(listed)
        return
    size: Any = "quick" if quick else "full" if full else "standard"
    usual = "results" if size == "standard" else f"results-{size}"
    folder = ResultsFolder.create(out or usual, size=size)
    command = "thalweg " + " ".join(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    try:
        for row in verb.run(
            claims, folder, size=size, fresh=fresh, jobs=side_by_side, command=command
        ):
            rows.append(row)
    except KeyboardInterrupt:
        done = ", ".join(row["claim"] for row in rows) or "no claim"
        sys.stderr.write(
            f"\nthalweg: broken off; {done} on file in {folder.path}. The same command goes on "
            "from there.\n"
        )
        raise typer.Exit(130) from None
    page = write_report(folder.path)
    order = [claim.name for claim in claims]
    rows.sort(key=lambda row: order.index(row["claim"]))
    differing = [row["claim"] for row in rows if not row["as_recorded"]]
    if json_:
        typer.echo(json.dumps({"claims": rows, "page": str(page), "differing": differing}))
    else:
        verb.show(rows)
        if differing:
            typer.echo(f"Differs from the record: {', '.join(differing)}.")
        typer.echo(f"The page: {page.resolve()}")
    if differing:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A folder that study wrote, or a file of a Monitor's records."
        ),
    ],
) -> None:
    """Make a page from what is on file: a study's results, or a Monitor's records of a training."""
    with contextlib.suppress(OSError):  # of a name that cannot be; the study's own check tells
        records = folder.is_dir() and any(folder.glob("*.jsonl"))
        if folder.is_file() or (records and not (folder / "manifest.json").exists()):
            from thalweg.report.training import write_training_report

            typer.echo(write_training_report(folder))
            return
        if folder.suffix == ".jsonl":
            raise ThalwegError(
                f"{folder} must be a file of a monitor's records, got no such file: pass the one "
                "that Monitor(to=...) wrote"
            )
        if (page := folder / "diagnosis.html").exists() and not (folder / "manifest.json").exists():
            raise ThalwegError(
                f"{folder} must be a folder that `thalweg study` wrote, got one of `thalweg "
                f"diagnose`: its page is {page}"
            )
    from thalweg.report import write_report

    typer.echo(write_report(folder))


@app.command()
def diagnose(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns model, loss, loader and optimizer.",
        ),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the page and diagnosis.json."),
    ] = None,
    train: Annotated[
        str, typer.Option(metavar="N", help="Follow N steps with SAM, on a copy.")
    ] = "0",
    rho: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="A rho to judge; by default the groups'.")
    ] = None,
    power: Annotated[
        str, typer.Option(metavar="NUMBER", help="Another power whose rho is wanted.")
    ] = "1.0",
    start_loss: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Loss before training; by default a fresh copy's."),
    ] = None,
    batches: Annotated[str, typer.Option(metavar="N", help="How many batches are taken.")] = "8",
    seed: Annotated[
        str, typer.Option(metavar="N", help="Seed of the random vectors of the Hessian products.")
    ] = "0",
) -> None:
    """Which rho: measure your own model, and what SAM would do with it."""
    settings: dict[str, Any] = {
        "train": _whole("--train", train),
        "rho": None if rho is None else _number("--rho", rho, above=0),
        "power": _number("--power", power, at_least=0),
        "start_loss": None if start_loss is None else _number("--start-loss", start_loss),
        "batches": _whole("--batches", batches, at_least=1),
        "seed": _whole("--seed", seed),
    }
    from thalweg import diagnose_verb

    diagnose_verb.run(target, json_=json_, folder=out, **settings)


def _number_option(meaning: str) -> Any:
    return typer.Option(metavar="NUMBER", help=meaning)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A method; all of them if not given.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="List also what no preset expresses, and why.")
    ] = False,
) -> None:
    """The family: every named method with its formula, its cost and what is known of it."""
    from thalweg.methods_verb import run

    run(name, json_=json_, all_=all_)


@app.command()
def edge(
    lr: Annotated[str | None, _number_option("Learning rate.")] = None,
    rho: Annotated[str | None, _number_option("Rho; 0 is the base optimizer alone.")] = None,
    curvature: Annotated[str | None, _number_option("Largest eigenvalue of the Hessian.")] = None,
    grad_norm: Annotated[str, _number_option("Norm of the gradient, ‖g‖.")] = "1.0",
    power: Annotated[str, _number_option("Normalization: 0 is USAM, 1 is SAM.")] = "1.0",
    momentum: Annotated[str, _number_option("Momentum of the base optimizer, SGD.")] = "0.0",
    weight_decay: Annotated[str, _number_option("Weight decay of the base.")] = "0.0",
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Nesterov's momentum.")] = False,
    decoupled: Annotated[
        bool, typer.Option("--decoupled", help="Decay as AdamW does, not as SGD.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """What is stable: give two of --lr, --rho and --curvature, the largest third is printed."""
    from thalweg.edge_verb import answer

    given = {}
    if lr is not None:
        given["lr"] = _number("--lr", lr, above=0)
    if rho is not None:
        given["rho"] = _number("--rho", rho, at_least=0)
    if curvature is not None:
        given["curvature"] = _number("--curvature", curvature, above=0)
    size = {
        "grad_norm": _number("--grad-norm", grad_norm, above=0),
        "power": _number("--power", power, at_least=0),
    }
    mu = _number("--momentum", momentum, at_least=0, below=1)
    decay = _number("--weight-decay", weight_decay, at_least=0)
    if nesterov and mu == 0:
        raise ThalwegError("--momentum must be > 0 with --nesterov, got 0")
    if decoupled and decay == 0:
        raise ThalwegError("--weight-decay must be > 0 with --decoupled, got 0")
    base = {"momentum": mu, "weight_decay": decay, "nesterov": nesterov, "decoupled": decoupled}
    found = answer(given, size, base)
    if json_:
        numbers = {**given, **size, **base, found.name: found.value}
        typer.echo(json.dumps({**numbers, "without_rho": found.without_rho}))
    else:
        typer.echo(f"{found.value:.6g}\n{found.meaning}")


def _whole(name: str, text: str, **bounds: Any) -> int:
    """A whole number from the command line."""
    value: object = text
    with contextlib.suppress(ValueError):
        value = int(text)
    return whole(name, value, **bounds)


def _number(name: str, text: str, **bounds: Any) -> float:
    """A number from the command line; what is none is told of as any other bad number."""
    value: object = text
    with contextlib.suppress(ValueError):
        value = float(text)
    return number(name, value, **bounds)
