"""``thalweg diagnose``: finds a user's function, measures what it returns, tells it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import typer

from thalweg.diagnose import Diagnosis, diagnose
from thalweg.diagnose.follow import follow_steps, told
from thalweg.errors import ThalwegError
from thalweg.modules import within

RETURNS = (
    "(model, loss, loader, optimizer): a torch.nn.Module, a function loss(model, batch) that "
    "returns the mean loss, something to loop over that gives batches, and a torch.optim.Optimizer"
)


def run(target: str, *, json_: bool, folder: Path | None, **settings: Any) -> None:
    """Diagnose what a function returns, and print it.

    What is found is written and shown before any step is followed, and the steps when they are
    over or broken off, by SIGINT or SIGTERM.

    Args:
        target: ``MODULE:FUNCTION``, the module as it is imported or as a path to its file.
        json_: Whether to print JSON.
        folder: For the page and for ``diagnosis.json``, if any.
        **settings: Of :func:`thalweg.diagnose`.

    Raises:
        ThalwegError: If there is no such function, or it returns something else.
    """
    steps, four = settings.pop("train", 0), build(target)
    found = diagnose(*four, progress=_tell, **settings)
    page = _write(found, folder, target)
    if not json_:
        show(found)
        if page is not None:
            typer.echo(f"The page: {page.resolve()}")
        typer.echo(found.answer)
        sys.stdout.flush()  # a kill would take along what waits in a pipe
    followed: list[dict[str, float]] = []
    stopped = 0
    if steps:
        _tell(f"{steps} steps with SAM")
        stopped = _follow(four, found.rho, steps, followed)
        found = dataclasses.replace(found, followed=tuple(followed))
        _write(found, folder, target)
    if json_:
        typer.echo(json.dumps(found.to_json()))
    elif followed:
        typer.echo(told(found.followed))
    if stopped:
        place = "" if folder is None else f"; the diagnosis is in {folder}"
        sys.stderr.write(f"thalweg: interrupted after {len(followed)} of {steps} steps{place}\n")
        raise typer.Exit(128 + stopped)


def _write(found: Diagnosis, folder: Path | None, target: str) -> Path | None:
    """Write the page and the numbers, each whole or not at all."""
    if folder is None:
        return None
    from thalweg.diagnose.page import write_page
    from thalweg.results.folder import write_whole

    page = write_page(found, folder, target)
    write_whole(folder / "diagnosis.json", json.dumps(found.to_json()) + "\n")
    return page


def _follow(four: tuple[Any, ...], rho: float, steps: int, into: list[dict[str, float]]) -> int:
    """Follow steps with SAM; return the number of the signal that broke them off, or 0."""
    model, loss_of, loader, optimizer = four
    at_once = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminated) if at_once else None
    try:
        # What came before an interrupt stays in the list.
        into.extend(follow_steps(within(model), loss_of, loader, optimizer, rho, steps))
    except KeyboardInterrupt as error:
        return signal.SIGTERM if isinstance(error, _TerminatedError) else signal.SIGINT
    finally:
        if at_once:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return 0


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, which else ends the program where it stands."""


def _terminated(*_: object) -> None:
    raise _TerminatedError


def _tell(word: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"measuring {word}\n")


def build(target: str) -> tuple[Any, Any, Any, Any]:
    """Return what the function of a user returns.

    Args:
        target: ``MODULE:FUNCTION``.

    Raises:
        ThalwegError: If there is no such function, or it returns something else.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ThalwegError(
            f"MODULE:FUNCTION must name a function, got {target!r}: write train:build for the "
            "function build in train.py"
        )
    function = getattr(_module(place), name, None)
    if not callable(function):
        raise ThalwegError(
            f"{place} must have a function {name}, got {_kind(function)}: write one "
            f"that takes nothing and returns {RETURNS}"
        )
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise ThalwegError(
            f"{target} must take no argument, got {name}{inspect.signature(function)}: write a "
            f"function that takes none and returns {RETURNS}"
        ) from None
    found = function()
    if not isinstance(found, tuple | list) or len(found) != 4:
        got = _kind(found)
        if isinstance(found, tuple | list):
            got = f"{len(found)} things ({', '.join(type(one).__name__ for one in found)})"
        raise ThalwegError(f"{target} must return {RETURNS}; got {got}")
    return found[0], found[1], found[2], found[3]


def _module(place: str) -> Any:
    file = Path(place)
    is_file = file.suffix == ".py"
    folder = str(file.parent.resolve() if is_file else Path.cwd())
    if folder not in sys.path:  # as where Python itself is called
        sys.path.insert(0, folder)
    if not is_file:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise ThalwegError(
                f"MODULE must be one that can be imported from here, got {place!r}: call this "
                "where the file lies, or write the path, ending in .py"
            ) from error
    if not file.is_file():
        raise ThalwegError(
            f"MODULE must be a file that exists, got {place!r}: write its path from here, "
            f"{Path.cwd()}"
        )
    name = f"diagnosed_{file.stem}"  # which hides no other module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def show(found: Diagnosis) -> None:
    """Print the table, and the reasons below it, as wide as the terminal.

    Args:
        found: The diagnosis.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = max(len(row.name) for row in found.rows)
    for part, rows in itertools.groupby(found.rows, lambda row: row.part):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=width + 2)
        table.add_column(min_width=8, justify="right")
        table.add_column()
        for row in rows:
            table.add_row(Text(f"  {row.name}"), Text(row.value), Text(row.meaning))
        console.print(Text(part, style="bold"), table, sep="\n")
    for reason in ("", *found.reasons):
        console.print(reason, highlight=False, markup=False)


def _kind(value: object) -> str:
    return "none" if value is None else type(value).__name__
