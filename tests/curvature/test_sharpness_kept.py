"""Measuring sharpness leaves no trace, also when something fails; and bad input is told."""

import copy
import math

import pytest
import torch
from bowls import BATCHES, RHO, SPECTRA, Quadratic, X, Y, batches, cross_entropy, net, value
from torch import nn

from thalweg import ThalwegError
from thalweg.ascent import L2, Magnitude
from thalweg.curvature.sharpness import sharpness


class Wide(nn.Module):
    """BatchNorm, dropout, and a weight so large that it is moved by pointing elsewhere."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Linear(64, 300), nn.BatchNorm1d(300)
        self.drop, self.b = nn.Dropout(0.5), nn.Linear(300, 10)

    def forward(self, x):
        return self.b(self.drop(torch.relu(self.norm(self.a(x)))))


def everything(model):
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return (
        [v.clone() for v in model.state_dict().values()],
        grads,
        [p.data_ptr() for p in model.parameters()],
        [layer.training for layer in model.modules()],
        torch.get_rng_state(),
    )


def same(left, right):
    values, grads, places, modes, numbers = zip(left, right, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert places[0] == places[1]
    assert modes[0] == modes[1]
    assert torch.equal(*numbers)


KINDS = [
    {"kind": "ascent"},
    {"kind": "ascent", "m": 5},
    {"kind": "worst", "steps": 3},
    {"kind": "worst", "steps": 2, "m": 10, "ball": L2(scale=Magnitude(0.01))},
    {"kind": "average", "directions": 3},
]


@pytest.mark.parametrize("training", [False, True, None])
@pytest.mark.parametrize("how", KINDS, ids=str)
def test_nobody_notices(how, training):
    model = Wide().train()
    model.norm.eval()
    data = [(x.float(), y) for x, y in batches(20, 10)]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X[:30].float(), Y[:30]), batch_size=10
    )
    cross_entropy(model, data[0]).backward()
    model.b.bias.grad = None
    before = everything(model)
    for some in (data, loader):
        found = sharpness(model, cross_entropy, some, 0.1, training=training, **how)
        again = sharpness(model, cross_entropy, some, 0.1, training=training, **how)
        assert found == again
        assert found.rise != 0
        same(before, everything(model))


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_weights_come_back_when_the_loss_raises(how):
    model = Wide().train()
    data = [(x.float(), y) for x, y in batches(20, 10)]
    before, start = everything(model), model.a.weight.detach().clone()
    away = []

    def breaks(model, batch):
        torch.rand(1)
        if not torch.equal(model.a.weight, start):
            away.append(True)
            raise RuntimeError("the disk is full")
        return cross_entropy(model, batch)

    with pytest.raises(RuntimeError, match="disk is full") as caught:
        sharpness(model, breaks, data, 0.1, training=True, **how)
    assert away
    same(before, everything(model))  # while the exception, and with it every frame, is alive
    assert caught.value is not None


@pytest.mark.parametrize("kind", ["ascent", "worst", "average"])
def test_without_a_radius_there_is_no_rise_even_with_dropout(kind):
    model = net().train()
    found = sharpness(model, cross_entropy, batches(20, 10), 0.0, kind=kind, training=True)
    assert found.rise == 0
    assert found.perturbation_norm == 0


def test_in_float64_a_tiny_radius_is_seen():
    relative = L2(scale=Magnitude(1.0))
    model = net().float().eval()
    data = [(x.float(), y) for x, y in batches(40)]
    before = [p.clone() for p in model.parameters()]
    wide = sharpness(model, cross_entropy, data, 1e-9, dtype=torch.float64, ball=relative)
    slope = sharpness(model.double(), cross_entropy, batches(40), 1e-9, ball=relative)
    assert wide.rise == pytest.approx(slope.rise, rel=1e-4)
    assert wide.rise > 0
    assert all(torch.equal(p.float(), b) for p, b in zip(model.parameters(), before, strict=True))


def test_some_parameters_alone():
    model = Quadratic(SPECTRA["convex"])
    found = sharpness(model, value, BATCHES, RHO, parameters=[model.two])
    g, h = model.gradient[2:], model.hessian[2:, 2:]
    wanted = RHO * g.norm() + RHO**2 / 2 * (g @ h @ g) / (g @ g)
    assert found.rise == pytest.approx(float(wanted), rel=1e-12)
    model.one.requires_grad_(False)
    assert sharpness(model, value, BATCHES, RHO).rise == found.rise


def test_far_away_the_loss_need_not_be_finite():
    model = nn.Linear(1, 1, bias=False).double()
    data = [torch.ones(2, 1).double()]

    def explodes(model, x):
        return torch.exp(model(x).abs() * 1e3).mean()

    def no_number(model, x):
        return torch.log(2 - (model.weight - start).abs().sum()) + model(x).mean()

    with torch.no_grad():
        start = model.weight.fill_(0.1).clone()
    for kind in ("ascent", "worst"):
        assert sharpness(model, explodes, data, 5.0, kind=kind).rise == math.inf
        assert math.isnan(sharpness(model, no_number, data, 5.0, kind=kind).rise)
        assert sharpness(model, no_number, data, 0.5, kind=kind).rise > 0
    assert math.isnan(sharpness(model, no_number, data, 5.0, kind="average").error)
    assert model.weight == start


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rho": -0.1}, "rho must be a finite number >= 0, got -0.1"),
        ({"rho": "1"}, "rho must be a finite number"),
        ({"kind": "best"}, 'kind must be "ascent", "worst" or "average", got \'best\''),
        ({"ball": L2}, "ball must be a ball such as L2"),
        ({"ball": "adaptive"}, "ball must be a ball such as L2"),
        ({"m": 0}, "m must be a whole number >= 1, got 0"),
        ({"m": 2, "kind": "average"}, "m must be left out for kind='average'"),
        ({"steps": 3}, "steps must be left out for kind='ascent', got 3: it is for kind='worst'"),
        ({"starts": 3, "kind": "average"}, "starts must be left out for kind='average'"),
        ({"directions": 3, "kind": "worst"}, "directions must be left out for kind='worst'"),
        ({"directions": 1, "kind": "average"}, "directions must be a whole number >= 2, got 1"),
        ({"steps": 0, "kind": "worst"}, "steps must be a whole number >= 1, got 0"),
        ({"starts": 0, "kind": "worst"}, "starts must be a whole number >= 1, got 0"),
        ({"seed": -1, "kind": "average"}, "seed must be a whole number >= 0, got -1"),
        ({"batches": []}, "batches must hold at least one batch, got none"),
        ({"batches": [], "m": 2}, "batches must hold at least one batch, got none"),
        ({"batches": iter(BATCHES)}, "batches must be something to go through again"),
        ({"batches": 3}, "batches must be something to go through again .*, got int"),
        ({"batches": [1.0]}, "a batch must hold a tensor"),
        ({"kind": ["worst"]}, r'kind must be "ascent", "worst" or "average", got'),
        ({"loss_of": 3}, "loss_of must be a function of a model and a batch .* got 3: write"),
        ({"model": 3}, "model must be a torch.nn.Module, got 3"),
        ({"loss_of": lambda m, b: b}, "loss must be a tensor of one number, got"),
        ({"loss_of": lambda m, b: 3.0}, "loss must be a tensor of one number, got float"),
        ({"loss_of": lambda m, b: m(b).detach()}, "loss must depend on the parameters"),
        ({"loss_of": lambda m, b: m(b) * math.inf}, "must be finite at the weights"),
        ({"loss_of": lambda m, b: (m(b) * 0).sqrt()}, "must be finite at the weights"),
        ({"parameters": [nn.Parameter(torch.ones(1))]}, "parameters must be parameters of the"),
        ({"parameters": []}, "parameters must hold a tensor that requires a gradient, got none"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    usual = {"model": Quadratic([1.0, 2.0, 3.0]), "loss_of": value, "batches": BATCHES, "rho": 0.1}
    with pytest.raises(ThalwegError, match=message):
        sharpness(**(usual | given))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_that_draws_is_as_good_as_a_list(shuffle):
    model = Wide().train()
    data = torch.utils.data.TensorDataset(X[:30].float(), Y[:30])
    loader = torch.utils.data.DataLoader(data, batch_size=30, shuffle=shuffle)
    listed = list(loader)
    for how in KINDS:
        at_rest = sharpness(model, cross_entropy, loader, 0.0, training=True, **how)
        assert at_rest.rise == 0  # every pass sees the same order and the same dropout
        if not shuffle:
            found = sharpness(model, cross_entropy, loader, 0.1, training=True, **how)
            assert found == sharpness(model, cross_entropy, listed, 0.1, training=True, **how)


@pytest.mark.parametrize("m", [None, 30])
def test_the_mode_is_the_one_that_is_asked_for(m):
    model = Wide().train()
    model.norm.eval()
    data, seen = (X[:30].float(), Y[:30]), []
    for training in (False, True, None):
        twin = copy.deepcopy(model)
        twin.train(model.training if training is None else training)
        twin.norm.train(bool(training))
        found = sharpness(model, cross_entropy, [data], 0.1, training=training, m=m)
        with torch.random.fork_rng():
            wanted = float(cross_entropy(twin, data).detach())
        assert found.loss == pytest.approx(wanted, rel=1e-6)
        seen.append(wanted)
    assert len(set(seen)) == 3
