"""What is measured agrees with closed forms, and nobody notices that it was measured."""

from __future__ import annotations

import copy
import math

import pytest
import subjects
import torch
from torch import nn

import thalweg
import thalweg.diagnose
from thalweg import ThalwegError
from thalweg.curvature import hessian_vector_product
from thalweg.diagnose import scan
from thalweg.diagnose.measure import first, noise_scale

EIGENVALUES, START = [8.0, 3.0, 1.0], [1.0, -0.5, 2.0]


def point(forces=((0.0, 0.0, 0.0),)):
    model = subjects.Point(EIGENVALUES, START)
    loader = [torch.tensor([force], dtype=torch.float64) for force in forces]
    return model, subjects.quadratic, loader, torch.optim.SGD(model.parameters(), lr=0.05)


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), lr=0.05, **settings)


def measured(*four, **settings):
    return thalweg.diagnose.diagnose(*four, **settings).measured


def test_a_quadratic_is_measured_as_its_formulas_say():
    four = point()
    m = measured(*four)
    h, w = torch.tensor(EIGENVALUES).double(), torch.tensor(START).double()
    g = h * w
    length = float(g.norm())
    bend = float((g * h * g).sum() / length**2)
    assert m.loss == pytest.approx(float((h * w * w).sum() / 2), rel=1e-12)
    assert m.weight_norm == pytest.approx(float(w.norm()), rel=1e-12)
    assert m.grad_norm == m.mean_grad_norm == pytest.approx(length, rel=1e-12)
    assert m.lambda_max == pytest.approx(8.0, rel=1e-6)
    assert m.spectrum.nodes == pytest.approx(sorted(EIGENVALUES * 2), rel=1e-9)
    assert m.spectrum.weights == pytest.approx([1 / 6] * 6, rel=1e-9)
    assert m.trace == pytest.approx(12.0, rel=1e-9)
    assert m.scan.curvature == pytest.approx([bend] * len(m.scan.rho), rel=1e-6)
    rise = [rho * length + 0.5 * rho**2 * bend for rho in m.scan.rho]
    assert m.scan.rise == pytest.approx(rise, rel=1e-8)
    assert m.scan.predicted == pytest.approx(rise, rel=1e-6)
    cosines = []
    for rho in m.scan.rho:
        uphill = h * (w + rho * g / length)
        cosines.append(float((uphill * g).sum() / uphill.norm() / length))
    assert m.scan.cosine == pytest.approx(cosines, rel=1e-9)
    assert (m.upper, m.flip) == (math.inf, math.inf)
    assert math.isnan(m.noise_scale)
    assert (m.parameters, m.batches, m.examples) == (3, 1, 1)


def test_the_noise_scale_is_the_one_that_the_data_have():
    draw = torch.Generator().manual_seed(0)
    spread, m, n, found = 3.0, 4, 64, []
    slope = torch.tensor(EIGENVALUES).double() * torch.tensor(START).double()
    for _ in range(200):
        noise = spread * torch.randn(n, m, 3, generator=draw, dtype=torch.float64)
        each = slope + noise.mean(1)
        found.append(noise_scale(each.norm(dim=1).tolist(), float(each.mean(0).norm()), [m] * n))
    scales = torch.tensor(found)
    expected = 3 * spread**2 / float(slope.square().sum())
    # Of the mean over 200 draws: four standard errors, and 1 % for the ratio's own bias.
    assert abs(float(scales.mean()) - expected) < 4 * float(scales.std()) / 200**0.5 + 0.01
    assert float(scales.std()) < 0.2 * expected
    model, loss, _, optimizer = point()
    here = measured(model, loss, list(noise), optimizer, batches=n).noise_scale
    assert here == pytest.approx(found[-1], rel=1e-9)


def test_the_noise_scale_at_its_ends():
    assert math.isnan(noise_scale([1.0], 1.0, [8]))
    assert noise_scale([2.0, 2.0, 2.0], 2.0, [8] * 3) == 0.0
    assert noise_scale([1.0, 1.0], 0.1, [8, 8]) == math.inf


