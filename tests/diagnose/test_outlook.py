"""What follows from a measurement: the edges, what rho would become, and the words of the table."""

from __future__ import annotations

import json
import math

import pytest
import torch
from made import MEASURED, RHO, with_

import thalweg.diagnose
from thalweg import ThalwegError, theory
from thalweg.curvature.edge import BaseStep, base_step
from thalweg.diagnose import Diagnosis, Spectrum, outlook, recommend, table
from thalweg.diagnose.base import common_rho

BASES = {
    "plain": BaseStep("SGD", 0.05, 0.05),
    "momentum and decay": BaseStep("SGD", 0.05, 0.05, 0.9, 1e-2),
    "nesterov": BaseStep("SGD", 0.05, 0.05, 0.9, 0.0, True),
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
        lr = theory.edge(one.largest_lr, rho, 0.5, power, **given)
        assert lr == pytest.approx(20.0)
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
    assert found[0].largest_lr < 0.05
    rows = {row.name: row for row in told(m)}
    assert "itself leaves" in rows["USAM's threshold"].meaning
    assert "beyond it" in rows["GD"].meaning


@pytest.mark.parametrize(
    ("share", "told_"),
    [
        (0.7, "below it"),
        (0.86, "near it"),
        (0.98, "at it"),
        (1.02, "at it"),
        (1.1, "near it"),
        (1.3, "beyond it: steps grow"),
    ],
)
def test_where_the_curvature_lies_beside_the_edge(share, told_):
    edge = outlook.edges(MEASURED, 0.1)[0].edge
    rows = {row.name: row for row in told(with_(lambda_max=share * edge), asked=0.1)}
    assert rows["GD"].meaning.endswith(f" of this edge, {told_}")


def test_the_last_line_tells_no_lr_of_another_rho():
    def last(asked, **changes):
        m = with_(**changes)
        edges, rows = outlook.edges(m, asked), told(m, asked=asked)
        return str(Diagnosis(0.1, 1.0, ("so",), m, asked, edges, {}, rows)).splitlines()[-1]

    assert last(0.1).startswith("Recommended: rho = 0.1 at power 1, largest lr 0.")
    assert last(0.3) == "Recommended: rho = 0.1 at power 1."
    assert last(0.1, lambda_max=-1.0) == "Recommended: rho = 0.1 at power 1."


def test_where_nothing_bends_upwards_there_is_no_minimum():
    rows = {row.name: row for row in told(with_(lambda_max=-1.0))}
    assert rows["USAM's threshold"].value == "none"
    assert "SAM: bounce" not in rows
    assert "largest lr" not in rows


def test_decay_that_overshoots_alone_has_no_edge():
    w = torch.zeros(1, requires_grad=True)
    base = base_step(torch.optim.SGD([w], lr=0.05, weight_decay=100.0))
    (row,) = [row for row in told(with_(base=base)) if row.part.startswith("Edges")]
    assert (row.name, row.value) == ("SGD", "none")
    assert "weight_decay" in row.meaning


def told(m, power=1.0, asked=None):
    advice = recommend(m)
    asked = asked or advice.rho
    edges, changes = outlook.edges(m, asked), outlook.changes(m, advice.rho)
    return table.rows(m, advice, asked, edges, changes, power)


def test_optimizers_that_scale_by_themselves_get_no_edge():
    w = torch.zeros(1, requires_grad=True)
    base = base_step(torch.optim.AdamW([w], lr=1e-3))
    assert base.missing
    m = with_(base=base)
    assert all(one.edge is None and one.bounce is None for one in outlook.edges(m, 0.1))
    assert "largest lr" not in {row.name for row in told(m)}
    rows = [row for row in told(m) if row.part.startswith("Edges")]
    assert len(rows) == 1
    assert "AdamW scales" in rows[0].meaning


def test_groups_that_step_otherwise_get_no_edge():
    w, v = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    groups = [{"params": [w]}, {"params": [v], "momentum": 0.0}]
    base = base_step(torch.optim.SGD(groups, lr=1.0, momentum=0.9))
    (row,) = [row for row in told(with_(base=base)) if row.part.startswith("Edges")]
    assert "differ in momentum" in row.meaning


def test_the_rho_of_the_groups_is_read():
    w = torch.zeros(1, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.1)
    for held, rho in ((None, None), (0.2, 0.2), (0.0, None)):
        sgd.param_groups[0]["rho"] = held
        assert common_rho(sgd) == rho
    for held in ("x", -1.0, math.nan):
        sgd.param_groups[0]["rho"] = held
        with pytest.raises(ThalwegError, match='the "rho" of the param groups must be'):
            common_rho(sgd)


def test_what_rho_would_become():
    found = outlook.changes(MEASURED, 0.1)
    assert found["batch/4"] == theory.rho_for_microbatch(0.1, 64.0, 16.0, 1.0, 200.0)
    assert found["batch*4"] == theory.rho_for_microbatch(0.1, 64.0, 256.0, 1.0, 200.0)
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


VERDICTS = {0.005: "too small to matter", 0.5: "within", 2.0: "quadratic", 5.0: "uphill"}


@pytest.mark.parametrize("rho", VERDICTS)
def test_a_rho_that_was_asked_about_is_judged(rho):
    assert VERDICTS[rho] in outlook.verdict(MEASURED, rho)
    (row,) = [row for row in told(MEASURED, asked=rho) if row.name == "asked about"]
    assert VERDICTS[rho] in row.meaning


@pytest.mark.parametrize("rho", [0.6, 1.5, 3.9])
def test_beyond_the_loss_before_training_no_rho_is_trusted(rho):
    m = with_(start_loss=1.5, upper=0.5)  # the rise is rho here
    assert "above that of the model before training: too large" in outlook.verdict(m, rho)
    assert outlook.verdict(m, 0.4) == "within the trusted range"
    (row,) = [row for row in told(with_(start_loss=1.5)) if row.name == "upper end"]
    assert "above that before training" in row.meaning


def test_what_is_not_known_is_said_where_it_is_looked_for():
    rows = {row.name: row for row in told(MEASURED)}
    assert rows["rho"].meaning == (
        "at power 1, by the cautious rule: the loss before training is not known"
    )
    assert "pass --start-loss (start_loss= in Python)" in rows["before training"].meaning
    rows = {row.name: row for row in told(with_(start_loss=2.0))}
    assert rows["rho"].meaning == "at power 1"
    assert rows["before training"].meaning == "the loss, as it was given"
    rows = {row.name: row for row in told(with_(start_loss=0.5))}
    assert rows["rho"].meaning == "at power 1, by the cautious rule"
    assert rows["before training"].meaning.endswith("it is below the loss of now")


def test_one_batch_is_one_and_has_no_noise():
    m = with_(batches=1, loss_noise=math.nan)
    rows = {row.name: row for row in told(m, asked=0.005)}
    assert "over 1 batch of 64 examples" in rows["loss"].meaning
    assert "lost in rounding" in rows["lower end"].meaning
    assert "lost in rounding" in rows["asked about"].meaning


def test_a_lower_end_before_the_scan_is_told():
    rows = {row.name: row for row in told(with_(lower=RHO[0] / 2))}
    assert "scanned from 0.01" in rows["lower end"].meaning
    assert "scan" not in {row.name: row for row in told(MEASURED)}["lower end"].meaning


def test_momentum_is_named_above_the_edges():
    def part(m):
        return {row.name: row for row in told(m)}["GD"].part

    assert part(MEASURED) == "Edges at rho = 0.1, momentum 0.9"
    assert part(with_(base=BASES["plain"])) == "Edges at rho = 0.1"


def test_what_is_wanted_first_comes_first():
    base = base_step(torch.optim.SGD([torch.zeros(1)], lr=0.08, momentum=0.9, dampening=0.5))
    m = with_(base=base)
    first, second, *_ = told(m)
    assert (first.name, first.value, second.name) == ("rho", "0.1", "largest lr")
    # Half of a step is dampened: the largest lr is twice the largest step size.
    lr = [2 * theory.largest_stable_eta(rho, 20.0, 0.5, 1.0, 0.9) for rho in (0.1, 0.0)]
    assert second.value == f"{lr[0]:.3g}"
    assert second.meaning == f"now 0.08; above, steps grow (without SAM {lr[1]:.3g})"
    (row,) = (row for row in told(m, asked=0.3) if row.name == "largest lr")
    assert row.meaning.startswith("at rho = 0.3: now 0.08; ")
    parts = [row.part.split(",")[0] for row in told(m)]
    assert list(dict.fromkeys(parts)) == [
        "Recommended",
        "Along SAM's direction",
        "Edges at rho = 0.1",
        "Measured",
        "What rho would become",
    ]


def test_what_rho_becomes_at_another_width_is_one_row():
    rows = {row.name: row for row in told(MEASURED)}
    assert [name for name in rows if "width" in name] == ["width × 4"]
    assert rows["width × 4"].value == "0.2"
    assert rows["width × 4"].meaning == "a first layer's ball; hidden 0.1, last 0.05"


def test_a_power_above_one_is_told_to_need_a_cap():
    rows = {row.name: row for row in told(MEASURED, power=3.0)}
    assert "max_norm=" in rows["rho at power 3"].meaning
    assert "max_norm=" not in rows["rho at power 0.5"].meaning


def test_the_spectrum_is_told():
    rows = {row.name: row for row in told(MEASURED)}
    assert rows["eigenvalues"].value == "4"
    assert "λ_max is 5 times it" in rows["eigenvalues"].meaning
    assert rows["negative"].value == "0 %"  # -.1 is no farther from 0 than a hundredth of 20
    lower = with_(spectrum=Spectrum((-0.3, 0.0, 20.0), (0.25, 0.74, 0.01)))
    assert {row.name: row for row in told(lower)}["negative"].value == "25 %"


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
