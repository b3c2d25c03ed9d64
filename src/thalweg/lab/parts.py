"""Parts of a long measurement, kept on disk until it is finished: a killed study goes on."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from thalweg.results.folder import PARTS

Arrays = dict[str, np.ndarray[Any, Any]]

_place: contextvars.ContextVar[Path | None] = contextvars.ContextVar("place", default=None)


@contextlib.contextmanager
def keeping(folder: str | Path, claim: str, mark: str) -> Iterator[None]:
    """Keep the parts that are made inside, for the next try at the same measurement.

    Args:
        folder: The results folder.
        claim: Name of the claim.
        mark: Its fingerprint: parts of another one are not taken.
    """
    token = _place.set(Path(folder) / PARTS / claim / mark)
    try:
        yield
    finally:
        _place.reset(token)


def part(make: Callable[[], Arrays], *key: Any) -> Arrays:
    """Return what ``make()`` returns, or what an earlier try at this measurement kept of it.

    Outside a study nothing is kept.

    Args:
        make: Makes the arrays; takes long.
        *key: Plain data that tells this part from the others of the measurement.

    Returns:
        The arrays by name.

    Example:
        >>> import tempfile
        >>> make = lambda: {"x": np.arange(3)}
        >>> with tempfile.TemporaryDirectory() as folder, keeping(folder, "claim", "f00d"):
        ...     first = part(make, "task", 1)
        ...     part(lambda: {}, "task", 1)["x"].tolist()  # made once
        [0, 1, 2]
    """
    place = _place.get()
    if place is None:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    file = place / f"{digest}.npz"
    damaged = (OSError, ValueError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*damaged), np.load(file, allow_pickle=False) as kept:
        return dict(kept)
    made = make()
    with contextlib.suppress(OSError):  # a full disk costs the part, not the measurement
        _write(file, made)
    return made


def _write(file: Path, arrays: Arrays) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as part:
            np.savez(part, **cast(Any, arrays))
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
