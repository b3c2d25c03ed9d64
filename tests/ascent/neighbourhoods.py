"""The balls and their scales written out, and what several files draw from."""

import math

import torch

from thalweg.ascent import (
    L2,
    AdamMetric,
    Context,
    FanRatio,
    Fisher,
    LInf,
    Magnitude,
    Nuclear,
    Spectral,
    Trust,
)
from thalweg.ascent.scale import Radii

# Two layers with biases, a convolution, a number.
SHAPES = ((4, 3), (4,), (2, 4), (2,), (3, 2, 2, 2), ())
LAYERS = (0, 0, 1, 1, 2, 3)
SCALES = {
    "one": None,
    "magnitude": Magnitude(0.1, biases=True),
    "magnitude of matrices": Magnitude(0.1),
    "trust": Trust(),
    "fan": FanRatio(),
    "fisher": Fisher(0.5),
    "adam": AdamMetric(1e-3, 0.999),
    "radii": Radii((1.0, 0.2, 3.0, 0.5, 2.0, 0.7)),
}
#: The norm of a tensor in each ball, and the dual one, of its singular values or its entries.
BALLS = {
    L2: (torch.linalg.vector_norm, torch.linalg.vector_norm),
    LInf: (lambda t: t.abs().max(), lambda t: t.abs().sum()),
    Spectral: (lambda t: values(t).max(), lambda t: values(t).sum()),
    Nuclear: (lambda t: values(t).sum(), lambda t: values(t).max()),
}
OVER = ("all", "layer", "tensor")
CASES = [(ball, over) for ball in BALLS for over in OVER]


def values(tensor):
    return torch.linalg.svdvals(tensor.reshape(len(tensor) if tensor.ndim else 1, -1))


def draw(seed, shapes=SHAPES, spread=1.0):
    """Normal tensors, of different sizes; some of a low rank, or zero."""
    g = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    found = [t * 10 ** (spread * torch.randn((), generator=g, dtype=t.dtype)) for t in found]
    kind = seed % 4
    if kind == 1:
        found[2] = torch.zeros_like(found[2])
    if kind == 2:
        found[0] = found[0][:1] * found[1][:, None]
    return found


def context(seed, shapes=SHAPES):
    weights = draw(4 * seed, shapes)
    held = {"exp_avg_sq": [w * w for w in draw(4 * seed + 4, shapes)], "step": [3.0] * len(shapes)}
    return Context(weights=weights, step=3, state=held.get, layers=lambda: LAYERS)


def units(name, direction, context):
    """S as tensors, written out."""
    w = context.weights
    v = [v / (1 - 0.999**3) for v in context.state("exp_avg_sq")]
    numbers = {
        "one": [1.0 for _ in w],
        "magnitude": [t.abs() + 0.1 for t in w],
        "magnitude of matrices": [t.abs() + 0.1 if t.ndim > 1 else 1.0 for t in w],
        "trust": [t.square().sum().sqrt() for t in w],
        "fan": [math.sqrt(len(t) ** 2 / t.numel()) if t.ndim else 1.0 for t in w],
        "fisher": [1 / (d * d + 0.5).sqrt() for d in direction],
        "adam": [(t + 1e-3) ** -0.25 for t in v],
        "radii": [1.0, 0.2, 3.0, 0.5, 2.0, 0.7],
    }
    return [torch.ones_like(t) * s for t, s in zip(w, numbers[name], strict=True)]


def norm(norms, over):
    """The norm of all tensors from those of each."""
    groups = {"all": [0] * len(norms), "tensor": range(len(norms)), "layer": LAYERS}[over]
    squares = [0.0] * (max(groups) + 1)
    for group, n in zip(groups, norms, strict=True):
        squares[group] += float(n) ** 2
    return math.sqrt(max(squares))


def own(ball, over, tensors, s):
    """The length of tensors in the ball's own norm, in the units S."""
    return norm([BALLS[ball][0](t / u) for t, u in zip(tensors, s, strict=True)], over)


def inner(left, right):
    return float(sum((a * b).sum() for a, b in zip(left, right, strict=True)))


def epsilon(method, direction, rho, context, scale=None):
    p = method.perturbation(direction, rho, context=context, scale=scale)
    return [p.factor * s for s in p.direction], p


def close(found, expected, rtol=1e-9, atol=1e-12):
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=rtol, atol=atol)


def both(left, right):
    return [a * b for a, b in zip(left, right, strict=True)]
