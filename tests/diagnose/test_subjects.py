"""Models, batches and losses that are out of the ordinary are measured as what they are."""

from __future__ import annotations

import copy
import math
import re

import pytest
import subjects
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg
import thalweg.diagnose
from thalweg import ThalwegError
from thalweg.curvature import lambda_max, over, trace
from thalweg.diagnose.measure import noise_scale
from thalweg.diagnose.outlook import verdict
from thalweg.diagnose.rule import trusted
from thalweg.diagnose.start import untrained_loss


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr)


def batches_of(sizes):
    (x, y), rows = next(iter(subjects.digits(batch=sum(sizes)))), []
    for size in sizes:
        rows.append((x[:size], y[:size]))
        x, y = x[size:], y[size:]
    return rows


def perceptron(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).to(dtype)


def test_every_mean_counts_batches_by_their_examples():
    model, batches = perceptron(torch.float64), batches_of([15, 1, 4])
    batches = [(x.double(), y) for x, y in batches]
    m = thalweg.diagnose(model, subjects.loss_of, batches, sgd(model), start_loss=9.0).measured
    product = over(model, subjects.loss_of, batches)
    whole = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    assert m.loss == pytest.approx(product.loss, rel=1e-12)
    assert m.loss == pytest.approx(float(subjects.loss_of(model, whole).detach()), rel=1e-12)
    length = float(sum(g.square().sum() for g in product.gradient) ** 0.5)
    assert m.mean_grad_norm == pytest.approx(length, rel=1e-9)
    assert m.examples == pytest.approx(20 / 3)
    # ρ‖g‖ at the shortest ε: the mean slope, by examples.
    assert m.scan.rise[0] / m.scan.rho[0] == pytest.approx(m.grad_norm, rel=1e-2)
    even = batches_of([5, 5, 5])
    model32 = perceptron()
    spread = thalweg.diagnose(model32, subjects.loss_of, even, sgd(model32)).measured.loss_noise
    losses = torch.stack([subjects.loss_of(model32, batch).detach() for batch in even])
    assert spread == pytest.approx(float(losses.std()), rel=1e-4)
    twice = thalweg.diagnose(model, subjects.loss_of, [whole, whole], sgd(model)).measured
    assert twice.loss == pytest.approx(m.loss, rel=1e-12)
    assert twice.loss_noise == pytest.approx(0, abs=1e-9)


def test_the_start_is_weighed_alike():
    model, batches = perceptron(), batches_of([15, 1])
    both = [untrained_loss(model, subjects.loss_of, [batch], None, 0)[0] for batch in batches]
    found, origin = untrained_loss(model, subjects.loss_of, batches, None, 0)
    assert found == pytest.approx((15 * both[0] + both[1]) / 16, rel=1e-6)
    assert "begun anew" in origin


def test_the_noise_scale_of_batches_of_several_sizes():
    draw, sizes, found = torch.Generator().manual_seed(0), [2, 2, 4, 8, 16, 32] * 8, []
    slope = torch.tensor([8.0, -1.5, 2.0]).double()
    for _ in range(200):
        each = [
            slope + 3 * torch.randn(m, 3, generator=draw, dtype=torch.float64).mean(0)
            for m in sizes
        ]
        mean = sum(m * g for m, g in zip(sizes, each, strict=True)) / sum(sizes)
        found.append(noise_scale([float(g.norm()) for g in each], float(mean.norm()), sizes))
    scales = torch.tensor(found)
    expected = 3 * 3.0**2 / float(slope.square().sum())
    assert abs(float(scales.mean()) - expected) < 4 * float(scales.std()) / 200**0.5
    assert float(scales.std()) < 0.2 * expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_parameters_are_measured_on_a_copy(dtype):
    model = perceptron(dtype)
    wide = copy.deepcopy(model).float()
    batches = [(x.to(dtype), y) for x, y in batches_of([32, 32])]
    held = copy.deepcopy(model.state_dict())
    found = thalweg.diagnose(model, subjects.loss_of, batches, sgd(model), train=2)
    assert all(torch.equal(v, held[k]) for k, v in model.state_dict().items())
    assert len(found.followed) == 2  # in the model's own dtype, as it trains
    same = [(x.float(), y) for x, y in batches]
    m = thalweg.diagnose(wide, subjects.loss_of, same, sgd(wide)).measured
    assert (found.measured.lambda_max, found.measured.trace) == (m.lambda_max, m.trace)
    assert found.measured.scan == m.scan
    assert found.measured.coarse == str(dtype).removeprefix("torch.")
    assert f"the parameters are {found.measured.coarse}" in str(found)
    assert m.coarse == ""


