"""The benchmark of rules for rho: what is measured, how rules are fitted and judged, its page."""

from __future__ import annotations

import json
import re

import choosing_rho as benchmark
import choosing_rho_measure as measuring
import choosing_rho_page as pages
import choosing_rho_rules as rules
import choosing_rho_tasks as tasks
import numpy as np
import pytest
import torch
from quick_page import quick_page

import thalweg
from thalweg.lab.claims import robust_stats as stats
from thalweg.lab.problems import Problem

RADII = 10 ** np.linspace(-3, 1, 41)


class Bowl(Problem):
    """½ Σ λ w², the same on every minibatch of two."""

    elementwise = False
    dtype = torch.float32
    eta, momentum, n_train, batch_size = 0.1, 0.5, 6, 2

    def __init__(self, curvatures, point):
        self.curvatures = torch.tensor(curvatures)
        self.point = torch.tensor(point)

    def start(self, seeds):
        return {"w": self.point.expand(len(seeds), -1)}

    def loss(self, params, batch=None):
        return (self.curvatures * params["w"] ** 2).sum(-1) / 2

    def gradient(self, params, batch=None):
        return {"w": self.curvatures * params["w"]}

    def stream(self, seeds):
        return lambda step: (torch.zeros(len(seeds), 2, 1), torch.zeros(len(seeds), 2))


def network(curvatures, point):
    bowl = Bowl(curvatures, point)
    return measuring.network(bowl, bowl.start(torch.tensor([0])), 0, 3, RADII)


def test_a_quadratic_is_measured_by_its_closed_forms():
    seen = network([4.0, 1.0], [0.5, 0.0])
    assert seen["loss"] == pytest.approx(0.5)
    assert seen["norm"] == seen["full norm"] == pytest.approx(2.0)
    assert seen["lambda"] == pytest.approx(4.0, rel=1e-2)
    assert seen["along"] == pytest.approx(4.0, rel=1e-2)
    assert seen["weights"] == pytest.approx(0.5)
    assert seen["parameters"] == 2
    assert seen["noise scale"] == pytest.approx(0.0, abs=1e-9)
    assert seen["flip"] == RADII[-1]  # uphill goes on
    np.testing.assert_allclose(seen["rise"], 2 * RADII + 2 * RADII**2, rtol=1e-3)


def test_where_the_gradient_turns_round():
    # Uphill on -w² leads from w = .5 over the top at 0: there h changes its sign.
    assert network([-2.0], [0.5])["flip"] == pytest.approx(0.5, rel=0.03)


def test_a_crossing_lies_between_two_radii():
    radii, values = np.array([1.0, 100.0]), np.array([0.0, 4.0])
    assert measuring.first(radii, values, 2.0) == pytest.approx(10)
    assert measuring.first(radii, -values, -1.0, below=True) == pytest.approx(100**0.25)
    assert measuring.first(radii, values, 5.0) == 100
    assert measuring.first(radii, np.array([3.0, 4.0]), 2.0) == 1


def test_the_loss_is_smallest_where_a_loop_by_hand_finds_it():
    rho = 10 ** np.linspace(-3, 1, 400)
    w, velocity, seen = 3.0, 0.0, []
    for radius in rho:
        velocity = 0.5 * velocity + (w + radius * np.sign(w))
        w -= 0.1 * velocity
        seen.append(w * w / 2)
    smooth = np.convolve(seen, np.ones(10) / 10, mode="valid")
    found = measuring.breaks(Bowl([1.0], [3.0]), torch.tensor([0, 1]), 400)
    np.testing.assert_allclose(found, rho[smooth.argmin() + 4], rtol=1e-9)
    assert 0.001 < found[0] < 10  # at neither end


