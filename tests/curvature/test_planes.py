"""Lines and planes: closed forms, filter normalization, and what a plane explains."""

import math

import pytest
import torch
from bowls import BATCHES, Quadratic, X, Y, cross_entropy, value
from torch import nn

from thalweg import ThalwegError
from thalweg.ascent import L2, Magnitude
from thalweg.curvature.directions import filter_normalized
from thalweg.curvature.planes import line, plane
from thalweg.curvature.sharpness import sharpness

CURVED = [3.0, 2.0, 1.0, 0.0, -1.0, -4.0]


def bowl(e, model):
    return float(model.gradient @ e + e @ model.hessian @ e / 2)


DRAW = torch.Generator().manual_seed(5)
U, V = torch.randn(2, 6, generator=DRAW, dtype=torch.float64)
PARTS = [U[:2].view(1, 2), U[2:]]


@pytest.mark.parametrize("first", [U, PARTS], ids=["vector", "parts"])
def test_a_plane_of_a_quadratic(first):
    model, done = Quadratic(CURVED), []
    found = plane(model, value, BATCHES, first, V, radius=0.4, steps=5, progress=done.append)
    assert torch.equal(found.along_first, found.along_second)
    assert found.along_first.tolist() == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])
    wanted = [[bowl(a * U + b * V, model) for b in found.along_second] for a in found.along_first]
    assert found.losses.dtype == torch.float64
    torch.testing.assert_close(found.losses, torch.tensor(wanted, dtype=torch.float64))
    assert found.losses[2, 2] == found.loss == 0
    assert torch.equal(found.rises, found.losses)
    assert found.lengths == pytest.approx((float(U.norm()), float(V.norm())))
    assert found.cosine == pytest.approx(float(U @ V / U.norm() / V.norm()))
    assert found.share is None
    assert "was not measured" in found.label
    assert done == list(range(1, 26))


def test_a_plane_tells_what_share_of_the_movement_it_holds():
    e = torch.eye(6, dtype=torch.float64)
    found = plane(Quadratic(CURVED), value, BATCHES, e[0], e[1], steps=3, moves=[3 * e[0], e[2]])
    assert found.share == pytest.approx(0.9)
    assert found.label == "90.0% of the squared movement lies in this plane"


def test_a_line_of_a_quadratic():
    model = Quadratic(CURVED)
    found = line(model, value, BATCHES, U, radius=2.0, steps=4)
    assert found.at.tolist() == pytest.approx([-2, -2 / 3, 2 / 3, 2])
    assert found.losses.tolist() == pytest.approx([bowl(t * U, model) for t in found.at])
    assert found.length == pytest.approx(float(U.norm()))
    own = line(model, value, BATCHES, PARTS, at=[0.0, 0.01, 10.0])
    assert own.at.tolist() == [0.0, 0.01, 10.0]
    assert own.losses.tolist() == pytest.approx([0, *(bowl(t * U, model) for t in own.at[1:])])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)).double()


@pytest.mark.parametrize("ball", [None, L2(scale=Magnitude(0.1))])
def test_the_line_of_sam_is_its_ascent_at_every_rho(ball):
    model, data = net(), [(X[:30], Y[:30]), (X[30:40], Y[30:40])]
    rhos = [0.0, 0.01, 0.3, 2.0]
    found = line(model, cross_entropy, data, at=rhos, ball=ball)
    rises = [sharpness(model, cross_entropy, data, rho, ball=ball).rise for rho in rhos]
    assert found.rises.tolist() == pytest.approx(rises, rel=1e-9, abs=1e-14)
    assert rises[3] > rises[2] > rises[1] > 0
    assert found.length == (pytest.approx(1) if ball is None else pytest.approx(found.length))
    assert "SAM's ascent" in found.label
    assert "rho" in found.label


def test_planes_of_networks_that_trade_their_scale_are_one():
    data = [(X[:40], Y[:40])]
    drawn = torch.randn(2, 464, generator=torch.Generator().manual_seed(1))

    def both(model):
        ours = [filter_normalized(model, seed) for seed in (1, 2)]
        plain = drawn[:, : sum(p.numel() for p in model.parameters())].double()
        return [
            plane(model, cross_entropy, data, *pair, steps=3, radius=0.7).losses
            for pair in (ours, plain)
        ]

    model = net()
    before = both(model)
    with torch.no_grad():
        for p, factor in zip(model.parameters(), (5, 5, 0.2, 1), strict=True):
            p.mul_(factor)
    after = both(model)
    torch.testing.assert_close(after[0], before[0], rtol=1e-9, atol=0)
    assert float((after[1] / before[1] - 1).abs().max()) > 0.1


