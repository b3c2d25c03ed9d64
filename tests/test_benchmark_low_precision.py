"""The benchmark of low precision: its SAM is the real one, its cures do what they say, its page."""

from __future__ import annotations

import re
import warnings

import low_precision as benchmark
import low_precision_numbers as numbers
import low_precision_page as pages
import low_precision_train as training
import numpy as np
import pytest
import torch
from quick_page import quick_page

import thalweg
from thalweg.lab import Digits
from thalweg.lab.problems import Problem

BF16 = torch.bfloat16
TASK = {"width": 24, "n_train": 200, "label_noise": 0.3}
STEPS = 4


def drawn(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    size = torch.randn(shape, generator=draw) * 4
    return torch.randn(shape, generator=draw) * torch.exp(size)


def trained_by_sam(setting, rho, seed):
    """Weights, share moved and fidelity of thalweg.SAM around torch's SGD."""
    task = Digits(**TASK)
    seeds = torch.tensor([seed])
    start = task.start(seeds)
    wide = setting in ("copy", "autocast", "float32")
    weights = [p.clone() if wide else p.to(BF16) for p in start.values()]
    seen = [p.to(BF16) for p in weights] if setting == "copy" else weights
    base = torch.optim.SGD(weights, lr=task.eta, momentum=task.momentum)
    over = base if seen is weights else torch.optim.SGD(seen, lr=1.0)
    sam = thalweg.SAM(over, None, rho=rho, telemetry=True)
    stream, left = task.stream(seeds), []
    for step in range(STEPS):
        images, labels = stream(step)
        for here in sam.passes():
            params = dict(zip(start, seen, strict=True))
            if setting == "autocast":
                with torch.autocast("cpu", BF16):
                    found = Problem.gradient(task, params, (images, labels))
            else:
                found = task.gradient(params, (images.to(seen[0].dtype), labels))
            for p, g in zip(seen, found.values(), strict=True):
                p.grad = g
            if here.last and setting == "autocast":
                left.append(sam.fidelity(BF16))
        if setting in ("copy", "pure"):
            left.append((sam.last.share_moved, sam.last.fidelity))
        for p, q in zip(weights, seen, strict=True):
            p.grad = q.grad.to(p.dtype)
        base.step()
        with torch.no_grad():
            for p, q in zip(weights, seen, strict=True):
                q.copy_(p)
        base.zero_grad()
        over.zero_grad()
    return weights, np.array(left)


@pytest.mark.parametrize("setting", ["copy", "pure", "autocast", "float32"])
def test_what_is_trained_is_what_sam_trains(setting, monkeypatch):
    monkeypatch.setattr(training, "LOOK", 1)
    seed, ends = 3, {}
    for rho in (0.0, 0.03, 0.035):
        ensemble = training.Ensemble(
            Digits(**TASK), training.SETTINGS[setting], "none", rho, [seed]
        )
        for step in range(STEPS):
            ensemble.step(step)
        ends[rho] = ensemble
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ε is swallowed is the point
        weights, left = trained_by_sam(setting, 0.03, seed)

    def off(rho):
        pairs = zip(ends[rho].weights, weights, strict=True)
        return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs) ** 0.5

    # Norms are summed in another order, so that an entry between two numbers may fall to either,
    # and what 16 bits make of that grows.
    assert off(0.03) < (1e-3 if setting == "float32" else 0.25) * off(0.035)
    assert off(0.03) < (1e-4 if setting == "float32" else 0.1) * off(0.0)
    if setting != "float32":
        found = ends[0.03].fidelity.means()
        assert found["share"][0] == pytest.approx(left[:, 0].mean(), abs=1e-3)
        assert found["cosine"][0] == pytest.approx(left[:, 1].mean(), abs=1e-3)
        assert found["cosine"][0] < 0.99  # something is swallowed


