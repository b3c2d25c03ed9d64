"""From the record of a chart to what plotly draws: one style for every figure.

Everything is a plain dictionary. Each figure carries its data once and a layout for each of a few
page widths, so that the page can go from three columns to one without drawing anew.
"""

from __future__ import annotations

import html
import math
from typing import Any

from thalweg.report.layout import layouts, scaled, state_colours
from thalweg.results import Axes, Chart, Contours, Heat, Line

#: One colour and one marker a role. Along the powers the colours only get darker, so their order
#: survives colour blindness and grey print; grey and black are kept for GD and the theory.
COLOURS = {
    "gd": "#808080",
    "p=0": "#e09500",
    "p=0.25": "#dd5a3b",
    "p=0.5": "#c2307a",
    "p=0.75": "#9f2e9d",
    "p=1": "#7b2cbf",
    "p=1.5": "#432393",
    "p=2": "#0b1a66",
    "theory": "#000000",
    "neutral": "#2f7f86",
}
MARKERS = {
    "gd": "x-thin-open",
    "p=0": "circle",
    "p=0.25": "triangle-up",
    "p=0.5": "diamond",
    "p=0.75": "triangle-down",
    "p=1": "square",
    "p=1.5": "hexagon",
    "p=2": "star",
    "theory": "cross-thin-open",
    "neutral": "circle-open",
}
DIVERGED = "#a9a9a9"  # no grey occurs in the colour scale of the maps
FAINT = "#cfcfcf"
MODES = {"line": "lines", "both": "lines+markers", "points": "markers"}

Trace = dict[str, Any]


def figure(chart: Chart) -> dict[str, Any]:
    """Turn a chart into a plotly figure.

    Args:
        chart: The record.

    Returns:
        ``data``, the traces; ``layouts``, pairs of a width in pixels and the layout to use from
        that width on, narrowest first.
    """
    shared = one_scale(chart)
    listed: set[str] = set()
    data = []
    for index, axes in enumerate(chart.axes):
        number = "" if index == 0 else str(index + 1)
        for trace in _traces(axes, "coloraxis" if shared else f"coloraxis{number}"):
            _list_once(trace, listed)
            data.append(trace | {"xaxis": f"x{number}", "yaxis": f"y{number}"})
    legend = [trace["name"] for trace in data if trace.get("showlegend")]
    return {"data": data, "layouts": layouts(chart, legend, shared)}


def one_scale(chart: Chart) -> bool:
    """Whether one colour bar, at the right of a chart, serves all of it."""
    maps = [list(scaled(axes)) for axes in chart.axes]
    scales = {(heat.label, heat.low, heat.high) for heats in maps for heat in heats}
    return len(scales) == 1 and all(maps)  # beside lines it stands at its own map


def plain(text: str) -> str:
    """Escape text for plotly, which would read tags in it as its own markup."""
    return html.escape(text, quote=False)


def _list_once(trace: Trace, listed: set[str]) -> None:
    """Let the first of the traces with one name and role stand in the legend for all of them."""
    group = trace.get("legendgroup")
    if group and trace.get("showlegend"):
        trace["showlegend"] = group not in listed
        listed.add(group)


def _traces(axes: Axes, coloraxis: str) -> list[Trace]:
    over_map = any(isinstance(layer, Heat) for layer in axes.layers)
    traces: list[Trace] = []
    for layer in axes.layers:
        if isinstance(layer, Heat):
            traces += _heat(layer, coloraxis)
        elif isinstance(layer, Contours):
            traces.append(_contours(layer))
        else:
            traces += _line(layer, axes.y_log, over_map)
    return traces


