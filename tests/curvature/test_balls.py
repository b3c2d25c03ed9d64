"""Other neighbourhoods: ASAM's ball, and balls that only know where uphill is."""

from dataclasses import dataclass

import pytest
import torch
from bowls import BATCHES, RHO, SPECTRA, Quadratic, batches, cross_entropy, largest_rise, net, value
from torch import nn

from thalweg import SAM, Method, ThalwegError
from thalweg.ascent import L2, Fisher, LInf, Magnitude, Nuclear, Radii
from thalweg.curvature.sharpness import sharpness


def asam(offset=0.0):
    return L2(scale=Magnitude(offset, biases=True))


def test_the_adaptive_ball_on_a_quadratic():
    model = Quadratic(SPECTRA["indefinite"])
    t = model.start.abs() + 0.25
    g, h = t * model.gradient, t[:, None] * model.hessian * t
    kinds = {
        kind: sharpness(model, value, BATCHES, RHO, kind=kind, ball=asam(0.25), **more)
        for kind, more in {
            "ascent": {},
            "worst": {"steps": 300},
            "average": {"directions": 400},
        }.items()
    }
    e = RHO * t * g / g.norm()  # ρ T²∇L/‖T∇L‖
    wanted = model.gradient @ e + e @ model.hessian @ e / 2
    assert kinds["ascent"].rise == pytest.approx(float(wanted), rel=1e-12)
    assert kinds["ascent"].perturbation_norm == pytest.approx(float(e.norm()), rel=1e-12)
    assert kinds["worst"].rise == pytest.approx(largest_rise(g, h, RHO)[0], rel=1e-8)
    mean = kinds["average"]
    assert abs(mean.rise - RHO**2 * float(h.trace()) / 10) < 4 * mean.error
    assert mean.error < 0.2 * abs(mean.rise)
    ball = "‖T⁻¹ε‖ ≤ ρ, T = Magnitude(offset=0.25, biases=True)"
    assert all(ball in found.definition for found in kinds.values())


def test_a_weight_of_zero_stays_in_the_adaptive_ball():
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0, -2.0]]))

    def loss_of(model, x):
        seen.append(model.weight.detach().clone())
        return model(x).sum() + model.weight.square().sum()

    for kind in ("ascent", "worst", "average"):
        seen = []
        sharpness(model, loss_of, [torch.ones(1, 3).double()], 0.1, kind=kind, ball=asam())
        held = torch.cat(seen)
        assert (held[:, 0] == 0).all()
        assert held[:, 1].std() > 0
        length = ((held - model.weight.detach()) / torch.tensor([1.0, 1.0, -2.0])).norm(dim=1)
        assert float(length.max()) == pytest.approx(0.1, rel=1e-12)  # none is lost on it


@pytest.mark.parametrize("kind", ["ascent", "worst", "average"])
def test_layers_that_trade_their_scale_keep_their_adaptive_sharpness(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)).double()
    data = batches(40)

    def both(ball):
        return sharpness(model, cross_entropy, data, 0.1, kind=kind, ball=ball).rise

    before = both(asam()), both(L2())
    with torch.no_grad():
        for p, factor in zip(model.parameters(), (4, 4, 0.25, 1), strict=True):
            p.mul_(factor)
    after = both(asam()), both(L2())
    assert after[0] == pytest.approx(before[0], rel=1e-6)
    assert abs(after[1] / before[1] - 1) > 0.1


@dataclass(frozen=True)
class Cube:
    """|ε| ≤ ρ in every entry: a ball that only knows its sharp operator."""

    def sharp(self, direction, norm):
        total = sum(float(d.abs().sum()) for d in direction)
        return [total * d.sign() for d in direction], total


def test_any_ball_will_do_for_ascent_and_worst_case():
    model = Quadratic([3.0, 1.0, 0.5, -0.5, -1.0])
    e = RHO * model.gradient.sign()
    wanted = float(model.gradient @ e + e @ model.hessian @ e / 2)
    found = sharpness(model, value, BATCHES, RHO, ball=Cube())
    assert found.rise == pytest.approx(wanted, rel=1e-12)
    assert "Cube" in found.definition
    seen = []

    def loss_of(model, batch):
        seen.append(torch.cat([model.one.flatten(), model.two]).detach() - model.start)
        return model(batch)

    worst = sharpness(model, loss_of, BATCHES, RHO, ball=Cube(), kind="worst", starts=4)
    assert max(float(e.abs().max()) for e in seen) <= RHO * (1 + 1e-12)
    corners = torch.cartesian_prod(*[torch.tensor([-RHO, RHO], dtype=torch.float64)] * 5)
    rises = corners @ model.gradient + ((corners @ model.hessian) * corners).sum(1) / 2
    assert worst.rise >= 0.95 * float(rises.max())


def test_a_scale_of_ones_is_the_euclidean_ball():
    model = net().eval()
    ones = L2(scale=Radii((1.0,) * len(list(model.parameters()))))
    for kind in ("ascent", "worst", "average"):
        with_ones = sharpness(model, cross_entropy, batches(30), 0.2, kind=kind, ball=ones)
        plain = sharpness(model, cross_entropy, batches(30), 0.2, kind=kind)
        assert with_ones.rise == pytest.approx(plain.rise, rel=1e-9)


@pytest.mark.parametrize(
    "ball",
    [
        L2(scale=Magnitude(0.01)),  # which asks for names
        L2(over="layer"),
        L2(over="tensor"),
        L2(scale=Fisher(1e-3)),
        LInf(),
        Nuclear(),
    ],
    ids=str,
)
def test_the_ascent_in_the_ball_of_a_method_is_its_own(ball):
    model, [batch] = net().eval(), batches(30)
    found = sharpness(model, cross_entropy, [batch], 0.3, ball=ball)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.3, method=Method(ball=ball))
    for here in sam.passes():
        here.loss = loss = cross_entropy(model, batch)
        loss.backward()
    assert found.rise == pytest.approx(sam.last.loss_rise, rel=1e-9)
    plain = sharpness(model, cross_entropy, [batch], 0.3)
    assert found.rise != pytest.approx(plain.rise, rel=1e-3)


def test_a_search_uses_the_whole_of_a_ball_of_many_tensors_and_does_not_leave_it():
    model = Quadratic(SPECTRA["indefinite"])
    seen = []

    def loss_of(model, batch):
        seen.append([p.detach() - start for p, start in zip(parts, starts, strict=True)])
        return model(batch)

    parts, starts = [model.one, model.two], [model.one.detach().clone(), model.two.detach().clone()]
    ball = L2(over="tensor", scale=Radii((1.0, 0.5)))
    worst = sharpness(model, loss_of, BATCHES, RHO, ball=ball, kind="worst", starts=4, steps=50)
    longest = [max(float(e[i].norm()) for e in seen) for i in range(2)]
    assert longest == pytest.approx([RHO, RHO / 2], rel=1e-9)
    assert worst.perturbation_norm > RHO


@pytest.mark.parametrize("ball", [Cube(), LInf(), L2(over="tensor"), L2(scale=Fisher())], ids=str)
def test_where_it_is_not_known_how_to_draw_there_is_no_average(ball):
    model = Quadratic([3.0, 1.0, 0.5, -0.5, -1.0])
    with pytest.raises(
        ThalwegError, match=r"ball must be L2\(\) for kind='average', with no scale"
    ):
        sharpness(model, value, BATCHES, RHO, ball=ball, kind="average")
