"""Sharpness: closed forms on quadratics, literal code and dense Hessians on networks."""

import math

import pytest
import torch
from bowls import BATCHES, RHO, SPECTRA, Quadratic, batches, cross_entropy, largest_rise, net, value
from torch import nn

from thalweg.curvature.sharpness import sharpness


@pytest.mark.parametrize("name", SPECTRA)
def test_ascent_on_a_quadratic(name):
    model = Quadratic(SPECTRA[name])
    found = sharpness(model, value, BATCHES, RHO)
    g, h = model.gradient, model.hessian
    wanted = RHO * g.norm() + RHO**2 / 2 * (g @ h @ g) / (g @ g)
    assert found.rise == pytest.approx(float(wanted), rel=1e-12)
    assert found.perturbation_norm == pytest.approx(RHO, rel=1e-12)
    assert (found.error, found.evaluations, found.loss) == (None, 2, 0.0)
    assert "steepest ascent" in found.definition
    assert "‖ε‖ ≤ ρ" in found.definition


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SPECTRA)
def test_the_worst_case_on_a_quadratic(name, seed):
    slope = 0.2 if name == "top inside" else 1.0
    model = Quadratic(SPECTRA[name], slope, seed)
    found = sharpness(model, value, BATCHES, RHO, kind="worst", steps=300)
    wanted, inside = largest_rise(model.gradient, model.hessian, RHO)
    assert inside == (name == "top inside")
    assert found.rise == pytest.approx(wanted, rel=1e-8)
    assert found.rise <= wanted * (1 + 1e-12)  # a lower bound
    assert found.perturbation_norm <= RHO * (1 + 1e-12)
    assert (found.perturbation_norm < 0.5 * RHO) == inside
    assert "from below" in found.definition


def test_the_worst_case_leaves_a_saddle_and_a_minimum():
    for eigenvalues in SPECTRA["indefinite"], SPECTRA["convex"]:
        model = Quadratic(eigenvalues, slope=0.0)
        assert sharpness(model, value, BATCHES, RHO).rise == 0
        found = sharpness(model, value, BATCHES, RHO, kind="worst", steps=100, starts=1)
        assert found.rise == pytest.approx(RHO**2 / 2 * max(eigenvalues), rel=1e-6)


def test_a_maximum_has_no_rise():
    model = Quadratic([-1.0] * 5, slope=0.0)
    found = sharpness(model, value, BATCHES, RHO, kind="worst")
    assert found.rise <= 1e-12
    assert found.rise >= 0


def test_the_average_on_a_quadratic_and_its_error():
    model = Quadratic([5.0, 3.0, 1.0, 0.5, -1.0], slope=10.0)
    wanted = RHO**2 * 8.5 / (2 * 5)
    runs = [
        sharpness(model, value, BATCHES, RHO, kind="average", directions=16, seed=s)
        for s in range(150)
    ]
    assert {run.evaluations for run in runs} == {33}
    assert all(run.perturbation_norm == pytest.approx(RHO) for run in runs)
    rises, errors = (torch.tensor([getattr(run, k) for run in runs]) for k in ("rise", "error"))
    off = rises - wanted
    assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(len(runs))
    # Student's t with 15 degrees of freedom: 2.131 standard errors hold 95 %; four sd of a share.
    covered = float((off.abs() < 2.131 * errors).double().mean())
    assert 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150) < covered <= 1
    assert float(errors.square().mean()) == pytest.approx(float(off.square().mean()), rel=0.4)


def test_the_slope_cancels_in_the_average():
    model = Quadratic(SPECTRA["flat"], slope=100.0)
    found = sharpness(model, value, BATCHES, RHO, kind="average")
    assert abs(found.rise) < 1e-12
    assert found.error < 1e-12


def test_a_small_radius_on_a_network_sees_slope_largest_curvature_and_trace():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 10)).double()
    held = list(model.parameters())
    data = batches(40)
    flat = torch.cat([p.detach().flatten() for p in held])

    def at(w):
        parts = torch.split(w, [p.numel() for p in held])
        named = {
            n: v.view(p.shape) for (n, p), v in zip(model.named_parameters(), parts, strict=True)
        }
        out = torch.func.functional_call(model, named, data[0][0])
        return nn.functional.cross_entropy(out, data[0][1])

    slope, hessian = torch.func.grad(at)(flat), torch.autograd.functional.hessian(at, flat)
    top, trace, size = float(torch.linalg.eigvalsh(hessian)[-1]), float(hessian.trace()), len(flat)
    slopes = slope.split([p.numel() for p in held])
    parts = [s.view(p.shape) for s, p in zip(slopes, held, strict=True)]

    def without_slope(model, batch):
        sloped = sum((s * p).sum() for s, p in zip(parts, model.parameters(), strict=True))
        return cross_entropy(model, batch) - sloped

    rho = 1e-3
    first = sharpness(model, cross_entropy, data, rho).rise
    along = float(slope @ hessian @ slope / (slope @ slope))
    assert first == pytest.approx(rho * float(slope.norm()), rel=1e-2)
    # What is left after two terms is of the third order.
    assert first == pytest.approx(rho * float(slope.norm()) + rho**2 / 2 * along, rel=1e-6)
    worst = sharpness(model, without_slope, data, rho, kind="worst", steps=60, starts=1).rise
    assert worst == pytest.approx(rho**2 / 2 * top, rel=2e-3)
    mean = sharpness(model, without_slope, data, rho, kind="average", directions=100)
    assert abs(mean.rise - rho**2 * trace / (2 * size)) < 4 * mean.error
    assert mean.error < 0.1 * mean.rise


