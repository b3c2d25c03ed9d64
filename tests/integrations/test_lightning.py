"""Lightning: an unchanged module trains as a plain loop does, step by step and bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from our_warnings import OURS_FAIL
from trained_by_lightning import (
    BATCHES,
    RHO,
    Classifier,
    EverySecond,
    Reseeded,
    Warming,
    digits,
    fit,
    flat,
    net,
    plain,
    same,
)

from thalweg import SAM, Method
from thalweg.integrations.lightning import SAMCallback
from thalweg.telemetry import Pass

pytestmark = OURS_FAIL

BOTH = pytest.mark.parametrize("accumulation", ["micro", "batch"])


def by_lightning(accumulation="micro", *, base="momentum", gamma=None, k=1, **options):
    sam = {key: options.pop(key) for key in ("power", "method", "telemetry") if key in options}
    callback = SAMCallback(RHO, accumulation=accumulation, **sam)
    return fit(Classifier(base, gamma), [callback], k=k, **options)


#: Each differs from the usual in a few things: name -> options of Lightning's and of the loop.
SETTINGS = {
    "usual": {},
    "clip": {"clip": 0.5},
    "adamw": {"base": "adamw"},
    "adamw-clip": {"base": "adamw", "clip": 0.5},
    "scheduler": {"gamma": 0.7},
    "p0": {"power": 0.0},
    "p0.5": {"power": 0.5},
    "p2": {"method": Method(power=2, max_norm=0.1)},
    "gate": {"method": Method(gate=EverySecond())},
    "schedule": {"method": Method(schedule=Warming())},
    "telemetry": {"telemetry": True},
}


@BOTH
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_the_plain_loop(setting, k, accumulation):
    options = SETTINGS[setting]
    found = by_lightning(accumulation, k=k, **options)
    assert len(found) == 2 * math.ceil(BATCHES / k)
    assert same(found, plain(accumulation, k=k, **options))


@BOTH
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_bf16_mixed(clip, k, accumulation):
    found = by_lightning(accumulation, k=k, clip=clip, precision="bf16-mixed")
    expected = plain(accumulation, k=k, clip=clip, bf16=True)
    assert same(found, expected)
    assert not same(found, plain(accumulation, k=k, clip=clip))


def test_what_the_comparison_sees(monkeypatch):
    """Ways of doing it wrong do not give the same numbers."""
    usual = plain("micro", k=3)
    assert not same(usual, plain("batch", k=3))  # the two meanings are not the same
    assert not same(usual, plain("micro", k=3, power=0.0))
    assert not same(usual, plain("micro", k=3, clip=0.5))
    assert not same(usual, plain("micro", k=3, gamma=0.7))
    assert not same(usual, plain("micro", k=3, method=Method(gate=EverySecond())))
    monkeypatch.setattr(SAM, "passes", lambda self: [Pass(0, ascent=False, last=True)])
    assert not same(usual, by_lightning("micro", k=3))


@BOTH
def test_accumulation_that_changes(accumulation):
    found = by_lightning_scheduled(accumulation)
    assert same(found, plain(accumulation, k=lambda epoch: (1, 3)[epoch]))


def by_lightning_scheduled(accumulation):
    plan = GradientAccumulationScheduler({0: 1, 1: 3})
    return fit(Classifier(), [SAMCallback(RHO, accumulation=accumulation), plan])


class Sometimes(Classifier):
    """Returns None for some batches, so that they are passed over."""

    none = frozenset({1, 3, 6})

    def training_step(self, batch, batch_idx):
        return None if batch_idx in self.none else super().training_step(batch, batch_idx)


@BOTH
@pytest.mark.parametrize("k", [1, 3])
def test_a_training_step_that_returns_none(k, accumulation):
    found = fit(Sometimes(), [SAMCallback(RHO, accumulation=accumulation)], k=k)
    assert same(found, plain(accumulation, k=k, skipped=lambda i: i in Sometimes.none))


class Taking(Classifier):
    """Takes what it needs out of its batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch.pop("x"), batch["rest"].pop()), batch_idx)


@BOTH
@pytest.mark.parametrize("k", [1, 3])
def test_a_training_step_that_takes_its_batch_apart(k, accumulation):
    batches = [{"x": x, "rest": [y]} for x, y in digits()]
    found = fit(Taking(), [SAMCallback(RHO, accumulation=accumulation)], k=k, batches=batches)
    assert same(found, plain(accumulation, k=k))


def test_a_training_step_that_changes_its_batch_is_told_of():
    class Noisy(Classifier):
        def training_step(self, batch, batch_idx):
            batch[0].add_(0.1)
            return super().training_step(batch, batch_idx)

    batches = [(x.clone(), y) for x, y in digits()]
    with pytest.warns(UserWarning, match="must leave the tensors of its batch as they are"):
        fit(Noisy(), [SAMCallback(RHO)], epochs=1, batches=batches)


