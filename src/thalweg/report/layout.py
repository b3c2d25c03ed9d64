"""Where things stand in a figure: columns, gaps, titles, legend and colour bars, in pixels.

Plotly places axes in fractions of the figure. Here every distance is chosen in pixels for the
narrowest page a layout is made for, and turned into a fraction at the end: a wider page only has
more room.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from thalweg.report.ticks import on_axis, ticks
from thalweg.results import Axes, Chart, Heat

#: Page widths a layout is made for; the one after the number says how many columns fit.
WIDTHS = ((320, 1), (620, 2), (920, 3))
LEFT, RIGHT, BOTTOM = 66, 24, 52  # on the right, half of the last tick label
COLOURBAR = 78  # bar, tick labels and title
GAP = 78  # between columns: tick labels and title of the right one's axis
UNDER = 56  # below a row: tick labels and title of the axis
HEIGHT = 290  # of a pair of axes
LETTER, ROW = 7.2, 19  # of the text in a figure: mean width of a letter, height of a line

FONT = {"family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 12, "color": "#222"}
#: From pale to dark, readable without colour; the line of a prediction shows on all of it.
SCALE = ("#ffffe0", "#d3eeb3", "#97d6b9", "#5cb9c1", "#3a93c3", "#2b66ad", "#23408f")


@dataclass(frozen=True, slots=True)
class _Grid:
    """The frame of a figure, in pixels of the narrowest page it is made for."""

    columns: int
    rows: int
    width: float  # of the space inside the margins
    height: float
    panel: float  # width of a pair of axes
    head: float  # height of the titles above a row

    def domain(self, index: int) -> tuple[list[float], list[float]]:
        """Return the ends of a pair of axes along x and along y, as fractions."""
        row, column = divmod(index, self.columns)
        left = column * (self.width - self.panel) / max(self.columns - 1, 1)
        top = self.height - row * (HEIGHT + UNDER + self.head)
        x = [left / self.width, (left + self.panel) / self.width]
        y = [(top - HEIGHT) / self.height, top / self.height]
        return [round(min(v, 1.0), 5) for v in x], [round(max(v, 0.0), 5) for v in y]


def layouts(chart: Chart, legend: list[str], shared: bool) -> list[tuple[int, dict[str, Any]]]:
    """Make the layouts of a chart, one for each page width.

    Args:
        chart: The record.
        legend: What the legend lists.
        shared: Whether one colour bar serves all maps.

    Returns:
        Pairs of the width in pixels from which a layout fits, and the layout; narrowest first.
    """
    return [(width, _layout(chart, legend, shared, width, fit)) for width, fit in WIDTHS]


def _layout(chart: Chart, legend: list[str], shared: bool, page: int, fit: int) -> dict[str, Any]:
    count = max(len(chart.axes), 1)
    rows = math.ceil(count / fit)
    columns = math.ceil(count / rows)
    maps = [any(scaled(axes)) for axes in chart.axes]
    own_bars = any(maps) and not shared
    right = COLOURBAR if any(maps) else RIGHT
    width = page - LEFT - right
    gap = GAP + COLOURBAR * own_bars
    panel = (width - gap * (columns - 1)) / columns
    letters = int(panel / LETTER)
    titles = [_wrap(axes.title, letters) for axes in chart.axes]
    head = ROW * max((title.count("<br>") + 1 for title in titles if title), default=0)
    height = rows * HEIGHT + (rows - 1) * (UNDER + head)
    grid = _Grid(columns, rows, width, height, panel, head)
    top = head + ROW * _legend_rows(legend, width) + 14

    layout: dict[str, Any] = {
        "height": round(height + top + BOTTOM),
        "margin": {"l": LEFT, "r": right, "t": round(top), "b": BOTTOM},
        "font": FONT,
        "hoverlabel": {"namelength": -1},
        "hovermode": "closest",
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": round(1 + (head + 4) / height, 5),
            "yanchor": "bottom",
        },
        "showlegend": bool(legend),
        "annotations": [],
    }
    for index, axes in enumerate(chart.axes):
        number = "" if index == 0 else str(index + 1)
        x, y = grid.domain(index)
        layout[f"xaxis{number}"] = _axis(axes, "x", x, f"y{number}", panel)
        layout[f"yaxis{number}"] = _axis(axes, "y", y, f"x{number}", HEIGHT)
        layout["annotations"].append(_title(titles[index], x[0], y[1]))
        if maps[index] and (own_bars or "coloraxis" not in layout):
            bar = 1.0 if shared else x[1]
            layout["coloraxis" if shared else f"coloraxis{number}"] = _scale(
                axes, bar, 1.0 if shared else y[1]
            )
    return layout


def scaled(axes: Axes) -> Iterator[Heat]:
    """Give the maps whose colours are numbers; those of states are listed in the legend."""
    return (layer for layer in axes.layers if isinstance(layer, Heat) and not layer.states)


def state_colours(count: int) -> list[str]:
    """Return a colour for each of so many states, from the scale of the maps but its palest."""
    dark = SCALE[1:]
    return [dark[i * (len(dark) - 1) // max(count - 1, 1)] for i in range(count)]


def _wrap(text: str, letters: int) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, letters))


def _legend_rows(legend: list[str], width: float) -> int:
    """How many lines plotly needs for the legend: one if all fits, otherwise equal columns."""
    sizes = [50 + LETTER * len(html.unescape(name)) for name in legend]
    if sum(sizes) <= width:
        return min(len(sizes), 1)
    return math.ceil(len(sizes) / max(int(width / max(sizes)), 1))


def _title(text: str, x: float, y: float) -> dict[str, Any]:
    return {
        "text": f"<b>{text}</b>",
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
    }


def _scale(axes: Axes, x: float, y: float) -> dict[str, Any]:
    heat = next(scaled(axes))
    steps = len(SCALE) - 1
    return {
        "cmin": heat.low,
        "cmax": heat.high,
        "colorscale": [[round(i / steps, 4), colour] for i, colour in enumerate(SCALE)],
        "colorbar": {
            "title": {"text": _wrap(heat.label, int(HEIGHT / LETTER)), "side": "right"},
            "thickness": 12,
            "lenmode": "pixels",
            "len": HEIGHT,
            "x": x,
            "xpad": 8,
            "y": y,
            "ypad": 0,
            "yanchor": "top",
            "outlinewidth": 0,
            "exponentformat": "e",
        },
    }


def _axis(
    axes: Axes, which: str, domain: list[float], anchor: str, pixels: float
) -> dict[str, Any]:
    log = axes.x_log if which == "x" else axes.y_log
    label = axes.x_label if which == "x" else axes.y_label
    ends = _ends(axes, which, log)
    axis: dict[str, Any] = {
        "domain": domain,
        "anchor": anchor,
        "title": {"text": _wrap(label, int(pixels / LETTER)), "standoff": 6},
        "automargin": True,
        "gridcolor": "#ececec",
        "hoverformat": ".4~g",
        "linecolor": "#888",
        "showline": True,
        "tickformat": "~g",  # plotly writes 2 for 0.02 on a log axis, 0.2e+4 for 2000 on others
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#888",
        "zeroline": False,
    }
    if log:
        axis["type"] = "log"
        values = ends or on_axis(axes, which)
        axis |= ticks(values, which, pixels, not ends) if values else {}
    if ends:
        axis["range"] = [round(math.log10(end), 5) for end in ends] if log else list(ends)
    return axis


def _ends(axes: Axes, which: str, log: bool) -> tuple[float, float] | None:
    """Ends of an axis: as recorded; else those of the map, which then fills its frame."""
    given = axes.x_range if which == "x" else axes.y_range
    if given and not (log and min(given) <= 0):  # a log axis that cannot begin there fits itself
        return given
    for layer in axes.layers:
        if isinstance(layer, Heat):
            return _borders(layer.x if which == "x" else layer.y, log)
    return None


def _borders(centres: list[float], log: bool) -> tuple[float, float] | None:
    """Outer borders of cells with these centres, half a cell beyond the first and the last."""
    if len(centres) < 2 or (log and min(centres) <= 0):
        return None
    first, second, *_ = centres
    *_, last_but_one, last = centres
    if log:
        return first * math.sqrt(first / second), last * math.sqrt(last / last_but_one)
    return first - (second - first) / 2, last + (last - last_but_one) / 2
