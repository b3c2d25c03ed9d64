"""Lightning: each batch is logged once, telemetry with it; manual optimization as documented."""

from __future__ import annotations

import csv
import math
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from our_warnings import OURS_FAIL
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from trained_by_lightning import (
    BATCHES,
    QUIET,
    RHO,
    Classifier,
    EverySecond,
    digits,
    fit,
    flat,
    loader,
    net,
    plain,
)

import thalweg
from thalweg import SAM, Method
from thalweg.integrations import lightning
from thalweg.integrations.lightning import SAMCallback

pytestmark = OURS_FAIL

BOTH = pytest.mark.parametrize("accumulation", ["micro", "batch"])


class Logging(Classifier):
    """Logs in every way that there is, and counts."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.seen = SumMetric()
        self.pair = MetricCollection({"mean": MeanMetric(), "again": MeanMetric()})

    def training_step(self, batch, batch_idx):
        self.calls += 1
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"rows": float(len(batch[1]))}, reduce_fx="sum", on_step=False, on_epoch=True)
        self.seen(float(len(batch[1])))
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        self.log_dict(self.pair(loss.detach()), on_step=True, on_epoch=False)
        return loss

    def on_after_backward(self):
        self.log("backwards", 1.0, reduce_fx="sum", on_step=False, on_epoch=True)


class Counting(pl.Callback):
    def on_after_backward(self, trainer, pl_module):
        self.log("counted", 1.0, reduce_fx="sum", on_step=False, on_epoch=True)


def logged(callbacks, folder, k=1, **options):
    module = Logging()
    logger = CSVLogger(folder)
    fit(module, [*callbacks, Counting()], k=k, logger=logger, log_every_n_steps=1, **options)
    with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
        return module, list(csv.DictReader(file))


def column(rows, name):
    return [float(row[name]) for row in rows if row.get(name)]


@BOTH
@pytest.mark.parametrize("k", [1, 3])
def test_each_batch_is_logged_and_counted_once(tmp_path, accumulation, k):
    module, rows = logged([SAMCallback(RHO, accumulation=accumulation)], tmp_path, k)
    examples = sum(len(y) for _, y in digits())
    assert module.calls == 2 * 2 * BATCHES
    assert column(rows, "rows") == [examples] * 2
    assert column(rows, "seen") == [examples] * 2
    assert column(rows, "backwards") == [BATCHES] * 2
    assert column(rows, "counted") == [BATCHES] * 2
    assert module.pair["again"]._update_count == BATCHES * 2
    mean = module.pair.compute()
    assert mean["mean"] == mean["again"]


@BOTH
def test_the_losses_logged_are_those_at_the_weights(tmp_path, accumulation):
    """With a learning rate of 0 they are those of the network, each weighted by its examples."""
    module = Logging()
    module.net[3].p = 0.0  # no dropout
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    logger = CSVLogger(tmp_path)
    sam = SAMCallback(0.5, accumulation=accumulation)
    fit(module, [sam], k=4, epochs=1, logger=logger, log_every_n_steps=1)
    model = net()
    model[3].p = 0.0
    losses = [float(nn.functional.cross_entropy(model(x), y)) for x, y in digits()]
    sizes = [len(y) for _, y in digits()]
    with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert column(rows, "loss_step") == pytest.approx([losses[3], losses[6]], rel=1e-6)
    mean = sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)
    assert column(rows, "loss_epoch") == pytest.approx([mean], rel=1e-6)


def test_a_pass_that_is_not_silenced_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(lightning, "_unseen", lambda trainer: torch.enable_grad())
    _, rows = logged([SAMCallback(RHO)], tmp_path)
    examples = sum(len(y) for _, y in digits())
    assert min(column(rows, "rows")) > examples
    assert column(rows, "seen") == [2 * examples] * 2
    assert min(column(rows, "counted")) > BATCHES


@BOTH
@pytest.mark.parametrize("method", [Method(), Method(gate=EverySecond())], ids=["sam", "gate"])
@pytest.mark.parametrize("every", [1, 2])
def test_telemetry_goes_to_the_logger(tmp_path, accumulation, method, every):
    told = []

    def watch(sam):
        told.append(sam.log_dict())

    plain(accumulation, k=3, telemetry=True, method=method, watch=watch)
    logger = CSVLogger(tmp_path)
    callback = SAMCallback(RHO, accumulation=accumulation, method=method, telemetry=True)
    fit(Classifier(), [callback], k=3, logger=logger, log_every_n_steps=every)
    with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["sam/steps"]]
    expected = told[every - 1 :: every]
    assert len(rows) == len(expected)
    assert any("sam/cosine" in one and "sam/loss_rise" in one for one in told)
    for row, numbers in zip(rows, expected, strict=True):
        for name in {key for key in row if key.startswith("sam/")} | set(numbers):
            wanted = numbers.get(name, math.nan)
            value = float(row[name] or "nan")
            assert value == pytest.approx(wanted, rel=1e-6, nan_ok=True), name


def test_barebones():
    """No logging at all is asked for."""
    module, callback = Classifier(), SAMCallback(RHO)
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], barebones=True, accelerator="cpu")
    torch.manual_seed(1)
    trainer.fit(module, loader())
    assert torch.equal(flat(module.net), plain(epochs=1)[-1])


def test_manual_optimization_as_the_page_shows_it():
    text = lightning.__doc__.partition("::\n")[2]
    names = {"pl": pl, "torch": torch, "nn": nn, "thalweg": thalweg}
    exec(textwrap.dedent(text), names)
    module = names["Manual"]()
    start = [p.detach().clone() for p in module.parameters()]
    trainer = pl.Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, loader())
    model = nn.Linear(64, 10)
    model.load_state_dict(dict(zip(("weight", "bias"), start, strict=True)))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.05)
    for x, y in digits():
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            nn.functional.cross_entropy(model(x), y).backward()
        sam.optimizer.step()
    assert all(map(torch.equal, module.parameters(), model.parameters()))
    assert module.sam.last.moved
