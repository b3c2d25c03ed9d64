"""The parts of the claim on the drift's speed: counts, periods, the law without its factor."""

import numpy as np
import pytest
from scipy.integrate import quad

from thalweg import theory
from thalweg.lab.claims import drift, drift_speed


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_law_without_its_factor_is_the_law_of_small_steps(power):
    eta, rho, far, near = 0.1, 0.02, 4.0, 1.5

    def slowness(s):
        return eta * s**3 / 8 * (2 / (eta * rho * s * s)) ** (2 / power)

    arrays = [np.array([value]) for value in (power, eta, rho, far, near)]
    (found,) = drift_speed._plain(*arrays)
    assert found == pytest.approx(quad(slowness, near, far)[0], rel=1e-9)
    if power <= 1:  # above, small steps have no stable bounce
        small = theory.single_neuron_drift_steps(1e-5, rho, far, near, power)
        arrays[1] = np.array([1e-5])
        assert drift_speed._plain(*arrays)[0] == pytest.approx(small, rel=1e-3)


def test_steps_between_two_marks():
    values = np.array([5.0, 4.0, 2.9, 3.1, 2.0, 0.9, 0.5])
    assert drift_speed._passage(values, 3.0, 1.0) == 3
    assert drift_speed._passage(values, 3.0, 0.1) == np.inf


@pytest.mark.parametrize(("cycle", "period"), [([1, -1], 2), ([1, 2, -1, -2], 4), ([1, 0, -1], 3)])
def test_periods(cycle, period):
    x = np.tile(np.array(cycle, dtype=float), 100) * np.linspace(1.0, 0.9, 100 * len(cycle))
    assert drift_speed._period(x) == period
    assert drift_speed._period(np.random.default_rng(0).normal(size=300)) == 0


def test_the_drift_with_momentum_has_one_law_and_other_cycles_beside_it():
    checks, axes, runs = drift_speed.momentum(
        {
            "momentum": [[0.5, 0.1, 0.04]],
            "momentum_starts": [0.3, 3.0],
            "momentum_marks": [1.5, 0.75],
            "momentum_tolerance": 0.002,
        }
    )
    bounce, cycle = checks
    assert runs == 2
    assert bounce.holds is True
    assert "1 of 2 starts" in bounce.measured
    assert cycle.holds is None
    assert "cycles of 4 steps" in cycle.what
    assert 0.86 < float(cycle.measured.split()[0]) < 0.89
    assert axes[0].layers


@pytest.mark.parametrize(
    ("eta", "rho", "start"), [(0.1, 0.1, (1.0, 61**0.5)), (0.4, 0.1, (2.0, 40**0.5))]
)
def test_the_marks_of_theory_lie_where_the_paths_end(eta, rho, start):
    _, (paths, _), _ = drift._ends({"every": 4}, eta, rho, start, (5000, 1500), "log_cosh")
    _, marks, *_ = paths.layers
    assert (marks.role, marks.dash) == ("theory", True)
    ends = [line.y[0] ** 2 for line in paths.layers[-4:]]
    # As near as the checks of the claim ask for: the stops are of leading order in η.
    assert [y**2 for y in marks.y[::3]] == pytest.approx(ends, abs=2 * eta)
    assert ends == sorted(ends, reverse=True)
