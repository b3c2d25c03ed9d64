"""When a monitor samples, and what it says; on a network that trains at the edge."""

from __future__ import annotations

import math
import random
import statistics
import types

import pytest
import torch
from small_runs import digits, half_squares, pair, perceptron, small, train, watched
from torch import nn

from thalweg import SAM, theory
from thalweg.curvature.monitor import Monitor
from thalweg.curvature.pace import Along, Pace
from thalweg.curvature.records import Record
from thalweg.curvature.words import WINDOW, thought


@pytest.fixture(scope="module", params=[(1.0, 0.3, 0.05), (0.0, 0.2, 0.1)], ids=["p=1", "p=0"])
def late(request):
    """Full-batch SAM on a hundred digits, until the largest curvature sits at the edge."""
    torch.set_num_threads(1)
    power, lr, rho = request.param
    batch, model = digits(), perceptron()
    sam = SAM(
        torch.optim.SGD(model.parameters(), lr=lr), model, rho, power=power, telemetry=power == 1
    )
    records = []
    with Monitor(sam, half_squares, batch, every=100, to=records.append) as monitor:
        train(sam, half_squares, [batch] * 1000)
    return types.SimpleNamespace(records=records, monitor=monitor, power=power, lr=lr, rho=rho)


def test_full_batch_sam_sits_at_the_edge(late):
    ratios = [record["ratio"] for record in late.records]
    assert ratios[0] > 1.4  # the edge is not where it starts: something had to bring it there
    assert 0.95 < statistics.median(ratios[-5:]) < 1.12
    last = late.records[-1]
    assert last["lambda_max"] < 0.96 * 2 / late.lr  # and it is not the edge of gradient descent
    expected = theory.edge(late.lr, late.rho, last["grad_norm"], late.power)
    assert last["edge"] == pytest.approx(expected)
    assert last["ratio"] == pytest.approx(last["lambda_max"] / expected)


def test_it_says_so_once(late):
    said = [text for record in late.records for text in record["says"]]
    assert said == late.monitor.says
    assert len([text for text in said if "sits at the edge" in text]) == 1
    assert late.records[0]["says"] == []


def test_the_rise_is_the_predicted_one_while_the_loss_is_quadratic(late):
    for record in late.records[1:]:
        assert record["loss_rise"] == pytest.approx(record["loss_rise_predicted"], rel=0.05)
        assert record["loss_rise"] > 0


def test_the_free_curvature_of_every_step(late):
    if late.power == 0:  # without telemetry
        assert math.isnan(late.records[-1]["curvature"])
        assert late.records[-1]["curvatures"] == []
        return
    steps = [step for record in late.records for step in record["curvature_steps"]]
    values = [value for record in late.records for value in record["curvatures"]]
    assert steps == list(range(1, 1001))
    assert late.records[-1]["curvature"] == values[-1]
    assert 0.9 < statistics.median(values[-100:]) / late.records[-1]["edge"] < 1.1


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_within_its_share_of_the_time(share):
    draw = random.Random(0)
    for _ in range(20):
        pace, now, own, trained, worst = Pace(None, share), 0.0, 0.0, 0.0, 0.0
        pace.sampled(-1.0, 0.0)
        taken = 0
        for step in range(1, 5000):
            wait = draw.expovariate(20)
            now, trained = now + wait, trained + wait
            if pace.due(step, now):
                cost = draw.uniform(0.5, 1.5)
                pace.sampled(now, now + cost)
                now, own, worst, taken = now + cost, own + cost, max(worst, cost), taken + 1
        # Only the last sample may not be paid for in full yet.
        assert own <= share * trained + worst
        assert own > share * trained / 3  # and it does use its share
        assert taken > 3


def test_the_default_share_in_a_training(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    time = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr("thalweg.curvature.monitor.time", time)
    monkeypatch.setattr("thalweg.curvature.pace.time", time)

    def loss_of(model, batch):
        clock.now += 1.0  # a second at w, one at w + ε
        return half_squares(model, batch)

    model = small()
    sam, records = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model), []
    Monitor(sam, loss_of, pair(), to=records.append)
    for _ in range(130):
        clock.now += 1.0
        train(sam, half_squares, [pair()])
    # 2 s are 5 % of 40 s; the first wait pays for two samples.
    assert [record["step"] for record in records] == [0, 80, 120]


