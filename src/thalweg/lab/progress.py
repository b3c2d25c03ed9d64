"""A bar on standard error with the time left, for whatever takes longer than two seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from thalweg.errors import extra

_PATIENCE = 2.0


@contextlib.contextmanager
def progress(label: str, steps: int) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many steps are done, and shows it on a terminal.

    Args:
        label: What is being done; an empty one shows nothing.
        steps: How many steps there are.

    Yields:
        The function.

    Example:
        >>> with progress("counting", 3) as tell:
        ...     tell(1)
    """
    if not label or not sys.stderr.isatty():
        yield lambda done: None
        return
    begun = time.monotonic()
    bar: Any = None

    def tell(done: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - begun > _PATIENCE:
            bar = _bar()
            bar.add_task(label, total=steps)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()


def _bar() -> Any:
    with extra("lab", by=__name__):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
