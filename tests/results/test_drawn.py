"""What cannot be drawn is refused when it is made, not after hours of measurement."""

import re

import numpy as np
import pytest

from thalweg import ThalwegError
from thalweg.results import Axes, Chart, Heat, Line, ResultsFolder

LINE = Line([0, 1], [1.0, 0.5], "SAM", "p=1")
AXES = Axes("title", "x", "y", [LINE])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: Line([1], [1], "SAM", "sam"), r"^role must be one of gd, p=0, .*, got 'sam'$"),
        (lambda: Line([1], [1], role=["gd"]), r"^role must be one of gd, .*, got \['gd'\]$"),
        (lambda: Line([1], [1], points="dots"), "^points must be one of line, both, points, got"),
        (lambda: Line([1], [1], name=None), "^name must be a text, got None$"),
        (lambda: Line([1, 2], [1]), "^y must have as many entries as x, 2, got 1$"),
        (lambda: Line([1, 2], [1, 2], low=[1]), "^low must have as many entries as x, 2, got 1$"),
        (lambda: Line([1], [1], high=[1, 2]), "^high must have as many entries as x, 1, got 2$"),
        (lambda: Line([1], []), "^y must have as many entries as x, 1, got 0$"),
        (lambda: Line(1, [1]), "^x must be a list of numbers, got 1$"),
        (lambda: Line([1], np.array(1.0)), "^y must be a list of numbers, got array"),
        (lambda: Line([1], "1"), "^y must be a list of numbers, got '1'$"),
        (lambda: Axes(None, "x", "y", [LINE]), "^title must be a text, got None$"),
        (lambda: Axes("", "x", 3, [LINE]), "^y_label must be a text, got 3$"),
        (
            lambda: Axes("", "x", "y", LINE),
            r"^layers must be a list of Line, .*: write \[line\], got",
        ),
        (lambda: Axes("", "x", "y", [AXES]), "^layers must be a list of Line"),
        (lambda: Chart([AXES], None), "^caption must be a text, got None$"),
        (lambda: Chart(AXES, "so"), r"^axes must be a list of Axes: write \[axes\], got"),
        (lambda: Chart([LINE], "so"), "^axes must be a list of Axes"),
    ],
)
def test_what_cannot_be_drawn(made, told):
    with pytest.raises(ThalwegError, match=told):
        made()


def test_what_has_a_length_may_stand_for_a_list():
    Line(range(2), (1.0, 0.5), low=np.zeros(2), high=[])
    Chart((AXES, Axes("", "", "", (Heat([1], [1], [[0]], "z", 0, 1),))), "")


def test_a_file_with_another_role_cannot_be_used(record, tmp_path):
    folder = ResultsFolder.create(tmp_path)
    folder.write(record())
    file = tmp_path / "edge.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r'"p=1"', '"sam"', text), encoding="utf-8")
    with pytest.raises(ThalwegError, match=r"role must be one of .*'sam'.*--only edge --fresh"):
        folder.read("edge")
    # No command measures a claim of one's own.
    folder.write_manifest(shipped=["drift"])
    with pytest.raises(
        ThalwegError, match=r"again with study\(\.\.\., fresh=True\), or move"
    ) as told:
        folder.read("edge")
    assert "--only" not in str(told.value)
