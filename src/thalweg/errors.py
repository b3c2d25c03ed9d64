"""The one error type of the project, and the few checks that many rooms need.

A message has four parts: the name of what is wrong, what is required of it, what came instead, and
what to do, where the requirement does not say that already.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
import warnings
from collections.abc import Iterator
from typing import Any

#: Characters of what came that a message shows.
_LONGEST = 100


class ThalwegError(ValueError):
    """Something the caller can mend: a bad argument, a call out of order, a damaged file.

    Example:
        >>> issubclass(ThalwegError, ValueError)
        True
    """


class MissingExtraError(ModuleNotFoundError, ThalwegError):
    """A package that an extra of thalweg brings is not installed.

    Example:
        >>> issubclass(MissingExtraError, ImportError), issubclass(MissingExtraError, ThalwegError)
        (True, True)
    """


@contextlib.contextmanager
def extra(name: str, by: str) -> Iterator[None]:
    """Name the extra to install, where an import within finds a package missing.

    Args:
        name: The extra that brings the package.
        by: What needs it.

    Raises:
        MissingExtraError: If a package is missing.

    Example:
        >>> try:
        ...     with extra("lab", by="thalweg.lab"):
        ...         import no_such_package
        ... except MissingExtraError as error:
        ...     print(error)
        thalweg.lab needs no_such_package, which is not installed: pip install 'thalweg[lab]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{by} needs {error.name}, which is not installed: pip install 'thalweg[{name}]'",
            name=error.name,
        ) from None


def warn(message: str) -> None:
    """Warn, and point at the line that called this package, however deep the call is.

    Args:
        message: What is wrong, and what to do.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn("rho is 0")
        >>> str(said[0].message)
        'rho is 0'
    """
    frame, level, passed = sys._getframe(1), 2, ("thalweg.", "contextl", "torch.")  # hooks, too
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(passed):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def brief(value: object) -> str:
    """Return what came, as one line of a message: tensors and modules may fill pages.

    Args:
        value: What came.

    Example:
        >>> brief("a word"), brief("a" * 1000)[-9:]
        ("'a word'", 'aaaaaa...')
    """
    text = " ".join(repr(value).split())
    if len(text) <= _LONGEST:
        return text
    if isinstance(shape := getattr(value, "shape", None), tuple):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return f"{text[: _LONGEST - 3]}..."


def _hint(value: object, kind: type) -> str:
    """What to do with a number that came as text; nothing, if it is none."""
    if isinstance(value, (str, bytes)):
        with contextlib.suppress(ValueError):
            kind(value)
            return " (pass a number, not a string)"
    return ""


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
) -> float:
    """Return ``value`` as a float, or raise an error that says what was wanted.

    Args:
        name: What the caller calls this number.
        value: An int, a float, or a zero-dimensional array or tensor.
        above: Exclusive lower bound.
        at_least: Inclusive lower bound.
        below: Exclusive upper bound.
        at_most: Inclusive upper bound.
        infinite: Whether infinity is allowed. NaN never is.

    Returns:
        The number.

    Raises:
        ThalwegError: If ``value`` is no number, is NaN, or is out of bounds.

    Example:
        >>> number("rho", -0.1, at_least=0)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: rho must be a finite number >= 0, got -0.1
    """
    is_text = isinstance(value, (str, bytes, bool))
    try:
        result = math.nan if is_text else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        result = math.nan
    if (
        math.isnan(result)
        or (math.isinf(result) and not infinite)
        or (above is not None and result <= above)
        or (at_least is not None and result < at_least)
        or (below is not None and result >= below)
        or (at_most is not None and result > at_most)
    ):
        kind = "a number" if infinite else "a finite number"
        wanted = f"{kind} {_bounds(above, at_least, below, at_most)}".rstrip()
        hint = _hint(value, float)
        raise ThalwegError(f"{name} must be {wanted}, got {brief(value)}{hint}")
    return result


