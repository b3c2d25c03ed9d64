"""The figure of the race: gain over SGD at equal gradients, presets ordered by what they cost."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from race_judge import Row

#: Pixels: a row, the names on the left, a panel, the space between panels, above and below.
LINE, NAMES, PANEL, GAP, TOP, BELOW = 18, 190, 330, 34, 70, 66
INK, SOFT, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
#: Clearly above, clearly below, neither.
CLEAR = {1: "#2f7f86", -1: "#c2307a", 0: INK}
KIND = "gradients"
#: A tick of another colour shows what is left where both may stop early.
ALSO, TICK = "stopped", "#e09500"
#: Of gains beyond this many points the exact place tells nothing more.
FAR = 12.0


def ordered(panels: dict[str, Sequence[Row]]) -> list[tuple[str, float]]:
    """Return the presets with their cost in the first panel that has them, cheapest first.

    Among equals the one with the larger mean gain over the panels comes first.
    """
    costs: dict[str, float] = {}
    gains: dict[str, list[float]] = {}
    for rows in panels.values():
        for row in rows:
            if KIND in row.gains:
                costs.setdefault(row.name, row.gradients)
                gains.setdefault(row.name, []).append(row.gains[KIND].mean)
    keys = {name: (round(cost, 1), -float(np.mean(gains[name]))) for name, cost in costs.items()}
    return [(name, costs[name]) for name in sorted(costs, key=keys.__getitem__)]


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends, 0 among them."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / s <= 8)
    return [k * step for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, ink: str = INK
) -> str:
    escaped = html.escape(words)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{ink}">{escaped}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, ink: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}" '
        f'stroke-width="{width:g}"/>'
    )


def panel(
    rows: Sequence[Row], title: str, left: float, heights: dict[str, float], foot: float
) -> list[str]:
    """Draw the gains of one task."""
    shown = [row for row in rows if KIND in row.gains]
    ends = [e for r in shown for e in (r.gains[KIND].low, r.gains[KIND].high)]
    ends += [r.gains[ALSO].mean for r in shown if ALSO in r.gains]
    low, high = (float(np.clip(end, -FAR, FAR)) for end in (min(ends, default=-1), max(ends)))
    low, high = min(low, -0.1), max(high, 0.1)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)

    def x(points: float) -> float:
        return left + PANEL * (float(np.clip(points, low, high)) - low) / (high - low)

    drawn = [text(left, TOP - 24, title, size=14)]
    for tick in ticks(low, high):
        drawn.append(line(x(tick), TOP - 10, x(tick), foot, INK if tick == 0 else FAINT))
        drawn.append(text(x(tick), foot + 16, f"{tick:+g}" if tick else "0", anchor="middle"))
    for row in shown:
        found, y = row.gains[KIND], heights[row.name]
        ink = CLEAR[found.sign]
        if ALSO in row.gains:
            also = x(row.gains[ALSO].mean)
            drawn.append(line(also, y - 6, also, y + 6, TICK, 2.5))
        inside = low <= found.mean <= high
        dot = f'cx="{x(found.mean):.1f}" cy="{y:.1f}" r="4" stroke="{ink}" stroke-width="1.5"'
        drawn.append(line(x(found.low), y, x(found.high), y, ink, 1.5))
        drawn.append(f'<circle {dot} fill="{ink if found.sign else "#ffffff"}"/>')
        if not inside:
            side = "end" if found.mean > 0 else "start"
            at = x(found.mean) + (-9 if found.mean > 0 else 9)
            drawn.append(text(at, y - 6, f"{found.mean:+.1f}", anchor=side, size=10, ink=ink))
    return drawn


def draw(panels: dict[str, Sequence[Row]]) -> str:
    """Return the figure as the text of an SVG file.

    Args:
        panels: Rows by the title of their task; where there are none, there is no panel.
    """
    panels = {title: rows for title, rows in panels.items() if rows}
    order = ordered(panels)
    heights, marks, y, before = {}, [], float(TOP), None
    for name, cost in order:
        group = round(cost, 1)
        if before is not None and group != before:
            y += LINE / 2
        before = group
        heights[name] = y
        marks.append((name, cost, y))
        y += LINE
    foot = y - LINE + 14
    width = NAMES + len(panels) * (PANEL + GAP)
    parts = [
        f'<rect width="{width}" height="{foot + BELOW:.0f}" fill="#ffffff"/>',
        text(NAMES - 14, TOP - 24, "preset, gradients a step", anchor="end", ink=SOFT),
    ]
    for name, cost, at in marks:
        parts.append(line(NAMES - 6, at, width - GAP, at, FAINT, 0.5))
        parts.append(text(NAMES - 48, at + 4, name, anchor="end"))
        parts.append(text(NAMES - 14, at + 4, f"{cost:.3g}", anchor="end", ink=SOFT))
    for number, (title, rows) in enumerate(panels.items()):
        parts += panel(rows, title, NAMES + number * (PANEL + GAP), heights, foot)
    told = "gain over SGD at equal gradients, points of test accuracy, 95 % interval"
    parts.append(text(NAMES, foot + 38, told))
    told = "filled: clear after Holm (above: green, below: red); tick: where both may stop early"
    parts.append(text(NAMES, foot + 55, told, ink=SOFT))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{foot + BELOW:.0f}" '
        f'viewBox="0 0 {width} {foot + BELOW:.0f}" '
        'font-family="Open Sans, Helvetica, Arial, sans-serif">\n' + "\n".join(parts) + "\n</svg>\n"
    )
