"""The page of a diagnosis draws what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import thalweg
import thalweg.diagnose
from thalweg import ThalwegError
from thalweg.diagnose.page import charts, write_page
from thalweg.results import Line

sys.path.insert(0, str(Path(__file__).parent))
import subjects


def four():
    model = subjects.convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return [model, subjects.loss_of, subjects.digits(), optimizer]


def test_the_page_draws_what_was_measured(tmp_path):
    found = thalweg.diagnose(*four(), train=3)
    scan, spectrum, steps = charts(found)
    drawn = {layer.name: layer for axes in scan.axes for layer in axes.layers}
    assert drawn["measured"].x == list(found.measured.scan.rho)
    assert drawn["cosine"].y == list(found.measured.scan.cosine)
    assert drawn["recommended"].x == [found.rho, found.rho]
    check_the_spectrum(found.measured, spectrum.axes[0])
    lines = [layer for axes in steps.axes for layer in axes.layers]
    assert all(isinstance(layer, Line) and len(layer.x) == 3 for layer in lines)
    (tmp_path / "file").write_text("")
    with pytest.raises(ThalwegError, match="must be writable"):
        write_page(found, tmp_path / "file")
    assert "&lt;b&gt;" in write_page(found, tmp_path, "<b>").read_text(encoding="utf-8")


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
