"""The network that can be widened, two kinds of balls for it, and the claim about the width."""

import numpy as np
import pytest
import torch
from spoiled import no_rho, other_sign

from thalweg import parameters, theory
from thalweg.ascent import Context, Method
from thalweg.lab.claims import width as room
from thalweg.lab.claims.tuned import Curve, ended
from thalweg.lab.digits import Digits
from thalweg.lab.here import norms
from thalweg.lab.problems import Problem
from thalweg.lab.simulate import simulate
from thalweg.lab.wide import WideDigits, training_set

SEEDS = torch.tensor([0, 1, 1])
ONE, EACH = (make for _, make, *_ in room.WAYS)
TASK = WideDigits(n_train=200, width=12, label_noise=0.5)


def matrices(params):
    return [s * w for s, w in zip(TASK.scales, params.values(), strict=True)]


def test_the_network_is_the_one_written_out():
    params = TASK.start(SEEDS)
    x, labels = TASK.stream(SEEDS)(3)
    one, two, three = (w[2].double() for w in matrices(params))
    hidden = (x[2].double() @ one).clamp(min=0) @ two
    logits = hidden.clamp(min=0) @ three
    loss = torch.nn.functional.cross_entropy(logits, labels[2])
    assert float(TASK.loss(params, (x, labels))[2]) == pytest.approx(float(loss), rel=1e-5)
    accuracy = TASK.observe(params, SEEDS)["test_accuracy"][2]
    assert 0 <= float(accuracy) <= 1


def test_the_gradient_is_that_of_autograd_and_of_finite_differences():
    params = {k: v.double() for k, v in TASK.start(SEEDS).items()}
    x, labels = TASK.stream(SEEDS)(0)
    batch = x.double(), labels
    written, made = TASK.gradient(params, batch), Problem.gradient(TASK, params, batch)
    for name, value in params.items():
        torch.testing.assert_close(written[name], made[name], rtol=1e-10, atol=1e-12)
        moved = {k: v.clone() for k, v in params.items()}
        losses = []
        for shift in (1e-5, -1e-5):
            moved[name][1, 2, 3] = value[1, 2, 3] + shift
            losses.append(TASK.loss(moved, batch))
        slope = (losses[0] - losses[1]) / 2e-5
        assert float(slope[1]) == pytest.approx(float(made[name][1, 2, 3]), abs=1e-8)
        assert float(slope[0]) == float(slope[2]) == 0


def test_a_matrix_learns_at_its_own_rate():
    run = simulate(TASK, eta=0.1, momentum=0.0, steps=1, seed=[0], compile=False)
    start, batch = TASK.start(SEEDS[:1]), TASK.stream(SEEDS[:1])(0)
    leaves = [w.detach().requires_grad_() for w in matrices(start)]
    given = {k: w / s for k, w, s in zip(start, leaves, TASK.scales, strict=True)}
    gradients = torch.autograd.grad(TASK.loss(given, batch).sum(), leaves)
    for name, s, w, g in zip(start, TASK.scales, leaves, gradients, strict=True):
        fan_in, fan_out = w.shape[1:]
        expected = w - 0.1 * fan_out / fan_in * g
        torch.testing.assert_close(s * torch.from_numpy(run.final[name]), expected.detach())


def test_at_initialization_hidden_layers_are_of_order_1_at_every_width():
    for width in (32, 512):
        task = WideDigits(n_train=200, width=width)
        params = task.start(torch.tensor([0]))
        x, _ = training_set(task, 0)
        _, one, two, logits = task.inputs(params, x)
        assert 0.2 < float(one.square().mean().sqrt()) < 2
        assert 0.2 < float(two.square().mean().sqrt()) < 2
        assert 0.3 < float(logits.square().mean().sqrt()) * width**0.5 < 30


def perturbation(method, gradient, rho):
    context = Context(norm=parameters.cell_norms, norms=norms, cells=1)
    return method.perturbation(gradient, rho, context=context)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_one_ball_is_plain_sam_on_the_matrices(power):
    params, batch = TASK.start(SEEDS), TASK.stream(SEEDS)(0)
    gradient = [*TASK.gradient(params, batch).values()]
    rho = torch.tensor([0.1, 0.2, 0.3])
    p = perturbation(Method(power=power, ball=ONE(TASK)), gradient, rho)
    of_matrices = [g / s for g, s in zip(gradient, TASK.scales, strict=True)]
    size = torch.stack([g.flatten(1).square().sum(1) for g in of_matrices]).sum(0).sqrt()
    for d, g, s in zip(p.direction, of_matrices, TASK.scales, strict=True):
        expected = (rho * size**-power).view(-1, 1, 1) * g
        torch.testing.assert_close(s * p.factor.view(-1, 1, 1) * d, expected)


def test_a_ball_each_gives_every_matrix_its_radius():
    params, batch = TASK.start(SEEDS), TASK.stream(SEEDS)(0)
    gradient = [*TASK.gradient(params, batch).values()]
    gradient[1] = gradient[1] * torch.tensor([1.0, 0.0, 1e-3]).view(-1, 1, 1)
    rho = torch.tensor([0.1, 0.2, 0.3])
    p = perturbation(Method(ball=EACH(TASK)), gradient, rho)
    assert (p.factor * p.norm).tolist() == pytest.approx(rho.tolist())
    for i, (d, s, fans) in enumerate(zip(p.direction, TASK.scales, TASK.shapes, strict=True)):
        lengths = (s * p.factor.view(-1, 1, 1) * d).flatten(1).norm(dim=1)
        expected = rho * theory.rho_for_width(1.0, *fans)
        if i == 1:
            expected[1] = 0.0  # it has no gradient
        torch.testing.assert_close(lengths, expected)
        assert (d * gradient[i]).sum() > 0
    dual = p.norm
    assert float(dual[0]) == pytest.approx(sum(float(g[0].norm()) for g in gradient), rel=1e-5)
    # the dual norm is what the maximizer gains along the gradient
    gains = sum((d * g).flatten(1).sum(1) for d, g in zip(p.direction, gradient, strict=True))
    torch.testing.assert_close(gains, dual.square())


