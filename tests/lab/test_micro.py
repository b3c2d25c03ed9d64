"""Micro-batches that look uphill for themselves: the two problems, the law, and the claim."""

import numpy as np
import pytest
import torch
from spoiled import always_normalized, never_normalized, no_rho, other_sign

from thalweg import theory
from thalweg.ascent import Method
from thalweg.lab import Digits, simulate
from thalweg.lab.claims import mean_force as force
from thalweg.lab.claims import microbatch as room
from thalweg.lab.claims.tuned import Curve
from thalweg.lab.micro import MicroDigits, NoisyLogistic
from thalweg.lab.problems import Problem
from thalweg.lab.wide import training_set

TASK = {"n_train": 200, "batch_size": 24, "label_noise": 0.5, "width": 8}
SEEDS = torch.tensor([0, 1, 1])


def test_a_minibatch_is_cut_and_nothing_of_it_is_lost():
    parts = MicroDigits(micro=6, **TASK).stream(SEEDS)(2)
    images, labels = Digits(**TASK).stream(SEEDS)(2)
    assert [part.shape for part, _ in parts] == [(3, 6, 64)] * 4
    assert torch.equal(torch.cat([part for part, _ in parts], 1), images)
    assert torch.equal(torch.cat([part for _, part in parts], 1), labels)


def test_one_micro_batch_is_plain_sam_and_more_are_not():
    settings = {"rho": 0.3, "steps": 10, "seed": [0, 1], "compile": False}
    plain = simulate(Digits(**TASK), **settings).final
    one, four = (simulate(MicroDigits(micro=m, **TASK), **settings).final for m in (24, 6))
    for name, value in plain.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-5, atol=1e-7)
        assert np.abs(four[name] - value).max() > 1e-3


def test_the_noise_scale_is_that_of_every_images_gradient():
    task = MicroDigits(micro=6, **TASK)
    params = task.start(SEEDS)
    x, labels = training_set(task, 1)
    alone = {k: v[1:2] for k, v in params.items()}
    each = [
        torch.cat(
            [
                g.flatten()
                for g in Problem.gradient(
                    task, alone, (x[:, i : i + 1], labels[:, i : i + 1])
                ).values()
            ]
        )
        for i in range(200)
    ]
    gradients = torch.stack(each).double()
    mean = gradients.mean(0)
    expected = (gradients - mean).square().sum(1).mean() / mean.square().sum()
    seen = task.observe(params, SEEDS)
    assert float(seen["noise_scale"][1]) == pytest.approx(float(expected), rel=1e-4)
    assert float(seen["noise_scale"][0]) != pytest.approx(float(expected), rel=1e-2)
    assert seen["noise_scale"][1] == seen["noise_scale"][2]


def test_the_gradient_of_the_logistic_problem():
    problem = NoisyLogistic(micro=5, examples=50, dimension=4, noise_scale=3.0)
    params = {"w": problem.w + torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)}
    batch = problem.stream(SEEDS)(1)
    written, made = problem.gradient(params, batch)["w"], Problem.gradient(problem, params, batch)
    torch.testing.assert_close(written, made["w"])
    x, y = (t[2].numpy() for t in batch)
    literal = np.mean([-y[i] / (1 + np.exp(y[i] * x[i] @ params["w"][2].numpy())) * x[i]
                       for i in range(5)], axis=0)  # fmt: skip
    np.testing.assert_allclose(written[2].numpy(), literal, rtol=1e-12)
    for i, towards in enumerate(1e-6 * torch.eye(4, dtype=torch.float64)):
        up, down = (problem.loss({"w": params["w"] + s * towards}, batch) for s in (1, -1))
        torch.testing.assert_close((up - down) / 2e-6, written[:, i], rtol=1e-6, atol=1e-8)


