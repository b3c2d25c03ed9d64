"""Transformers' Trainer and Accelerate in two processes: equal to one process on the big batch."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from harness import WORLD, case
from together import (
    BASES,
    EVERY,
    RHO,
    STEPS,
    alone,
    as_if_launched,
    batch,
    close,
    full,
    mine,
    net,
    rows,
    same_on_all_ranks,
    shard,
)
from torch import nn

INTEGRATIONS = Path(__file__).parents[1] / "integrations"


@contextlib.contextmanager
def launched():
    """A process as a launcher starts it, with a state of Accelerate of its own."""
    if str(INTEGRATIONS) not in sys.path:
        sys.path.insert(0, str(INTEGRATIONS))
    with as_if_launched():
        from own_accelerator import own_state  # seconds; the other cases need none of it

        with own_state():
            yield


def gap(left, right):
    pairs = zip(full(left), full(right), strict=True)
    return max(float((p - q).abs().max()) for p, q in pairs)


def of_both(record):
    """Return the batches of a step as one process would have them: both ranks' side by side."""
    batches, items, _ = record
    ranks = [None] * WORLD
    dist.all_gather_object(ranks, batches)
    together = [
        {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]
    return together, items


if importlib.util.find_spec("transformers"):

    @case(accumulation=("micro", "batch"), k=(1,), each=(False,))
    @case(accumulation=("micro", "batch"), k=(3,), each=(False, True))
    def transformers(accumulation, k, each):
        """Each ascent is that of both ranks: of one micro-batch, or of all of them."""
        with launched(), tempfile.TemporaryDirectory() as folder:
            import trained_by_transformers as by
            from text import llama, sentences

            from thalweg import SAM

            reduced = []

            class Seen(by.Recorded):
                def compute_loss(self, model, *args, **kwargs):
                    reduced.append(model.require_backward_grad_sync)
                    return super().compute_loss(model, *args, **kwargs)

            model = llama()
            trainer = by.trainer_of(
                model,
                sentences(WORLD * by.EXAMPLES),
                folder,
                Seen,
                accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": each}},
                accumulation=accumulation,
                gradient_accumulation_steps=k,
                lr_scheduler_type="constant",
                optimizers=(torch.optim.SGD(model.parameters(), lr=by.LR, momentum=0.9), None),
            )
            assert trainer.accelerator.num_processes == WORLD
            trainer.train()
            assert type(trainer.model_wrapped) is nn.parallel.DistributedDataParallel
            steps = [of_both(record) for record in trainer.order]
            told = by.told_by(trainer)
            ascents_and_last = [True, False] * (k - 1) + [True, True]
            last = [False] * (k - 1) + [True]
            once = ascents_and_last if accumulation == "micro" else last * 2
            assert reduced[: 2 * k] == ([True] * 2 * k if each else once)
        ends = {}
        for way in ("micro", "batch"):
            one = llama().train()
            optimizer = torch.optim.SGD(one.parameters(), lr=by.LR, momentum=0.9)
            sam = SAM(optimizer, one, by.RHO)
            losses = []
            for batches, items in steps:
                losses.append(0.0)
                for group in [[b] for b in batches] if way == "micro" else [batches]:
                    for here in sam.passes():
                        for each in group:
                            loss = one(**each, num_items_in_batch=items).loss
                            loss.backward()
                            losses[-1] += float(loss.detach()) if here.index == 0 else 0.0
                nn.utils.clip_grad_norm_(one.parameters(), by.CLIP)
                optimizer.step()
                optimizer.zero_grad()
            ends[way] = one, losses
        one, losses = ends[accumulation]
        close(model, one, 1e-6)
        assert same_on_all_ranks(model)
        assert max(abs(a - b) for (a, _), b in zip(told, losses, strict=True)) < 1e-4
        assert gap(model, llama()) > 1e-3
        assert (gap(ends["micro"][0], ends["batch"][0]) > 1e-4) == (k > 1)

    @case(accumulation=("micro", "batch"), k=(1, 3))
    def transformers_sharded(accumulation, k):
        """FSDP2: the Trainer's training steps on a model that is sharded already.

        Accelerate itself has no FSDP2 on the CPU, so the loop around them is written out.
        """
        with launched(), tempfile.TemporaryDirectory() as folder:
            import trained_by_transformers as by
            from text import llama, sentences

            data = sentences(WORLD * by.SIZE * k)
            found = []
            for which, split in ((slice(dist.get_rank(), None, WORLD), True), (EVERY, False)):
                model = shard(llama(), nested=False) if split else llama()
                optimizer = torch.optim.SGD(model.parameters(), lr=by.LR)
                options = {"optimizers": (optimizer, None), "accumulation": accumulation}
                trainer = by.trainer_of(model, [], folder, **options)
                trainer.create_optimizer()
                trainer.current_gradient_accumulation_steps = k
                for micro in list(range(k)) * 4:
                    some = data[micro::k][which]
                    inputs = {name: torch.stack([one[name] for one in some]) for name in some[0]}
                    inputs["labels"] = inputs["input_ids"]  # as many to predict on every rank
                    last = micro == k - 1
                    trainer.accelerator.gradient_state._set_sync_gradients(last)
                    if split:
                        model.set_requires_gradient_sync(last)  # as the Trainer does
                    trainer.training_step(model, inputs)
                    if last:
                        optimizer.step()
                        optimizer.zero_grad()
                found.append(model)
        close(*found, 1e-6)
        assert same_on_all_ranks(found[0])
        assert gap(found[0], llama()) > 1e-3


def looped(k, together=False, **options):
    """Train this rank's rows by Accelerate's loop; return the network."""
    from accelerate import Accelerator

    from thalweg.integrations.accelerate import prepare, synced_last

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1 if together else k)
    model = net()
    model, optimizer = accelerator.prepare(model, BASES["momentum"](model.parameters()))
    assert type(model) is nn.parallel.DistributedDataParallel
    sam = prepare(accelerator, model, optimizer, RHO, **options)
    for step in range(STEPS):
        parts = [batch(step, mine(i, k), dtype=torch.float32) for i in range(k)]
        if together:
            for _ in sam.passes():
                for i, (x, y) in enumerate(synced_last(accelerator, model, parts)):
                    assert model.require_backward_grad_sync == (i == k - 1)
                    accelerator.backward(((model(x) - y) ** 2).mean() / k)
            optimizer.step()
            optimizer.zero_grad()
            continue
        for x, y in parts:
            with accelerator.accumulate(model):
                for _ in sam.passes():
                    accelerator.backward(((model(x) - y) ** 2).mean())
                optimizer.step()
                optimizer.zero_grad()
    return model


