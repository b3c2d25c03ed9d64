"""The smooth networks: literal formulas, gradients, data, and where they start."""

import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import data, simulate
from thalweg.lab.networks import TanhConvNet, TanhMLP

BOTH = pytest.mark.parametrize("net", [TanhMLP(7), TanhConvNet(5)], ids=["mlp", "conv"])


def literal(net, w, cell, x):
    """One cell's outputs with one image and one place after the other."""
    p = {name: value[cell].numpy() for name, value in w.items()}
    out = []
    for one in x[cell].numpy():
        if isinstance(net, TanhConvNet):
            first = np.tanh(one @ p["weight1"] + p["bias1"]).reshape(3, 3, -1)
            places = [(0, 0), (0, 1), (1, 0), (1, 1)]
            second = [
                np.tanh(
                    np.concatenate([first[i + a, j + b] for a, b in places]) @ p["weight2"]
                    + p["bias2"][0]
                )
                for i, j in places
            ]
            hidden = np.concatenate(second)
        else:
            hidden = np.tanh(one @ p["weight1"] + p["bias1"][0])
            hidden = np.tanh(hidden @ p["weight2"] + p["bias2"][0])
        out.append(hidden @ p["weight3"] + p["bias3"][0])
    return np.array(out)


@BOTH
def test_the_loss_is_the_formula(net):
    seeds = torch.tensor([2, 0])
    w, (x, y) = net.start(seeds), net.stream(seeds)(0)
    for cell in (0, 1):
        outputs = literal(net, w, cell, x)
        np.testing.assert_allclose(net.outputs(w, x)[cell], outputs, atol=1e-12)
        loss = np.mean(((outputs - y[cell].numpy()) ** 2).sum(1)) / 2
        np.testing.assert_allclose(net.loss(w, (x, y))[cell], loss, atol=1e-12)
    np.testing.assert_array_equal(net.final_loss(w, seeds), net.loss(w, (x, y)))


@BOTH
def test_the_gradient_is_that_of_finite_differences(net):
    seeds = torch.tensor([0, 1])
    w, batch = net.start(seeds), net.stream(seeds)(0)
    g = net.gradient(w, batch)
    for name, place in (("weight1", (3, 2)), ("bias2", (0, 1)), ("weight3", (2, 0))):
        rise = []
        for sign in (1, -1):
            moved = {k: v.clone() for k, v in w.items()}
            moved[name][(slice(None), *place)] += sign * 1e-5
            rise.append(net.loss(moved, batch))
        np.testing.assert_allclose(g[name][(slice(None), *place)], (rise[0] - rise[1]) / 2e-5, 1e-6)


@BOTH
def test_a_seed_decides_data_and_start(net):
    alone, among = torch.tensor([4]), torch.tensor([1, 4, 4])
    for name, value in net.start(among).items():
        np.testing.assert_array_equal(value[1:], net.start(alone)[name].repeat(2, 1, 1))
        assert not torch.equal(value[0], value[1])
    for one, some in zip(net.stream(alone)(0), net.stream(among)(9), strict=True):
        np.testing.assert_array_equal(some[2], one[0])
        assert not torch.equal(some[0], some[1])


def test_patches_are_of_the_images():
    net = TanhConvNet(6)
    rows = np.random.default_rng([3, 0]).permutation(data.TOTAL)[:6]
    images, labels = data.digits()
    x, y = net.examples_of(3)
    picture = images[rows[2]].reshape(8, 8).numpy()
    np.testing.assert_array_equal(x[2, 5], picture[2:6, 4:8].ravel())  # row 1, column 2 of 3
    np.testing.assert_array_equal(y.argmax(1), labels[rows])
    np.testing.assert_array_equal(y.sum(1), 1)


def test_from_an_origin():
    found = simulate(TanhMLP(7), eta=0.05, steps=3, seed=[0, 1], compile=False)
    net = TanhMLP(7, origin=found.final, noise=1e-3)
    w = net.start(torch.tensor([1, 0, 1]))
    for name, value in w.items():
        np.testing.assert_array_equal(value[0], value[2])
        spread = (value[:2] - torch.tensor(found.final[name])[[1, 0]]).abs()
        assert 0 < spread.max() < 1e-2
    still = TanhMLP(7, origin=found.final).start(torch.tensor([1]))
    np.testing.assert_array_equal(still["weight2"][0], found.final["weight2"][1])


@BOTH
def test_what_is_observed(net):
    seeds = torch.tensor([0, 1])
    w, batch = net.start(seeds), net.stream(seeds)(0)
    seen = net.observe(w, seeds)
    assert set(seen) == set(net.quantities)
    g = torch.cat([v.flatten(1) for v in net.gradient(w, batch).values()], 1)
    np.testing.assert_allclose(seen["grad_norm"], torch.linalg.vector_norm(g, dim=1), atol=1e-12)
    # λ_max along its own eigenvector: the gradient's change over a short way
    more = type(net)(net.examples, products=60).observe(w, seeds)
    np.testing.assert_allclose(seen["lambda_max"], more["lambda_max"], rtol=1e-3)
    for share in ("top_share", "cluster_share"):
        assert ((seen[share] > 0) & (seen[share] <= 1 + 1e-12)).all()
    assert (seen["cluster_share"] >= seen["top_share"] - 1e-12).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TanhMLP(0), "examples must be a whole number >= 1"),
        (lambda: TanhConvNet(1798), "examples must be at most 1797"),
        (lambda: TanhMLP(noise=-1.0), "noise must be a finite number >= 0"),
        (lambda: TanhMLP(noise=math.nan), "noise must be a finite number >= 0"),
        (lambda: TanhMLP(products=1), "products must be a whole number >= 2"),
    ],
)
def test_bad_input(make, told):
    with pytest.raises(ThalwegError, match=told):
        make()


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("final", r"under 'weight1', one for each seed, got 'final': pass the final of a run"),
        ({}, r"origin must have rows of shape \(10, 40\) under 'weight1'.* got \{\}"),
        ({"weight1": np.zeros((2, 3, 3))}, r"got array\(\[\[\["),
    ],
)
def test_an_origin_is_the_end_of_a_run_of_the_same_network(origin, told):
    with pytest.raises(ThalwegError, match=told):
        TanhMLP(7, origin=origin)


def test_an_origin_has_a_row_for_every_seed():
    final = simulate(TanhMLP(7), eta=0.1, seed=[0, 1], steps=0).final
    with pytest.raises(ThalwegError, match=r"seed must be the number of a row .* 0 to 1, got 2$"):
        TanhMLP(7, origin=final).start(torch.tensor([2, 0]))