def _bounds(
    above: float | None, at_least: float | None, below: float | None, at_most: float | None
) -> str:
    signs = {">": above, ">=": at_least, "<": below, "<=": at_most}
    return " and ".join(f"{sign} {bound:g}" for sign, bound in signs.items() if bound is not None)


def whole(name: str, value: object, *, at_least: int = 0) -> int:
    """Return ``value`` as an int, or raise an error that says what was wanted.

    Args:
        name: What the caller calls this number.
        value: Anything that :func:`operator.index` takes.
        at_least: Inclusive lower bound.

    Returns:
        The whole number.

    Raises:
        ThalwegError: If ``value`` is no whole number or is too small.

    Example:
        >>> whole("steps", 10, at_least=1)
        10
    """
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        index = -1
    if index < at_least:
        hint = _hint(value, int)
        raise ThalwegError(f"{name} must be a whole number >= {at_least}, got {brief(value)}{hint}")
    return index


def flag(name: str, value: object, *, empty: bool = False) -> None:
    """Raise unless ``value`` is True or False: any other object would count as one of them.

    Args:
        name: What the caller calls it.
        value: What came.
        empty: Whether ``None`` is allowed.

    Raises:
        ThalwegError: If it is something else.

    Example:
        >>> flag("telemetry", "no")
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: telemetry must be True or False, got 'no'
    """
    if not isinstance(value, bool) and not (empty and value is None):
        wanted = "True, False or None" if empty else "True or False"
        raise ThalwegError(f"{name} must be {wanted}, got {brief(value)}")


def quantity(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise unless ``value`` is a number or an array of numbers within the bounds.

    The elementwise twin of :func:`number`: it imports no array library and converts nothing.

    Args:
        name: What the caller calls this quantity.
        value: An int, a float, an array or a tensor; finite everywhere.
        above: Exclusive lower bound.
        at_least: Inclusive lower bound.
        below: Exclusive upper bound.
        at_most: Inclusive upper bound.

    Raises:
        ThalwegError: If ``value`` cannot be compared with numbers, or is anywhere NaN,
            infinite or out of bounds.

    Example:
        >>> quantity("eta", "0.1", above=0)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: eta must be a number or an array of numbers, got '0.1' (pass \
a number, not a string)
    """
    try:
        finite = (value > -math.inf) & (value < math.inf)
    except (TypeError, ValueError, RuntimeError):
        finite = None
    if finite is None or isinstance(value, bool):
        hint = _hint(value, float)
        raise ThalwegError(
            f"{name} must be a number or an array of numbers, got {brief(value)}{hint}"
        )
    everywhere(name, value, finite, "finite")
    wanted = _bounds(above, at_least, below, at_most)
    if above is not None:
        everywhere(name, value, value > above, wanted)
    if at_least is not None:
        everywhere(name, value, value >= at_least, wanted)
    if below is not None:
        everywhere(name, value, value < below, wanted)
    if at_most is not None:
        everywhere(name, value, value <= at_most, wanted)


def everywhere(name: str, value: Any, condition: Any, wanted: str) -> None:
    """Raise unless ``condition`` (a bool, or an array of them) is true everywhere.

    Args:
        name: What the caller calls this quantity.
        value: The float or array that came, for the message.
        condition: The comparison already made, for example ``value > 0``.
        wanted: The requirement in words, for example ``"> 0"``.

    Raises:
        ThalwegError: If the condition fails anywhere (NaN fails every comparison).

    Example:
        >>> everywhere("eta", 0.1, 0.1 > 0, "> 0")
    """
    if not (condition.all() if hasattr(condition, "all") else condition):
        rest = ", where some entry is not" if getattr(value, "ndim", 0) else ""
        one = value.item() if getattr(value, "ndim", None) == 0 else value
        raise ThalwegError(f"{name} must be {wanted}, got {brief(one)}{rest}")