def test_nearest_is_what_torch_rounds_to():
    w = drawn(4000)
    assert torch.equal(training.nearest(w, 8), w.to(BF16).float())
    some = w[(w.abs() > 2**-6) & (w.abs() < 400)]  # where e4m3 has all its digits
    assert torch.equal(training.nearest(some, 4), some.to(torch.float8_e4m3fn).float())
    assert torch.equal(training.nearest(w, 24), w)


@pytest.mark.parametrize("digits", [8, 4])
def test_stochastic_rounding_keeps_the_mean(digits):
    w = drawn(500)
    before = torch.random.get_rng_state()
    many = torch.stack([training.stochastic(w, digits, 7, i) for i in range(1000)]).double()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(training.stochastic(w, digits, 7, 3), many[3].float())
    apart = 2 * training.half_ulp(w, digits).double()
    assert ((many - w).abs() < apart).all()  # up or down, no further
    assert torch.equal(training.nearest(many.float(), digits).double(), many)
    error = (many.mean(0) - w) / apart
    assert error.abs().max() < 5 * 0.5 / 1000**0.5  # five standard errors
    assert ((training.nearest(w, digits) - w) / apart).abs().max() > 0.4  # the nearest does not


def test_nothing_that_is_carried_is_lost():
    w = [training.nearest(drawn(1, 300), 8)]
    epsilon = [0.3 * training.half_ulp(w[0], 8)]
    reached = {}
    for cure in ("none", "carry"):
        rounder = training.Rounder(cure, 8)
        moves = [rounder(w, epsilon, step)[0] - w[0] for step in range(50)]
        reached[cure] = torch.stack(moves).double().sum(0) / (50 * epsilon[0])
    assert (reached["none"] == 0).all()
    assert (reached["carry"] - 1).abs().max() <= 1 / (50 * 0.3) + 1e-6  # half a unit at the end


def test_a_wider_radius_lets_half_of_the_entries_move():
    w = [training.nearest(drawn(2, 40, 30), 8), training.nearest(drawn(2, 100, seed=1), 8)]
    epsilon = [drawn(*p.shape, seed=2) * 1e-4 for p in w]
    epsilon[0][:, :10] = 0.0  # these are not to move
    epsilon = [torch.stack([e[0], 1e4 * e[1]]) for e in epsilon]

    def share(cure):
        there = training.Rounder(cure, 8)(w, epsilon, 0)
        moved = sum((t != p).flatten(1).sum(1) for t, p in zip(there, w, strict=True))
        return (moved / sum((e != 0).flatten(1).sum(1) for e in epsilon)).tolist()

    few, many = share("none")
    assert few < 0.3
    assert many > 0.6
    assert share("wider") == [pytest.approx(0.5, abs=0.02), many]  # enough is left alone


def test_master_weights_keep_what_the_copy_has_lost():
    ensemble = training.Ensemble(Digits(**TASK), training.SETTINGS["copy"], "master", 0.03, [0])
    here = ensemble.seen(ensemble.weights)
    epsilon = [1e-3 * training.half_ulp(p, 8) for p in ensemble.weights]
    assert sum(int((e != 0).sum()) for e in epsilon) > 1000
    ensemble.weights = [p.float() + training.half_ulp(p.float(), 8) * 0.9995 for p in here]
    there = ensemble._climb(here, epsilon, 1)
    away = [(t > p).float().mean() for t, p in zip(there, here, strict=True)]
    assert min(away) > 0.9  # on the edge, the smallest of ε is enough
    ensemble._cure = "none"
    assert all(map(torch.equal, ensemble._climb(here, epsilon, 1), here))


def test_fidelity_by_hand():
    look = training.Fidelity()
    meant = [torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[4.0], [1.0]])]
    real = [torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[6.0], [0.0]])]
    look.add(meant, real)
    found = look.means()
    np.testing.assert_allclose(found["share"], [1 / 2, 1 / 3])
    np.testing.assert_allclose(found["cosine"], [24 / 30, 1 / 3**0.5])
    np.testing.assert_allclose(found["gain"], [24 / 25, 1 / 3])