def test_its_moments_and_forces():
    problem = NoisyLogistic(micro=5, examples=50, dimension=4, noise_scale=3.0)
    assert problem.noise_scale >= 3.0

    def moments(w):
        slopes = torch.sigmoid(-problem.y * (problem.x @ w))
        gradients = -(problem.y * slopes)[:, None] * problem.x
        mean = gradients.mean(0)
        return mean.square().sum() / 2, (gradients - mean).square().sum(1).mean()

    half, variance = moments(problem.w)
    assert problem.variance == pytest.approx(float(variance), rel=1e-12)
    assert problem.noise_scale == pytest.approx(float(variance / half / 2), rel=1e-12)
    own, trace = problem.forces
    for i, towards in enumerate(1e-5 * torch.eye(4, dtype=torch.float64)):
        up, down = moments(problem.w + towards), moments(problem.w - towards)
        slopes = [float(u - d) / 2e-5 for u, d in zip(up, down, strict=True)]
        assert slopes == pytest.approx([float(own[i]), float(trace[i])], rel=1e-6, abs=1e-9)


def test_its_micro_batches_differ_from_cell_to_cell_and_step_to_step():
    problem = NoisyLogistic(micro=5, examples=50, dimension=4, noise_scale=3.0)
    x, y = problem.stream(SEEDS)(0)
    assert x.shape == (3, 5, 4)
    assert torch.equal(x[1], x[2])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x, problem.stream(SEEDS)(1)[0])
    rows = (problem.x == x[0, 3]).all(1).nonzero().item()
    assert y[0, 3] == problem.y[rows]


TINY = {
    "task": {**room.CLAIM.settings["task"], "n_train": 128},
    "powers": [0.0, 1.0],
    "m": [64, 32],
    "log_rho": {f"{p}, {m}": [-1.0, -0.2] for p in (0, 1) for m in (64, 32)},
    "seeds": 2,
    "steps": 8,
    "decade": 0.2,
    "bootstrap": 20,
    "force_m": [4, 64],
    "force_rows": 96_000,
}


def measured():
    return room.measure({**room.CLAIM.settings_for("quick"), **TINY})


def test_the_law_at_a_small_size():
    evidence = measured()
    law = [check for check in evidence.checks if check.what.startswith("logistic")]
    assert [check.holds for check in law if check.decides] == [True] * 3
    assert len(law) == 4
    assert evidence.verdict != "does not hold"
    assert evidence.runs == 2 * (96_000 // 32_000) * (8000 + 500) + 4 * 5 * 2
    assert "p = 0" in evidence.found


@pytest.mark.parametrize("spoil", [no_rho, other_sign, always_normalized, never_normalized])
def test_a_spoiled_sam_is_noticed(monkeypatch, spoil):
    monkeypatch.setattr(Method, "perturbation", spoil)
    settings = {**room.CLAIM.settings_for("quick"), **TINY, "force_m": [64]}
    checks, drawn = force.mean_force(settings)
    assert drawn == 2 * 1500
    assert not all(check.holds for check in checks)


def curves(best, rule_at=1.0):
    """Curves of two m whose best values of ρ are 1 and ``best`` in every seed."""
    rho = 10.0 ** np.arange(-2, 2.01, 0.1)
    made = {}
    for m, peak in ((64, rule_at), (16, best)):
        height = 0.9 - 0.1 * np.log10(rho / peak)[:, None] ** 2 + np.zeros(4)
        made[m] = Curve(rho, height, height)
    return made


@pytest.mark.parametrize(
    ("best", "holds"), [(0.5, True), (0.35, True), (0.25, False), (2.0, False)]
)
def test_the_verdict_about_the_place(best, holds):
    settings = {"m": [64, 16], "seeds": 4, "steps": 5, "bootstrap": 10, "in_place": 0.2}
    assert theory.rho_for_microbatch(1.0, 64, 16, 1.0, 1e9) == pytest.approx(0.5)
    place, cost, left = room._places(settings, 1.0, (curves(best), 1e9))
    assert place.holds is holds
    assert place.decides
    # the parabola is flat: a factor of two costs .9 points, one of four 3.6
    assert cost.holds is (best < 2)
    assert left.holds is None
    assert not left.decides
    lost = 10 * np.log10(best) ** 2
    assert left.measured.startswith(f"{lost:+.1f} points")


def test_an_optimum_at_an_end_decides_nothing():
    settings = {"m": [64, 16], "seeds": 4, "steps": 5, "bootstrap": 10, "in_place": 0.2}
    place, *_ = room._places(settings, 1.0, (curves(1e-3), 1e9))
    assert place.holds is None
    assert "end of the grid" in place.measured
