"""Curvature in two processes: that of the batches of all ranks, the same on every rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from harness import case
from together import EVERY, RHO, batch, mine, net, same_on_all_ranks, shard
from torch.nn.parallel import DistributedDataParallel

from thalweg import SAM, ThalwegError
from thalweg.curvature import (
    Monitor,
    hessian_vector_product,
    lambda_max,
    on_batch,
    over,
    sharpness,
)


def loss_of(model, data):
    x, y = data
    return ((model(x) - y) ** 2).mean()


def pair(step=0):
    """Return the part of a batch that this rank has, and the whole of it."""
    return tuple(batch(step, rows, dtype=torch.float64) for rows in (mine(), EVERY))


@case(way=("one graph", "batches"))
def equals_one_process(way):
    own, whole = pair()
    model = DistributedDataParallel(net(dtype=torch.float64))
    alone = on_batch(net(dtype=torch.float64), loss_of, whole)
    split = on_batch(model, loss_of, own) if way == "one graph" else over(model, loss_of, [own])
    assert abs(split.loss - alone.loss) < 1e-12
    vector = torch.randn(alone.size, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(split(vector), alone(vector), rtol=1e-10, atol=1e-12)
    found, known = lambda_max(split), lambda_max(alone)
    assert abs(found.value / known.value - 1) < 1e-8
    assert same_on_all_ranks([found.vector])
    # Without the other rank it would be another number.
    local = lambda_max(on_batch(net(dtype=torch.float64), loss_of, own))
    assert abs(local.value / known.value - 1) > 1e-3


@case()
def a_measurement_between_steps_changes_nothing():
    models = [DistributedDataParallel(net()) for _ in range(2)]
    for model, measured in zip(models, (True, False), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sam = SAM(optimizer, model, RHO)
        for step in range(3):
            data = batch(step, mine(), dtype=torch.float32)
            for _ in sam.passes():
                loss_of(model, data).backward()
            optimizer.step()
            optimizer.zero_grad()
            if measured:
                lambda_max(on_batch(model, loss_of, data))
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@case()
def a_monitor_samples_alike_and_changes_nothing():
    ends, records = [], []
    for watched in (False, True):
        model = DistributedDataParallel(net())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sam = SAM(optimizer, model, RHO)
        if watched:
            probe = batch(0, mine(), dtype=torch.float32)
            monitor = Monitor(sam, loss_of, probe, every=2, to=records.append)
        for step in range(4):
            for _ in sam.passes():
                loss_of(model, batch(step, mine(), dtype=torch.float32)).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(list(model.parameters()))
    monitor.close()
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))
    assert len(records) == (3 if dist.get_rank() == 0 else 0)  # the first rank writes
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, [monitor.last["lambda_max"], monitor.last["loss"]])
    assert seen[0] == seen[1]


@case(how=("ascent", "worst", "average", "groups"))
def sharpness_is_that_of_all_ranks(how):
    own, whole = pair()
    options = {"m": 4} if how == "groups" else {"kind": how}
    split = DistributedDataParallel(net(dtype=torch.float64))
    found = sharpness(split, loss_of, [own], 0.3, **options)
    known = sharpness(net(dtype=torch.float64), loss_of, [whole], 0.3, **options)
    assert abs(found.rise - known.rise) < 1e-10 * abs(known.rise)


@case()
def a_group_averages_a_loss_of_ones_own():
    own, whole = pair()
    model = net(dtype=torch.float64)
    parameters = list(model.parameters())
    split = hessian_vector_product(lambda: loss_of(model, own), parameters, group=dist.group.WORLD)
    alone = hessian_vector_product(lambda: loss_of(model, whole), parameters)
    vector = torch.ones(alone.size, dtype=torch.float64)
    torch.testing.assert_close(split(vector), alone(vector), rtol=1e-10, atol=1e-12)


@case()
def shards_are_refused_in_a_sentence():
    model = shard(net())
    with pytest.raises(ThalwegError, match="gather the model on one rank"):
        on_batch(model, loss_of, batch(0, mine(), dtype=torch.float32))