def test_the_training_set_is_the_streams():
    x, labels = training_set(TASK, 1)
    assert x.shape == (1, 200, 64)
    seen, given = Digits(n_train=200, label_noise=0.5, batch_size=200).stream(SEEDS[1:2])(0)
    order = [(x[0] == image).all(1).nonzero().item() for image in seen[0]]
    assert sorted(order) == list(range(200))
    assert torch.equal(labels[0, order], given[0])


def test_the_best_rho_is_the_vertex_of_a_parabola():
    rho = 10.0 ** np.arange(-2, 1.01, 0.5)
    height = 0.9 - 0.2 * (np.log10(rho) + 0.7) ** 2
    curve = Curve(rho, np.stack([height, height], 1), np.stack([height, height + 0.02], 1))
    both = np.array([0, 1])
    assert curve.best(both) == pytest.approx(-0.7)
    assert not curve.at_end(both)
    # tested where it is asked for, between the values on a line
    assert curve.points(both, -0.5) == pytest.approx(100 * (0.9 - 0.2 * 0.04 + 0.01))
    assert curve.points(np.array([1, 1]), -0.5) == pytest.approx(100 * (0.9 - 0.2 * 0.04 + 0.02))
    assert curve.cost(both, -0.7) == 0
    assert curve.cost(both, -2.0) == pytest.approx(
        curve.points(both, -0.7) - 100 * (height[0] + 0.01)
    )
    falling = Curve(rho, np.stack([-rho, -rho], 1), np.stack([height, height], 1))
    assert falling.at_end(both)
    assert falling.best(both) == -2


def test_draws_at_an_end_of_the_grid_are_counted():
    rho = np.array([0.1, 0.2, 0.4])
    inner = np.array([[0.8] * 4, [0.9] * 4, [0.8] * 4])
    settings = {"seeds": 4, "bootstrap": 4000}
    assert ended(settings, [Curve(rho, inner, inner)]) == (False, "")
    # One seed of four is best at the end: it decides where it is drawn twice or more.
    twice, always = inner.copy(), inner.copy()
    twice[2, 0], always[2, 0] = 1.1, 0.91
    curve = Curve(rho, twice, twice)
    assert not curve.at_end(np.arange(4))
    blocked, remark = ended(settings, [Curve(rho, inner, inner), curve])
    assert blocked
    share = float(remark.split("in ")[1].split("%")[0]) / 100
    assert share == pytest.approx(1 - 0.75**4 - 0.75**3, abs=0.02)
    # Or where it is drawn four times, 1 draw in 256: that few do not matter.
    blocked, remark = ended(settings, [Curve(rho, always, always)])
    assert not blocked
    assert "end of the grid" in remark


TINY = {
    "task": {**room.CLAIM.settings["task"], "label_noise": 0.5},
    "widths": [64, 128, 256, 512],
    "tuned_widths": [32, 64],
    "log_rho": {"one ball": [-1.2, -0.4], "a ball each": [-1.6, 0.0]},
    "decade": 0.4,
    "steps": 200,
    "seeds": 3,
    "bootstrap": 50,
}


def measured(**changes):
    return room.measure({**room.CLAIM.settings_for("quick"), **TINY, **changes})


def slopes(evidence):
    return [c for c in evidence.checks if c.what.endswith("the width to the power")][:2]


def kept(evidence):
    (check,) = [c for c in evidence.checks if c.what.startswith("a ball each: the best")]
    return check


def test_the_claim_at_a_small_size():
    evidence = measured()
    assert [check.holds for check in slopes(evidence)] == [True, True]
    assert kept(evidence).holds is not False
    assert "end of the grid" not in kept(evidence).what
    assert evidence.verdict != "does not hold"
    assert evidence.runs == 4 * 3 + 2 * (3 + 5) * 3
    assert "ball each" in evidence.found


def test_without_a_perturbation_it_fails(monkeypatch):
    monkeypatch.setattr(Method, "perturbation", no_rho)
    assert measured(steps=2).verdict == "does not hold"


def test_with_the_other_sign_there_is_no_best_rho(monkeypatch):
    monkeypatch.setattr(Method, "perturbation", other_sign)
    evidence = measured()
    assert kept(evidence).holds is None
    assert "end of the grid" in kept(evidence).what


def test_with_other_radii_it_fails(monkeypatch):
    monkeypatch.setattr(theory, "rho_for_width", lambda rho, fan_in, fan_out: rho)
    evidence = measured(steps=2)
    assert [check.holds for check in slopes(evidence)] == [True, False]
    assert evidence.verdict == "does not hold"


@pytest.mark.parametrize(
    ("slope", "holds"),
    [((0.0, -0.1, 0.1), True), ((0.0, -0.1, 0.2), None), ((0.3, 0.2, 0.4), False)],
)
def test_the_verdict_about_the_best_rho(slope, holds):
    rho = np.array([0.1, 0.2, 0.4])
    peak = np.array([[0.8], [0.9], [0.8]])
    settings = {"seeds": 1, "steps": 5, "in_place": 0.15, "bootstrap": 5}
    curves = {32: Curve(rho, peak, peak)}
    assert room._kept(settings, "a ball each", curves, slope).holds is holds
    assert room._kept(settings, "one ball", curves, slope).holds is None
    at_end = {32: Curve(rho, np.sort(peak, 0), peak)}
    assert room._kept(settings, "a ball each", at_end, slope).holds is None
