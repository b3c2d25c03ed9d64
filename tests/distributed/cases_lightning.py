"""Lightning's Trainer in two processes: equal to one process on the big batch, accumulated too."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import unittest.mock
import warnings

import torch
import torch.distributed as dist
from harness import WORLD, case
from together import (
    BASES,
    EVERY,
    RHO,
    STEPS,
    alone,
    batch,
    close,
    full,
    mine,
    net,
    rows,
    same_on_all_ranks,
)
from torch.utils.data import DataLoader


@contextlib.contextmanager
def as_if_launched():
    """What a launcher of processes tells them; Lightning's own warnings are not ours."""
    rank = str(dist.get_rank())
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(WORLD), "GROUP_RANK": "0"}
    with unittest.mock.patch.dict(os.environ, told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(perturb|SAM|rho).*")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        yield


def trained(accumulation, micros, steps=STEPS, **options):
    """Train this rank's rows by Lightning; return the network."""
    import lightning.pytorch as pl  # seconds; the other cases need none of it
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from thalweg.integrations.lightning import SAMCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, some, batch_idx):
            x, y = some
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
        strategy=DDPStrategy(**options),
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


if importlib.util.find_spec("lightning"):

    @case(accumulation=("micro", "batch"), micros=(1, 2, 4), view=(False, True))
    def equals_one_process(accumulation, micros, view):
        """Each ascent is that of all ranks together: of one micro-batch, or of all of them."""
        with as_if_launched():
            found = trained(accumulation, micros, gradient_as_bucket_view=view)
        together = [[rows(rank, k, micros) for rank in range(WORLD)] for k in range(micros)]
        groups = together if accumulation == "micro" else [[EVERY]]
        close(found, alone(net(), groups=groups), 1e-6)
        assert same_on_all_ranks(found)
        # The two meanings are not the same.
        others = zip(full(found), full(alone(net())), strict=True)
        gap = max(float((p - q).abs().max()) for p, q in others)
        assert (gap > 1e-4) == (accumulation == "micro" and micros > 1)