def test_more_steps_and_more_starts_never_lower_the_worst_case():
    model = net().eval()
    kinds = {"data": batches(30, 20), "rho": 0.5}

    def worst(**more):
        found = sharpness(model, cross_entropy, kinds["data"], kinds["rho"], kind="worst", **more)
        assert found.perturbation_norm <= 0.5 * (1 + 1e-12)
        return found.rise

    by_steps = [worst(steps=s, starts=1) for s in (1, 2, 4, 8, 16)]
    by_starts = [worst(steps=3, starts=s) for s in (1, 2, 3)]
    assert by_steps == sorted(by_steps)
    assert by_starts == sorted(by_starts)
    assert by_steps[-1] > 1.01 * sharpness(model, cross_entropy, kinds["data"], 0.5).rise


def literal_ascent(model, batch, rho):
    """The rise of one loss, in plain torch."""
    held = list(model.parameters())
    loss = cross_entropy(model, batch)
    slope = torch.autograd.grad(loss, held)
    n = torch.sqrt(sum((g**2).sum() for g in slope))
    with torch.no_grad():
        for p, g in zip(held, slope, strict=True):
            p.add_(rho * g / n)
        rise = cross_entropy(model, batch) - loss
        for p, g in zip(held, slope, strict=True):
            p.sub_(rho * g / n)
    return float(rise)


def test_m_sharpness_is_what_literal_code_gives():
    model, data, rho = net().eval(), batches(20, 20, 10), 0.3
    groups = [(x[i : i + 8], y[i : i + 8]) for x, y in data for i in range(0, len(x), 8)]
    assert [len(x) for x, _ in groups] == [8, 8, 4, 8, 8, 4, 8, 2]
    rises = [(literal_ascent(model, group, rho), len(group[0])) for group in groups]
    wanted = sum(rise * n for rise, n in rises) / 50
    found = sharpness(model, cross_entropy, data, rho, m=8)
    assert found.rise == pytest.approx(wanted, rel=1e-9)
    assert found.loss == pytest.approx(sharpness(model, cross_entropy, data, rho).loss, rel=1e-12)
    assert found.evaluations == 2 * 8
    assert found.perturbation_norm == pytest.approx(rho, rel=1e-12)
    assert "groups of 8 examples" in found.definition
    large = sharpness(model, cross_entropy, batches(50), rho, m=50)
    assert large.rise == sharpness(model, cross_entropy, batches(50), rho).rise
    assert found.rise > 1.05 * large.rise  # smaller groups look farther up
    worst = sharpness(model, cross_entropy, data, rho, m=8, kind="worst", steps=3)
    assert worst.rise > found.rise


def test_batches_are_weighted_by_their_examples():
    model = net().eval()
    one, three = (
        sharpness(model, cross_entropy, data, 0.2, kind=kind, seed=3)
        for kind in ("worst",)
        for data in (batches(50), batches(30, 19, 1))
    )
    assert three.rise == pytest.approx(one.rise, rel=1e-9)
    assert three.loss == pytest.approx(one.loss, rel=1e-12)


def test_few_steps_are_enough_where_the_loss_bends_upwards():
    for seed in range(4):
        model = Quadratic(SPECTRA["convex"], 0.05, seed)
        found = sharpness(model, value, BATCHES, RHO, kind="worst", steps=20, starts=1)
        wanted, _ = largest_rise(model.gradient, model.hessian, RHO)
        assert found.rise == pytest.approx(wanted, rel=1e-6)


def test_the_first_start_is_the_ascent_of_sam():
    for seed in range(4):
        model = Quadratic([0.3, 0.2, 0.1, 0.0, -0.1], 10.0, seed)
        ascent = sharpness(model, value, BATCHES, RHO).rise
        worst = sharpness(model, value, BATCHES, RHO, kind="worst", steps=1, starts=1)
        assert worst.rise >= ascent
        assert worst.rise == pytest.approx(ascent, rel=0.01)
