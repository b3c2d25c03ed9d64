"""What follows from a measurement: the rule, the edges, what rho would become, and the words."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import thalweg.diagnose
from thalweg import theory
from thalweg.diagnose import Base, Measured, Scan, outlook, recommend, table
from thalweg.diagnose.base import base_of, common_rho
from thalweg.diagnose.rule import LEVEL, crossing

RHO = tuple(0.01 * 10 ** (i / 4) for i in range(13))
SCAN = Scan(RHO, RHO, RHO, (5.0,) * 13, (1.0,) * 13, (1.0,) * 13)
MEASURED = Measured(
    parameters=100,
    batches=8,
    examples=64.0,
    loss=1.0,
    loss_noise=0.1,
    weight_norm=10.0,
    grad_norm=0.5,
    mean_grad_norm=0.4,
    noise_scale=200.0,
    lambda_max=20.0,
    lambda_error=0.1,
    trace=50.0,
    trace_error=1.0,
    largest_share=0.6,
    largest_name="head.weight",
    scan=SCAN,
    lower=0.01,
    upper=1.0,
    flip=4.0,
    base=Base("SGD", 0.05, 0.05, 0.9, 1e-4),
)


def with_(**changes):
    return dataclasses.replace(MEASURED, **changes)


def test_the_middle_of_the_trusted_range():
    found = recommend(MEASURED)
    assert found.rho == pytest.approx(0.1)
    assert found.power == 1.0
    assert "lost in the noise" in found.reasons[0]
    assert not any("uphill" in reason for reason in found.reasons)


def test_a_part_of_where_the_loss_is_that_of_the_start():
    """The rise is rho here."""
    found = recommend(with_(start_loss=2.0))
    assert found.rho == pytest.approx(LEVEL * 1.0)
    assert "that of the model before training" in found.reasons[0]
    assert recommend(with_(start_loss=1.5)).rho == pytest.approx(LEVEL * 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (math.nan, "is not known"),
        (1.0, "hardly better"),
        (1.09, "hardly better"),
        (0.5, "hardly better"),
        (1e9, "hardly better"),
    ],
)
def test_without_a_start_the_cautious_rule_is_taken(start, said):
    found = recommend(with_(start_loss=start))
    assert found.rho == pytest.approx(0.1)
    assert any(said in reason for reason in found.reasons) or start == 1e9


def test_at_most_half_of_where_the_gradient_turns():
    found = recommend(with_(flip=0.1))
    assert found.rho == pytest.approx(0.05)
    assert any("uphill" in reason for reason in found.reasons)


def test_ends_that_the_scan_did_not_reach_are_its_own():
    found = recommend(with_(upper=math.inf, flip=math.inf))
    assert found.rho == pytest.approx((0.01 * RHO[-1]) ** 0.5)
    assert "as far as the scan goes" in found.reasons[0]
    assert "no longer" not in found.reasons[0]


def test_no_trusted_range_is_said():
    found = recommend(with_(lower=2.0, upper=0.5))
    assert found.rho == 0.5
    assert "No rho is both" in found.reasons[0]
    assert recommend(with_(lower=math.inf, upper=0.5)).rho == 0.5


def test_one_batch_is_said_to_be_little():
    assert "From one batch" in recommend(with_(loss_noise=math.nan)).reasons[0]


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_the_recommendation_has_the_unit_of_the_weights(scale):
    ends = {key: scale * getattr(MEASURED, key) for key in ("lower", "upper", "flip")}
    rhos = tuple(scale * rho for rho in RHO)
    stretched = with_(scan=dataclasses.replace(SCAN, rho=rhos), **ends)
    assert recommend(stretched).rho == pytest.approx(scale * recommend(MEASURED).rho)


def test_crossing():
    x = [1.0, 10.0, 100.0]
    assert crossing(x, [0.0, 0.0, 1.0], 2.0) == math.inf
    assert crossing(x, [3.0, 0.0, 5.0], 2.0) == 1.0
    assert crossing(x, [0.0, math.nan, 5.0], 2.0) == 1.0
    assert crossing(x, [0.0, 1.0, math.inf], 2.0) == 10.0
    assert crossing(x, [0.0, 4.0, 5.0], 1.0) == pytest.approx(10**0.25)


BASES = {
    "plain": Base("SGD", 0.05, 0.05),
    "momentum and decay": Base("SGD", 0.05, 0.05, 0.9, 1e-2),
    "nesterov": Base("SGD", 0.05, 0.05, 0.9, 0.0, True),
}


@pytest.mark.parametrize("name", BASES)
def test_edges_are_those_of_the_theory(name):
    base = BASES[name]
    m = with_(base=base)
    rho = 0.07
    found = {one.method: one for one in outlook.edges(m, rho)}
    given = {
        "momentum": base.momentum,
        "weight_decay": base.weight_decay,
        "nesterov": base.nesterov,
    }
    assert found["GD"].edge == theory.edge(0.05, **given)
    for method, power in (("USAM", 0.0), ("p = 1/2", 0.5), ("SAM", 1.0)):
        one = found[method]
        assert one.edge == theory.edge(0.05, rho, 0.5, power, **given)
        assert one.ratio == 20.0 / one.edge
        largest = theory.largest_stable_rho(0.05, 20.0, 0.5, power, **given)
        assert one.largest_rho == largest
        at_limit = theory.edge(0.05, largest, 0.5, power, **given)
        assert at_limit == pytest.approx(20.0)
        if power and not base.nesterov:
            assert one.bounce == theory.bounce_amplitude(0.05, rho, 20.0, power, base.momentum)
            # On the bounce ‖g‖ = λa, so that ‖ε‖ = ρ‖g‖^(1 - p).
            assert one.radius == pytest.approx(rho * (20.0 * one.bounce) ** (1 - power))
        else:
            assert one.bounce is one.radius is None


def test_a_minimum_that_the_optimizer_leaves_has_no_limit_and_no_bounce():
    m = with_(lambda_max=500.0)
    found = outlook.edges(m, 0.05)
    assert all(one.largest_rho is None and one.bounce is None for one in found)
    assert found[0].ratio > 1
    rows = {row.name: row for row in told(m)}
    assert "itself leaves" in rows["USAM's limit"].meaning
    assert "beyond it" in rows["GD"].meaning


def test_where_nothing_bends_upwards_there_is_no_minimum():
    rows = {row.name: row for row in told(with_(lambda_max=-1.0))}
    assert rows["USAM's limit"].value == "none"
    assert "SAM: bounce" not in rows


def test_decay_that_overshoots_alone_has_no_edge():
    rows = {row.name: row for row in told(with_(base=Base("SGD", 0.05, 0.05, 0.0, 100.0)))}
    assert rows["GD"].value == "none"


def told(m, power=1.0, asked=None):
    advice = recommend(m)
    asked = asked or advice.rho
    edges, changes = outlook.edges(m, asked), outlook.changes(m, advice.rho)
    return table.rows(m, advice, asked, edges, changes, power)


def test_optimizers_that_scale_by_themselves_get_no_edge():
    w = torch.zeros(1, requires_grad=True)
    base = base_of(torch.optim.AdamW([w], lr=1e-3))
    assert not base.plain
    m = with_(base=base)
    assert all(one.edge is None and one.bounce is None for one in outlook.edges(m, 0.1))
    rows = [row for row in told(m) if row.part.startswith("Edges")]
    assert len(rows) == 1
    assert "no edge is given" in rows[0].meaning


def test_what_is_read_from_an_optimizer():
    w, v = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.2)
    assert base_of(sgd) == Base("SGD", 0.1, 0.05, 0.9, 0.2)
    groups = [{"params": [w], "lr": 0.1}, {"params": [v], "lr": 0.3, "momentum": 0.5}]
    found = base_of(torch.optim.SGD(groups, lr=1.0, momentum=0.9))
    assert (found.lr, found.momentum) == (0.3, 0.5)
    assert "groups differ in lr" in found.notes[0]
    assert not base_of(torch.optim.SGD([w], lr=0.1, maximize=True)).plain
    assert common_rho(sgd) is None
    sgd.param_groups[0]["rho"] = 0.2
    assert common_rho(sgd) == 0.2


def test_what_rho_would_become():
    found = outlook.changes(MEASURED, 0.1)
    assert found["batch/4"] == theory.radius_for_microbatch(0.1, 64.0, 16.0, 1.0, 200.0)
    assert found["batch*4"] == theory.radius_for_microbatch(0.1, 64.0, 256.0, 1.0, 200.0)
    assert found["batch/4"] < 0.1 < found["batch*4"]
    assert found["loss*4"] == 0.1
    assert found["USAM now"] == pytest.approx(0.1 / 0.5)  # ρ ‖g‖ = .1
    assert found["USAM, loss*4"] == pytest.approx(found["USAM now"] / 4)
    widths = [found[f"width*4, {which} layer"] for which in ("first", "hidden", "last")]
    assert widths == pytest.approx([0.2, 0.1, 0.05])
    assert "batch/4" not in outlook.changes(with_(noise_scale=math.nan), 0.1)
    noisy = outlook.changes(with_(noise_scale=math.inf), 0.1)
    assert noisy["batch*4"] == pytest.approx(0.2)
    assert "batch/4" not in outlook.changes(with_(examples=2.0), 0.1)


VERDICTS = {0.005: "too small to matter", 0.5: "within", 2.0: "quadratic", 5.0: "too large"}


@pytest.mark.parametrize("rho", VERDICTS)
def test_a_rho_that_was_asked_about_is_judged(rho):
    assert VERDICTS[rho] in outlook.verdict(MEASURED, rho)
    (row,) = [row for row in told(MEASURED, asked=rho) if row.name == "asked about"]
    assert VERDICTS[rho] in row.meaning


def test_every_power_gets_the_rho_of_the_same_length():
    rows = {row.name: row.value for row in told(MEASURED, power=2.0)}
    lengths = {p: float(rows[f"rho at power {p:g}"]) * 0.5 ** (1 - p) for p in (0.0, 0.5, 2.0)}
    assert list(lengths.values()) == pytest.approx([0.1] * 3, rel=1e-2)


def test_json_is_json():
    advice = recommend(MEASURED)
    edges, changes = outlook.edges(MEASURED, 0.1), outlook.changes(MEASURED, 0.1)
    m = with_(upper=math.inf)
    found = thalweg.diagnose.Diagnosis(*advice, m, 0.1, edges, changes, told(m))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["measured"]["upper"] is None
    assert data["rho"] == advice.rho
    assert data["measured"]["scan"]["rho"] == pytest.approx(RHO)
    assert [one["method"] for one in data["edges"]] == ["GD", "USAM", "p = 1/2", "SAM"]
    for row in found.rows:
        assert row.name in str(found)
        assert row.meaning in str(found)