def made(*, helps=0.0, seeds=10):
    """Results where one cure is better by a little everywhere, and float32 likewise."""
    rng = np.random.default_rng(0)
    rhos, base = [0.1, 0.5], 0.9 + 0.01 * rng.standard_normal((2, seeds))
    sam, sgd = {}, {}
    for setting, cures in benchmark.CURES.items():
        for cure in cures:
            up = helps if (setting, cure) == ("pure", "stochastic") else 0.0
            test = base + up + 0.001 * rng.standard_normal(base.shape)
            one = np.full_like(base, 0.5)
            left = {"share": one, "cosine": one, "gain": np.array([[0.5], [1.0]]) * np.ones(seeds)}
            left["weights"] = 20 * np.ones_like(base)
            sam["a task", setting, cure] = {"validation": base, "test": test, **left}
        sgd["a task", setting] = base[0]
    return numbers.Found(rhos, sam, sgd)


def test_the_verdict_follows_the_numbers():
    text = "\n".join(pages.verdict(made()))
    assert "**No cure helps in any of 15 comparisons**" in text
    assert "Cures that hurt: none." in text
    text = "\n".join(pages.verdict(made(helps=0.02)))
    assert "**1 of 15 comparisons show a cure that helps**" in text
    assert re.search(
        r"\* helps: stochastic rounding \(bfloat16 throughout; a task\): \+[12]\.", text
    )
    fixed = next(li for li in text.splitlines() if li.startswith("* bfloat16 throughout (1 of 2"))
    assert "stochastic rounding better at 2 of 2, by up to 2.0 points;" in fixed
    assert "* bfloat16 throughout, a task: 0.5 to 2.5 %; the least gain is 0.50" in text
    rows = text[text.index("| bfloat16 throughout | nothing | 1 | 0.50 | 0.50 | |") :]
    assert re.search(r"\| \| stochastic rounding \| \| 0.50 \| 0.50 \| \+[12]\.", rows)
    text = "\n".join(pages.verdict(made(helps=-0.02)))
    assert "**No cure helps in any of 15 comparisons**" in text
    assert "Cures that hurt: 1." in text


def test_validation_picks_and_the_test_is_reported():
    validation = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]])
    test = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    arrays = {"validation": validation, "test": test}
    np.testing.assert_array_equal(numbers.picked(arrays, "test"), [1.0, 5.0, 3.0])


def test_a_difference_is_of_pairs():
    one, other = np.array([0.5, 0.7, 0.9]), np.array([0.49, 0.68, 0.88])
    from scipy.stats import ttest_rel

    d = numbers.difference(one, other)
    theirs = ttest_rel(one, other)
    assert d.mean == pytest.approx(100 * 0.05 / 3)
    assert d.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    np.testing.assert_allclose([d.low, d.high], [100 * low, 100 * high])
    assert numbers.difference(one, one).p == 1


def test_a_run_goes_on_from_what_was_kept(tmp_path, monkeypatch):
    settings = {**benchmark.QUICK, "steps": 2, "rhos": [0.1]}
    monkeypatch.setattr(benchmark, "CURES", {"pure": ("none", "carry")})
    trainings = []
    train = benchmark.train

    def counted(*words):
        trainings.append(words)
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return train(*words)

    monkeypatch.setattr(benchmark, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.found(settings, tmp_path, 1)
    first = benchmark.found(settings, tmp_path, 1)
    assert len(trainings) == 4  # three, and the one that was stopped
    again = benchmark.found(settings, tmp_path, 1)
    assert len(trainings) == 4
    for key, arrays in first.sam.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, again.sam[key][name])


def test_a_quick_run_writes_the_page(tmp_path):
    text = quick_page("low_precision.py", tmp_path / "low-precision.md")
    assert "nan" not in text
    for name in (*numbers.TITLES.values(), *numbers.CURES.values()):
        assert name in text
    assert text.count("| stochastic rounding | 0.") == 4  # one a setting
    assert len(re.findall(r"^\| 0\.[15] \|", text, flags=re.M)) == 8  # two radii each
