"""Balls of sharded tensors are those of the whole ones; what they give is sharded alike."""

from __future__ import annotations

import torch
from harness import WORLD, case
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from thalweg import parameters
from thalweg.ascent import (
    L2,
    Context,
    FanRatio,
    Fisher,
    LInf,
    Magnitude,
    Nuclear,
    Spectral,
    Trust,
    draws,
)

# Cut evenly and not; too short for every rank to hold a part; one number.
SHAPES = ((6, 4), (4, 6), (5, 3, 2), (7,), (1,), (3, 3), (6, 4), ())
BALLS = {
    "spectral": Spectral(),
    "spectral-fan": Spectral(FanRatio()),
    "spectral-fisher": Spectral(Fisher(), over="all"),
    "nuclear": Nuclear(),
    "largest-entry": LInf(),
    "largest-entry-asam": LInf(Magnitude(0.1, biases=True), over="all"),
    "per-tensor": L2(over="tensor"),
    "asam": L2(Magnitude()),
    "trust": L2(Trust()),
}


def lists(placement):
    """Directions and weights, whole and sharded."""
    mesh = init_device_mesh("cpu", (WORLD,))
    wholes, sharded = [], []
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        wholes.append([torch.randn(s, generator=g, dtype=torch.float64) for s in SHAPES])
        sharded.append(
            [
                distribute_tensor(
                    t, mesh, [placement if t.ndim > getattr(placement, "dim", -1) else Replicate()]
                )
                for t in wholes[-1]
            ]
        )
    return *wholes, *sharded


PLACEMENTS = (Shard(0), Shard(1), Replicate())


@case(ball=tuple(BALLS), placement=PLACEMENTS)
def ball_of_sharded_tensors(ball, placement):
    d, w, parts, held = lists(placement)
    expected, norm = BALLS[ball].sharp(d, Context(weights=w))
    found, n = BALLS[ball].sharp(parts, Context(weights=held))
    assert abs(float(n) - float(norm)) < 1e-10
    for f, e, p in zip(found, expected, parts, strict=True):
        assert f.placements == p.placements
        torch.testing.assert_close(f.full_tensor(), e, rtol=1e-10, atol=1e-10)


@case(order=(1, 2), placement=PLACEMENTS)
def norm_of_each_sharded_tensor(order, placement):
    d, _, parts, _ = lists(placement)
    found, expected = parameters.norms(parts, order), parameters.norms(d, order)
    assert all(type(n) is float for n in found)
    assert max(abs(f - e) for f, e in zip(found, expected, strict=True)) < 1e-12


@case(placement=PLACEMENTS)
def noise_of_sharded_tensors(placement):
    _, _, parts, _ = lists(placement)
    noise = [draws.seeded(p, 1, 2) for p in parts]
    assert [t.placements for t in noise] == [p.placements for p in parts]
    whole = noise[0].full_tensor()
    assert whole.unique().numel() == whole.numel()  # no rank draws what another does
