"""A claim is a value: what is said, by whom, how it is measured, and what we expect to find."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thalweg.errors import ThalwegError, brief
from thalweg.results import Chart, Check, Size, Verdict
from thalweg.results.record import check_verdict

Settings = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What a measurement found.

    Attributes:
        checks: Prediction beside measurement, line by line.
        charts: The figures.
        runs: How many trajectories or trainings were made.
        seeds: Every seed used.
        dtype: Floating-point type of the arithmetic.
        found: What was measured, in a sentence with its numbers, for the table of findings; the
            first deciding check if empty.
    """

    checks: Sequence[Check]
    charts: Sequence[Chart]
    runs: int
    seeds: Sequence[int]
    dtype: str
    found: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the deciding checks say together: one that fails decides, then one left open."""
        found = [check.holds for check in self.checks if check.decides]
        if not all(holds is not False for holds in found):
            return "does not hold"
        return "holds" if found and all(found) else "open"


@dataclass(frozen=True)
class Claim:
    """A checked statement. To add one, write a file with one of these and list it in ``CLAIMS``.

    Attributes:
        name: Short name: the command's, and the file's in the results folder.
        title: Heading.
        statement: The claim, in a sentence or two.
        source: Where it comes from.
        expected: The verdict on record.
        because: Why that one.
        measure: Takes the settings, returns the evidence.
        settings: Plain data, for a standard study.
        quick: What a quick study changes in them.
        full: What a full study changes in them.
        quick_expected: The verdict on record for a quick study; ``expected`` if ``None``.
        full_expected: The verdict on record for a full study; ``expected`` if ``None``.
        paper: What a paper says of it, with the paper's name; empty if none is known to us.
        derived: What was derived here; empty if nothing was.
        takes: Seconds on one core for a quick, a standard and a full study, as measured.
        needs: What it needs beside torch and numpy, such as scikit-learn's digits.

    Raises:
        ThalwegError: If the name is no name, what is expected no verdict, or settings are more
            than plain data.
    """

    name: str
    title: str
    statement: str
    source: str
    expected: Verdict
    because: str
    measure: Callable[[Settings], Evidence]
    settings: Settings
    quick: Settings = field(default_factory=dict)
    full: Settings = field(default_factory=dict)
    quick_expected: Verdict | None = None
    full_expected: Verdict | None = None
    paper: str = ""
    derived: str = ""
    takes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    needs: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]+", self.name):
            raise ThalwegError(
                f"name must be letters, digits and dashes, got {self.name!r}: it names a file, too"
            )
        check_verdict("expected", self.expected)
        for size in ("quick_expected", "full_expected"):
            if getattr(self, size) is not None:
                check_verdict(size, getattr(self, size))
        for size in ("settings", "quick", "full"):
            _check_plain(size, getattr(self, size))

    def settings_for(self, size: Size) -> Settings:
        """Return the settings of a study of this size."""
        return {**self.settings, **{"quick": self.quick, "full": self.full}.get(size, {})}

    def expected_for(self, size: Size) -> Verdict:
        """Return the verdict on record for a study of this size."""
        special = {"quick": self.quick_expected, "full": self.full_expected}.get(size)
        return special or self.expected


def _check_plain(name: str, settings: object) -> None:
    """Raise unless settings can be stored."""
    if not isinstance(settings, dict):
        raise ThalwegError(
            f'{name} must be a dict of settings by name, such as {{"steps": 100}}, got '
            f"{brief(settings)}"
        )
    for key, value in settings.items():
        try:
            json.dumps({key: value}, sort_keys=True)
        except (TypeError, ValueError):
            raise ThalwegError(
                f"{name} must be plain data (numbers, texts, lists and dicts of them), got "
                f"{brief(value)} for {key!r}: arrays and tensors have .tolist()"
            ) from None


def within(what: str, predicted: float, measured: float, tolerance: float, unit: str = "") -> Check:
    """Return a check that a number is close to its prediction, relatively.

    Args:
        what: The quantity, in words.
        predicted: The prediction, not 0.
        measured: The measurement.
        tolerance: Largest relative difference.
        unit: Printed behind both numbers.

    Returns:
        The check.

    Raises:
        ThalwegError: If the prediction is 0, of which nothing is a share.

    Example:
        >>> within("time to fall", 100.0, 101.0, 0.02, "steps").holds
        True
    """
    if predicted == 0:
        raise ThalwegError(
            f"predicted must not be 0, as the tolerance is a share of it, got 0 for {what!r}: "
            "build the check yourself, Check(what, predicted=..., measured=..., tolerance=..., "
            "holds=abs(measured) <= ...)"
        )
    off = abs(measured / predicted - 1)
    unit = unit and f" {unit}"
    return Check(
        what,
        predicted=f"{predicted:.5g}{unit}",
        measured=f"{measured:.5g}{unit} (off by {off:.2g} of it)",
        tolerance=f"{tolerance:g} of the prediction",
        holds=bool(off <= tolerance),
    )
