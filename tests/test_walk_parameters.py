"""Every method with parameters as they come: sparse, tied, frozen, unused, of 16 bits."""

import math

import pytest
import torch
from family import (
    FRIENDLY,
    METHODS,
    build,
    close,
    grads,
    loss_of,
    same,
    weights,
)
from torch import nn

from thalweg import SAM, Method
from thalweg.ascent import (
    L2,
    Across,
    Every,
    Gaussian,
    LargestEntries,
    Magnitude,
    Mix,
    Momentum,
    Previous,
    Rescaled,
    SurrogateGap,
)

EVERY = pytest.mark.parametrize("name", METHODS)


PARTS = {
    "plain": Method(),
    "mean": Method(direction=FRIENDLY),
    "ascents": Method(direction=FRIENDLY, ascents=2),
    "points": Method(points=(0.5, 1.0)),
    "momentum": Method(direction=Momentum()),
    "previous": Method(direction=Previous()),
    "gaussian": Method(direction=Gaussian(1)),
    "look_back": Method(gate=Every(2), reuse=Across()),
    "mix": Method(combine=Mix(0.5)),
    "gap": Method(combine=SurrogateGap(), mask=LargestEntries(0.5)),
    "rescaled": Method(combine=Rescaled(), ball=L2(scale=Magnitude(biases=True), over="tensor")),
}


class Words(nn.Module):
    """An embedding, with sparse gradients or without."""

    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4, sparse=sparse, dtype=torch.float64)
        self.last = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, words):
        return self.last(torch.tanh(self.table(words).sum(1)))


@pytest.mark.parametrize("name", PARTS)
def test_sparse_gradients_are_as_dense_ones(name):
    found = []
    for sparse in (True, False):
        model = Words(sparse=sparse)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.5 if name == "momentum" else 0.0
        )
        sam = SAM(optimizer, model, 0.2, method=PARTS[name])
        for step in range(5):
            draw = torch.Generator().manual_seed(step)
            words = torch.randint(7, (6, 3), generator=draw)
            held = torch.randint(7, (6, 3), generator=draw)
            optimizer.zero_grad()
            (model(held) ** 2).mean().backward()
            for _ in sam.passes():
                ((model(words) - 1) ** 2).mean().backward()
            assert model.table.weight.grad.is_sparse == sparse
            optimizer.step()
        found.append(weights(model))
        memory = sam.state_dict().get("memory", {"tensors": {}})
        assert not any(t.is_sparse for held in memory["tensors"].values() for t in held.values())
    close(*found)


class Odd(nn.Module):
    """Tied weights, a frozen one, one that is never used, one that is used in some passes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.last = nn.Linear(5, 3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.sometimes = nn.Parameter(torch.ones(3))
        self.asked = True

    def forward(self, x):
        out = self.last(torch.tanh(self.second(torch.tanh(self.first(x))))) + self.frozen
        return out + self.sometimes if self.asked else out


@pytest.mark.parametrize("asked", [0, 1, 2, None])
@pytest.mark.parametrize("name", PARTS)
def test_parameters_that_are_tied_frozen_unused_or_used_in_some_passes(name, asked):
    model = Odd().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sam = SAM(optimizer, model, 0.2, method=PARTS[name])
    for step in range(4):
        before = weights(model)
        optimizer.zero_grad()
        for here in sam.passes():
            model.asked = asked is None or here.index == asked
            assert model.frozen.tolist() == [1, 1, 1]  # a direction without gradient, too
            loss_of(model, step)().backward()
        assert same(before, weights(model))
        assert model.unused.grad is None
        optimizer.step()
    assert model.frozen.tolist() == [1, 1, 1]
    assert model.unused.tolist() == [1, 1]
    assert model.first.weight is model.second.weight
    assert not same(before, weights(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY
def test_16_bit_weights_come_back_and_memories_are_wider(name, dtype):
    """Compared with the same in float32 from the same start: the first SAM gradient is close."""
    sam, model = build(name, dtype=dtype, norm=False)
    wide, twin = build(name, dtype=torch.float32, norm=False)
    twin.load_state_dict(model.state_dict())
    for each, trained in ((sam, model), (wide, twin)):
        at = weights(trained)
        for _ in each.passes():
            loss_of(trained, 0)().backward()
        assert same(at, weights(trained))
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads(twin)))
    gap = math.dist(*(torch.cat([g.flatten().float() for g in grads(m)]) for m in (model, twin)))
    assert gap < 0.1 * norm
    sam.optimizer.step()
    for step in range(1, 4):
        at = weights(model)
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            loss_of(model, step)().backward()
        assert same(at, weights(model))
        sam.optimizer.step()
    memory = sam.state_dict().get("memory", {"tensors": {}})
    kinds = {t.dtype for held in memory["tensors"].values() for t in held.values()}
    assert kinds <= {torch.float32, dtype}
    held = memory["tensors"].values()
    means = {t.dtype for one in held for key, t in one.items() if key == "mean"}
    assert means == ({torch.float32} if name in ("mean", "mean_ascents", "mixture") else set())
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
