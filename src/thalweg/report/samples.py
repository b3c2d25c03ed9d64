"""What a file of a monitor's records holds: samples, their numbers, and the steps between."""

from __future__ import annotations

import math
from typing import Any

from thalweg.curvature.words import WINDOW

Records = list[dict[str, Any]]


def last_course(records: Records) -> Records:
    """Return the records of the steps that led to the last one: a run may have gone back.

    Args:
        records: As they stand in a file.
    """
    kept: Records = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def samples(records: Records) -> Records:
    """Return the records without those that a monitor ended with; all, where there are no others.

    Args:
        records: Of one run.
    """
    names = ("loss", "lambda_max", "seconds")
    some = [
        record
        for record in records
        if not listed(record, "curvatures") or any(value(record, n) is not None for n in names)
    ]
    return some or records


def counted(records: Records) -> str:
    """Return how many samples there are, and what gives more of them where they are few.

    Args:
        records: Of one run.
    """
    count, steps = len(samples(records)), records[-1]["step"] - records[0]["step"]
    told = f"{count} sample{'s' if count != 1 else ''} in {steps:,} step{'s' if steps != 1 else ''}"
    if count < WINDOW <= steps:
        told += ": for the course of λ_max pass every= to the Monitor, or a smaller one"
    return f"{told}."


def facts(records: Records) -> list[tuple[str, str]]:
    """Return the numbers of the last sample, as names and text.

    Args:
        records: Of one run.
    """
    steps, records = records[-1]["step"], samples(records)
    last = records[-1]
    missing = str(last.get("edge_missing") or "not known")
    seconds = [s for record in records if (s := value(record, "seconds")) is not None]
    return [
        ("step", f"{last['step']:,} of {steps:,}"),
        ("loss", _text(last, "loss")),
        ("λ_max", f"{_text(last, 'lambda_max')}, residual {_text(last, 'residual')}"),
        ("edge", missing if value(last, "edge") is None else _text(last, "edge")),
        ("λ_max / edge", _text(last, "ratio")),
        ("trace", f"{_text(last, 'trace')} ± {_text(last, 'trace_error')}"),
        ("‖g‖", _text(last, "grad_norm")),
        ("‖ε‖", _text(last, "perturbation_norm")),
        ("lr, rho, power", ", ".join(_text(last, n) for n in ("lr", "rho", "power"))),
        ("momentum, weight decay", f"{_text(last, 'momentum')}, {_text(last, 'weight_decay')}"),
        ("samples", f"{len(records)}, {sum(seconds):.3g} s together"),
    ]


def value(record: dict[str, Any], name: str) -> float | None:
    """Return a finite number of a record, if it has it.

    Args:
        record: The record.
        name: Of the number.
    """
    found = record.get(name)
    number = isinstance(found, int | float) and math.isfinite(found)
    return float(found) if number and found is not None else None


def listed(record: dict[str, Any], name: str) -> list[Any]:
    """Return a list of a record, empty where it has none.

    Args:
        record: The record.
        name: Of the list.
    """
    found = record.get(name)
    return found if isinstance(found, list) else []


def _text(record: dict[str, Any], name: str) -> str:
    found = value(record, name)
    return "unknown" if found is None else f"{found:.4g}"