def everything(model):
    return (
        [v.clone() for v in model.state_dict().values()],
        [layer.training for layer in model.modules()],
        [p.data_ptr() for p in model.parameters()],
        [p.grad.clone() for p in model.parameters()],
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("training", [False, True, None])
@pytest.mark.parametrize("how", ["plane", "line", "sam"])
def test_nobody_notices_also_when_the_loss_raises(how, training):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Dropout(0.5), nn.Linear(300, 10)
    )
    data = [(X[:20].float(), Y[:20])]
    cross_entropy(model, data[0]).backward()
    model[3].eval()
    first, second = filter_normalized(model, 0), filter_normalized(model, 1)
    start, before, left = model[0].weight.detach().clone(), everything(model), [3]

    def breaks(model, batch):
        moved = not torch.equal(model[0].weight, start)
        left[0] -= moved
        if left[0] == 0:
            raise RuntimeError("the disk is full")
        return cross_entropy(model, batch)

    def take(loss_of):
        more = {"steps": 3, "training": training}
        if how == "plane":
            return plane(model, loss_of, data, first, second, **more)
        return line(model, loss_of, data, first if how == "line" else None, **more)

    def check():
        for old, new in zip(before, everything(model), strict=True):
            pairs = zip(old, new, strict=True) if isinstance(old, list) else [(old, new)]
            assert all(
                torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs
            )

    one, two = take(cross_entropy), take(cross_entropy)
    assert torch.equal(one.losses, two.losses)
    assert one.losses.unique().numel() == one.losses.numel()
    check()
    left[0] = 2
    with pytest.raises(RuntimeError, match="disk is full"):
        take(breaks)
    check()


def test_a_loss_that_is_not_finite_is_a_point_like_others():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    data, (e1, e2) = [torch.eye(2).double()], torch.eye(2).double()

    def loss_of(model, x):
        a, b = model(x).flatten()
        return torch.log(a + 1) + torch.exp(1e3 * b)

    found = plane(model, loss_of, data, e1, e2, radius=2.0, steps=3)
    assert found.losses[:, 1].isnan().tolist() == [True, False, False]
    assert found.losses[1:, 2].tolist() == [math.inf, math.inf]
    assert found.losses[1, 1] == 1


def test_in_float64_the_directions_are_turned_too():
    model, data = net().float(), [(X[:20].float(), Y[:20])]
    pair = filter_normalized(model, 0), filter_normalized(model, 1)
    found = plane(model, cross_entropy, data, *pair, steps=3, dtype=torch.float64)
    plain = plane(model, cross_entropy, data, *pair, steps=3)
    torch.testing.assert_close(found.losses, plain.losses, rtol=1e-5, atol=0)
    assert not torch.equal(found.losses, plain.losses)
    assert torch.equal(plain.losses, plain.losses.float().double())  # taken in float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": U[:5]}, "first must be one tensor for each of the 2 parameters"),
        ({"second": PARTS[:1]}, "second must be one tensor for each of the 2 parameters"),
        ({"first": 0 * U}, "first must have a finite length above 0, got 0.0"),
        ({"second": V / 0}, "second must have a finite length above 0, got inf"),
        ({"second": -2 * U}, "second must not be parallel to first"),
        ({"radius": 0}, "radius must be a finite number > 0, got 0"),
        ({"steps": 1}, "steps must be a whole number >= 2, got 1"),
        ({"steps": 2.5}, "steps must be a whole number >= 2, got 2.5"),
        ({"moves": [U[:4]]}, "each of moves must have the 6 entries"),
        ({"moves": []}, "moves must have a finite length above 0, got the square 0"),
        ({"batches": []}, "batches must hold at least one batch, got none"),
        ({"batches": iter(BATCHES)}, "batches must be something to go through again"),
        ({"loss_of": lambda m, b: 3}, "loss must be a tensor of one number, got int"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    usual = {
        "model": Quadratic(CURVED),
        "loss_of": value,
        "batches": BATCHES,
        "first": U,
        "second": V,
    }
    with pytest.raises(ThalwegError, match=message):
        plane(**({"steps": 3} | usual | given))


def test_other_things_that_do_not_fit():
    model = Quadratic(CURVED)
    with pytest.raises(ThalwegError, match="direction must be one tensor for each"):
        line(model, value, BATCHES, U[:2])
    with pytest.raises(ThalwegError, match="an entry of at must be a finite number, got nan"):
        line(model, value, BATCHES, U, at=[math.nan])
    model.gradient = 0 * model.gradient
    with pytest.raises(ThalwegError, match="the gradient must not be 0, or SAM has no direction"):
        line(model, value, BATCHES)


@pytest.mark.parametrize("bad", [None, 1.0, "x", [], [1.0, 2.0]])
def test_what_is_no_direction_is_named(bad):
    model = Quadratic(CURVED)
    for make, name in (
        (lambda: plane(model, value, BATCHES, bad, V), "first"),
        (lambda: plane(model, value, BATCHES, U, bad), "second"),
        (lambda: plane(model, value, BATCHES, U, V, moves=[bad]), "each of moves"),
        (lambda: line(model, value, BATCHES, bad or "x"), "direction"),
    ):
        with pytest.raises(ThalwegError, match=f"^{name} must be one tensor for each parameter"):
            make()
    with pytest.raises(ThalwegError, match=r"^moves must be a list of directions, got 3$"):
        plane(model, value, BATCHES, U, V, moves=3)


@pytest.mark.parametrize("bad", [0.5, "0.5"])
def test_coordinates_are_a_list(bad):
    with pytest.raises(ThalwegError, match=r"^at must be a list of numbers, got"):
        line(Quadratic(CURVED), value, BATCHES, at=bad)