def test_the_spread_of_the_loss_is_that_of_the_batches():
    forces = [(0.5 * i, 0.0, 0.0) for i in range(5)]
    m = measured(*point(forces))
    losses = torch.tensor([0.5 * i * START[0] for i in range(5)])
    assert m.loss_noise == pytest.approx(float(losses.std()), rel=1e-6)
    # The rise starts as ρ‖g‖, so it reaches a hundredth of the spread at this rho, in the scan
    # or, of quieter batches, below it.
    assert m.lower > m.scan.rho[0]
    assert m.lower == pytest.approx(0.01 * m.loss_noise / m.grad_norm, rel=0.05)
    quiet = measured(*point([(1e-3 * i, 0.0, 0.0) for i in range(5)]))
    assert quiet.lower < quiet.scan.rho[0]
    assert quiet.lower == pytest.approx(0.01 * quiet.loss_noise / quiet.grad_norm, rel=0.01)


class Quartic(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_the_upper_end_is_where_the_rise_is_half_off():
    def loss(model, batch):
        x, y = model.w
        return x + 0.5 * x**2 + y**2 + (x - 1) ** 4 * batch.mean()

    model = Quartic()
    loader = [torch.full((1,), 40.0, dtype=torch.float64)]
    m = measured(model, loss, loader, sgd(model))
    # rise = 2ρ + ρ²/2 + 40ρ⁴, predicted without the last: half of it off where 40ρ⁴ = ρ + ρ²/4.
    rho = 0.01
    for _ in range(100):
        rho = ((rho + rho**2 / 4) / 40) ** 0.25
    # Between two points of a quarter decade, on a line: below the truth, for the excess is bent.
    point = next(i for i, r in enumerate(m.scan.rho) if r > rho)
    assert m.scan.rho[point - 1] < m.upper < rho
    assert m.upper == pytest.approx(rho, rel=0.12)


def test_the_gradient_turns_uphill_beyond_the_ridge():
    def loss(model, batch):
        x, y = model.w
        return -torch.cos(math.pi / 2 * x) + y**2 + 0 * batch.sum()

    model = Quartic()
    with torch.no_grad():
        model.w.copy_(torch.tensor([1.5, 0.0]))
    m = measured(model, loss, [torch.zeros(1, dtype=torch.float64)], sgd(model))
    # The slope sin(πx/2) is positive from 0 to 2: g points to the ridge at x = 2, half away.
    assert m.flip == pytest.approx(0.5, rel=0.1)


def test_hessian_products_agree_with_the_dense_hessian():
    model, loader = subjects.convnet(dropout=0.0, dtype=torch.float64), subjects.digits()
    batches = [(x.double(), y) for x, y in loader]
    m = measured(model, subjects.loss_of, batches, sgd(model), batches=2)
    params = list(model.parameters())
    product = hessian_vector_product(
        lambda: sum(subjects.loss_of(model, batch) for batch in batches[:2]) / 2, params
    )
    dense = torch.stack([product(row) for row in torch.eye(product.size).double()])
    values = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    assert m.lambda_max == pytest.approx(float(values[-1]), rel=1e-3)
    nodes, weights = torch.tensor(m.spectrum.nodes), torch.tensor(m.spectrum.weights)
    # Of two random vectors: what their quadrature knows is a mean over 418 eigenvalues, twice.
    spread = float((2 * values.square().mean() / values.numel() / 2) ** 0.5)
    assert abs(float(nodes @ weights) - float(values.mean())) < 4 * spread
    assert float(nodes.max()) == pytest.approx(float(values[-1]), rel=1e-2)
    assert abs(m.trace - float(values.sum())) < 5 * m.trace_error + 1e-9
    assert m.trace_error < 0.2 * abs(m.trace)


def state(model, optimizer):
    return copy.deepcopy(
        [
            model.state_dict(),
            optimizer.state_dict(),
            [p.grad for p in model.parameters()],
            [layer.training for layer in model.modules()],
            torch.get_rng_state(),
        ]
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def lived_in():
    """A network with everything that could be disturbed: buffers, modes, momentum, gradients."""
    model = subjects.convnet()
    loader = subjects.digits(shuffle=True, generator=torch.Generator().manual_seed(3))
    optimizer = sgd(model, momentum=0.9)
    subjects.train(model, loader, optimizer, 1)
    subjects.loss_of(model, next(iter(loader))).backward()
    model[1].eval()
    return model, loader, optimizer


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_training_is_touched(lived_in, training):
    model, loader, optimizer = lived_in
    model.train(training)
    model[1].eval()
    before, places = state(model, optimizer), [p.data_ptr() for p in model.parameters()]
    drawn = loader.generator.get_state()
    found = thalweg.diagnose(model, subjects.loss_of, loader, optimizer, train=3)
    assert same(state(model, optimizer), before)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert torch.equal(loader.generator.get_state(), drawn)
    assert len(found.followed) == 3
    again = thalweg.diagnose(model, subjects.loss_of, loader, optimizer, train=3)
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize("at", [1, 2, 9, 100])
def test_nothing_is_touched_where_the_loss_raises(lived_in, at):
    model, loader, optimizer = lived_in
    before, calls = state(model, optimizer), []

    def loss(model, batch):
        calls.append(1)
        value = subjects.loss_of(model, batch)
        if len(calls) == at:
            raise ArithmeticError("in the middle")
        return value

    with pytest.raises(ArithmeticError, match="in the middle"):
        thalweg.diagnose(model, loss, loader, optimizer)
    assert same(state(model, optimizer), before)


def test_the_check_of_what_is_touched_can_fail(lived_in, monkeypatch):
    model, loader, optimizer = lived_in
    before = state(model, optimizer)
    monkeypatch.setattr(scan.Weights, "release", lambda self: None)
    thalweg.diagnose(model, subjects.loss_of, loader, optimizer)
    assert not same(state(model, optimizer), before)


def test_every_rho_sees_the_same_dropout():
    model, loader = subjects.convnet(dropout=0.5), subjects.digits()
    m = measured(model, subjects.loss_of, loader, sgd(model))
    # With other numbers for h than for g the shortest ε would show a rise of the noise's size.
    slope = m.scan.rise[2] / m.scan.rho[2]
    assert slope == pytest.approx(m.grad_norm, rel=0.05)
    assert m.scan.cosine[0] > 0.999


def test_the_batches_are_the_loader_s_first_and_its_shuffling_goes_on():
    torch.manual_seed(5)
    loader = subjects.digits(shuffle=True)
    state = torch.get_rng_state()
    batches = first(loader, 3)
    assert len(batches) == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batches[0][0], next(iter(loader))[0])
    assert len(first(loader, 100)) == 4


@pytest.mark.parametrize("by", ["sampler", "batch_sampler"])
def test_the_generator_of_a_sampler_is_put_back(by):
    data, draw = torch.arange(8.0), torch.Generator().manual_seed(3)
    sampler = torch.utils.data.RandomSampler(data, generator=draw)
    if by == "batch_sampler":
        sampler = torch.utils.data.BatchSampler(sampler, 2, drop_last=False)
    loader = torch.utils.data.DataLoader(data, **{by: sampler})
    state = draw.get_state()
    batches = first(loader, 3)
    assert torch.equal(draw.get_state(), state)
    assert torch.equal(batches[0], next(iter(loader)))


def test_a_rise_that_cannot_be_taken_ends_the_range():
    def loss(model, batch):
        return (model.w**2).sum() / (model.w.norm() < 1.05) + 0 * batch.sum()

    model = Quartic()
    m = measured(model, loss, [torch.zeros(1, dtype=torch.float64)], sgd(model))
    assert m.upper <= 0.05


BAD = {
    "nothing": ([], "loader must give at least one batch, got none"),
    "an iterator": (iter([1]), "must be something to loop over again, got an iterator"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_loaders(kind):
    model, loss, _, optimizer = point()
    loader, told = BAD[kind]
    with pytest.raises(ThalwegError, match=told):
        thalweg.diagnose(model, loss, loader, optimizer)
