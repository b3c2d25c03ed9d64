"""A small task that is trained by a formula in plain tensor code, or by SAM with a method."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from thalweg import SAM

RHO, STEPS, MOMENTUM = 0.1, 6, 0.9
KEEP = 0.999  # of Adam's second moment


class Layer(nn.Module):
    """Holds a weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)


class SomeNorm(nn.Module):
    """Holds the bias; by its name it is a normalization layer."""

    def __init__(self, bias):
        super().__init__()
        self.bias = nn.Parameter(bias)


class Net(nn.Module):
    """Three tensors of different shapes: a layer's weight, a bias, a matrix by itself."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        make = functools.partial(torch.randn, generator=draw, dtype=torch.float64)
        self.first = Layer(make(4, 3))
        self.norm = SomeNorm(make(4))
        self.last = nn.Parameter(make(2, 4))

    @property
    def tensors(self):
        return [self.first.weight, self.norm.bias, self.last]


def loss(tensors, batch):
    (first, bias, last), (x, y) = tensors, batch
    return ((torch.tanh(x @ first.T + bias) @ last.T - y) ** 2).mean()


def batches(t, parts=1):
    draw = torch.Generator().manual_seed(100 + t)
    x, y = (torch.randn(8, k, generator=draw, dtype=torch.float64) for k in (3, 2))
    return list(zip(x.chunk(parts), y.chunk(parts), strict=True))


def rate(t):
    return 0.2 / (1 + t)


class Step:
    """A step as a formula sees it: weights, gradients, what was kept, the base optimizer."""

    def __init__(self, w, t, batch, kept, base):
        self.w, self.t, self.batch, self.kept, self.base = w, t, batch, kept, base
        self.beside = [torch.zeros_like(x) for x in w]  # what goes past the base optimizer
        self.g = self.at(None)

    def at(self, e):
        """The gradient at w + e."""
        there = self.w if e is None else [w + x for w, x in zip(self.w, e, strict=True)]
        there = [w.detach().clone().requires_grad_() for w in there]
        return list(torch.autograd.grad(loss(there, self.batch), there))

    def before(self, name):
        return self.kept.get(name) or [torch.zeros_like(w) for w in self.w]


def by_hand(formula, base, parts):
    """Return what the base optimizer got in each step, and the last weights."""
    w, kept, got = [p.detach().clone() for p in Net().tensors], {}, []
    m, v = ([torch.zeros_like(x) for x in w] for _ in range(2))
    for t in range(STEPS):
        known = {"m": m, "v": v, "lr": rate(t)}
        steps = [Step(w, t, batch, kept, known) for batch in batches(t, parts)]
        u = [sum(some) / parts for some in zip(*map(formula, steps), strict=True)]
        beside = [sum(some) for some in zip(*(s.beside for s in steps), strict=True)]
        got.append(u)
        if base == "adam":
            m = [0.9 * a + 0.1 * x for a, x in zip(m, u, strict=True)]
            v = [KEEP * a + (1 - KEEP) * x * x for a, x in zip(v, u, strict=True)]
            first, second = 1 - 0.9 ** (t + 1), 1 - KEEP ** (t + 1)
            pairs = zip(m, v, strict=True)
            moves = [a / first / ((b / second).sqrt() + 1e-8) for a, b in pairs]
        else:
            moves = m = [MOMENTUM * a + x for a, x in zip(m, u, strict=True)]
        w = [x - rate(t) * (y + b) for x, y, b in zip(w, moves, beside, strict=True)]
    return got, w


def by_sam(method, base, parts, rho=RHO):
    """Return the same, and how many gradients there were."""
    model, got, count = Net(), [], 0
    adam, sgd = torch.optim.Adam, functools.partial(torch.optim.SGD, momentum=MOMENTUM)
    optimizer = (adam if base == "adam" else sgd)(model.tensors, lr=0.1)
    sam = SAM(optimizer, model, rho, method=method)
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(t)
        optimizer.zero_grad()
        for batch in batches(t, parts):
            for _ in sam.passes():
                count += 1
                loss(model.tensors, batch).backward()
        for p in model.tensors:
            p.grad = p.grad / parts
        got.append([p.grad.clone() for p in model.tensors])
        optimizer.step()
    return got, [p.detach() for p in model.tensors], count


#: Method, formula, base optimizer, micro-batches a step.
FORMULAS = {}


def of(method, base="sgd", parts=1):
    def keep(formula):
        FORMULAS[formula.__name__] = (method, formula, base, parts)
        return formula

    return keep


def norm(tensors):
    return math.sqrt(sum(float((x * x).sum()) for x in tensors))


def dot(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def times(number, tensors):
    return [number * x for x in tensors]


def along(d):
    """ε of SAM for a direction; 0 for none."""
    return times(RHO / norm(d) if norm(d) else 0.0, d)
