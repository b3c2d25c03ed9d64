"""Where SAM by single examples is predicted to end, and what the claim says of it."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from thalweg import theory
from thalweg.lab import TwoCurvatures, simulate
from thalweg.lab.claims.flatness_single import SHARPEST, single_example_end
from thalweg.lab.valleys import curvatures


@pytest.mark.parametrize(("eta", "power"), [(0.01, 1.0), (0.1, 1.0), (0.1, 0.75), (0.05, 1.25)])
def test_the_end_by_single_examples_is_the_least_of_its_sum(eta, power):
    found = single_example_end(eta, power)

    def slope(curvature):
        return (curvature**2 / (2 - eta * curvature)) ** (2 / power) / curvature**4

    def height(u):
        return sum(quad(slope, 1.0, c)[0] for c in 4 * curvatures(torch.tensor(u)).numpy())

    least = height(found)
    for turn in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        away = 3e-3 * np.array([np.cos(turn), np.sin(turn)])
        assert height(found + away) > least


@pytest.mark.parametrize("power", [0.75, 1.0, 1.25])
def test_the_drift_of_one_example_is_that_of_theory(power):
    # What is balanced is the velocity of the drift, up to a factor that both examples share.
    eta, rho = 0.1, 0.1
    velocity = [-theory.drift_velocity(eta, rho, c, 1.0, power) for c in (13.0, 7.0)]
    weight = [(c**2 / (2 - eta * c)) ** (2 / power) / c**4 for c in (13.0, 7.0)]
    assert velocity[0] / velocity[1] == pytest.approx(weight[0] / weight[1], rel=1e-12)


def test_the_end_goes_from_the_least_trace_towards_the_least_top_eigenvalue():
    assert single_example_end(0.0).tolist() == pytest.approx([7 / 13, 3 / 8], abs=1e-12)
    for ends in (
        [single_example_end(eta) for eta in np.linspace(0, 0.15, 10)],
        [single_example_end(0.01, power) for power in (1.5, 1.0, 0.75, 0.5, 0.3)],
    ):
        assert (np.diff(np.linalg.norm(np.array(ends) - SHARPEST, axis=-1)) < 0).all()
    # Reference: (.559, .361) at η = .01
    assert single_example_end(0.01).tolist() == pytest.approx([0.559, 0.361], abs=5e-4)


def test_full_batch_and_single_examples_end_at_different_points():
    ends = [
        simulate(TwoCurvatures(u=(0.6, 0.4), examples=kind), eta=0.1, rho=0.1, steps=2000).observed
        for kind in ("all", "each")
    ]
    found = np.array([[end["u1"], end["u2"]] for end in ends])
    assert np.linalg.norm(found[0] - SHARPEST) < 0.02
    assert np.linalg.norm(found[1] - single_example_end(0.05)) < 0.005
    assert np.linalg.norm(found[0] - found[1]) > 0.3