def test_parameters_of_two_dtypes_are_measured_in_the_wider():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(64, 4).double(), nn.Linear(4, 10)

        def forward(self, x):
            return self.last(self.first(x.flatten(1).to(self.first.weight)).to(self.last.weight))

    model, batches = Mixed(), batches_of([16, 16])
    found = thalweg.diagnose(model, subjects.loss_of, batches, sgd(model)).measured
    assert found.coarse == "float32, float64"
    product = over(copy.deepcopy(model).double(), subjects.loss_of, batches)
    assert found.lambda_max == pytest.approx(lambda_max(product).value, rel=2e-3)
    assert found.trace == pytest.approx(trace(product).value, rel=0.3)


def test_the_upper_end_is_at_most_where_the_loss_is_that_before_training():
    model = subjects.Point([8.0, 3.0, 1.0], [1.0, -0.5, 2.0])
    loader = [torch.zeros(1, 3, dtype=torch.float64)]

    def upper(start):
        four = model, subjects.quadratic, loader, sgd(model)
        found = thalweg.diagnose(*four, start_loss=start)
        (row,) = [row for row in found.rows if row.name == "upper end"]
        assert found.measured.upper == math.inf  # a quadratic is one everywhere
        return trusted(found.measured)[1], row.meaning

    assert upper(1e9) == (pytest.approx(5.25**0.5), "not reached in the scan")  # ‖w‖
    g = torch.tensor([8.0, -1.5, 2.0]).double()
    bend = float((g * torch.tensor([8.0, 3.0, 1.0]) * g).sum() / g.square().sum())
    loss, length = 6.375, float(g.norm())
    found, meaning = upper(loss + 0.5 * length + bend / 8)
    assert found == pytest.approx(0.5, rel=0.05)
    assert "above that before training" in meaning


def test_a_destroyed_network_is_not_within_the_trusted_range():
    model, loader = subjects.convnet(dropout=0.0), subjects.digits()
    subjects.train(model, loader, sgd(model, 0.1), 30)
    m = thalweg.diagnose(model, subjects.loss_of, loader, sgd(model)).measured
    pairs = list(zip(m.scan.rho, m.scan.rise, strict=True))
    destroyed = [rho for rho, rise in pairs if m.loss + rise > m.start_loss]
    assert len(destroyed) > 2
    assert all(verdict(m, rho).endswith(": too large") for rho in destroyed)
    assert verdict(m, 0.1) == "within the trusted range"


def test_the_rise_of_every_batch_must_be_that_of_a_quadratic():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def loss(model, batch):
        return (model.w + model.w**2 / 2 + (model.w - 1) ** 4 * batch.mean()).sum()

    model = Line()
    # Together they are a quadratic; each is off it by 40ρ⁴, half of 2ρ + ρ²/2 at ρ = .3.
    batches = [torch.full((1,), force, dtype=torch.float64) for force in (40.0, -40.0)]
    m = thalweg.diagnose(model, loss, batches, sgd(model)).measured
    assert m.scan.rise == pytest.approx(m.scan.predicted, rel=1e-6)
    assert m.upper == pytest.approx(0.297, rel=0.12)
    assert verdict(m, 0.5) == "the loss rise is no longer that of a quadratic"


