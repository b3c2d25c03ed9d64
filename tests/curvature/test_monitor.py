"""The monitor: an unchanged training, and nothing that is lost or kept alive."""

from __future__ import annotations

import gc
import math
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from small_runs import half_squares, pair, small, train, watched
from torch import nn

from thalweg import SAM, ThalwegError
from thalweg.curvature.monitor import Monitor
from thalweg.curvature.records import read_records


def by_passes(sam, batches):
    for batch in batches:
        for _ in sam.passes():
            for part in batch:  # accumulation
                (half_squares(sam.model, part) / len(batch)).backward()
        sam.optimizer.step()
        yield
        sam.optimizer.zero_grad()


def by_closure(sam, batches):
    for batch in batches:

        def closure(batch=batch):
            sam.optimizer.zero_grad()
            loss = sum(half_squares(sam.model, part) for part in batch)
            loss.backward()
            return loss

        sam.step(closure)
        yield


def by_block(sam, batches):
    for batch in batches:
        half_squares(sam.model, batch[0]).backward()
        with sam.perturbed():
            half_squares(sam.model, batch[1]).backward()
        sam.optimizer.step()
        yield
        sam.optimizer.zero_grad(set_to_none=False)


BASES = {
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
}


def course(form, base, mode, *, with_monitor):
    """Everything that a training leaves behind, step for step, as a list of bits."""
    dtype = torch.float32
    layers = [nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Unflatten(1, (1, 4)), nn.Dropout1d(0.2)]
    model = small(dtype, [*layers, nn.Flatten()])
    optimizer = BASES[base](model.parameters())
    sam = SAM(optimizer, model, 0.1, telemetry=True)
    torch.manual_seed(5)
    random.seed(5)
    batches = [
        [pair(seed=10 + 2 * i, dtype=dtype), pair(seed=11 + 2 * i, dtype=dtype)] for i in range(8)
    ]
    monitor = None
    if with_monitor:
        monitor = Monitor(sam, half_squares, pair(seed=3, dtype=dtype), every=1, training=mode)
    seen = []
    for _ in form(sam, batches):
        seen += [t.clone() for t in model.state_dict().values()]
        seen += [p.grad.clone() for p in model.parameters()]
        for state in optimizer.state_dict()["state"].values():
            seen += [v.clone() for v in state.values() if isinstance(v, torch.Tensor)]
        seen += [torch.get_rng_state(), torch.tensor(float(sam.last.curvature))]
        seen += [torch.tensor([layer.training for layer in model.modules()])]
        seen += [torch.tensor(random.random())]
    if monitor is not None:
        assert monitor.last["step"] == 8
        assert math.isfinite(monitor.last["loss_rise"])
    return [t for t in seen if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("mode", [True, False, None])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", [by_passes, by_closure, by_block])
def test_training_is_the_same_bit_for_bit(form, base, mode):
    alone = course(form, base, mode, with_monitor=False)
    beside = course(form, base, mode, with_monitor=True)
    assert len(alone) == len(beside) > 100
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_memory_of_the_parameters_stays_theirs():
    model = nn.Sequential(nn.Linear(5, 4000), nn.Tanh(), nn.Linear(4000, 3)).double()
    sam, monitor, _ = watched(model)
    places = [p.data_ptr() for p in model.parameters()]
    train(sam, half_squares, [pair()] * 3)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert monitor.last["step"] == 3


def test_dropout_is_the_same_at_w_and_at_w_plus_epsilon():
    model = small(layers=[nn.Dropout(0.5)])
    for step in range(5):
        _, _, (record,) = watched(model, rho=1e-5)
        # With another mask the loss would differ by far more than this rise.
        assert record["loss_rise"] == pytest.approx(record["loss_rise_predicted"], rel=1e-3)
        torch.manual_seed(step)


def test_it_needs_no_name_and_keeps_nothing_alive():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sam, records = SAM(optimizer, model), []
    monitor = weakref.ref(Monitor(sam, half_squares, pair(), every=1, to=records.append))
    gc.collect()
    train(sam, half_squares, [pair()] * 2)
    assert [record["step"] for record in records] == [0, 1, 2]
    gone = weakref.ref(sam)
    del sam
    gc.collect()
    assert gone() is None
    assert monitor() is None
    assert not optimizer._optimizer_step_post_hooks
    optimizer.step()
    assert len(records) == 3


def test_closed_it_does_nothing_more():
    sam, monitor, records = watched()
    with monitor as same:
        assert same is monitor
        train(sam, half_squares, [pair()])
    train(sam, half_squares, [pair()])
    assert [record["step"] for record in records] == [0, 1]
    assert not sam.optimizer._optimizer_step_post_hooks
    monitor.close()
    with pytest.raises(ThalwegError, match="before close"):
        monitor.sample()


def test_a_sink_may_close_it():
    def enough(record):
        records.append(record["step"])
        if record["step"] == 2:
            first.close()

    records, model = [], small()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)
    first = Monitor(sam, half_squares, pair(), every=1, to=enough)
    second = Monitor(sam, half_squares, pair(), every=1)
    train(sam, half_squares, [pair()] * 4)
    assert records == [0, 1, 2]
    assert second.last["step"] == 4  # torch went on to the hook behind it


def ends(how, sam, monitor, records):
    """What ends a monitor; it hands over the only references there are."""
    if how == "close":
        monitor.close()
        monitor.close()
    del monitor, sam
    gc.collect()
    return records


@pytest.mark.parametrize("how", ["close", "its SAM is gone"])
def test_at_its_end_it_tells_of_the_steps_since_the_last_sample(how):
    first, rest = ends(how, *trained_for(7))
    assert (first["step"], rest["step"]) == (0, 7)
    assert rest["curvature_steps"] == list(range(1, 8))
    assert rest["curvature"] == rest["curvatures"][-1] > 0
    assert math.isnan(rest["lambda_max"])


def trained_for(steps, **monitor):
    sam, held, records = watched(monitor={"every": 100} | monitor, telemetry=True)
    train(sam, half_squares, [pair()] * steps)
    return sam, held, records


def test_what_it_ends_with_is_no_sample():
    _sam, monitor, records = trained_for(7, every=3)
    monitor.close()
    assert monitor.last["step"] == 6
    assert [record["curvature_steps"] for record in records[1:]] == [[1, 2, 3], [4, 5, 6], [7]]
    _sam, monitor, records = trained_for(6, every=3)
    monitor.close()
    assert [record["step"] for record in records] == [0, 3, 6]  # nothing is left to tell


def test_the_end_of_the_program_is_its_end(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_monitor import trained_for
held = trained_for(5, to={str(tmp_path / "run.jsonl")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    first, rest = read_records(tmp_path / "run.jsonl")
    assert (first["step"], rest["curvature_steps"]) == (0, [1, 2, 3, 4, 5])


def test_every_and_by_hand():
    sam, monitor, records = watched(monitor={"every": 3})
    train(sam, half_squares, [pair()] * 7)
    assert [record["step"] for record in records] == [0, 3, 6]
    assert monitor.sample()["step"] == 7
    assert records[-1]["step"] == 7
    passes = sam.passes()
    next(passes)
    half_squares(sam.model, pair()).backward()
    next(passes)  # now at w + ε
    with pytest.raises(ThalwegError, match="weights at rest"):
        monitor.sample()
    passes.close()
