"""Small networks on digits, trained for a while, and their dense Hessians."""

from __future__ import annotations

import copy
import functools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


class Attention(nn.Module):
    """The rows of an image look at one another."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(8, 8)
        self.three = nn.Linear(8, 24)
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        rows = torch.tanh(self.read(x.view(-1, 8, 8)))
        heads = [part.unflatten(-1, (2, 4)) for part in self.three(rows).chunk(3, -1)]
        # (N, heads, rows, 4)
        seen = functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in heads))
        return self.out(seen.transpose(1, 2).flatten(2).mean(1))


def mlp():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.Tanh(),
        nn.Linear(6, 10),
    )


def convnet():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(12, 10),
    )


BUILDERS = {"mlp": mlp, "convnet": convnet, "attention": Attention}
NAMES = list(BUILDERS)
SIZES = [20, 7, 30, 7]


def digits(n=64, dtype=torch.float64, start=0):
    """Return a batch: images, (N, 64), from -1 to 1, and labels, (N,)."""
    x, y = (torch.tensor(a[start : start + n]) for a in load_data())
    return x.to(dtype) / 8 - 1, y


@functools.cache
def load_data():
    return load_digits(return_X_y=True)


def loss_of(model, batch):
    x, y = batch
    return functional.cross_entropy(model(x), y)


def net(name, dtype=torch.float64, steps=100, seed=0):
    """Return a network after some steps of gradient descent; its own copy each time."""
    return copy.deepcopy(_trained(name, steps, seed)).to(dtype)


@functools.cache
def _trained(name, steps, seed):
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    model = BUILDERS[name]().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, digits()).backward()
        optimizer.step()
    optimizer.zero_grad()
    torch.set_rng_state(before)
    return model


def dense(model, batch, loss_of=loss_of):
    """Return the Hessian, (D, D), row by row, in the mode the model is in, with a trace left."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    shapes = [p.shape for p in model.parameters() if p.requires_grad]
    start = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

    def called(w):
        cut = torch.split(w, [shape.numel() for shape in shapes])
        parts = {n: c.view(s) for n, c, s in zip(names, cut, shapes, strict=True)}
        return loss_of(lambda x: functional_call(model, parts, (x,)), batch)

    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(called, start)


@functools.cache
def known(name, seed=0, n=64):
    """Return a network in evaluation mode, a batch and the dense Hessian there; not to be moved."""
    model, batch = net(name, seed=seed).eval(), digits(n)
    return model, batch, dense(model, batch)


def state(model):
    """Return all that a measurement could leave behind, in a form that == compares."""
    return {
        "weights": [(n, p.data_ptr(), p.tolist()) for n, p in model.named_parameters()],
        "versions": [p._version for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "buffers": [(n, b.data_ptr(), b.tolist()) for n, b in model.named_buffers()],
        "modes": [layer.training for layer in model.modules()],
        "numbers": torch.get_rng_state().tolist(),
        "kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
    }


def matrix(product):
    """Return the matrix whose product it is, column by column."""
    rows = torch.eye(product.size, dtype=product.parameters[0].dtype)
    return torch.stack([product(row) for row in rows]).mT


class Dense:
    """A product with a dense matrix, quick enough for hundreds of searches."""

    def __init__(self, matrix, gradient=None):
        self.matrix, self.size, self.count = matrix, len(matrix), 0
        self.parameters = (torch.zeros(self.size, dtype=matrix.dtype),)
        self.gradient = list(self.parameters) if gradient is None else gradient

    def __call__(self, vector):
        self.count += 1
        return self.matrix @ vector


def of(values, vectors=None):
    """Return a loss whose Hessian has these eigenvalues, and its parameters."""
    values = torch.as_tensor(values, dtype=torch.float64)
    w = torch.linspace(0.5, 1.5, len(values), dtype=torch.float64, requires_grad=True)
    turn = torch.eye(len(values), dtype=torch.float64) if vectors is None else vectors
    return lambda: (values * (turn.mT @ w) ** 2).sum() / 2, [w]


def turn(size, seed=0):
    """Return a random rotation, (size, size)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q


def batches(dtype=torch.float64):
    """Return 64 images in batches of different sizes."""
    x, y = digits(sum(SIZES), dtype)
    return list(zip(x.split(SIZES), y.split(SIZES), strict=True))


def noticing():
    """Return a network in which a measurement could leave traces everywhere."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(64, 5),
        nn.BatchNorm1d(5),
        nn.Dropout(0.4),
        nn.Tanh(),
        nn.BatchNorm1d(5, momentum=None),
        nn.Linear(5, 10),
    ).double()
    model[4].eval()  # a layer of its own mode
    loss_of(model, digits(16)).backward()
    model[0].bias.grad = None
    return model
