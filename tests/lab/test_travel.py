"""The losses of the claim on travel: their constants, by brute force."""

import importlib

import numpy as np
import pytest
import torch

from thalweg.lab import Problem
from thalweg.lab.claims import CLAIMS
from thalweg.lab.claims.travel_losses import LOSSES

step = importlib.import_module("thalweg.lab.step")
CLAIM = next(claim for claim in CLAIMS if claim.name == "travel")
RNG = np.random.default_rng(0)
#: The part of the claim that holds paths against their bound, in half a second.
TINY = {
    **CLAIM.settings_for("quick"),
    "steps": 3200,
    "starts": 2,
    "bound_steps": 200,
    "endless_steps": 600,
}


def hessian(problem, names, point):
    def loss(w):
        params = {name: w[None, i] for i, name in enumerate(names)}
        params = {"w": w[None, :1]} if names == ["w"] else params
        return problem.loss(params)[0]

    return torch.autograd.functional.hessian(loss, point)


@pytest.mark.parametrize("name", LOSSES)
def test_the_constants_of_the_losses(name):
    loss = LOSSES[name]
    problem = loss.make(np.array([[0.3, 0.4]]))
    names = list(problem.start(torch.tensor([0])))
    half = np.array([0.7, 1.3]) if name != "x² + 3 sin²x" else np.array([5.0, 0.0])
    slope = np.array(loss.steepest(*half))
    beta = float(loss.beta(*half))
    points = torch.tensor(RNG.uniform(-1, 1, (300, 2)) * half)
    points = torch.cat([points, torch.tensor(half)[None], torch.tensor(half * [1, -1])[None]])
    steepest, largest, least = np.zeros(2), 0.0, np.inf
    for point in points:
        w = (
            {"w": point[None, :1]}
            if names == ["w"]
            else {n: point[None, i] for i, n in enumerate(names)}
        )
        g = torch.cat([value.reshape(-1) for value in Problem.gradient(problem, w).values()])
        steepest[: len(g)] = np.maximum(steepest[: len(g)], g.abs().numpy())
        least = min(least, float(g @ g / (2 * problem.loss(w)[0])))
        values = torch.linalg.eigvalsh(hessian(problem, names, point[: len(g)]))
        largest = max(largest, float(values.abs().max()))
    assert (steepest <= slope + 1e-12).all()
    assert largest <= beta + 1e-12
    assert largest > 0.6 * beta  # and no looser than that
    assert least >= loss.mu - 1e-12
    # The curvature across the minima, where the loss is 0.
    at = torch.tensor([0.6, 0.36 if name == "½(y−x²)²" else 1.3], dtype=torch.float64)
    at = at if name == "½(y−x²)²" else at * torch.tensor([0.0, 1.0])
    floor = hessian(problem, names, at[: 1 if len(names) == 1 else 2])
    expected = float(loss.curvature(*at.numpy()))
    assert float(torch.linalg.eigvalsh(floor).max()) == pytest.approx(expected)


def test_a_path_that_is_too_long_is_told(monkeypatch):
    def longer(self, state, settings, batch, *more, call=step.Step.__call__):
        return call(self, state, settings._replace(eta=1.05 * settings.eta), batch, *more)

    assert CLAIM.measure(TINY).verdict == "holds"
    monkeypatch.setattr(step.Step, "__call__", longer)
    evidence = CLAIM.measure(TINY)
    wrong = [check.what for check in evidence.checks if check.holds is False]
    # The quadratic's path is no longer that of the η it is told, and attains another bound.
    assert any(what.startswith("½x²:") for what in wrong)
    assert any("steps of SAM" in what for what in wrong)