class Tired(Classifier):
    """Ends each epoch in the middle of a step."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 5 else None


@BOTH
def test_a_step_that_is_broken_off_leaves_nothing_behind(accumulation):
    found = fit(Tired(), [SAMCallback(RHO, accumulation=accumulation)], k=3)
    if accumulation == "batch":  # what is never run draws no dropout either
        assert same(found, plain("batch", k=3, skipped=lambda i: i > 2)[::3])
    assert len(found) == 2


def scaled(accumulation, k, power, clip, overflow, device):
    """Train by Lightning in float16 with a scaler, and by a plain loop; return both."""
    batches = [(x.to(device), y.to(device)) for x, y in digits()]
    scaler, other = (torch.amp.GradScaler(device, init_scale=2.0**10) for _ in range(2))
    module = Classifier()
    module.net[3].p = 0.0
    module.net.register_forward_hook(overflowing(overflow))
    half = MixedPrecision("16-mixed", device=device, scaler=scaler)
    callback = SAMCallback(RHO, accumulation=accumulation, power=power)
    options = {"plugins": [half], "accelerator": "gpu" if device == "cuda" else "cpu"}
    found = fit(module, [callback], k=k, clip=clip, batches=batches, epochs=1, **options)

    model = net().to(device)
    model[3].p = 0.0
    model.register_forward_hook(overflowing(overflow))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    sam = SAM(optimizer, model, RHO, power=power, scaler=other)
    expected = []
    for first in range(0, BATCHES, k):
        part = batches[first : first + k]
        optimizer.zero_grad()
        for micros in [[batch] for batch in part] if accumulation == "micro" else [part]:
            for _ in sam.passes():
                for x, y in micros:
                    with torch.autocast(device, torch.float16, cache_enabled=False):
                        loss = nn.functional.cross_entropy(model(x), y)
                    other.scale(loss / k).backward()
        other.unscale_(optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        other.step(optimizer)
        other.update()
        expected.append(flat(model))
    assert scaler.get_scale() == other.get_scale()
    return found, expected, scaler


def overflowing(at):
    """A hook that makes one forward, counted from 0, infinite."""
    calls = iter(range(10**6))
    return lambda module, x, y: y * torch.inf if next(calls) == at else None


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator (CUDA)"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@BOTH
@pytest.mark.parametrize(("power", "k", "clip"), [(1.0, 1, None), (0.0, 3, 0.5), (0.5, 1, 0.5)])
@pytest.mark.parametrize("overflow", [None, 4, 5])
def test_sixteen_bits_with_a_scaler(device, accumulation, power, k, clip, overflow):
    found, expected, scaler = scaled(accumulation, k, power, clip, overflow, device)
    assert same(found, expected)
    assert scaler.get_scale() == (2.0**10 if overflow is None else 2.0**9)


RESUMED = {
    "sam": {},
    "gate": {"method": Method(gate=EverySecond())},
    "schedule": {"method": Method(schedule=Warming())},
}


def saving(folder):
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)


def resumed(folder, ckpt, callback, k=3, gamma=0.9):
    callbacks = [callback, Reseeded(), saving(folder)] if ckpt is None else [callback, Reseeded()]
    options = {"epochs": 4, "k": k, "ckpt_path": ckpt, "enable_checkpointing": ckpt is None}
    return fit(Classifier("adamw", gamma), callbacks, **options)


@BOTH
@pytest.mark.parametrize("name", RESUMED)
def test_resume_is_bit_identical(tmp_path, accumulation, name):
    def callback():
        return SAMCallback(RHO, accumulation=accumulation, **RESUMED[name])

    straight = resumed(tmp_path, None, callback())
    file = tmp_path / "epoch=1.ckpt"
    again = resumed(tmp_path, file, callback())
    assert len(again) == 6
    assert same(again, straight[6:])
    kept = torch.load(file, weights_only=False)["callbacks"].get("SAMCallback")
    steps = 2 * (BATCHES if accumulation == "micro" else 3)
    assert kept == (None if name == "sam" else {"step": steps})


def test_a_state_that_is_lost_is_seen(tmp_path, monkeypatch):
    """Of odd length, so that the gate must know where it stood."""
    method = Method(gate=EverySecond())
    straight = resumed(tmp_path, None, SAMCallback(RHO, method=method), k=1)
    file = tmp_path / "epoch=0.ckpt"
    assert same(resumed(tmp_path, file, SAMCallback(RHO, method=method), k=1), straight[BATCHES:])
    monkeypatch.setattr(SAMCallback, "load_state_dict", lambda self, state: None)
    found = resumed(tmp_path, file, SAMCallback(RHO, method=method), k=1)
    assert not same(found, straight[BATCHES:])


def test_a_checkpoint_without_sam(tmp_path):
    """It loads, and training goes on as SAM that begins there with the same optimizer."""
    resumed(tmp_path, None, Reseeded())
    file = tmp_path / "epoch=1.ckpt"
    callback = SAMCallback(RHO)
    found = resumed(tmp_path, file, callback)
    assert [group["rho"] for group in callback.sam.optimizer.param_groups] == [RHO]
    assert callback.sam.last.moved
    assert not same(found, resumed(tmp_path, file, Reseeded()))


def test_another_radius_in_the_checkpoint_is_told(tmp_path):
    resumed(tmp_path, None, SAMCallback(0.2))
    with pytest.warns(UserWarning, match=r"already hold rho=0.2"):
        resumed(tmp_path, tmp_path / "epoch=1.ckpt", SAMCallback(0.1))
