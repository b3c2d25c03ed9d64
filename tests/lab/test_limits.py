"""The quartic's threshold from several starts; means over seeds and their intervals."""

import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Problem, simulate
from thalweg.lab.claims.limits import _larger_root, _smaller_root
from thalweg.lab.problems import Quartic
from thalweg.lab.statistics import geometric, mean


def test_the_quartic_against_differentiation():
    quartic, w = Quartic(1.0), {"w": torch.linspace(-3, 3, 13, dtype=torch.float64)}
    torch.testing.assert_close(quartic.gradient(w)["w"], Problem.gradient(quartic, w)["w"])
    assert quartic.loss(w).tolist() == [v**4 / 4 for v in w["w"].tolist()]


@pytest.mark.parametrize("eta", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("start", [1e-3, 0.1, 0.4])
def test_the_quartic_at_both_sides_of_its_threshold(eta, start):
    edge = math.sqrt(8 / (27 * eta))
    run = simulate(Quartic(start * edge), eta=eta, rho=edge * np.array([0.999, 1.001]), steps=2000)
    assert run.diverged.tolist() == [False, True]


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_below_the_threshold_a_start_beyond_the_larger_root_diverges(share):
    edge = math.sqrt(8 / (27 * 0.2))
    for side, out in ((0.999, False), (1.001, True)):
        start = side * _larger_root(share) * edge
        run = simulate(Quartic(start), eta=0.2, rho=share * edge, steps=2000)
        assert bool(run.diverged) is out


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99, 1.0])
def test_the_bounce_on_the_quartic(share):
    a = _smaller_root(share)
    assert (a + share) ** 3 == pytest.approx(27 / 4 * a, rel=1e-6)
    assert a <= 0.5 + 1e-6  # at the threshold ρ*/2


def test_means_and_intervals():
    draw = np.random.default_rng(0).normal(2.0, 1.0, (4000, 5))
    found = mean(draw)
    covered = ((found.low < 2) & (found.high > 2)).mean()
    assert covered == pytest.approx(0.95, abs=0.01)
    assert found.n == 5
    np.testing.assert_allclose(found.mean, draw.mean(1))
    np.testing.assert_allclose(geometric(np.exp(draw)).low, np.exp(found.low))
    with pytest.raises(ThalwegError, match="at least 2 seeds, got 1"):
        mean([1.0])
    with pytest.raises(ThalwegError, match="at least 2 seeds, got 0"):
        mean(3.0)
