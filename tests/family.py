"""Methods that take one, two or more gradients a step, with gates and memories, and a network."""

from __future__ import annotations

import torch
from torch import nn

from thalweg import SAM, Method
from thalweg.ascent import (
    L2,
    Across,
    AdamMetric,
    Adaptive,
    Between,
    Cosine,
    Decoupled,
    Every,
    FanRatio,
    Fisher,
    FollowLR,
    Gaussian,
    Given,
    LargestEntries,
    LargestTensors,
    Linear,
    LInf,
    Magnitude,
    Mix,
    Momentum,
    Monge,
    Named,
    Normalization,
    Nuclear,
    Previous,
    Random,
    Rescaled,
    Spectral,
    Spherical,
    SurrogateGap,
    Trust,
    Window,
    Within,
    WithMean,
)


def ones(weights):
    return [torch.ones_like(w) for w in weights]


FRIENDLY = WithMean(gradient=1.0, mean=-0.5, decay=0.7)

#: Where a step takes one gradient, its direction is known before.
METHODS = {
    "plain": Method(),
    "mean": Method(direction=FRIENDLY),
    "momentum": Method(direction=Momentum()),
    "previous": Method(direction=Previous()),
    "given": Method(direction=Given(ones)),
    "gaussian": Method(direction=Gaussian(seed=3)),
    "gaussian_points": Method(direction=Gaussian(seed=3, per_filter=True), points=(1.0, 0.5)),
    "ascents": Method(ascents=3),
    "mean_ascents": Method(direction=FRIENDLY, ascents=2),
    "points": Method(points=(0.5, 1.0)),
    "look_back": Method(gate=Every(2), reuse=Across(alpha=0.7)),
    "adaptive": Method(gate=Adaptive(steps=8)),
    "adaptive_reuse": Method(gate=Adaptive(steps=8), reuse=Across(alpha=0.7), ascents=2),
    "random": Method(gate=Random(0.5, seed=1), schedule=Linear(steps=5, start=0.5, end=1.0)),
    "window": Method(gate=Window(1, 4), schedule=Cosine(steps=5, start=1.0, end=0.5)),
    "follow": Method(schedule=FollowLR(lr_max=0.05), power=0.5),
    "named": Method(filter=Named(r"^3\.|^0\.bias"), power=0.5),
    "within": Method(filter=Within(nn.Linear)),
    "normalization": Method(filter=Normalization()),
    "entries": Method(mask=LargestEntries(0.3), ball=LInf()),
    "tensors": Method(mask=LargestTensors(2), ball=L2(over="layer")),
    "magnitude": Method(ball=L2(scale=Magnitude(0.1)), combine=Rescaled()),
    "adam_metric": Method(ball=L2(scale=AdamMetric())),
    "gap": Method(combine=SurrogateGap(0.4)),
    "mix": Method(combine=Mix(0.7), gate=Every(2)),
    "spherical": Method(combine=Spherical(1.5)),
    "decoupled": Method(combine=Decoupled(0.7)),
    "mixture": Method(
        direction=FRIENDLY,
        mask=LargestEntries(0.5),
        gate=Adaptive(steps=6),
        reuse=Across(0.5),
        combine=Mix(0.8),
        ascents=2,
        points=(0.5, 1.0),
    ),
    # Balls whose norm is not the gradient's, laws for the length, numbers for each tensor.
    "spectral": Method(ball=Spectral(scale=FanRatio())),
    "nuclear": Method(ball=Nuclear(scale=Trust(), over="layer"), power=0.5),
    "fisher": Method(ball=L2(scale=Fisher()), size=Between(0.3)),
    "monge": Method(ball=L2(scale=FanRatio(), over="tensor"), size=Monge()),
}


def net(*, norm=True, dropout=0.0, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    middle = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
    layers = [nn.Linear(5, 8), middle, nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*layers, nn.Dropout(dropout)).to(dtype)


def base(name, model):
    if name == "adam_metric":
        # eps: the first bias gets a gradient of pure rounding, of which Adam would make much
        return torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def build(name, *, rho=0.2, **options):
    """Return SAM and the network that it trains."""
    kwargs = {k: options.pop(k) for k in ("scaler", "telemetry") if k in options}
    model = net(**options)
    return SAM(base(name, model), model, rho, method=METHODS[name], **kwargs), model


def loss_of(model, step, part=slice(None)):
    """Return the loss of a batch, as a function without arguments; some are larger than others."""
    draw = torch.Generator().manual_seed(1000 + step)
    x, y = (torch.randn(16, k, generator=draw, dtype=torch.float64) for k in (5, 3))
    p = next(model.parameters())
    x, y = x[part].to(p.dtype), (1 + step % 3) * y[part].to(p.dtype)
    return lambda: ((model(x) - y) ** 2).mean()


def train(sam, model, steps, seen=None):
    """Train; ``seen`` gets the number of gradients of every step."""
    for step in steps:
        sam.optimizer.zero_grad()
        sam.optimizer.param_groups[0]["lr"] = 0.02 + 0.01 * (step % 3)
        count = 0
        for _ in sam.passes():
            loss_of(model, step)().backward()
            count += 1
        sam.optimizer.step()
        if seen is not None:
            seen.append(count)
    return model


def add(left, right):
    return [a + b for a, b in zip(left, right, strict=True)]


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def grads(model):
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def same(left, right):
    """Whether two lists of tensors have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def close(left, right, tolerance=1e-12):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def flat(state):
    """A state as a dict of plain values that can be compared."""
    memory = state.get("memory", {"numbers": {}, "tensors": {}})
    found = {("step",): state.get("step"), **{("n", k): v for k, v in memory["numbers"].items()}}
    for i, held in memory["tensors"].items():
        found |= {(int(i), name): t.tolist() for name, t in held.items()}
    return found
