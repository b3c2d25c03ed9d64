"""Lightning's Trainer in two processes: equal to one process on the big batch, accumulated too."""

from __future__ import annotations

import importlib.util
import logging

import torch
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
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from thalweg import SAM


def trained(accumulation, micros, steps=STEPS, *, sharded=False, network=net, **options):
    """Train this rank's rows by Lightning, sharded by FSDP2 or not; return the network."""
    import lightning.pytorch as pl  # seconds; the other cases need none of it
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    from thalweg.integrations.lightning import SAMCallback

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def configure_model(self):
            if sharded and not any(isinstance(p, DTensor) for p in self.parameters()):
                shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, some, batch_idx):
            x, y = some
            self.net.calls = batch_idx % micros
            return ((self.net(x) - y) ** 2).mean()

        def configure_optimizers(self):
            return BASES["momentum"](self.parameters())

    module = Module()
    parts = [(step, mine(k, micros)) for step in range(steps) for k in range(micros)]
    batches = [batch(step, part, dtype=torch.float32) for step, part in parts]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=WORLD,
        strategy=ModelParallelStrategy(WORLD, 1) if sharded else DDPStrategy(**options),
        plugins=[TorchElasticEnvironment()],
        accumulate_grad_batches=micros,
        callbacks=[SAMCallback(RHO, accumulation=accumulation)],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.global_step == steps
    return module.net


class Branched(torch.nn.Module):
    """Has a branch that the first of two micro-batches takes, or the second."""

    def __init__(self, first):
        super().__init__()
        self.first, self.calls = first, 0
        self.trunk, self.branch = net(), net()

    def forward(self, x):
        found = self.trunk(x)
        return found + self.branch(x) if (self.calls == 0) == self.first else found


def groups(accumulation, micros):
    """Return the rows that share an ascent."""
    together = [[rows(rank, k, micros) for rank in range(WORLD)] for k in range(micros)]
    return together if accumulation == "micro" else [[EVERY]]


if importlib.util.find_spec("lightning"):

    @case(accumulation=("micro", "batch"), micros=(1, 4), view=(False, True))
    def equals_one_process(accumulation, micros, view):
        """Each ascent is that of all ranks together: of one micro-batch, or of all of them."""
        with as_if_launched():
            found = trained(accumulation, micros, gradient_as_bucket_view=view)
        close(found, alone(net(), groups=groups(accumulation, micros)), 1e-6)
        assert same_on_all_ranks(found)
        # The two meanings are not the same.
        others = zip(full(found), full(alone(net())), strict=True)
        gap = max(float((p - q).abs().max()) for p, q in others)
        assert (gap > 1e-4) == (accumulation == "micro" and micros > 1)

    @case(accumulation=("micro", "batch"), micros=(1, 2))
    def sharded(accumulation, micros):
        """By FSDP2: gradients are reduced in every backward, so every ascent is of all ranks."""
        with as_if_launched():
            found = trained(accumulation, micros, sharded=True)
        assert all(isinstance(p, DTensor) for p in found.parameters())
        close(found, alone(net(), groups=groups(accumulation, micros)), 1e-6)

    @case(accumulation=("micro", "batch"), first=(False, True))
    def a_parameter_in_some_micro_batches(accumulation, first):
        """Used in one micro-batch of two, by both ranks: DDP must reduce what there is."""
        with as_if_launched():
            found = trained(
                accumulation, 2, network=lambda: Branched(first), find_unused_parameters=True
            )
        assert same_on_all_ranks(found)
        one = Branched(first)
        optimizer = BASES["momentum"](one.parameters())
        sam = SAM(optimizer, one, RHO)
        parts = [[rows(rank, k, 2) for rank in range(WORLD)] for k in range(2)]

        def backward(step, k):
            for part in parts[k]:
                one.calls = k
                x, y = batch(step, part, dtype=torch.float32)
                (((one(x) - y) ** 2).mean() / 2 / WORLD).backward()

        for step in range(STEPS):
            if accumulation == "micro":
                for k in range(2):
                    for _ in sam.passes():
                        backward(step, k)
            else:
                for _ in sam.passes():
                    for k in range(2):
                        backward(step, k)
            optimizer.step()
            optimizer.zero_grad()
        close(found, one, 1e-6)
