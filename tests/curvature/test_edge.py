"""The edge of a base optimizer's settings: one rule for all who ask."""

from __future__ import annotations

import math

import pytest
import torch
from small_runs import half_squares, pair, sgd, small, two_groups, watched

from thalweg import SAM, theory
from thalweg.curvature import Monitor
from thalweg.curvature.edge import base_step, edge_of


def params(n=2):
    return [torch.ones(2, requires_grad=True) for _ in range(n)]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (sgd(momentum=0.9, dampening=0.5), theory.edge(0.05, 0.05, 2.0, 0.5, momentum=0.9)),
        (sgd(dampening=0.5), theory.edge(0.1, 0.05, 2.0, 0.5)),  # without momentum it is idle
        (
            sgd(momentum=0.9, nesterov=True, weight_decay=0.1),
            theory.edge(0.1, 0.05, 2.0, 0.5, 0.9, 0.1, nesterov=True),
        ),
        (two_groups(weight_decay=0.5), theory.edge(0.1, 0.05, 2.0, 0.5, weight_decay=0.5)),
        (lambda ps: torch.optim.SGD(ps, torch.tensor(0.1)), theory.edge(0.1, 0.05, 2.0, 0.5)),
    ],
)
def test_the_edge_is_that_of_the_settings(base, expected):
    assert edge_of(base(params()), 0.05, 2.0, 0.5) == (pytest.approx(expected), "")


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (lambda ps: torch.optim.AdamW(ps), "AdamW scales the entries"),
        (two_groups(lr=0.2), "differ in lr"),
        (two_groups(momentum=0.9), "differ in momentum"),
        (two_groups(momentum=0.9, dampening=0.1), "differ in momentum"),
        (two_groups(dampening=0.1), "differ in dampening"),
        (two_groups(maximize=True), "differ in maximize"),
        (sgd(maximize=True), "maximize is set"),
        (sgd(momentum=1.0), "momentum must be >= 0 and < 1"),
        (sgd(weight_decay=30.0), "weight_decay must be"),
        (lambda ps: torch.optim.SGD(ps, lr=0.0), "eta must be > 0"),
    ],
)
def test_where_the_formulas_do_not_hold_the_reason_is_told(base, reason):
    step = base_step(base(params()))
    assert reason in step.missing
    edge, told = edge_of(base(params()), 0.05)
    assert math.isnan(edge)
    assert told == step.missing


def test_a_group_that_trains_nothing_is_not_looked_at():
    optimizer = two_groups(lr=99.0, momentum=0.9, rho=3.0)(params())
    optimizer.param_groups[1]["params"][0].requires_grad_(False)
    assert edge_of(optimizer)[0] == pytest.approx(theory.edge(0.1))
    assert base_step(optimizer).lr == 0.1


@pytest.mark.parametrize("size", [0.0, math.inf, math.nan])
def test_a_perturbation_needs_a_gradient_and_the_base_optimizer_does_not(size):
    optimizer = sgd()(params())
    told = edge_of(optimizer, 0.05, size)[1]
    assert told == f"the edge needs a gradient, and its norm is {size:g}"
    assert edge_of(optimizer, 0.0, size) == (20.0, "")


def test_the_monitor_has_the_same_edge():
    for base in (sgd(momentum=0.9), two_groups(weight_decay=0.5), two_groups(momentum=0.9)):
        sam, _, (record,) = watched(base=base)
        edge, missing = edge_of(sam.optimizer, 0.05, record["grad_norm"])
        assert record["edge"] == pytest.approx(edge, nan_ok=True)
        assert record["edge_missing"] == missing


def test_parameters_that_are_frozen_do_not_hide_the_edge_of_the_others():
    model = small()
    next(model.parameters()).requires_grad_(False)
    _, _, (record,) = watched(model)
    assert record["edge"] == pytest.approx(theory.edge(0.1, 0.05, record["grad_norm"]))
    model = small()
    optimizer = two_groups(rho=0.2)(model.parameters())
    for p in optimizer.param_groups[1]["params"]:
        p.requires_grad_(False)
    record = Monitor(SAM(optimizer, model), half_squares, pair(), every=1).last
    assert record["rho"] == 0.05
    assert record["edge"] == pytest.approx(theory.edge(0.1, 0.05, record["grad_norm"]))