def _line(line: Line, log: bool, over_map: bool) -> list[Trace]:
    colour = COLOURS[line.role]
    style = "dash" if line.dash or line.role == "theory" else "solid"
    group = f"{line.name} {line.role}"
    quiet = {"type": "scatter", "legendgroup": group, "showlegend": False, "hoverinfo": "skip"}
    curve = {
        "type": "scatter",
        "x": line.x,
        "y": line.y,
        "mode": MODES[line.points],
        "name": plain(line.name),
        "legendgroup": group,
        "showlegend": bool(line.name),
        "hoverinfo": "x+y+name" if line.name else "x+y",
        "line": {"color": colour, "width": 2, "dash": style},
        "marker": {
            "color": colour,
            "symbol": MARKERS[line.role],
            "size": 7,
            "line": {"color": colour, "width": 1.5},
        },
    }
    traces: list[Trace] = []
    if line.low and line.high:
        x, y = _outline(line, log)
        traces.append(
            {"x": x, "y": y, "mode": "lines", "line": {"width": 0}}
            | {"fill": "toself", "fillcolor": colour + "30"}
            | quiet
        )
    if over_map and line.points != "points":  # a white seam keeps the curve visible on any colour
        seam = {"color": "#ffffffb0", "width": 5}
        traces.append({"x": line.x, "y": line.y, "mode": "lines", "line": seam} | quiet)
    return [*traces, curve]


def _outline(line: Line, log: bool) -> tuple[list[Any], list[Any]]:
    """The border of a band as closed polygons, one for each stretch without a missing value."""
    known = [value for value in (*line.low, *line.y, *line.high) if value is not None and value > 0]
    floor = min(known, default=1.0)  # a log axis has no place for a lower end <= 0
    x: list[Any] = []
    y: list[Any] = []
    stretch: list[tuple[Any, Any, Any]] = []
    for at, low, high in [*zip(line.x, line.low, line.high, strict=True), (None, None, None)]:
        if at is not None and low is not None and high is not None:
            stretch.append((at, max(low, floor), max(high, floor)) if log else (at, low, high))
        elif stretch:
            back = stretch[::-1]
            x += [*(p[0] for p in stretch), *(p[0] for p in back), stretch[0][0], None]
            y += [*(p[2] for p in stretch), *(p[1] for p in back), stretch[0][2], None]
            stretch = []
    return x, y


def _heat(heat: Heat, coloraxis: str) -> list[Trace]:
    place = {"type": "heatmap", "x": heat.x, "y": heat.y}
    if heat.states:
        colours = state_colours(len(heat.states))
        named = list(zip(range(len(heat.states)), heat.states, colours, strict=True))
        traces = []
    else:
        named = []
        cells = {"z": heat.z, "coloraxis": coloraxis, "hoverinfo": "x+y+z", "zhoverformat": ".4~g"}
        traces = [place | cells | {"showlegend": False, "hoverongaps": False}]
    for value, name, colour in [*named, (None, "diverged", DIVERGED)]:
        alike = [[1 if one == value else None for one in row] for row in heat.z]
        if any(1 in row for row in alike):
            filled = {
                "z": alike,
                "colorscale": [[0, colour], [1, colour]],
                "showscale": False,
                "name": plain(name),
                "legendgroup": f"{name} cells",
                "showlegend": True,
                "hoverinfo": "x+y+name",
                "hoverongaps": False,
            }
            traces.append(place | filled)
    return traces


def _contours(contours: Contours) -> Trace:
    known = [value for row in contours.z for value in row if value is not None]
    bottom = min(known, default=0.0)
    return {
        "type": "contour",
        "x": contours.x,
        "y": contours.y,
        # Levels are even in the square root of the height: even in the height itself they would
        # leave the floor of a valley, where the curves run, empty.
        "z": [
            [None if value is None else float(f"{math.sqrt(value - bottom):.4g}") for value in row]
            for row in contours.z
        ],
        "contours": {"coloring": "lines", "showlabels": False},
        "ncontours": 16,
        "colorscale": [[0, FAINT], [1, FAINT]],
        "line": {"width": 1},
        "showscale": False,
        "showlegend": False,
        "hoverinfo": "skip",
    }
