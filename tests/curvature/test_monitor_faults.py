"""A monitor whose sink, loss or arguments are wrong harms no training."""

from __future__ import annotations

import math
import types
import warnings

import pytest
import torch
from small_runs import half_squares, pair, small, train, watched
from torch import nn
from torch.nn import functional

from thalweg import SAM, ThalwegError
from thalweg.curvature.monitor import Monitor
from thalweg.curvature.records import read_records


def test_a_sink_that_raises_loses_nothing_but_its_record(tmp_path):
    def bad(record):
        if record["step"] in (2, 3):
            raise OSError("disk full")
        got.append(record["step"])

    got, file = [], tmp_path / "run.jsonl"
    sam, monitor, _ = watched(monitor={"to": [bad, file]})
    with pytest.warns(
        UserWarning, match="step 2 did not reach .*disk full.*Training goes on"
    ) as said:
        train(sam, half_squares, [pair()] * 4)
    assert len(said) == 1
    assert got == [0, 1, 4]
    assert [record["step"] for record in read_records(file)] == [0, 1, 2, 3, 4]
    plain, _, _ = watched()
    train(plain, half_squares, [pair()] * 4)
    for p, q in zip(sam.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert monitor.last["step"] == 4


def test_at_the_start_everything_is_told(tmp_path):
    def bad(record):
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        watched(monitor={"to": bad})
    with pytest.raises(ThalwegError, match="must be writable"):
        watched(monitor={"to": tmp_path})
    model = small()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(ThalwegError, match="take the mean"):
        Monitor(sam, lambda model, batch: model(batch[0]), pair())
    assert not sam.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("fails_at", [1, 2])  # at w, at w + ε
def test_a_sample_that_fails_leaves_the_training_alone(fails_at):
    calls, armed = [], []

    def loss_of(model, batch):
        calls.append(1)
        if armed and len(calls) == fails_at:
            raise RuntimeError("out of memory")
        return half_squares(model, batch)

    model = small(layers=[nn.BatchNorm1d(4)])
    sam, records = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model), []
    Monitor(sam, loss_of, pair(), every=1, to=records.append)
    for step in range(1, 4):
        armed[:] = [1] if step < 3 else []
        calls.clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(sam, half_squares, [pair()])
        assert len(said) == (step == 1)
        if said:
            assert "no sample could be taken after step 1, because of RuntimeError" in str(
                said[0].message
            )
    assert [record["step"] for record in records] == [0, 3]
    plain = small(layers=[nn.BatchNorm1d(4)])
    train(SAM(torch.optim.SGD(plain.parameters(), lr=0.1), plain), half_squares, [pair()] * 3)
    for p, q in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_an_interrupt_passes_and_the_weights_are_back():
    sam, _, _ = watched()
    before = [p.detach().clone() for p in sam.model.parameters()]
    calls = []

    def loss_of(model, batch):
        calls.append([p.detach().clone() for p in model.parameters()])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return half_squares(model, batch)

    with pytest.raises(KeyboardInterrupt):
        Monitor(sam, loss_of, pair())
    assert not torch.equal(calls[1][0], before[0])  # it came at w + ε
    assert all(torch.equal(p, b) for p, b in zip(sam.model.parameters(), before, strict=True))


def test_a_loss_that_overflows_uphill_is_recorded():
    def loss_of(model, batch):
        return torch.where(half_squares(model, batch) > 1e3, math.inf, 1.0) * half_squares(
            model, batch
        )

    model = small()
    sam, records = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=1e4), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
        Monitor(sam, loss_of, pair(), to=records.append)
    assert records[0]["loss_rise"] == math.inf
    assert records[0]["lambda_max"] > 0


def bad_sam(**changed):
    held = {"passes": print, "optimizer": print, "model": small(), "telemetry": False}
    return types.SimpleNamespace(**(held | changed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Monitor(torch.optim.SGD(small().parameters(), lr=1), print, 1), "sam must be"),
        (lambda: Monitor(bad_sam(model=None), print, 1), "sam must have a model"),
        (lambda: Monitor(bad_sam(), print, pair(), every=0), "every must be a whole"),
        (
            lambda: Monitor(bad_sam(), nn.MSELoss(), pair()),
            r"got MSELoss\(\): write lambda model",
        ),
        (lambda: Monitor(bad_sam(), nn.MSELoss, pair()), "loss_of must be a function of a model"),
        (lambda: Monitor(bad_sam(), functional.mse_loss, pair()), "loss_of must be a function of"),
        (lambda: Monitor(bad_sam(), print, pair(), trace="no"), "trace must be True or False"),
        (lambda: Monitor(bad_sam(), print, pair(), to=nn.Linear), "got the class Linear: write Li"),
        (lambda: Monitor(bad_sam(), 3, pair()), "loss_of must be a function"),
        (lambda: Monitor(bad_sam(), print, pair(), share=0), "share must be"),
        (lambda: Monitor(bad_sam(), print, pair(), share=2), "below 1, got 2: pass 0.05"),
        (lambda: Monitor(bad_sam(), print, pair(), share="x"), "share must be"),
        (lambda: Monitor(bad_sam(), print, pair(), every=3, share=0.1), "must not both be given"),
        (lambda: Monitor(bad_sam(), print, pair(), to=3), "to must be a path"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ThalwegError, match=message):
        make()


@pytest.mark.parametrize("compiled", [False, True])
def test_ranks_must_sample_alike(compiled):
    model = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    model = types.SimpleNamespace(_orig_mod=model) if compiled else model
    with pytest.raises(ThalwegError, match="every must be given under Distributed"):
        Monitor(bad_sam(model=model), print, pair())
