"""Ticks of a log axis whose labels stand apart.

Plotly chooses among decades, 1-2-5, every digit and even steps by their number, not by the room
their labels need, and on a log axis these run together. Here the most that fit are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from thalweg.results import Axes, Line

MOST = 12  # ticks that plotly is asked for
PAD = 0.08  # of its length plotly may add at each end of an axis that it fits itself
DIGIT, LINE = 7.7, 25.0  # pixels: width of a digit, least distance of two labels along y


def ticks(values: Sequence[float], which: str, pixels: float, fitted: bool) -> dict[str, Any]:
    """Return plotly's settings for the most labels that fit.

    From a decade on this is a number of ticks where it can be: plotly then goes on choosing where
    a reader zooms in. Where its choice hangs on how far it puts the ends, the step itself is given.

    Args:
        values: What is on the axis, or its ends; all above 0.
        which: ``"x"`` or ``"y"``.
        pixels: Length of the axis.
        fitted: Whether plotly chooses the ends, a little beyond the values.

    Example:
        >>> ticks([1.6, 26], "y", 290, fitted=False), ticks([12, 61], "y", 290, fitted=False)
        ({'nticks': 2}, {'dtick': 'L10'})
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    if low == high:
        low, high = low - 1, high + 1  # as plotly does
    ends = []
    for pad in (0.0, PAD) if fitted else (0.0,):
        more = pad * (high - low)
        ends.append((10 ** (low - more), 10 ** (high + more)))

    def shown(setting: dict[str, Any]) -> int:
        count = 0
        for start, end in ends:
            some = labels(start, end, **setting)
            if not _apart(some, which, pixels / math.log10(end / start)):
                return 0
            count += len(some)
        return count

    settings: list[dict[str, Any]] = [{"nticks": n} for n in range(1, MOST + 1)]
    settings.append({"dtick": 1})
    if high - low < 1:
        top = math.floor(high)
        steps = [f"L{n * 10.0**k:g}" for k in range(top, top - 4, -1) for n in (5, 2, 1)]
        settings = [{"dtick": step} for step in ("D2", *steps)]
    return max(settings, key=shown)  # the first of equals: zoomed in, it crowds least


def labels(low: float, high: float, nticks: int = 1, dtick: str | int = "") -> list[float]:
    """Return what plotly labels on a log axis.

    Args:
        low: Lower end, above 0.
        high: Upper end.
        nticks: The number of ticks it is asked for; without ``dtick``, on a decade or more.
        dtick: 1: decades; ``"D2"``: 1, 2 and 5 of each; ``"L"`` and a number: such even steps.

    Example:
        >>> labels(1, 30, 3), labels(1, 1e4, 2), labels(40, 210, dtick="L50")
        ([1.0, 2.0, 5.0, 10.0, 20.0], [1.0, 100.0, 10000.0], [50.0, 100.0, 150.0, 200.0])
    """
    rough = math.log10(high / low) / nticks
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if str(dtick).startswith("L"):
        step = float(str(dtick)[1:])
        some = [k * step for k in range(math.floor(low / step), math.ceil(high / step) + 1)]
    elif dtick == 1 or (rough > 0.7 and not dtick):
        some = [10.0**k for k in decades if dtick or k % math.ceil(rough) == 0]
    else:
        digits = (1, 2, 5) if dtick or rough > 0.3 else range(1, 10)
        some = [n * 10.0**k for k in decades for n in digits]
    near = 1 + 1e-9
    return [float(f"{v:.9g}") for v in some if low / near <= v <= high * near]


def on_axis(axes: Axes, which: str) -> list[float]:
    """Return the numbers above 0 that are drawn along an axis.

    Args:
        axes: The record.
        which: ``"x"`` or ``"y"``.
    """
    found: list[float | None] = []
    for layer in axes.layers:
        found += layer.x if which == "x" else layer.y
        if isinstance(layer, Line) and which == "y":
            found += [*layer.low, *layer.high]
    return [v for v in found if v is not None and v > 0]


def _apart(values: list[float], which: str, decade: float) -> bool:
    """Whether labels at these values, with a decade so many pixels long, stand apart."""
    for one, other in pairwise(values):
        wide = DIGIT * ((len(_text(one)) + len(_text(other))) / 2 + 1.5)
        if decade * math.log10(other / one) < (wide if which == "x" else LINE):
            return False
    return True


def _text(value: float) -> str:
    """The label, as plotly writes it with ``~g``; longer than Python's below 0.0001."""
    return f"{value:.9f}".rstrip("0") if 1e-6 <= value < 1 else f"{value:g}"
