"""A network on real digits, trained by Lightning and by a plain loop; what several files use."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

import thalweg

RHO = 0.1
BATCHES = 7  # of an epoch; with three micro-batches a step, the last step has one

BASES = {
    "momentum": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01),
}

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclasses.dataclass(frozen=True)
class EverySecond:
    """A gate that is closed in every other step."""

    def __call__(self, step):
        return step % 2 == 0


@dataclasses.dataclass(frozen=True)
class Warming:
    """A radius that grows."""

    def __call__(self, rho, step, lr):
        return rho * min(1.0, (step + 1) / 5)


@functools.cache
def digits():
    """Return the micro-batches of an epoch: 32 digits each, the last one smaller."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    n = 32 * (BATCHES - 1) + 20
    return list(zip((x[:n].float() / 8 - 1).split(32), y[:n].split(32), strict=True))


def loader(batches=None):
    # A generator of its own, so that nobody but dropout draws from torch's.
    batches = digits() if batches is None else batches
    return DataLoader(batches, batch_size=None, generator=torch.Generator())


def net():
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*hidden, nn.Linear(32, 10))


def flat(model):
    """Return a network's parameters and buffers in one vector."""
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


class Classifier(pl.LightningModule):
    """An ordinary LightningModule."""

    def __init__(self, base="momentum", gamma=None):
        super().__init__()
        self.net, self.base, self.gamma = net(), base, gamma

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        optimizer = BASES[self.base](self.parameters())
        if self.gamma is None:
            return optimizer
        plan = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)
        return [optimizer], [{"scheduler": plan, "interval": "step"}]


class Followed(pl.Callback):
    """Notes the network after every step of the optimizer."""

    def __init__(self, path):
        self.path, self.steps = path, 0

    def on_train_start(self, trainer, pl_module):
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.path.append(flat(pl_module.net))


class Reseeded(pl.Callback):
    """Seeds each batch, as Lightning's checkpoints do not hold torch's random state."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.manual_seed(1000 * trainer.current_epoch + batch_idx)


def fit(module, callbacks, *, k=1, epochs=2, clip=None, ckpt_path=None, batches=None, **options):
    """Train by Lightning; return the network after every step of the optimizer."""
    path = []
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, Followed(path)],
        accumulate_grad_batches=k,
        gradient_clip_val=clip,
        **{**QUIET, **options},
    )
    torch.manual_seed(1)
    trainer.fit(module, loader(batches), ckpt_path=ckpt_path)
    return path


def plain(
    accumulation="micro",
    *,
    k=1,
    epochs=2,
    clip=None,
    base="momentum",
    gamma=None,
    bf16=False,
    skipped=lambda i: False,
    watch=lambda sam: None,
    **options,
):
    """Train by a loop as a script has it; return the network after every step of the optimizer.

    ``k`` may be a function of the epoch; ``skipped`` tells which micro-batches are passed over.
    """
    model = net()
    optimizer = BASES[base](model.parameters())
    plan = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma or 1.0)
    sam = thalweg.SAM(optimizer, model, RHO, **options)
    torch.manual_seed(1)
    path = []
    for epoch in range(epochs):
        size = k(epoch) if callable(k) else k
        batches = list(enumerate(digits()))
        for first in range(0, len(batches), size):
            part = [batch for i, batch in batches[first : first + size] if not skipped(i)]
            optimizer.zero_grad()
            for micros in [[batch] for batch in part] if accumulation == "micro" else [part]:
                for here in sam.passes() if micros else ():
                    total = 0.0
                    for x, y in micros:
                        half = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
                        with half if bf16 else contextlib.nullcontext():
                            loss = nn.functional.cross_entropy(model(x), y)
                        (loss / size).backward()
                        total = total + (loss / size).detach()
                    here.loss = total
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            plan.step()
            path.append(flat(model))
            watch(sam)
    return path


def same(left, right):
    """Whether two paths are the same, step by step and bit for bit."""
    return len(left) == len(right) and all(map(torch.equal, left, right))
