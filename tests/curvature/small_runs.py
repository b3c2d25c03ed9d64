"""Small networks, and a SAM object with a monitor, for the tests of the monitor."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from thalweg import SAM
from thalweg.curvature.monitor import Monitor


def half_squares(model, batch):
    x, y = batch
    return ((model(x) - y) ** 2).sum(1).mean() / 2


def digits(n=100, dtype=torch.float32):
    data = load_digits()
    x = torch.tensor(data.data[:n] / 16, dtype=dtype)
    return x, nn.functional.one_hot(torch.tensor(data.target[:n]), 10).to(dtype)


def perceptron(hidden=16, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))


def small(dtype=torch.float64, layers=()):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), *layers, nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def pair(n=12, seed=1, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, k, generator=draw, dtype=torch.float64).to(dtype) for k in (5, 3))


def train(sam, loss_of, batches):
    for batch in batches:
        for _ in sam.passes():
            loss_of(sam.model, batch).backward()
        sam.optimizer.step()
        sam.optimizer.zero_grad()


def watched(model=None, base=None, *, rho=0.05, batch=None, monitor=(), **sam):
    """A small SAM object with a monitor, and the list its records go to."""
    model = model or small()
    optimizer = (base or (lambda ps: torch.optim.SGD(ps, lr=0.1)))(model.parameters())
    records = []
    held = SAM(optimizer, model, rho, **sam)
    options = {"every": 1, "to": records.append} | dict(monitor)
    return held, Monitor(held, half_squares, batch or pair(), **options), records


def sgd(**group):
    return lambda params: torch.optim.SGD(params, lr=0.1, **group)


def two_groups(**second):
    def base(params):
        first, *rest = params
        return torch.optim.SGD([{"params": [first]}, {"params": rest, **second}], lr=0.1)

    return base
