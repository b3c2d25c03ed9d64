"""Logistic regression on real data: its curvatures and minimum, and what is seen of it."""

import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Logistic, Problem, data, simulate

CANCER = Logistic("breast cancer", ridge=0.1)
PAIR = Logistic("digits 3 8", ridge=0.02, split=1, away=0.5)
SEEDS = torch.tensor([0, 3, 3])


def at_random(problem):
    draw = torch.Generator().manual_seed(1)
    return {"w": torch.randn(3, len(problem.minimum), generator=draw, dtype=torch.float64) / 3}


@pytest.mark.parametrize("problem", [CANCER, PAIR], ids=["breast cancer", "digits"])
def test_gradient_against_differentiation(problem):
    w = at_random(problem)
    expected = Problem.gradient(problem, w)["w"]
    torch.testing.assert_close(problem.gradient(w)["w"], expected, rtol=1e-12, atol=1e-13)


def test_the_loss_is_the_literal_formula():
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    x, y = np.c_[x, np.ones(len(x))], 2 * bunch.target - 1
    for w, found in zip(
        at_random(CANCER)["w"].numpy(), CANCER.loss(at_random(CANCER)), strict=True
    ):
        value = np.mean(
            [math.log(1 + math.exp(-yn * (xn @ w))) for xn, yn in zip(x, y, strict=True)]
        )
        assert float(found) == pytest.approx(value + 0.05 * (w @ w), rel=1e-12)


@pytest.mark.parametrize("problem", [CANCER, PAIR], ids=["breast cancer", "digits"])
def test_the_minimum_and_its_curvatures(problem):
    g = problem.gradient({"w": problem.minimum[None]})["w"]
    assert g.abs().max() < 1e-13
    slope = torch.autograd.functional.jacobian(
        lambda w: problem.gradient({"w": w[None]})["w"][0], problem.minimum
    )
    values = torch.linalg.eigvalsh(slope).flip(0)
    torch.testing.assert_close(problem.curvatures, values, rtol=1e-10, atol=1e-10)
    assert problem.ridge - 1e-12 <= values[-1] < values[0] < problem.beta


@pytest.mark.parametrize("problem", [CANCER, PAIR], ids=["breast cancer", "digits"])
def test_beta_is_the_curvature_at_the_origin_and_the_ridge_that_far_away(problem):
    def curvatures(w):
        slope = torch.autograd.functional.jacobian(
            lambda w: problem.gradient({"w": w[None]})["w"][0], w
        )
        return torch.linalg.eigvalsh(slope)

    assert float(curvatures(torch.zeros_like(problem.minimum))[-1]) == pytest.approx(problem.beta)
    for w in at_random(problem)["w"]:
        assert problem.ridge - 1e-12 <= curvatures(w)[0]
        assert curvatures(w)[-1] < problem.beta
        assert float(curvatures(1e6 * w)[-1]) == pytest.approx(problem.ridge)


def test_splits_share_nothing_and_are_scaled_by_what_is_trained_on():
    assert len(CANCER.train) == len(CANCER.test) == 569
    other = Logistic("digits 3 8", ridge=0.02, split=2)
    assert not torch.equal(PAIR.train, other.train)
    assert len(PAIR.train) == 285
    assert len(PAIR.test) == 72
    # The rows carry their label's sign, so their features' mean is taken without it.
    scaled = PAIR.train * PAIR.train[:, -1:]
    assert scaled[:, :-1].mean(0).abs().max() < 1e-12
    assert (PAIR.test * PAIR.test[:, -1:])[:, :-1].mean(0).abs().max() > 0.01


def test_starts():
    assert CANCER.start(SEEDS)["w"].abs().max() == 0
    w = PAIR.start(SEEDS)["w"]
    distance = torch.linalg.vector_norm(w - PAIR.minimum, dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.5))
    assert torch.equal(w[1], w[2])
    assert not torch.equal(w[0], w[1])


def test_what_is_observed():
    seen = PAIR.observe({"w": PAIR.minimum.repeat(2, 1)}, SEEDS[:2])
    assert seen["excess"].abs().max() < 1e-15
    assert seen["distance"].max() == 0
    right = [float(row @ PAIR.minimum) > 0 for row in PAIR.test]
    assert float(seen["test_accuracy"][0]) == pytest.approx(sum(right) / len(right))
    run = simulate(CANCER, eta=1.0, steps=500)
    assert run.observed["distance"] < 1e-12
    assert run.observed["test_accuracy"] > 0.97


def test_the_table_of_tumours():
    features, labels = data.breast_cancer()
    assert features.shape == (569, 30)
    assert features.dtype == torch.float64
    assert labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "iris"}, 'name must be "breast cancer" or two digits'),
        ({"name": "digits 3 3"}, 'name must be "breast cancer" or two digits'),
        ({"ridge": 0.0}, "ridge must be"),
        ({"split": -1}, "split must be"),
        ({"away": -1.0}, "away must be"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ThalwegError, match=message):
        Logistic(**{"name": "breast cancer", "ridge": 0.1, **change})
