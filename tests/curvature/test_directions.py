"""Directions: filter normalization, and what a plane explains of a trajectory."""

import math

import pytest
import torch
from torch import nn

from thalweg import ThalwegError
from thalweg.curvature.directions import filter_normalized, fitting, share_explained


def test_a_filter_is_as_long_as_the_models_own():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(7, 4),
            "convolution": nn.Conv2d(3, 5, 3),
            "normalization": nn.BatchNorm2d(5),
            "plane_norm": nn.LayerNorm((4, 4)),
            "back": nn.ConvTranspose2d(5, 2, 3),
            "linear": nn.Linear(6, 4),
        }
    )
    model["linear"].weight.data[1] = 0
    frozen = nn.Linear(2, 2).requires_grad_(False)
    model["frozen"] = frozen
    numbers = torch.get_rng_state()
    found = filter_normalized(model, seed=3)
    assert torch.equal(numbers, torch.get_rng_state())
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [d.shape for d in found] == [p.shape for p in named.values()]
    assert not any(d.requires_grad for d in found)
    parts = dict(zip(named, found, strict=True))
    for name, p in named.items():
        d = parts[name]
        if name.endswith("bias") or "norm" in name:
            assert not d.any()
            continue
        d, p = (d.transpose(0, 1), p.transpose(0, 1)) if "back" in name else (d, p)
        torch.testing.assert_close(d.flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))
        assert d.unique().numel() > 2
    assert len(parts["back.weight"].flatten(1)) == 5  # not the axis that was normalized
    again, other = filter_normalized(model, seed=3), filter_normalized(model, seed=4)
    assert all(map(torch.equal, found, again))
    assert not torch.equal(found[0], other[0])


def test_all_of_a_move_in_the_plane_is_explained():
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, generator=draw, dtype=torch.float64)
    moves = [a * first + b * second for a, b in torch.randn(9, 2, generator=draw).tolist()]
    assert share_explained(moves, first, second) == pytest.approx(1, abs=1e-12)
    assert share_explained(torch.stack(moves), first, second + 0.9 * first) == pytest.approx(1)
    slanted = first + 1e-3 * second  # nearly parallel, and yet the same plane
    assert share_explained(moves, first, slanted) == pytest.approx(1, abs=1e-9)
    across = torch.linalg.qr(torch.stack([first, second, *moves[:1], torch.ones(50)]).T)[0][:, 3]
    assert share_explained([across], first, second) < 1e-20
    split = [[m[:20].view(4, 5), m[20:]] for m in moves]
    assert share_explained(split, first, [second[:20], second[20:]]) == pytest.approx(1)


def test_of_a_random_move_the_plane_explains_two_in_d():
    draw = torch.Generator().manual_seed(0)
    size, count = 200, 2000
    first, second = torch.randn(2, size, generator=draw)
    moves = torch.randn(count, size, generator=draw)
    share = share_explained(moves, first, second)
    # The share of one move is Beta(1, D/2 - 1): its standard deviation is close to 2/D.
    assert abs(share - 2 / size) < 4 * (2 / size) / math.sqrt(count)


def test_what_does_not_fit_is_said():
    with pytest.raises(ThalwegError, match="there are no filters to draw"):
        filter_normalized(nn.BatchNorm1d(3))
    with pytest.raises(ThalwegError, match="seed must be a whole number >= 0, got -1"):
        filter_normalized(nn.Linear(2, 2), -1)
    one, two, three = torch.eye(3)
    with pytest.raises(ThalwegError, match="must have equally many entries, got 3"):
        share_explained([one], one, two[:2])
    with pytest.raises(ThalwegError, match="second must not be parallel to first"):
        share_explained([one], one, 3 * one)
    with pytest.raises(ThalwegError, match="second must not be parallel to first, nor 0"):
        share_explained([one], one, 0 * one)
    with pytest.raises(ThalwegError, match="each of moves must have the 3 entries"):
        share_explained([one[:2]], one, two)
    with pytest.raises(ThalwegError, match="moves must have a finite length above 0"):
        share_explained([0 * one], one, three)


def test_a_direction_takes_the_dtype_of_the_weights():
    for given, weights in ((torch.float64, torch.float32), (torch.float32, torch.bfloat16)):
        (found,) = fitting("first", torch.ones(4, dtype=given), [torch.ones(2, 2, dtype=weights)])
        assert found.dtype == weights
        assert found.shape == (2, 2)


def test_directions_are_of_a_model():
    with pytest.raises(ThalwegError, match=r"^model must be a torch\.nn\.Module, got \[\]$"):
        filter_normalized([])
