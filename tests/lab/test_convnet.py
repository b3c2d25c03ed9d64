"""The convolutional network on the digits, and the gradients that are written out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.lab import Digits, data, simulate
from thalweg.lab.convnet import DigitsConv
from thalweg.lab.problems import Problem

SEEDS = torch.tensor([0, 1, 1, 7])
SETTINGS = {"n_train": 200, "batch_size": 50, "label_noise": 0.3, "width": 6}


def plain(params, cell):
    """The network of one cell, in torch's own layers."""
    width = params["weight1"].shape[1]
    conv, linear = nn.Conv2d(1, width, 4, stride=2), nn.Linear(9 * width, 10)
    conv.weight.data = params["weight1"][cell].view(width, 1, 4, 4).clone()
    conv.bias.data = params["bias1"][cell, :, 0].clone()
    linear.weight.data = params["weight2"][cell].clone()
    linear.bias.data = params["bias2"][cell, :, 0].clone()
    return nn.Sequential(nn.Unflatten(1, (1, 8)), conv, nn.ReLU(), nn.Flatten(), linear)


def test_against_a_plain_network():
    task = DigitsConv(**SETTINGS, loss_scale=4.0)
    run = simulate(task, eta=0.02, rho=0.1, seed=SEEDS.numpy(), steps=60)
    params = {k: torch.tensor(v) for k, v in run.final.items()}
    images, targets = data.digits()
    # the same images and labels as the perceptron's, in another form
    patches, labels = task.stream(SEEDS)(3)
    x, same = Digits(**SETTINGS).stream(SEEDS)(3)
    assert torch.equal(labels, same)
    loss, gradient = task.loss(params, (patches, labels)), task.gradient(params, (patches, labels))
    for cell, seed in enumerate(SEEDS.tolist()):
        net, s = plain(params, cell), data.split(seed, 200, 0.3)
        expected = 4 * nn.functional.cross_entropy(net(x[cell].view(-1, 8, 8)), labels[cell])
        expected.backward()
        torch.testing.assert_close(loss[cell], expected.detach(), rtol=1e-5, atol=0)
        weight = net[1].weight.grad.flatten(1)
        torch.testing.assert_close(gradient["weight1"][cell], weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient["bias2"][cell, :, 0], net[4].bias.grad)
        with torch.no_grad():
            for part in ("validation", "test"):
                rows = getattr(s, part)
                right = (net(images[rows].view(-1, 8, 8)).argmax(-1) == targets[rows]).float()
                found = float(run.observed[f"{part}_accuracy"][cell])
                assert found == pytest.approx(float(right.mean()), abs=0.5 / len(rows))
                assert found > 0.5  # it has learned something: patches belong to labels
            whole = 4 * nn.functional.cross_entropy(net(images[s.train].view(-1, 8, 8)), s.labels)
            torch.testing.assert_close(float(run.loss[cell]), float(whole), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [Digits, DigitsConv])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_written_out_gradient_is_autograds(kind, scale):
    task = kind(**SETTINGS, loss_scale=scale)
    params, batch = task.start(SEEDS), task.stream(SEEDS)(0)
    found, expected = task.gradient(params, batch), Problem.gradient(task, params, batch)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == params[name].shape
        assert found[name].is_contiguous()
        assert float(value.abs().max()) > 0
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_a_problem_with_another_loss_has_that_losss_gradient():
    class Squared(Digits):
        def loss(self, params, batch=None):
            return sum((p**2).flatten(1).sum(1) for p in params.values()) / 2

    task = Squared(**SETTINGS)
    params = task.start(SEEDS)
    for name, value in task.gradient(params, task.stream(SEEDS)(0)).items():
        assert torch.equal(value, params[name])


def test_initialization_is_that_of_torchs_layers():
    params = DigitsConv(**{**SETTINGS, "width": 40}).start(torch.arange(12))
    for i, fan_in in ((1, 16), (2, 360)):
        bound = fan_in**-0.5
        for name in ("weight", "bias"):
            values = params[f"{name}{i}"].numpy()
            assert np.abs(values).max() <= bound
            assert values.std() == pytest.approx(bound / 3**0.5, rel=5 / values.size**0.5)
    one = DigitsConv(**SETTINGS).start(SEEDS)
    assert all(torch.equal(v[1], v[2]) and not torch.equal(v[0], v[1]) for v in one.values())
