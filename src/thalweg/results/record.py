"""The record of one measured claim, figure included, as plain data.

A record holds what was found and what its figure shows, never how the figure looks: the report
draws it. Arrays are stored as nested lists; a value that is not finite is stored as ``None``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from thalweg.errors import ThalwegError
from thalweg.results.drawn import Chart, chart_from
from thalweg.results.drawn import Role as Role
from thalweg.results.drawn import role_of as role_of

#: Of a claim; ``"open"``: the samples cannot tell.
Verdict = Literal["holds", "does not hold", "open"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


def check_verdict(name: str, value: object) -> None:
    """Raise a ThalwegError that names the field unless its value is a verdict."""
    if value not in VERDICTS:
        raise ThalwegError(f"{name} must be one of {', '.join(VERDICTS)}, got {value!r}")


#: How much a study measures: seconds, minutes, or an hour.
Size = Literal["quick", "standard", "full"]
SIZES: tuple[str, ...] = get_args(Size)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of evidence: what theory said beside what was measured.

    Attributes:
        what: The quantity, in words, with its unit where it has one.
        predicted: The prediction as it should be printed.
        measured: The measurement as it should be printed, interval and n included.
        tolerance: How close the two must be, in words.
        holds: ``None`` where the data cannot decide.
        decides: Whether the verdict rests on it; if not, it is reported for the reader.

    Example:
        >>> Check("edge", "20", "20.01", "1 %", holds=True).decides
        True
    """

    what: str
    predicted: str
    measured: str
    tolerance: str
    holds: bool | None
    decides: bool = True


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """What a study saves for one claim: one file, written whole or not at all.

    Attributes:
        name: Short name, also that of the file.
        title: Heading.
        statement: The claim, in a sentence or two.
        source: Where it comes from: a derivation, or a paper.
        verdict: What this run found.
        expected: What the project has on record.
        because: Why that is expected.
        checks: The evidence, line by line.
        charts: The figures.
        settings: What it was measured with: numbers, strings, lists.
        seeds: Every seed used.
        dtype: Floating-point type of the arithmetic.
        runs: How many trajectories or trainings were made.
        seconds: Wall time of the measurement.
        measured_at: Date and time (UTC, ISO 8601).
        fingerprint: Changes when settings, code or versions change.
        paper: What a paper says of it.
        derived: What was derived here.
        found: What was measured, in a sentence.
        versions: Of the libraries and the machine that it was measured with.
        at_full: What is on record for a full study, where that is another verdict.
    """

    name: str
    title: str
    statement: str
    source: str
    verdict: Verdict
    expected: Verdict
    because: str
    checks: list[Check]
    charts: list[Chart]
    settings: dict[str, Any]
    seeds: list[int]
    dtype: str
    runs: int
    seconds: float
    measured_at: str
    fingerprint: str
    paper: str
    derived: str
    found: str
    versions: dict[str, str] = field(default_factory=dict)
    at_full: Verdict | None = None

    @property
    def as_recorded(self) -> bool:
        """Whether this run found what the project has on record."""
        return self.verdict == self.expected

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data.

        Returns:
            Dictionaries, lists, strings, finite numbers, booleans and ``None``.
        """
        data: dict[str, Any] = _plain(dataclasses.asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Any) -> ClaimRecord:
        """Rebuild a record from what :meth:`to_json` gave.

        Args:
            data: Parsed JSON.

        Returns:
            The record.

        Raises:
            ThalwegError: If a part is missing or of the wrong form.
        """
        try:
            fields = dict(data)
            for name, kind in _KINDS.items():
                if not isinstance(fields[name], kind):
                    raise TypeError(f"{name} is {fields[name]!r}")
            fields["checks"] = [Check(**check) for check in fields["checks"]]
            fields["charts"] = [chart_from(chart) for chart in fields["charts"]]
            record = cls(**fields)
        except (TypeError, KeyError, ValueError, AttributeError) as cause:
            raise ThalwegError(f"not the record of a claim: {cause}") from None
        for name in ("verdict", "expected"):
            check_verdict(name, getattr(record, name))
        return record


_KINDS: dict[str, type | tuple[type, ...]] = {
    "settings": dict,
    "seeds": list,
    "runs": int,
    "seconds": (int, float),
}


def _plain(value: Any) -> Any:
    """Plain JSON data: numbers cut to 6 digits, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