if importlib.util.find_spec("accelerate"):

    @case(k=(1, 2))
    def accelerate(k):
        """By ``accumulate``, only the ascent of the last micro-batch is that of both ranks."""
        with launched():
            found = looped(k)
        last = [rows(rank, k - 1, k) for rank in range(WORLD)]
        first = [[rows(rank, 0, k)] for rank in range(WORLD)] if k > 1 else []
        close(found, alone(net(), groups=[*first, last, last]), 1e-6)
        assert same_on_all_ranks(found)
        assert (gap(found, alone(net())) > 1e-4) == (k > 1)

    @case(k=(1, 2))
    def accelerate_together(k):
        """By ``synced_last``, one ascent is that of everything."""
        with launched():
            found = looped(k, together=True)
        close(found, alone(net(), groups=[[EVERY]]), 1e-6)
        assert same_on_all_ranks(found)

    @case()
    def accelerate_resumed():
        """By ``save_state`` and ``load_state``; both ranks go on with the same bits."""
        from together import shared_folder

        with launched(), shared_folder() as folder:
            from accelerate import Accelerator
            from own_accelerator import STATEFUL

            from thalweg.integrations.accelerate import prepare

            def made(rho):
                accelerator = Accelerator(cpu=True)
                model = net()
                both = accelerator.prepare(model, BASES["momentum"](model.parameters()))
                return accelerator, prepare(accelerator, *both, rho, method=STATEFUL), *both

            def steps(sam, model, optimizer, which):
                for step in which:
                    x, y = batch(step, mine(), dtype=torch.float32)
                    for _ in sam.passes():
                        ((model(x) - y) ** 2).mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()

            accelerator, *straight = made(0.2)
            steps(*straight, range(3))
            accelerator.save_state(str(folder / "state"))
            steps(*straight, range(3, 6))
            accelerator, *resumed = made(0.1)
            accelerator.load_state(str(folder / "state"))
            steps(*resumed, range(3, 6))
        close(resumed[1], straight[1], 0.0)
        assert resumed[0].optimizer.param_groups[0]["rho"] == 0.2
        assert same_on_all_ranks(resumed[1])
