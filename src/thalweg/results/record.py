"""The record of one measured claim, figure included, as plain data.

A record holds what was found and what its figure shows, never how the figure looks: the report
draws it. Arrays are stored as nested lists; a value that is not finite is stored as ``None``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from thalweg.errors import ThalwegError

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

#: Who a series belongs to. The report gives every role the same colour in every figure.
Role = Literal["gd", "p=0", "p=0.25", "p=0.5", "p=0.75", "p=1", "p=1.5", "p=2", "theory", "neutral"]


def role_of(power: float) -> Role:
    """Return the role of a power; ``"neutral"`` for one that has none."""
    name: Any = f"p={power:g}"
    return name if name in get_args(Role) else "neutral"


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
class Line:
    """A curve or a set of points, with an optional band around it.

    Attributes:
        x: Abscissas.
        y: Ordinates, as many as ``x``.
        name: Label in the legend; an empty one is not listed.
        role: Who it belongs to; decides the colour.
        dash: Whether it is dashed (predictions are).
        points: Whether points are drawn: ``"line"``, ``"both"`` or ``"points"``.
        low: Lower end of the band, as many as ``x``, or empty.
        high: Upper end of the band, as many as ``x``, or empty.
    """

    x: list[Any]
    y: list[Any]
    name: str = ""
    role: Role = "neutral"
    dash: bool = False
    points: Literal["line", "both", "points"] = "line"
    low: list[Any] = field(default_factory=list)
    high: list[Any] = field(default_factory=list)
    kind: Literal["line"] = "line"


@dataclass(frozen=True, slots=True)
class Heat:
    """A map over two axes. Cells with value ``None`` are the ones that diverged.

    Attributes:
        x: Centres of the columns.
        y: Centres of the rows.
        z: One list a row.
        label: What the colour means.
        low: Value at the lower end of the colour scale.
        high: Value at the upper end of the colour scale.
        states: Names of the values 0, 1, 2, ..., where a cell is one of these and no number.
    """

    x: list[Any]
    y: list[Any]
    z: list[list[Any]]
    label: str
    low: float
    high: float
    states: list[str] = field(default_factory=list)
    kind: Literal["heat"] = "heat"


@dataclass(frozen=True, slots=True)
class Contours:
    """Level lines of a loss, drawn faintly under the curves.

    Attributes:
        x: Abscissas of the grid.
        y: Ordinates of the grid.
        z: One list a row.
    """

    x: list[Any]
    y: list[Any]
    z: list[list[Any]]
    kind: Literal["contours"] = "contours"


Layer = Line | Heat | Contours


@dataclass(frozen=True, slots=True)
class Axes:
    """One pair of axes and what is drawn on it, bottom layer first.

    Attributes:
        title: Short heading above the axes.
        x_label: Label with unit.
        y_label: Label with unit.
        layers: What is drawn.
        x_log: Whether the x axis is logarithmic.
        y_log: Whether the y axis is logarithmic.
        x_range: Ends of the x axis, in data units, or ``None`` to fit.
        y_range: Ends of the y axis, in data units, or ``None`` to fit.
    """

    title: str
    x_label: str
    y_label: str
    layers: Sequence[Layer]
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure: one or more axes side by side, and the sentence below them.

    Attributes:
        axes: Drawn left to right.
        caption: What the reader should see in it.

    Example:
        >>> line = Line([0, 1], [1.0, 0.5], "SAM", "p=1")
        >>> chart = Chart([Axes("Loss", "step", "loss", [line], y_log=True)], "The loss falls.")
        >>> len(chart.axes)
        1
    """

    axes: list[Axes]
    caption: str


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
            fields["charts"] = [_chart(chart) for chart in fields["charts"]]
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
_LAYERS: dict[str, type[Line | Heat | Contours]]
_LAYERS = {"line": Line, "heat": Heat, "contours": Contours}


def _chart(data: dict[str, Any]) -> Chart:
    axes = [
        Axes(**{**one, "layers": [_LAYERS[layer["kind"]](**layer) for layer in one["layers"]]})
        for one in data["axes"]
    ]
    return Chart(axes=axes, caption=data["caption"])


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
