"""The page of a diagnosis draws what was measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from subjects import four

import thalweg
import thalweg.diagnose
from thalweg import ThalwegError
from thalweg.diagnose.page import charts, write_page
from thalweg.results import Line


def test_the_page_draws_what_was_measured(tmp_path):
    found = thalweg.diagnose(*four(), train=3)
    scan, spectrum, steps = charts(found)
    along = found.measured.scan
    rise, curved, cosine = [axes.layers[-1] for axes in scan.axes]
    assert rise.x == curved.x == cosine.x == list(along.rho)
    assert (rise.y, curved.y) == (list(along.rise), list(along.curvature))
    assert cosine.y == list(along.cosine)
    drawn = {layer.name: layer for axes in scan.axes for layer in axes.layers}
    assert drawn["recommended"].x == [found.rho, found.rho]
    # Nothing that looks alike has two names.
    looks = {(layer.role, layer.dash, layer.points): layer.name for layer in drawn.values()}
    assert len(looks) == len(drawn)
    check_the_spectrum(found.measured, spectrum.axes[0])
    lines = [layer for axes in steps.axes for layer in axes.layers]
    assert all(isinstance(layer, Line) and len(layer.x) == 3 for layer in lines)
    (tmp_path / "file").write_text("")
    with pytest.raises(ThalwegError, match="must be writable"):
        write_page(found, tmp_path / "file")
    assert "&lt;b&gt;" in write_page(found, tmp_path, "<b>").read_text(encoding="utf-8")


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_edge_is_named_where_there_is_one(adaptive):
    model, loss, loader, base = four()
    base = torch.optim.AdamW(model.parameters(), lr=1e-3) if adaptive else base
    axes = charts(thalweg.diagnose(model, loss, loader, base, train=3))[-1].axes[1]
    names, title = (["measured"], "Curvature along ε")
    if not adaptive:
        names, title = ["edge", "measured"], "Curvature along ε and the edge"
    assert ([line.name for line in axes.layers], axes.title) == (names, title)


def test_a_lower_end_before_the_scan_is_said_to_be_one():
    found = thalweg.diagnose(*four())
    begin = found.measured.scan.rho[0]
    for lower, said in ((begin / 2, True), (begin * 2, False)):
        other = dataclasses.replace(found.measured, lower=lower)
        chart = charts(dataclasses.replace(found, measured=other))[0]
        assert ("lies before the scan" in chart.caption) is said


def check_the_spectrum(measured, axes):
    """What is drawn is a density: it has the integral and the mean of the eigenvalues."""
    one, density = axes.layers
    x, y = torch.tensor(density.x), torch.tensor([y or 0.0 for y in density.y])
    assert float(torch.trapezoid(y, x)) == pytest.approx(1, abs=0.01)
    pairs = zip(measured.spectrum.nodes, measured.spectrum.weights, strict=True)
    mean = sum(node * weight for node, weight in pairs)
    assert float(torch.trapezoid(x * y, x)) == pytest.approx(mean, rel=0.02)
    # Near the largest eigenvalue, which stands alone, each of two vectors has a node.
    width = 0.01 * (measured.spectrum.nodes[-1] - measured.spectrum.nodes[0])
    height = 1 / (measured.parameters * width * (2 * torch.pi) ** 0.5)
    assert one.y == pytest.approx([height] * len(one.x))
    assert height < max(y)
    assert density.x[-1] > measured.lambda_max