def test_layers_held_in_evaluation_mode_are_measured_in_it():
    model, loader = subjects.convnet(dropout=0.0), subjects.digits()
    losses = {}
    for mode in (True, False):
        model.train()
        model[1].train(mode)
        m = thalweg.diagnose(model, subjects.loss_of, loader, sgd(model)).measured
        again = copy.deepcopy(model)
        losses[mode] = sum(float(subjects.loss_of(again, b).detach()) for b in loader) / 4
        assert m.loss == pytest.approx(losses[mode], rel=1e-6)
    assert losses[True] != pytest.approx(losses[False], rel=1e-3)


def test_only_what_the_optimizer_trains_is_moved():
    model = subjects.convnet()
    last = torch.optim.SGD(model[-1].parameters(), lr=0.1)
    m = thalweg.diagnose(model, subjects.loss_of, subjects.digits(), last).measured
    assert m.parameters == sum(p.numel() for p in model[-1].parameters())
    assert m.largest_name.startswith("5.")
    assert 0.5 < m.largest_share <= 1


def test_what_takes_no_gradient_is_not_moved():
    model = subjects.convnet()
    model[0].requires_grad_(False)
    m = thalweg.diagnose(model, subjects.loss_of, subjects.digits(), sgd(model)).measured
    assert m.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


class Odd(nn.Module):
    """A layer of one's own, whose ``reset_parameters`` is not torch's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 10) / 64)

    def reset_parameters(self, std):
        raise AssertionError

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Unwritten(Odd):
    def reset_parameters(self):
        raise NotImplementedError


class Infinite(Odd):
    def reset_parameters(self):
        with torch.no_grad():
            self.weight.fill_(math.inf)


class Bare(Odd):
    reset_parameters = None


WITHOUT = {
    Odd: r"Odd.reset_parameters\(\) raised TypeError",
    Unwritten: r"Unwritten.reset_parameters\(\) raised NotImplementedError",
    Infinite: "that of a copy that begins anew is (nan|inf)",
    Bare: r"Bare has parameters of its own and no reset_parameters\(\)",
}


@pytest.mark.parametrize("layer", WITHOUT)
def test_layers_that_cannot_begin_anew_are_named(layer):
    model = layer()
    found = thalweg.diagnose(model, subjects.loss_of, subjects.digits(), sgd(model))
    assert math.isnan(found.measured.start_loss)
    (why,) = [reason for reason in found.reasons if "pass --start-loss" in reason]
    assert re.search(WITHOUT[layer], why)
    rows = {row.name: row for row in found.rows}
    assert rows["before training"].value == "none"
    assert re.search(
        f"{WITHOUT[layer]}: pass --start-loss .*, about ln V", rows["before training"].meaning
    )
    assert "cautious rule: the loss before training is not known" in rows["rho"].meaning


def test_a_loss_of_zero_is_measured():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

    model = Slope()
    loader = [torch.ones(2, 1), torch.ones(2, 1)]
    found = thalweg.diagnose(model, lambda m, b: m.w.sum() * b.mean(), loader, sgd(model))
    assert found.measured.loss == 0
    assert found.rho > 0
    assert str(found)


def test_one_example_cannot_be_normalized_over():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))
    batches = batches_of([8, 1])
    with pytest.raises(ThalwegError, match=r"more than one example .* drop_last=True"):
        thalweg.diagnose(model, subjects.loss_of, batches, sgd(model))
    model[2].eval()
    assert thalweg.diagnose(model, subjects.loss_of, batches, sgd(model)).measured.batches == 2

    def broken(model, batch):
        return cross_entropy(model(batch[0]), batch[1][:3])

    with pytest.raises(ValueError, match="batch_size"):
        thalweg.diagnose(model, broken, batches, sgd(model))