def made(best, *, height=None, seeds=4):
    """Curves with a peak at a given log₁₀ ρ for each task, and networks that show 10 times it."""
    at = np.arange(-24, 7) / 10
    best = np.asarray(best)
    height = np.ones(len(best)) if height is None else np.asarray(height)
    peak = height[:, None] * (0.9 - 0.2 * np.abs(at - best[:, None]))
    accuracy = np.repeat(peak[..., None], seeds, axis=2)
    curves = tasks.Curves(at, accuracy, accuracy, np.full((len(best), seeds), 0.5))
    shape = (len(best), 1, seeds)
    numbers = {"weights": np.broadcast_to(10 ** (best + 1)[:, None, None], shape)}
    numbers["norm"] = np.ones(shape)
    measured = rules.Measured((0.1,), RADII, numbers, np.zeros((*shape, 41)), np.ones(shape[::2]))
    return curves, measured, stats.weights(seeds, 20)


def judged(name, *arguments):
    curves, measured, w = arguments
    rule = next(rule for rule in rules.RULES if rule.name == name)
    return rules.judge(rule, measured, 0, curves, w)


def test_a_rule_that_sees_the_best_rho_has_no_regret_and_others_have():
    best = [-1.5, -1.3, -0.9, -0.5]
    given = made(best)
    right = judged("weights", *given)
    np.testing.assert_allclose(right.regret, 0, atol=1e-9)
    np.testing.assert_allclose(right.constants, 0.1)
    np.testing.assert_allclose(np.log10(right.rho), best)
    default = judged(rules.DEFAULT, *given)
    by_hand = [100 * 0.2 * abs(np.log10(0.05) - b) for b in best]
    np.testing.assert_allclose(default.regret[0], by_hand, atol=0.05)  # bends lie on the grid
    assert judged(rules.SINGLE, *given).regret[0].mean() > 3


def test_a_task_has_no_part_in_its_own_constant():
    # The last task is so heavy that it decides wherever it may.
    found = judged(rules.SINGLE, *made([-1.5, -1.5, -1.5, 0.0], height=[0.1, 0.1, 0.1, 1.0]))
    assert np.log10(found.constants[3]) == pytest.approx(-1.5)
    np.testing.assert_allclose(np.log10(found.constants[:3]), 0, atol=1e-9)
    assert found.constant == pytest.approx(1.0)


def test_a_constant_of_other_tasks_is_kept():
    curves, measured, w = made([-1.0, -1.0])
    rule = next(rule for rule in rules.RULES if rule.name == rules.SINGLE)
    found = rules.judge(rule, measured, 0, curves, w, constant=1.0)
    np.testing.assert_allclose(found.constants, 1.0)
    np.testing.assert_allclose(found.regret, 20, atol=1e-6)
    assert found.constant == pytest.approx(0.1)


def test_where_the_loss_is_that_before_training():
    shape = (1, 1, 1)
    numbers = {"loss": np.full(shape, 1.0), "start loss": np.full(shape, 2.3)}
    measured = rules.Measured((0.1,), RADII, numbers, RADII[None, None, None], np.ones((1, 1)))
    rule = next(rule for rule in rules.RULES if rule.name == rules.LATER)
    assert rule.of(measured).item() == pytest.approx(1.3, rel=0.02)


def test_pixels_in_other_units_are_the_same_task():
    seeds = torch.tensor([0, 1])
    plain = tasks.task_of("perceptron", {"n_train": 200})
    large = tasks.task_of("rescaled", {"n_train": 200, "scale": 4.0})
    params = large.start(seeds)
    same = {**params, "weight1": 4 * params["weight1"]}
    batches = [task.stream(seeds)(3) for task in (large, plain)]
    torch.testing.assert_close(large.loss(params, batches[0]), plain.loss(same, batches[1]))
    assert large.loss(params, batches[1])[0] != large.loss(params, batches[0])[0]
    for name, value in large.observe(params, seeds).items():
        torch.testing.assert_close(value, plain.observe(same, seeds)[name])


