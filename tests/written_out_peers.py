"""The methods of pytorch_optimizer and ours, in plain tensors: a switch for every difference."""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

STEPS, LR, RHO = 7, 0.2, 0.4


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    with torch.no_grad():  # so that biases count where weights are a scale
        for p in net.parameters():
            p += 0.2 * torch.randn_like(p)
    return net


@functools.cache
def batches():
    x, y = (torch.tensor(a[: 32 * STEPS]) for a in load_digits(return_X_y=True))
    return list(zip((x.double() / 8 - 1).split(32), y.split(32), strict=True))


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def apart(found, expected):
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


class Problem:
    """The gradient at any weights; lengths in float64, or rounded where theirs are."""

    def __init__(self, rounded):
        self.net, self.rounded = network(), rounded
        self.names = [name for name, _ in self.net.named_parameters()]

    def gradient(self, w, t):
        x, y = batches()[t]
        w = [v.clone().requires_grad_() for v in w]
        out = functional_call(self.net, dict(zip(self.names, w, strict=True)), (x,))
        return list(torch.autograd.grad(cross_entropy(out, y), w))

    def length(self, tensors):
        lengths = torch.stack([v.norm() for v in tensors])
        if self.rounded:
            return lengths.float().square().sum().sqrt()
        return lengths.square().sum().sqrt()

    def uphill(self, w, direction, units=None, rho=RHO):
        units = [1.0] * len(w) if units is None else units
        c = rho / self.length([s * d for s, d in zip(units, direction, strict=True)])
        return [v + c.double() * s * s * d for v, s, d in zip(w, units, direction, strict=True)]


def inner(a, b):
    return sum((u * v).sum() for u, v in zip(a, b, strict=True))


def sam(problem, w, t, memory):
    return problem.gradient(problem.uphill(w, problem.gradient(w, t)), t)


def asam(problem, w, t, memory, *, offset, biases):
    units = [v.abs() + offset if biases or v.ndim > 1 else torch.ones_like(v) for v in w]
    return problem.gradient(problem.uphill(w, problem.gradient(w, t), units), t)


def gsam(problem, w, t, memory, *, follow=False):
    g = problem.gradient(w, t)
    h = problem.gradient(problem.uphill(w, g, rho=RHO * 0.5**t if follow else RHO), t)
    along = inner(g, h) / problem.length(h).double() ** 2
    return [b - 0.4 * (a - along * b) for a, b in zip(g, h, strict=True)]


def wsam(problem, w, t, memory, *, gamma, decoupled, momentum=0.0):
    g = problem.gradient(w, t)
    h = problem.gradient(problem.uphill(w, g), t)
    k = gamma / (1 - gamma)
    more = [k * (b - a) for a, b in zip(g, h, strict=True)]
    into = g if decoupled else [a + m for a, m in zip(g, more, strict=True)]
    held = memory.get("momentum")
    held = into if held is None else [momentum * v + a for v, a in zip(held, into, strict=True)]
    memory["momentum"] = held
    return [v + m for v, m in zip(held, more, strict=True)] if decoupled else held


def looksam(problem, w, t, memory, *, per_tensor, tiny):
    g = problem.gradient(w, t)
    lists = [[i] for i in range(len(w))] if per_tensor else [list(range(len(w)))]
    if t % 3 == 0:
        h = problem.gradient(problem.uphill(w, g), t)
        memory["across"] = across = [None] * len(w)
        for rows in lists:
            mine = [g[i] for i in rows], [h[i] for i in rows]
            share = inner(*mine) / inner(mine[0], mine[0])
            for i in rows:
                across[i] = h[i] - share * g[i]
        return h
    found = list(g)
    for rows in lists:
        mine = [g[i] for i in rows], [memory["across"][i] for i in rows]
        share = inner(mine[0], mine[0]).sqrt() / (inner(mine[1], mine[1]).sqrt() + tiny)
        for i in rows:
            found[i] = g[i] + 0.7 * share * memory["across"][i]
    return found


def friendly(problem, w, t, memory, *, sigma, decay, starts_with_g, takes_old):
    g = problem.gradient(w, t)
    if t == 0 and starts_with_g:
        memory["mean"], d = g, g
    else:
        old = memory.get("mean", [torch.zeros_like(a) for a in g])
        memory["mean"] = new = [decay * m + (1 - decay) * a for m, a in zip(old, g, strict=True)]
        d = [a - sigma * m for a, m in zip(g, old if takes_old else new, strict=True)]
    return problem.gradient(problem.uphill(w, d), t)


def written_out(formula, *, rounded, **switches):
    problem, memory = Problem(rounded), {}
    w = weights(problem.net)
    for t in range(STEPS):
        lr = LR * 0.5**t if switches.get("follow") else LR
        w = [v - lr * u for v, u in zip(w, formula(problem, w, t, memory, **switches), strict=True)]
    return w
