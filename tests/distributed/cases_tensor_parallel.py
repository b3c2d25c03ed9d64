"""Tensor parallel: one network split over the ranks, which all see the whole batch."""

from __future__ import annotations

import math

from harness import WORLD, case
from together import (
    BASES,
    CAP,
    EVERY,
    FORMS,
    RHO,
    STEPS,
    alone,
    close,
    loss_of,
    net,
    same_on_all_ranks,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from thalweg import SAM, Method


def parallel(model, plan, *, power=1.0):
    """Return SAM and the network, split by a plan."""
    parallelize_module(model, init_device_mesh("cpu", (WORLD,)), plan)
    method = Method(power=power, max_norm=CAP if power > 1 else math.inf)
    return SAM(BASES["momentum"](model.parameters()), model, RHO, method=method), model


@case(form=tuple(FORMS), power=(0.0, 1.0, 2.0))
def columns_then_rows(form, power):
    """The last layer's bias is on both ranks, and counts once in the norm."""
    sam, model = parallel(
        net(width=8), {"0": ColwiseParallel(), "2": RowwiseParallel()}, power=power
    )
    for step in range(STEPS):
        FORMS[form](sam, loss_of(model, step, EVERY))
    close(model, alone(net(width=8), power=power, cap=CAP if power > 1 else math.inf), 1e-6)
    assert same_on_all_ranks(model)


@case(form=tuple(FORMS))
def one_layer_split(form):
    """The other layer has plain parameters, the same on every rank."""
    sam, model = parallel(net(), {"0": ColwiseParallel(output_layouts=Replicate())})
    for step in range(STEPS):
        FORMS[form](sam, loss_of(model, step, EVERY))
    close(model, alone(net()), 1e-6)
    assert same_on_all_ranks(model)


@case(form=("passes", "block"))
def sequence_parallel(form):
    """The rows of the batch are split between two split layers; its gradients are partial sums."""
    plan = {
        "0": ColwiseParallel(output_layouts=Shard(0)),
        "1": SequenceParallel(sequence_dim=0),
        "3": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    sam, model = parallel(net(middle=[nn.LayerNorm(7)]), plan)
    for step in range(STEPS):
        FORMS[form](sam, loss_of(model, step, EVERY))
    assert any(isinstance(p.grad.placements[0], Partial) for p in model.parameters())
    close(model, alone(net(middle=[nn.LayerNorm(7)])), 1e-6)
    assert same_on_all_ranks(model)
