"""The simulator's benchmark: its C twin does the same, verdicts are as the numbers, its page."""

from __future__ import annotations

import math
import os
import re

import numpy as np
import pytest
import simulator_c as twin
import simulator_page as pages
from quick_page import quick_page

START = (0.7, 2.0)
ETA, RHO = np.array([0.05, 0.3])[:, None], np.array([0.0, 0.1, 0.4])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not twin.compiler():
        if os.environ.get("THALWEG_CI") == "1":
            pytest.fail("no C compiler was found, and THALWEG_CI=1 asks for one")
        pytest.skip("needs a C compiler (gcc or cc)")
    return twin.build(tmp_path_factory.mktemp("twin"))


def written_out(loss, power, eta, rho, steps):
    """SAM on one cell, in plain Python."""
    x, y = START

    def slope(z):
        return math.tanh(z) if loss == "log_cosh" else z / math.sqrt(1 + z * z)

    for _ in range(steps):
        gx, gy = slope(x * y) * y, slope(x * y) * x
        factor = rho * math.hypot(gx, gy) ** -power
        up, over = x + factor * gx, y + factor * gy
        x, y = x - eta * slope(up * over) * over, y - eta * slope(up * over) * up
    return x, y


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("loss", ["log_cosh", "sqrt"])
def test_c_and_numpy_are_sam(loss, power, library):
    arrays = (loss, power, START, ETA, RHO, 8)  # later on, p = 1.5 amplifies the last bit
    found = {order: twin.run(library, order, *arrays) for order in twin.ORDERS}
    found["numpy"] = twin.plain_numpy(*arrays)
    for i, j in np.ndindex(2, 3):
        wanted = written_out(loss, power, ETA[i, 0], RHO[j], 8)
        for name, (x, y) in found.items():
            assert (x[i, j], y[i, j]) == pytest.approx(wanted, rel=1e-9, abs=1e-12), name


def test_more_cells_than_a_block(library):
    eta, rho = np.linspace(0.01, 0.2, 40)[:, None], np.linspace(0.05, 0.3, 31)
    wanted = twin.plain_numpy("log_cosh", 1.0, START, eta, rho, 9)
    for order in twin.ORDERS:
        found = twin.run(library, order, "log_cosh", 1.0, START, eta, rho, 9)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_loading_the_twin_flushes_nothing(library):
    assert np.array([1e-310]) * np.array([0.5]) > 0


def some_map(**seconds):
    each = {name.replace("_", " "): np.array(value) for name, value in seconds.items()}
    return pages.Map("log_cosh", 1.0, 8, 20, each, 6.0, 1e-16, 1.0)


BLOCKS, ROWS = twin.ORDERS.values()


def test_the_comparison_is_with_the_faster_loop():
    found = some_map(compiled=[1.2, 1.3, 1.9], eager=[4.0, 4.0, 4.0])
    found.each.update({BLOCKS: np.ones(3), ROWS: np.full(3, 2.0)})
    assert found.fastest == BLOCKS
    low, middle, high = found.ratio("compiled", BLOCKS)
    assert (low, middle, high) == pytest.approx((1.2, 1.3, 1.9))
    lines = pages.targets([found], [])
    assert lines[4].endswith("| 1.30 [1.20, 1.90] | met, within the noise |")
    assert lines[5].endswith("| 4.00 [4.00, 4.00] | **not met** |")


def test_what_is_missing_is_told():
    bare = some_map(eager=[4.0, 4.0], numpy=[9.0, 9.0])
    assert "not measured: no C compiler" in pages.targets([bare], [])[4]
    bare.each[BLOCKS] = np.ones(2)
    assert "not measured: not compiled" in pages.targets([bare], [])[4]


def test_growth_is_the_worst_of_a_series():
    def size(what, cells, seconds):
        return pages.Size(what, str(cells), cells, 10, np.array([seconds]))

    series = [size("a", 1, 1.0), size("a", 4, 2.0), size("a", 16, 9.6), size("b", 1, 100.0)]
    assert pages.growths(series) == {"a": pytest.approx(1.2)}
    line = pages.targets([], series)[4]
    assert line.endswith("| 1.20 of linear | **not met** |")


def test_the_page(tmp_path):
    text = quick_page("simulator.py", tmp_path / "simulator.md")
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    targets, *maps = (p for p in parts if p.startswith(("Targets", "log_cosh", "sqrt")))
    assert len(maps) == 4
    assert targets.count("\n| ") == 1 + 8 + 2
    for part in maps:
        assert "100 % of the cells" in part
        assert "| numpy |" in part
        assert float(re.search(r"within (\S+) of numpy", part)[1]) < 1e-12
        assert ("| 1.00 [1.00, 1.00] |" in part) == (twin.compiler() is not None)
