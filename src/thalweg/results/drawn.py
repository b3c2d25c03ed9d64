"""What a figure shows, as plain data: charts, their axes, and the layers drawn on them.

What cannot be drawn is refused when it is made: later, the measurement would have been for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from thalweg.errors import ThalwegError, brief

#: Who a series belongs to. The report gives every role the same colour in every figure.
Role = Literal["gd", "p=0", "p=0.25", "p=0.5", "p=0.75", "p=1", "p=1.5", "p=2", "theory", "neutral"]

#: How a line is drawn: joined, joined with points, or points alone.
Points = Literal["line", "both", "points"]


def role_of(power: float) -> Role:
    """Return the role of a power; ``"neutral"`` for one that has none."""
    name: Any = f"p={power:g}"
    return name if name in get_args(Role) else "neutral"


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

    Raises:
        ThalwegError: If there is no such role or kind of points, if the name is no text, or if the
            lists are of unequal lengths.

    Example:
        >>> Line([0, 1], [1.0, 0.5], "SAM", "sam")
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: role must be one of gd, p=0, p=0.25, p=0.5, p=0.75, p=1, \
p=1.5, p=2, theory, neutral, got 'sam'
    """

    x: list[Any]
    y: list[Any]
    name: str = ""
    role: Role = "neutral"
    dash: bool = False
    points: Points = "line"
    low: list[Any] = field(default_factory=list)
    high: list[Any] = field(default_factory=list)
    kind: Literal["line"] = "line"

    def __post_init__(self) -> None:
        _texts(self, "name")
        for name, known in (("role", get_args(Role)), ("points", get_args(Points))):
            value = getattr(self, name)
            if value not in list(known):
                raise ThalwegError(f"{name} must be one of {', '.join(known)}, got {brief(value)}")
        many = _count("x", self.x)
        for name in ("y", "low", "high"):
            count = _count(name, getattr(self, name))
            if count != many and (name == "y" or count):
                raise ThalwegError(f"{name} must have as many entries as x, {many}, got {count}")


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

    Raises:
        ThalwegError: If a text is none, or something else than layers is to be drawn.
    """

    title: str
    x_label: str
    y_label: str
    layers: Sequence[Layer]
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _texts(self, "title", "x_label", "y_label")
        _each("layers", self.layers, (Line, Heat, Contours), "Line, Heat or Contours: write [line]")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure: one or more axes side by side, and the sentence below them.

    Attributes:
        axes: Drawn left to right.
        caption: What the reader should see in it.

    Raises:
        ThalwegError: If something else than axes is to be drawn, or the caption is no text.

    Example:
        >>> line = Line([0, 1], [1.0, 0.5], "SAM", "p=1")
        >>> chart = Chart([Axes("Loss", "step", "loss", [line], y_log=True)], "The loss falls.")
        >>> len(chart.axes)
        1
    """

    axes: list[Axes]
    caption: str

    def __post_init__(self) -> None:
        _texts(self, "caption")
        _each("axes", self.axes, (Axes,), "Axes: write [axes]")


_LAYERS: dict[str, type[Line | Heat | Contours]]
_LAYERS = {"line": Line, "heat": Heat, "contours": Contours}


def chart_from(data: dict[str, Any]) -> Chart:
    """Rebuild a chart from plain data.

    Args:
        data: What :func:`dataclasses.asdict` gave of it.
    """
    axes = [
        Axes(**{**one, "layers": [_LAYERS[layer["kind"]](**layer) for layer in one["layers"]]})
        for one in data["axes"]
    ]
    return Chart(axes=axes, caption=data["caption"])


def _texts(owner: object, *names: str) -> None:
    for name in names:
        if not isinstance(value := getattr(owner, name), str):
            raise ThalwegError(f"{name} must be a text, got {brief(value)}")


def _count(name: str, value: Any) -> int:
    if not hasattr(value, "__len__") or isinstance(value, str) or getattr(value, "ndim", 1) == 0:
        raise ThalwegError(f"{name} must be a list of numbers, got {brief(value)}")
    return len(value)


def _each(name: str, value: Any, kinds: tuple[type, ...], wanted: str) -> None:
    if not isinstance(value, Sequence) or not all(isinstance(one, kinds) for one in value):
        raise ThalwegError(f"{name} must be a list of {wanted}, got {brief(value)}")
