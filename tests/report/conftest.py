"""A results folder written by hand, with every kind of layer and with hostile text everywhere."""

from __future__ import annotations

import pytest

from thalweg.results import Axes, Chart, Check, ClaimRecord, Contours, Heat, Line, ResultsFolder

HOSTILE = "</script><script>alert(1)</script> & <b>bold</b> <!--"
FLOOR = [0.1, 1.0, 10.0]


def claim(name, **changed):
    fields = {
        "name": name,
        "title": f"Title of {name}",
        "statement": f"Statement of {name}.",
        "source": f"Source of {name}",
        "verdict": "holds",
        "expected": "holds",
        "because": f"Reason of {name}",
        "checks": [],
        "charts": [],
        "settings": {},
        "seeds": [0],
        "dtype": "float64",
        "runs": 1200,
        "seconds": 12.34,
        "measured_at": "2026-01-01T00:00:00Z",
        "fingerprint": "f00d",
        "paper": f"Paper of {name}",
        "derived": f"Derivation of {name}",
        "found": f"Findings of {name}",
    }
    return ClaimRecord(**(fields | changed))


def heat(label="log10 loss", high=0.0):
    z = [[-8.0, None, None], [-4.0, -2.0, None], [-8.0, -6.0, -1.0]]
    return Heat(x=[0.5, 1.0, 1.5], y=FLOOR, z=z, label=label, low=-8.0, high=high)


def phase(title, **changed):
    edge = Line(x=[1.4, 1.0, 0.6], y=FLOOR, name="predicted", role="theory", dash=True)
    return Axes(title, "eta", "rho", [heat(**changed), edge], y_log=True)


def bands():
    sam = Line(
        FLOOR,
        [0.9, None, 0.8],
        "SAM",
        "p=1",
        points="both",
        low=[0.0, None, 0.7],
        high=[1, None, 1],
    )
    dots = Line(FLOOR, [0.5, 0.6, 0.7], "", "p=0", points="points")
    sgd = Line([0.1, 10.0], [0.8, 0.8], "SGD", "gd", low=[0.7, 0.7], high=[0.9, 0.9])
    return Axes("Bands", "rho", "accuracy", [sam, dots, sgd], x_log=True, y_log=True)


def valley():
    grid = [-1.0, 0.0, 1.0]
    contours = Contours(grid, grid, [[(x * y) ** 2 for x in grid] for y in grid])
    path = Line([1.0, 0.5, 0.0], [1.0, 0.0, 0.5], "path " + HOSTILE, "p=0.5")
    return Axes("Valley " + HOSTILE, "x " + HOSTILE, "y", [contours, path], x_range=(-1, 1))


@pytest.fixture(scope="session")
def records():
    checks = [
        Check("edge " + HOSTILE, "1.8", "1.82 (n = 4)", "one cell", True),
        Check("cells on the wrong side", "0", "3", "none", False),
        Check("drift", "0", "0.1", "interval excludes", None),
    ]
    four = Chart([phase(f"p = {p}") for p in (0, 0.25, 0.5, 1)], "Four maps, one scale")
    two = Chart([phase("loss"), phase("other", label="λ", high=2.0), bands()], "Two scales")
    z = [[0, 1, None], [1, 1, None], [0, 0, 1]]
    kinds = Heat([0.5, 1.0, 1.5], FLOOR, z, "state", 0, 2, ["rest", HOSTILE, "nowhere"])
    states = Chart([Axes("States", "eta", "rho", [kinds], y_log=True), phase("loss")], "States")
    return [
        claim("edge", checks=checks, charts=[four], settings={"eta": {"low": 0.1, "n": [1, 2]}}),
        claim("drift", verdict="open", charts=[Chart([valley()], "Caption " + HOSTILE), two]),
        claim("reverse", verdict="does not hold", statement=HOSTILE, charts=[states]),
        claim("agreed", verdict="does not hold", expected="does not hold", settings={"s": HOSTILE}),
    ]


@pytest.fixture
def folder(tmp_path, records):
    results = ResultsFolder.create(tmp_path / "results", size="quick")
    for record in records:
        results.write(record)
    results.write_manifest(
        versions={"torch": "2.13.0"},
        command="thalweg study " + HOSTILE,
        shipped=[record.name for record in records],
    )
    return results.path
