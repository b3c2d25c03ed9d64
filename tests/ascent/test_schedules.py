"""The radius over time."""

import math

import pytest
import torch

from thalweg import SAM, Method, ThalwegError
from thalweg.ascent import Cosine, FollowLR, Linear

FOLLOW = FollowLR(lr_max=0.1, lr_min=0.02, rho_min=0.1)


@pytest.mark.parametrize(
    ("lr", "radius"),
    [(0.0, 0.1), (0.02, 0.1), (0.04, 0.2), (0.06, 0.3), (0.1, 0.5), (0.3, 0.5), (math.inf, 0.5)],
)
def test_the_radius_follows_the_learning_rate_and_stays_between_its_ends(lr, radius):
    assert FOLLOW(0.5, 0, lr) == pytest.approx(radius, rel=1e-12)
    assert FOLLOW(0.0, 0, lr) == 0


def test_each_group_follows_its_own_learning_rate():
    w = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(w, (0.1, 0.04, 0.02), strict=True)]
    sam = SAM(torch.optim.SGD(groups), None, 0.5, method=Method(schedule=FOLLOW, power=0))
    for here in sam.passes():
        if here.last:
            found = [p.item() for p in w]
        sum(w).backward()
    assert found == pytest.approx([0.5, 0.2, 0.1], rel=1e-12)


def test_there_must_be_a_learning_rate_to_follow():
    with pytest.raises(ThalwegError, match=r'every param group must have an "lr" .* Cosine'):
        FOLLOW(0.5, 0, math.nan)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_a_late_way_is_the_way_later(kind):
    now, late = kind(4, start=1.5, end=0.5), kind(4, start=1.5, end=0.5, begin=3)
    radii = [late(0.2, step, 0.1) for step in range(9)]
    assert radii == [now(0.2, max(0, step - 3), 0.1) for step in range(9)]
    assert radii[:4] == pytest.approx([0.3] * 4, rel=1e-12)
    assert radii[4] < 0.3
    assert radii[7:] == pytest.approx([0.1, 0.1], rel=1e-12)
    with pytest.raises(ThalwegError, match="begin must be a whole number >= 0, got -1"):
        kind(4, begin=-1)
