"""The page of a training run: what a monitor wrote, drawn over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thalweg.curvature.records import read_records
from thalweg.errors import ThalwegError
from thalweg.report.figures import figure
from thalweg.report.page import fill
from thalweg.report.samples import Records, counted, facts, last_course, listed, samples, value
from thalweg.results import Axes, Chart, Line
from thalweg.results.folder import write_whole
from thalweg.results.record import Role, role_of

HERE = Path(__file__).parent
#: Points that a line is drawn with, at most.
_POINTS = 400
Points = Literal["line", "both"]
_ALONG = " The curvature along ε is that of the training batches, from SAM's own two gradients."


@dataclass(frozen=True, slots=True)
class _Run:
    """A file as the template wants it."""

    name: str
    samples: str
    left_out: int
    says: list[tuple[int, str]]
    facts: list[tuple[str, str]]
    figures: list[dict[str, Any]]


def write_training_report(path: str | Path) -> Path:
    """Write the page of a training run from the records of its monitor.

    The page needs no network and no other file. Of a file, it lies beside it, with the suffix
    ``.html``; of a folder, it is ``training.html`` in it, with one section for each ``*.jsonl``.
    Where a run was taken up again from an earlier step, what came after that step before is left
    out.

    Args:
        path: A file that ``Monitor(to=...)`` wrote, or a folder of them.

    Returns:
        The page.

    Raises:
        ThalwegError: If there are no records, or they cannot be read, or the page not written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "run.jsonl"
        ...     _ = file.write_text('{"step": 0, "loss": 2.0, "lambda_max": 8.0, "edge": 9.0}')
        ...     write_training_report(file).name
        'run.html'
    """
    path = Path(path)
    folder = path.is_dir()
    files = sorted(path.glob("*.jsonl")) if folder else [path]
    runs = [(file, read_records(file)) for file in files]
    runs = [(file, records) for file, records in runs if records]
    if not runs:
        raise ThalwegError(
            f"{path} must hold records of a monitor, got none: pass a file that "
            "Monitor(to='run.jsonl') wrote, or a folder of *.jsonl files"
        )
    page = path / "training.html" if folder else path.with_suffix(".html")
    drawn = [_run(file.stem, records) for file, records in runs]
    text = fill(
        HERE / "training.html.jinja",
        runs=drawn,
        figures=[one for run in drawn for one in run.figures],
    )
    try:
        write_whole(page, text)
    except OSError as cause:
        raise ThalwegError(
            f"report {page} must be writable, got {cause.strerror!r}: copy the records to a place "
            "you may write to"
        ) from None
    return page


def charts(records: Records) -> list[Chart]:
    """Return the figures of a run: loss and curvature first, then what explains them.

    Args:
        records: In the order of their steps; at least one of them a sample.

    Returns:
        One chart or more; axes without a single number are left out.
    """
    along, records = _along(records), samples(records)
    role = _role(records)
    loss = Axes("Loss on the probe batch", "step", "loss", [_line(records, "loss", "loss", role)])
    curvature = Axes(
        "Curvature and its edge",
        "step",
        "curvature, loss / parameter unit²",
        [
            along,
            _line(records, "lambda_max", "λ_max", role, points="both"),
            _line(records, "edge", "edge of this lr, rho, ‖g‖", "theory"),
        ],
    )
    first = Chart(
        [_fitted(loss), _fitted(curvature)],
        "Loss and largest curvature over the same steps. Where λ_max meets the edge it is held "
        "there: a step then turns the weights from one side of the valley to the other."
        + (_ALONG if _known(along) else ""),
    )
    one = Line([records[0]["step"], records[-1]["step"]], [1.0, 1.0], "edge", "theory")
    ratio = Axes(
        "Distance from the edge", "step", "λ_max / edge", [_line(records, "ratio", "", role)]
    )
    if _drawn(ratio):
        ratio = Axes(ratio.title, "step", ratio.y_label, [one, *ratio.layers])
    rises = [
        _line(records, "loss_rise", "measured", role, points="both"),
        _line(records, "loss_rise_predicted", "⟨g, ε⟩ + ½⟨ε, Hε⟩", "theory"),
    ]
    cosines = [
        _line(records, "alignment", "g and the top eigenvector, |cos|", role),
        _line(records, "cosine", "g and the gradient at w + ε", "neutral"),
    ]
    rest = [
        ratio,
        _fitted(Axes("Loss rise from w to w + ε", "step", "loss", rises)),
        Axes("Cosines", "step", "cosine", cosines),
        Axes("How much ε changes", "step", "‖h − g‖ / ‖g‖", [_line(records, "change", "", role)]),
        Axes("Size of ε", "step", "‖ε‖ / ‖w‖", [_line(records, "relative_perturbation", "", role)]),
        Axes(
            "Trace of the Hessian",
            "step",
            "trace, loss / parameter unit²",
            [_trace(records, role)],
        ),
    ]
    second = Chart(
        [axes for axes in rest if _drawn(axes)],
        "What stands behind it, on the probe batch. A loss rise far from the predicted one: ε "
        "reaches beyond where the loss is quadratic. A cosine with the gradient at w + ε below 0: "
        "that gradient points uphill at w. Where several eigenvalues have met at the edge, g lies "
        "in all their eigenvectors. The band of the trace is one standard error.",
    )
    return [first, second] if second.axes else [first]


def _run(name: str, records: Records) -> _Run:
    kept = last_course(records)
    first, *rest = charts(kept)
    drawn = [{"caption": first.caption, "figure": _stacked(first)}]
    drawn += [{"caption": chart.caption, "figure": figure(chart)} for chart in rest]
    said = [(r["step"], str(text)) for r in kept for text in listed(r, "says")]
    return _Run(name, counted(kept), len(records) - len(kept), said, facts(kept), drawn)


def _stacked(chart: Chart) -> dict[str, Any]:
    """A figure with its axes one below the other, on one time axis, on pages of every width."""
    drawn = figure(chart)
    layout = drawn["layouts"][0][1]
    for name in [name for name in layout if name.startswith("xaxis") and name != "xaxis"]:
        layout[name]["matches"] = "x"
    return {"data": drawn["data"], "layouts": [(0, layout)]}


def _line(records: Records, name: str, label: str, role: Role, points: Points = "line") -> Line:
    some = _thinned(records)
    steps, values = [r["step"] for r in some], [value(r, name) for r in some]
    return Line(steps, values, label, role, points="both" if points == "both" else _marked(values))


def _marked(values: Sequence[float | None]) -> Points:
    """A line of one number is none: it needs a marker."""
    return "both" if sum(one is not None for one in values) == 1 else "line"


def _along(records: Records) -> Line:
    pairs = [
        (step, value)
        for record in records
        for step, value in zip(
            listed(record, "curvature_steps"), listed(record, "curvatures"), strict=False
        )
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    some = _thinned(pairs)
    values = [v for _, v in some]
    return Line([s for s, _ in some], values, "along ε, each step", "gd", points=_marked(values))


def _trace(records: Records, role: Role) -> Line:
    some = _thinned(records)
    values = [value(r, "trace") for r in some]
    errors = [value(r, "trace_error") for r in some]
    pairs = list(zip(values, errors, strict=True))
    low = [None if v is None or e is None else v - e for v, e in pairs]
    high = [None if v is None or e is None else v + e for v, e in pairs]
    return Line(
        [r["step"] for r in some], values, "", role, points=_marked(values), low=low, high=high
    )


def _fitted(axes: Axes) -> Axes:
    """The same axes, without empty lines, and logarithmic where the numbers span a decade."""
    lines = [line for line in axes.layers if isinstance(line, Line) and _known(line)]
    known = [one for line in lines for one in _known(line)]
    log = min(known, default=0.0) > 0 and max(known) >= 10 * min(known)
    return Axes(axes.title, axes.x_label, axes.y_label, lines, y_log=log)


def _drawn(axes: Axes) -> bool:
    return any(isinstance(line, Line) and _known(line) for line in axes.layers)


def _known(line: Line) -> list[float]:
    return [value for value in line.y if value is not None]


def _role(records: Records) -> Role:
    """The colour of this power, as everywhere; of a power that has none, the neutral one."""
    power, rho = value(records[-1], "power"), value(records[-1], "rho")
    if rho == 0:
        return "gd"
    return "neutral" if power is None else role_of(power)


def _thinned(rows: Sequence[Any]) -> list[Any]:
    """Every k-th row and the last, so that a line has no more points than can be seen."""
    stride = math.ceil(len(rows) / _POINTS)
    return [row for i, row in enumerate(rows, 1) if i % stride == 0 or i == len(rows)]
