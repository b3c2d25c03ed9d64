"""The leading spectrum of every cell at once is that of each cell's dense Hessian."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Quadratic, spectrum
from thalweg.lab.networks import TanhConvNet, TanhMLP


class Small(TanhMLP):
    def shapes(self):
        return {"1": (10, 4), "2": (4, 3), "3": (3, 1)}


class SmallConv(TanhConvNet):
    def shapes(self):
        return {"1": (16, 2), "2": (8, 3), "3": (12, 10)}


def dense(net, seed):
    """Gradient and Hessian of one cell alone, by differentiating twice."""
    seeds = torch.tensor([seed])
    batch, w = net.stream(seeds)(0), net.start(seeds)
    leaves = [value.requires_grad_() for value in w.values()]
    slopes = torch.autograd.grad(net.loss(w, batch)[0], leaves, create_graph=True)
    slope = torch.cat([s.flatten() for s in slopes])
    rows = [torch.autograd.grad(entry, leaves, retain_graph=True) for entry in slope]
    matrix = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return slope.detach(), matrix


@pytest.mark.parametrize("net", [Small(20), SmallConv(6)], ids=["mlp", "conv"])
def test_every_cell_has_its_own_hessian(net):
    seeds = torch.tensor([3, 0])
    w = net.start(seeds)
    g, found = spectrum.leading(net, w, net.stream(seeds)(0), steps=30)
    for cell, seed in enumerate(seeds.tolist()):
        slope, matrix = dense(net, seed)
        np.testing.assert_allclose(g[cell], slope, atol=1e-12)
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(matrix))
        np.testing.assert_allclose(found.values[cell, :5], values[:5], atol=1e-8)
        overlap = (found.vectors[cell, :5] * vectors[:, :5].T).sum(1).abs()
        np.testing.assert_allclose(overlap, 1, atol=1e-8)


def test_few_products_find_the_top_and_the_residuals_bound_the_error():
    net, seeds = Small(20), torch.tensor([0, 1, 2])
    w, batch = net.start(seeds), net.stream(seeds)(0)
    _, found = spectrum.leading(net, w, batch, steps=8)
    for cell, seed in enumerate(seeds.tolist()):
        values = torch.linalg.eigvalsh(dense(net, seed)[1])
        off = (found.values[cell].unsqueeze(1) - values).abs().amin(1)
        assert (off <= found.residuals[cell] + 1e-12).all()
        assert off[0] < 1e-4 < found.residuals[cell, -1]  # the last ones are not there yet
    product = spectrum.hessian(net, w, batch)[1]
    for i in (0, 4):
        v = found.vectors[:, i]
        gap = torch.linalg.vector_norm(product(v) - found.values[:, i, None] * v, dim=1)
        np.testing.assert_allclose(gap, found.residuals[:, i], atol=1e-10)


def test_a_search_that_ends_early_says_so():
    q = Quadratic([-3.0, -1.0, -2.0], start=[1.0, 0.0, 1.0])
    _, product = spectrum.hessian(q, q.start(torch.tensor([0])))
    inside = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    found = spectrum.lanczos(product, inside, 3)
    np.testing.assert_allclose(found.values[0], [-2, -3, -np.inf], atol=1e-12)
    np.testing.assert_allclose(found.vectors[0, 2], 0)
    np.testing.assert_allclose(found.residuals[0], 0, atol=1e-12)


def test_the_gradient_alone_does_not_hide_an_eigenvector():
    q = Quadratic([1.0, 5.0], start=[1.0, 0.0])  # g has no part along the top eigenvector
    _, found = spectrum.leading(q, q.start(torch.tensor([0])))
    np.testing.assert_allclose(found.values[0], [5, 1], atol=1e-10)
    at_rest = Quadratic([1.0, 5.0], start=[0.0, 0.0])
    _, found = spectrum.leading(at_rest, at_rest.start(torch.tensor([0])))
    np.testing.assert_allclose(found.values[0], [5, 1], atol=1e-10)


def test_steps_are_counted():
    with pytest.raises(ThalwegError, match="steps must be a whole number >= 1, got 0"):
        spectrum.lanczos(lambda v: v, torch.ones(1, 2), 0)
