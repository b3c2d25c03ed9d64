"""The claims reach the verdict on record, and stop reaching it when SAM is spoiled."""

import importlib

import pytest

from thalweg.lab.claims import CLAIMS
from thalweg.lab.claims import digit_runs as room

simulate = importlib.import_module("thalweg.lab.simulate")  # the package gives the function
BY_NAME = {claim.name: claim for claim in CLAIMS}
#: Smaller than a quick study, and still decisive: no cell of this map stands next to an edge.
SMALL = {
    "exponent": lambda quick: {
        "threshold_rho": [0.1, 10.0],
        "threshold_steps": 4_000,
        "threshold_powers": [1.0, 2.0],
        "bounce_powers": [0.5, 1.0, 2.0],
        "bounce_eta_lambda": [0.5, 1.5],
        "bounce_steps": 300,
        "edge_powers": [2.0],
        "map_step": 0.25,
        "map_eta_step": 0.2,
        "map_steps": 1_500,
        "map_looks": 60,
        "chains": 2_000,
        "chain_steps": 150,
        "across_chains": 100,
        "across_steps": 300,
        "tail_powers": [1.5, 2.0],
        "tail_chains": 2_000,
        "tail_looks": 10,
        "tail_share": 0.02,
        "cap_starts": 10,
        "cap_steps": 300,
        "drift_powers": [0.0, 0.5, 1.0, 1.5],
        "drift_from": 500,
        "drift_steps": 2_000,
        "trap_powers": [0.0, 0.5, 1.0, 1.5],
        "trap_starts": 40,
        "trap_steps": 800,
    },
    "edges": lambda quick: {
        "bases": ["SGD", "Nesterov .9"],
        "usam_rho": [0.2],
        "mixes": [0.5, 1.0],
        "rows": [20, 20, 20],
        "steps": 200,
        "within": 1e-3,
        "side_steps": 4_000,
        "bounce_steps": 800,
        "cycles": [[0.5, 0.2, True]],
        "cycle_starts": 30,
        "cycle_steps": 600,
    },
    "saddles": lambda quick: {
        "map_cells": 10,
        "map_steps": 300,
        "usam_steps": 1_500,
        "trap_starts": 5,
        "trap_steps": 800,
        "leap_powers": [1.0],
        "leap_starts": 20,
        "leap_steps": 2_000,
        "never_s": [0.9],
        "never_steps": 2_000,
        "held_powers": [[1.0, 0.0]],
        "held_products": [1.0],
    },
    "stability": lambda quick: {
        "bounded_rhos": 2,
        "bounded_steps": 1000,
        "cells": 10,
        "map_steps": 1000,
    },
    "convex": lambda quick: {
        "starts": 1,
        "losses": 16,
        "products": [0.2, 1.3, 1.822, 1.95],
        "rho": [0.1],
        "steps": 800,
        "late": 70,
        "powers": [0.5, 1.0],
        "followed": 8,
        "way": 60,
        "usam_steps": 1200,
        "usam_products": [0.5, 1.5, 1.83],
        "descent_losses": 60,
        "descent_steps": 30,
    },
    "logistic": lambda quick: {
        "data": ["breast cancer"],
        "products": [1.5],
        "radii": [0.1, 1.02, 100.0],
        "steps": 600,
        "tested_rho": [0.1, 10.0],
        "tested_steps": 100,
    },
    "drift": lambda quick: {
        "ends": [[*quick["ends"][0][:4], 4000, 1500, ["log_cosh"]]],
        "legs": quick["legs"][:1],
        "momentum": [],
    },
    "travel": lambda quick: {"steps": 3200, "starts": 2, "bound_steps": 200, "endless_steps": 600},
    "flatness": lambda quick: {
        "start": [0.3, 0.3],
        "full_rho": 0.16,
        "full_steps": 1200,
        "single": [[0.01, 0.4, 1.0], [0.1, 0.1, 1.0], [0.1, 0.05, 0.75]],
        "single_steps": 1500,
        "seeds": 64,
        "leg_steps": 400,
        "legs": quick["legs"][1:2],
    },
    "sensing": lambda quick: {
        "task": {"d": 12, "rank": 1, "measurements": 30},
        "far_steps": 800,
        "looks": 10,
        "settle_steps": 1200,
        "large": [0.8],
        "large_steps": 100,
        "threshold_steps": 500,
        "rates_rho": [0.004],
        "rates_steps": 1200,
        "timed_rho": [0.02, 0.03],
        "timed_shares": [0.95, 0.9],
        "timed_budget": 1.0,
    },
    "threshold-neurons": lambda quick: {
        "task": {"d": 60, "examples": 100, "signal": 3.0},
        "seeds": 6,
        "time": 4.0,
        "fraction": 0.5,
    },
    "limits-of-the-claims": lambda quick: {
        "quartic_eta": [0.05],
        "quartic_steps": 3000,
        "seeds": 2,
        "settle_steps": 800,
        "rho": [1.0, 3.0],
        "steps": 200,
    },
    "network-edge": lambda quick: {"examples": 40, "steps": 1000, "every": 50},
    "clock": lambda quick: {
        "every": 40,
        "networks": [
            {
                **quick["networks"][0],
                "examples": 40,
                "search_steps": 500,
                "steps": 700,
                "cells": [[0.75, 0.08, 0.05], [1.0, 0.08, 0.04], [1.0, 0.08, 0.025]],
                "levels": [0.7],
            }
        ],
    },
    "loss-scale": lambda quick: {
        "problems": [
            [name, *others, steps if name == "quadratic" else steps // 3]
            for name, *others, steps in quick["problems"]
        ]
    },
    "digits": lambda quick: {
        "task": {"n_train": 200, "batch_size": 50, "eta": 0.05, "momentum": 0.9, "width": 16},
        "noise": [0.0, 0.5],
        "seeds": 4,
        "steps": 400,
        "powers": [1.0],
        "log_rho": {"1.0": [-1.1, -0.5]},
        "eta": [0.05],
        "look": 100,
        "bootstrap": 100,
    },
}


def measured(name):
    room._train.cache_clear()
    claim = BY_NAME[name]
    quick = claim.settings_for("quick")
    return claim.measure({**quick, **SMALL[name](quick)})


def failed(evidence):
    return [check.what for check in evidence.checks if check.holds is not True]


@pytest.mark.parametrize("name", SMALL)
def test_the_verdict_on_record_is_reached(name):
    evidence = measured(name)
    assert [c.what for c in evidence.checks if c.decides and c.holds is not True] == []
    assert evidence.verdict == BY_NAME[name].expected == "holds"
    # The record is as useful as the verdict.
    assert all(c.predicted and c.measured and c.tolerance for c in evidence.checks)
    assert all(axes.layers for chart in evidence.charts for axes in chart.axes)


SAM_GRADIENT = simulate.Step.sam_gradient


def no_rho(self, w, settings, *rest):
    return SAM_GRADIENT(self, w, settings._replace(rho=0 * settings.rho), *rest)


def other_sign(self, w, settings, *rest):
    return SAM_GRADIENT(self, w, settings._replace(rho=-settings.rho), *rest)


def always_normalized(self, w, settings, *rest):
    return SAM_GRADIENT(self, w, settings._replace(power=1.0), *rest)


def never_normalized(self, w, settings, *rest):
    return SAM_GRADIENT(self, w, settings._replace(power=0.0), *rest)


def twice_as_far(self, w, settings, *rest):
    return SAM_GRADIENT(self, w, settings._replace(rho=2 * settings.rho), *rest)


#: Who notices twice the rho notices another sign: that is asked of the claims that are quick.
SPOILED = [
    (name, spoil)
    for name, spoils in {
        "exponent": [no_rho, always_normalized, never_normalized, twice_as_far],
        "stability": [no_rho, always_normalized, never_normalized, twice_as_far],
        "edges": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "saddles": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "convex": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "logistic": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "drift": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "travel": [no_rho, other_sign, always_normalized, never_normalized, twice_as_far],
        "flatness": [no_rho, never_normalized, twice_as_far],
        "network-edge": [no_rho, always_normalized, never_normalized, twice_as_far],
        "clock": [no_rho, always_normalized, never_normalized, twice_as_far],
        "sensing": [no_rho, always_normalized, never_normalized, twice_as_far],
        "threshold-neurons": [no_rho, always_normalized, never_normalized],
        "limits-of-the-claims": [no_rho, other_sign, never_normalized, twice_as_far],
        # An identity between two runs of SAM: whatever both do alike is none of its business.
        "loss-scale": [no_rho, always_normalized, never_normalized],
        # SAM beats SGD with any power; a power taken for another is noticed by the others.
        "digits": [no_rho, other_sign],
    }.items()
    for spoil in spoils
]


@pytest.mark.parametrize(("name", "spoil"), SPOILED)
def test_a_spoiled_sam_is_noticed(monkeypatch, name, spoil):
    monkeypatch.setattr(simulate.Step, "sam_gradient", spoil)
    evidence = measured(name)
    assert evidence.verdict != BY_NAME[name].expected, failed(evidence)


def test_a_part_of_the_drift_that_never_came_is_told(monkeypatch):
    monkeypatch.setattr(simulate.Step, "sam_gradient", no_rho)
    (check,) = [check for check in measured("drift").checks if check.what.startswith("steps from")]
    assert check.holds is False
    assert check.measured.startswith("inf")
