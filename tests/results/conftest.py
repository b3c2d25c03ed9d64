"""A record with every kind of layer, and numbers that JSON does not have."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.results import Axes, Chart, Check, ClaimRecord, Contours, Heat, Line, ResultsFolder


def make(name="edge", **changed):
    axes = Axes(
        "title",
        "η",
        "ρ",
        [
            Contours([0.0, 1.0], [0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]]),
            Heat([1.0, 2.0], [3.0], [[0.5, None]], "loss", low=-1.0, high=2.0),
            Line([1.0], [2.0], "SAM", "p=1", True, "both", low=[1.5], high=[2.5]),
        ],
        x_log=True,
        y_range=(0.0, 2.0),
    )
    checks = [Check("a", "1", "1", "0", True), Check("b", "1", "2", "0", None, decides=False)]
    fields = {
        "name": name,
        "title": "Title",
        "statement": "Statement ‖ε‖",
        "source": "derived here",
        "verdict": "holds",
        "expected": "open",
        "because": "so",
        "checks": checks,
        "charts": [Chart([axes], "caption")],
        "settings": {"rho": [0.1, 0.2], "nested": {"name": "x"}},
        "seeds": [0, 1],
        "dtype": "float64",
        "runs": 3,
        "seconds": 1.5,
        "measured_at": "2026-01-01T00:00:00+00:00",
        "fingerprint": "f00d",
        "paper": "Somebody: so",
        "derived": "Here: so",
        "found": "It is so",
    }
    return ClaimRecord(**(fields | changed))


def snapshot(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


@pytest.fixture
def record():
    return make


@pytest.fixture
def wild():
    """A line from arrays: NaN, infinities, half precision, a boolean, a zero-dimensional array."""
    x = np.array([np.nan, np.inf, -np.inf, 1 / 3], dtype=np.float32)
    return Line(x, np.arange(4), low=[np.array(2.5), np.bool_(True), np.int64(7), None])


@pytest.fixture
def bytes_of():
    return snapshot


@pytest.fixture
def folder(tmp_path):
    folder = ResultsFolder.create(tmp_path / "results", size="quick")
    folder.write_manifest(order=["drift", "edge"])
    folder.write(make())
    return folder
