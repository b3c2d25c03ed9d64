"""The page: what a results folder holds, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import ThalwegError, extra
from thalweg.report.figures import figure
from thalweg.results import ClaimRecord, ResultsFolder

with extra("lab", by="thalweg.report"):
    import jinja2
    from plotly.offline import get_plotlyjs

HERE = Path(__file__).parent
#: What a manifest holds for the study itself, and what each claim's settings say already.
_INSIDE = ("fingerprints", "order", "shipped", "versions")


@dataclass(frozen=True, slots=True)
class _Section:
    """A claim as the template wants it: its record and what had to be worked out from it."""

    anchor: str
    record: ClaimRecord
    figures: list[dict[str, Any]]
    settings: list[tuple[str, str]]
    stale: bool


def render(results: ResultsFolder) -> str:
    """Render the page of a results folder.

    Args:
        results: The folder, opened.

    Returns:
        The text of the page.

    Raises:
        ThalwegError: If the folder holds no claims, or one that cannot be read or drawn.
    """
    names = results.names()
    if not names:
        raise ThalwegError(
            f"results folder {results.path} must hold at least one claim, got none: "
            f"run `thalweg study --out {results.path}` first"
        )
    sections = [_section(results, name) for name in names]
    return fill(
        HERE / "page.html.jinja",
        sections=sections,
        counts=Counter(section.record.verdict for section in sections),
        differing=[section for section in sections if not section.record.as_recorded],
        figures=[drawn for section in sections for drawn in section.figures],
        size=results.manifest.get("size", "standard"),
        shipped=set(names) <= set(results.manifest.get("shipped", ())),
        manifest=_rows({k: v for k, v in results.manifest.items() if k not in _INSIDE}),
    )


def _section(results: ResultsFolder, name: str) -> _Section:
    record = results.read(name)
    try:
        figures = [
            {"caption": chart.caption, "single": len(chart.axes) == 1, "figure": figure(chart)}
            for chart in record.charts
        ]
        settings = _rows(
            {
                **record.settings,
                "seeds": record.seeds,
                "dtype": record.dtype,
                "measured at": record.measured_at,
                "fingerprint": record.fingerprint,
                "versions": record.versions,
            }
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        raise ThalwegError(
            f"results file {results.path / name}.json must hold a claim that can be drawn, got "
            f"{type(cause).__name__}: {cause}; {results.remedy(name)}"
        ) from cause
    now = results.manifest.get("fingerprints", {}).get(name, record.fingerprint)
    return _Section(f"claim-{name}", record, figures, settings, now != record.fingerprint)


def _rows(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested entries into rows of a name and a printed value."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            rows += _rows(value, f"{prefix}{key} · ")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, dict)):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def fill(template: Path, **values: Any) -> str:
    """Return a page that needs no other file: style, script and plotly are in it.

    Args:
        template: Its Jinja template.
        values: What the template names, beside ``css``, ``script`` and ``plotly``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = _seconds
    return environment.get_template(template.name).render(
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        **values,
    )