def test_what_no_training_has_paid_for_is_searched_shortly():
    model = torch.nn.Linear(40, 1, bias=False)
    batch = torch.diag(torch.linspace(1.0, 1.2, 40)), torch.zeros(40, 1)  # close eigenvalues
    sam, records = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model), []
    with Monitor(sam, half_squares, batch, to=records.append, trace=False) as monitor:
        monitor.sample()
    with Monitor(sam, half_squares, batch, to=records.append, trace=False, every=5):
        pass
    short, _, paid = (record["products"] for record in records)
    assert short <= 9 < paid  # one of them is along ε
    residuals = [record["residual"] for record in records]
    assert residuals[1] < residuals[0]  # which goes on from there


def test_a_pause_does_not_save_time_up():
    pace = Pace(None, 0.05)
    pace.sampled(-2.0, 0.0)
    pace.sampled(0.0, 1.0)
    assert pace.due(1, 3600.0)
    pace.sampled(3600.0, 3601.0)
    assert not pace.due(2, 3602.0)
    assert pace.due(3, 3601.0 + 20.1)


def test_a_sample_that_took_longer_is_paid_for_later():
    pace = Pace(None, 0.05)
    pace.sampled(-1.0, 0.0)
    pace.sampled(40.0, 43.0)  # three seconds, where two were waited for
    assert not pace.due(2, 43.0 + 79.0)
    assert pace.due(3, 43.0 + 81.0)


def test_of_a_long_wait_every_other_step_is_kept():
    along = Along()
    for step in range(1, 10_001):
        along.add(step, math.nan if step == 64 else float(step))
    steps, values = along.taken()
    assert 100 < len(steps) <= 256
    assert steps == [int(value) for value in values]
    assert 64 not in steps
    assert along.taken() == ([], [])


def samples(**changed):
    return [Record(step=i, time=0.0, **changed) for i in range(WINDOW)]


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"ratio": 1.1}, ["edge"]),
        ({"ratio": 1.3}, []),
        ({"ratio": 0.7}, []),
        ({"cosine": -0.1}, ["large"]),
        ({"cosine": 0.1}, []),
        ({"change": 0.009}, ["small"]),
        ({"change": 0.02}, []),
        ({"gain": 0.89, "fidelity": 0.99}, ["rounding"]),
        ({"gain": 0.91, "fidelity": 0.5}, []),
    ],
)
def test_what_is_said_of_samples(changed, keys):
    assert [what for what, _ in thought(samples(**changed))] == keys
    lone = thought(samples(**changed)[:1])
    assert [what for what, _ in lone] == [key for key in keys if key == "rounding"]


def test_one_sample_outside_the_band_is_not_at_the_edge():
    window = [*samples(ratio=1.0)[1:], Record(step=9, time=0.0, ratio=2.0)]
    assert thought(window) == []


def test_a_rho_that_is_too_small_is_warned_of_once():
    sam, monitor, records = watched(rho=1e-5)
    with pytest.warns(UserWarning, match="too small to matter") as said:
        train(sam, half_squares, [pair()] * 12)
    assert len(said) == 1
    assert [text for record in records for text in record["says"]] == monitor.says
    assert len(monitor.says) == 1


def test_a_rho_that_is_too_large_is_warned_of_once():
    def loss_of(model, x):
        return (1 - torch.cos(model(x))).mean()

    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.01), model, rho=3.0)  # 4 is beyond the top
    monitor = Monitor(sam, loss_of, torch.ones(2, 1), every=1)
    with pytest.warns(UserWarning, match="rho is too large here: in . of the last 5") as said:
        train(sam, loss_of, [torch.ones(2, 1)] * 12)
    assert len(said) == 1
    assert monitor.last["cosine"] == pytest.approx(-1)
    assert len(monitor.says) == 1


def test_what_sam_has_warned_of_is_no_second_warning():
    sam, monitor, _ = watched(rho=1e-5)
    sam._gear.watch._said.add("small")
    train(sam, half_squares, [pair()] * 8)  # a warning would be an error here
    assert "too small to matter" in monitor.says[0]
