"""Tiny models on real text, trained by a Trainer with SAM and by a plain loop."""

from __future__ import annotations

import inspect

import torch
from own_accelerator import same
from text import MODELS
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from thalweg import SAM
from thalweg.integrations.transformers import SAMMixin

RHO, LR, CLIP, DECAY = 0.3, 1e-2, 0.5, 0.1
#: Seven micro-batches an epoch: the last step of an epoch is of one, where three make a step.
EXAMPLES, SIZE, STEPS = 28, 4, 5


class Recording(Trainer):
    """Remembers what each step was made of, and the random numbers it began with."""

    def __init__(self, *args, **kwargs):
        self.order = []
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        if batches:
            copies = [{k: v.clone() for k, v in batch.items()} for batch in batches]
            self.order.append((copies, items, torch.get_rng_state()))
        return batches, items


class Recorded(SAMMixin, Recording):
    """A Trainer subclass with SAM."""


def arguments(folder, **options):
    usual = {
        "per_device_train_batch_size": SIZE,
        "max_steps": STEPS,
        "learning_rate": LR,
        "weight_decay": DECAY,
        "max_grad_norm": CLIP,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return TrainingArguments(str(folder), **{**usual, **options})


def trainer_of(model, data, folder, kind=Recorded, accumulation="micro", sam=None, **options):
    """Return a Trainer with SAM; ``sam`` is for SAM, ``options`` are TrainingArguments."""
    own = {k: options.pop(k) for k in ("optimizers", "callbacks") if k in options}
    own |= {"train_dataset": data, "eval_dataset": data[:8]}
    sam = {"rho": RHO, **(sam or {})}
    return kind(model, arguments(folder, **options), accumulation=accumulation, **sam, **own)


def adamw(model):
    """Return AdamW as the Trainer makes it."""
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    groups = [{"params": decay, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8, fused=True)


def own_loss(model, batch, items):
    return model(**batch, num_items_in_batch=items).loss


def smoothed(model, batch, items):
    batch = dict(batch)
    labels = batch.pop("labels")
    output = model(**batch, num_items_in_batch=items)
    shift = "CausalLM" in type(model).__name__
    smoother = LabelSmoother(0.2)
    if "num_items_in_batch" not in inspect.signature(smoother.__call__).parameters:
        return smoother(output, labels, shift_labels=shift)  # before transformers 5.17
    return smoother(output, labels, shift_labels=shift, num_items_in_batch=items)


def in_bfloat16(model, batch, items):
    with torch.autocast("cpu", torch.bfloat16):
        return own_loss(model, batch, items)


def plain(model, order, accumulation="micro", loss_of=own_loss, make=adamw, rho=RHO, **options):
    """Train by a plain loop; return the losses and the norms that a log would show."""
    model.train()
    optimizer = make(model)
    sam = SAM(optimizer, model, rho, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (STEPS - s) / STEPS)
    told = []
    for batches, items, numbers in order:
        torch.set_rng_state(numbers)
        total = torch.zeros(())

        def run(batch, here, items=items, total=total):
            loss = loss_of(model, batch, items)
            loss.backward()
            if here.index == 0:
                total += loss.detach()

        if accumulation == "micro":
            for batch in batches:
                for here in sam.passes():
                    run(batch, here)
        else:
            for here in sam.passes():
                for batch in batches:
                    run(batch, here)
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        told.append((float(total), float(norm)))
    return told


def told_by(trainer):
    """Return losses and gradient norms from the Trainer's log."""
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [(log["loss"], log["grad_norm"]) for log in logs]


def check_equal(name, folder, loss_of=own_loss, sam=None, accumulation="micro", **options):
    make, data = MODELS[name]
    trainer = trainer_of(
        make(), data(EXAMPLES), folder, sam=sam, accumulation=accumulation, **options
    )
    trainer.train()
    expected = make()
    told = plain(expected, trainer.order, accumulation, loss_of, **(sam or {}))
    assert len(told) == STEPS
    assert same(trainer.model, expected)
    assert told_by(trainer) == told
    assert not same(trainer.model, make())
    return trainer
