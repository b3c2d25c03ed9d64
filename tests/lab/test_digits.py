"""The digits: the split, the noise, the batches, and the ensemble against a plain network."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.lab import Digits, data, nets, simulate

SEEDS = torch.tensor([0, 1, 1, 7])


@pytest.mark.parametrize("n_train", [1, 64, 600, 1795])
@pytest.mark.parametrize("seed", [0, 3])
def test_splits_are_disjoint_and_complete(seed, n_train):
    s = data.split(seed, n_train, 0.3)
    parts = [s.train, s.validation, s.test]
    assert sorted(torch.cat(parts).tolist()) == list(range(1797))
    assert len(s.train) == len(s.labels) == n_train
    assert 0 <= len(s.test) - len(s.validation) <= 1


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
def test_the_share_of_noisy_labels(noise):
    changed = drawn = 0
    for seed in range(8):
        s = data.split(seed, 600, noise)
        wrong = int((s.labels != data.digits()[1][s.train]).sum())
        assert wrong <= noise * 600
        changed, drawn = changed + wrong, drawn + round(noise * 600)
    # one in ten of those drawn falls on the true one; within four standard deviations
    assert abs(changed - 0.9 * drawn) <= 4 * (drawn * 0.09) ** 0.5


def test_the_seed_decides_the_split_and_the_noise_leaves_the_images():
    clean, noisy, other = (data.split(*a) for a in ((5, 600, 0.0), (5, 600, 0.3), (6, 600, 0.3)))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(clean, part), getattr(noisy, part))
        assert not torch.equal(getattr(noisy, part), getattr(other, part))
    data.split.cache_clear()
    again = data.split(5, 600, 0.3)
    assert again is not noisy
    assert torch.equal(again.labels, noisy.labels)
    # not the same images of the training set for every seed, either
    mask, others = (s.labels != data.digits()[1][s.train] for s in (noisy, other))
    assert not torch.equal(mask, others)
    assert mask[180:].any()
    # every digit is drawn about as often as any other: 162 of them are wrong ones
    drawn = torch.cat([s.labels[m] for s, m in ((noisy, mask), (other, others))])
    assert drawn.bincount(minlength=10).min() > 10


def test_images():
    images, labels = data.digits()
    assert images.shape == (1797, 64)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert labels.bincount().min() > 150
    assert len(images.unique(dim=0)) == 1797  # the tests tell images apart by their pixels


def test_cells_of_a_seed_share_start_and_batches_and_no_other():
    task = Digits(n_train=200, batch_size=32, label_noise=0.5)
    start, (x, labels) = task.start(SEEDS), task.stream(SEEDS)(7)
    for value in (*start.values(), x):
        assert torch.equal(value[1], value[2])
        for i, j in ((0, 1), (0, 3), (1, 3)):
            assert not torch.equal(value[i], value[j])
    assert torch.equal(labels[1], labels[2])
    # and whoever else is in the program
    assert all(torch.equal(v, start[k][3:]) for k, v in task.start(SEEDS[3:]).items())
    alone = task.stream(SEEDS[3:])(7)
    assert torch.equal(alone[0], x[3:])
    assert torch.equal(alone[1], labels[3:])


def test_batches_are_drawn_without_replacement_in_each_epoch():
    s, images = data.split(4, 200, 0.5), data.digits()[0]
    stream = Digits(n_train=200, batch_size=32, label_noise=0.5).stream(torch.tensor([4]))
    rows = [tuple(row) for row in images[s.train].tolist()]
    label = dict(zip(rows, s.labels.tolist(), strict=True))
    epochs = []
    for epoch in range(3):
        batches = [stream(6 * epoch + turn) for turn in range(6)]  # 200 // 32
        assert all(x.shape == (1, 32, 64) and y.shape == (1, 32) for x, y in batches)
        rows = [tuple(row) for x, _ in batches for row in x[0].tolist()]
        assert len(set(rows)) == len(rows) == 192
        # from the training images alone, each with its own, perhaps noisy, label
        assert [label[row] for row in rows] == [int(v) for _, y in batches for v in y[0]]
        epochs.append(rows)
    for one, other in itertools.combinations(epochs, 2):
        assert one != other
    again = [tuple(row) for row in stream(0)[0][0].tolist()]  # steps may be asked for in any order
    assert again == epochs[0][:32]


def plain(params, cell):
    """The network of one cell, in torch's own layers."""
    first, second = (nn.Linear(*params[f"weight{i}"].shape[1:]) for i in (1, 2))
    for i, layer in ((1, first), (2, second)):
        layer.weight.data = params[f"weight{i}"][cell].T.contiguous()
        layer.bias.data = params[f"bias{i}"][cell, 0].clone()
    return nn.Sequential(first, nn.ReLU(), second)


@pytest.fixture(scope="module")
def trained():
    task = Digits(n_train=200, label_noise=0.3, width=16, loss_scale=4.0)
    run = simulate(task, eta=0.01, seed=SEEDS.numpy(), rho=[0, 0, 0.1, 0.1], steps=40)
    return task, {k: torch.tensor(v) for k, v in run.final.items()}, run


def test_digits_against_a_plain_network(trained):
    task, params, run = trained
    images, targets = data.digits()
    x, labels = task.stream(SEEDS)(3)
    loss, gradient = task.loss(params, (x, labels)), task.gradient(params, (x, labels))
    for cell, seed in enumerate(SEEDS.tolist()):
        net, s = plain(params, cell), data.split(seed, 200, 0.3)
        expected = 4 * nn.functional.cross_entropy(net(x[cell]), labels[cell])
        expected.backward()
        torch.testing.assert_close(loss[cell], expected.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient["weight1"][cell].T, net[0].weight.grad)
        torch.testing.assert_close(gradient["bias2"][cell, 0], net[2].bias.grad)
        with torch.no_grad():
            whole = 4 * nn.functional.cross_entropy(net(images[s.train]), s.labels)
            torch.testing.assert_close(float(run.loss[cell]), float(whole), rtol=1e-5, atol=0)
            for part in ("validation", "test"):
                rows = getattr(s, part)
                right = (net(images[rows]).argmax(-1) == targets[rows]).float().mean()
                found = float(run.observed[f"{part}_accuracy"][cell])
                assert found == pytest.approx(float(right), abs=0.5 / len(rows))
                assert found > 0.5  # it has learned something: the labels belong to the images


def test_networks_of_any_depth():
    widths = [3, 5, 4, 2]
    params = nets.mlp_start(widths, [0, 9])
    assert [tuple(p.shape[1:]) for p in params.values()] == [
        shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (1, b))
    ]
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    found = nets.mlp(params, x)
    for cell in range(2):
        y = x[cell]
        for i in (1, 2, 3):
            y = y @ params[f"weight{i}"][cell] + params[f"bias{i}"][cell]
            y = y.clamp(min=0) if i < 3 else y
        torch.testing.assert_close(found[cell], y)
    changed = {k: torch.stack([v[0], v[1] + 1]) for k, v in params.items()}
    assert torch.equal(nets.mlp(changed, x)[0], found[0])


def test_initialization_is_that_of_torchs_linear_layer():
    params = nets.mlp_start([64, 100, 10], list(range(20)))
    for i, fan_in in ((1, 64), (2, 100)):
        bound = fan_in**-0.5
        for name in ("weight", "bias"):
            values = params[f"{name}{i}"].numpy()
            assert np.abs(values).max() <= bound
            n, spread = values.size, bound / 3**0.5
            assert abs(values.mean()) < 5 * spread / n**0.5
            assert values.std() == pytest.approx(spread, rel=5 / n**0.5)