def test_every_seed_is_trained_with_its_own_measurement():
    curves, measured, w = made([-1.0, -1.0, -1.0])
    curves.test[...] *= [1.0, 0.9, 0.8, 0.7]  # and its own accuracy is what counts
    weights = measured.numbers["weights"].copy()
    weights[0, 0] *= 10.0 ** np.array([-1, 1, -1, 1])  # a decade off, either way
    measured.numbers["weights"] = weights
    found = judged("weights", curves, measured, w)
    np.testing.assert_allclose(found.regret[0], [17, 0, 0], atol=1e-6)


def test_the_ends_of_the_trusted_range():
    shape = (1, 1, 1)
    numbers = {"loss": np.ones(shape), "noise of the loss": np.full(shape, 0.1)}
    numbers |= {"norm": np.ones(shape), "along": np.full(shape, 2.0), "flip": np.full(shape, 0.3)}
    rise = np.where(RADII < 1, RADII + RADII**2, 10 * RADII)[None, None, None]
    measured = rules.Measured((0.1,), RADII, numbers, rise, np.ones((1, 1)))
    low, high = rules.trusted(measured)
    assert low.item() == pytest.approx((0.35**0.5 - 0.5), rel=0.05)  # ρ + ρ² = .1
    assert high.item() == pytest.approx(1, rel=0.25)
    rule = next(rule for rule in rules.RULES if rule.name == "trusted")
    assert rule.of(measured).item() == pytest.approx(0.15)  # half flip, which is less


def found(regret):
    return rules.Found(np.zeros((9, 15)), np.tile(regret, (9, 1)), *[np.ones(15)] * 2, 1.0)


def test_the_verdict_follows_the_numbers():
    better, worse = np.linspace(0.9, 1.1, 15), np.linspace(2.9, 3.1, 15)
    at = {rules.DEFAULT: found(worse), rules.SINGLE: found(better), "flip": found(better[::-1])}
    text = "\n".join(pages._verdict(at))
    assert "Clearly less regret than the default .05: single, flip." in text
    assert "Clearly less regret than the single ρ of the other tasks: none." in text
    assert "Clearly more regret than the single ρ of the other tasks: default." in text
    assert "No difference from the single ρ of the other tasks shown: flip;" in text
    text = "\n".join(pages._confirmed({**at, rules.SHIPPED: found(better[::-1])}))
    assert re.search(r"minus the default \.05: -2\.00 .*: clearly less\.", text)
    assert re.search(r"minus ρ = 1: .*: no difference shown\.", text)
    text = "\n".join(pages._confirmed({**at, rules.SHIPPED: found(worse + 5)}))
    assert text.count("clearly more.") == 2


def test_results_are_compared_and_must_be_there(tmp_path):
    with pytest.raises(thalweg.ThalwegError, match="results must be the folder of a study"):
        benchmark.settings_of(tmp_path, quick=False)
    axes = {"x_label": "ρ", "layers": [{"name": "p = 1", "x": [0.1, 0.15], "y": [0.7, 0.1]}]}
    settings = {"tasks": [["a", "perceptron", {"label_noise": 0.3}]], "seeds": 4}
    record = {"charts": [{"axes": [axes]}], "settings": settings | {"steps": 9, "bootstrap": 20}}
    (tmp_path / "robustness.json").write_text(json.dumps(record), encoding="utf-8")
    assert benchmark.settings_of(tmp_path, quick=False)["steps"] == 9
    text = benchmark.compared(tmp_path, settings, made([-1.0])[0])
    assert "differ by at most 20.00 points at the 1 values of ρ" in text  # .9 here, .7 there


def test_a_quick_run_writes_the_page(tmp_path):
    text = quick_page("choosing_rho.py", tmp_path / "recommendation.md")
    for rule in rules.RULES:
        row = rf"^\| {re.escape(rule.name)} \| {re.escape(rule.formula)} \|"
        assert len(re.findall(row, text, re.M)) == 2  # the claim's tasks, the fresh ones
    assert "On 2 fresh tasks" in text
    assert text.count("| text | ") == text.count("| pixels ÷ 4 | ") == 2
    assert "nan" not in text
