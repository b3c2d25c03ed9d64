"""Curvature in two processes: that of the batches of all ranks, the same on every rank."""

from __future__ import annotations

import contextlib
import copy
import re
import unittest.mock
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import case
from together import EVERY, RHO, alone, batch, mine, net, same_on_all_ranks, sharded
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import SAM, ThalwegError, curvature
from thalweg.curvature import (
    Monitor,
    hessian_vector_product,
    lambda_max,
    on_batch,
    over,
    sample,
    sharpness,
)


def loss_of(model, data):
    x, y = data
    return ((model(x) - y) ** 2).mean()


def step_of(sam, step):
    """One step of training on this rank's part of a batch."""
    for _ in sam.passes():
        loss_of(sam.model, batch(step, mine(), dtype=torch.float32)).backward()
    sam.optimizer.step()
    sam.optimizer.zero_grad()


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
            step_of(sam, step)
        ends.append(list(model.parameters()))
    monitor.close()
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))
    assert len(records) == (3 if dist.get_rank() == 0 else 0)  # the first rank writes
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, [monitor.last["lambda_max"], monitor.last["loss"]])
    assert seen[0] == seen[1]


class Trips(torch.autograd.Function):
    """The identity, whose second derivative raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return Tripped.apply(g)


class Tripped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g):
        return g.clone()

    @staticmethod
    def backward(ctx, v):
        raise RuntimeError("out of memory")


@contextlib.contextmanager
def tripping(where, armed):
    """Let something between two exchanges of a sample fail."""

    def search(product, **options):
        if armed:
            product(torch.ones(product.size))
            raise RuntimeError("out of memory")
        return lambda_max(product, **options)

    def late(*arguments):
        if armed:
            raise RuntimeError("out of memory")
        return epsilon(*arguments)

    epsilon = sample._epsilon
    names = {"search": ("lambda_max", search), "epsilon": ("_epsilon", late)}
    with contextlib.ExitStack() as stack:
        if dist.get_rank() == 1 and where in names:
            stack.enter_context(unittest.mock.patch.object(sample, *names[where]))
        yield


@case(where=("loss at w", "loss at w + ε", "overflow at w + ε", "product", "search", "epsilon"))
def a_sample_that_fails_on_one_rank_is_left_out_by_all(where):
    """Else a rank waits in an exchange for one that trains on, and both die of it."""
    rank, armed, calls = dist.get_rank(), [], []

    def faulty(model, data):
        calls.append(1)
        here = bool(armed) and rank == 1
        if here and where == f"loss at {'w' if len(calls) == 1 else 'w + ε'}":
            raise RuntimeError("out of memory")
        loss = loss_of(model, data)
        if here and where == "product":
            loss = Trips.apply(loss) ** 2  # so that its slope depends on the weights
        return loss * (torch.inf if here and len(calls) == 2 and "overflow" in where else 1.0)

    ends = []
    for watched in (False, True):
        model = DistributedDataParallel(net(middle=[nn.BatchNorm1d(7), nn.Dropout(0.5)]))
        torch.manual_seed(rank)
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, RHO)
        records, said = [], []
        if watched:
            monitor = Monitor(
                sam, faulty, batch(0, mine(), dtype=torch.float32), every=1, to=records.append
            )
        for step in range(4):
            armed[:] = [1] if step in (0, 2) else []
            calls.clear()
            with warnings.catch_warnings(record=True) as heard, tripping(where, armed):
                warnings.simplefilter("always")
                step_of(sam, step)
            said += [str(one.message) for one in heard]
        ends.append(copy.deepcopy(model.module).state_dict())
    if "overflow" in where:
        assert not said
        rises = [record["loss_rise"] for record in records]
        assert rank or [rise == torch.inf for rise in rises] == [False, True, False, True, False]
    else:
        (told,) = said
        assert ("on 1 of them it could not be" if rank == 0 else "out of memory") in told
        assert rank or [record["step"] for record in records] == [0, 2, 4]
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, [monitor.last["lambda_max"], monitor.last["step"]])
    assert seen[0] == seen[1]
    monitor.close()
    assert all(torch.equal(p, q) for p, q in zip(*(e.values() for e in ends), strict=True))


@case()
def what_one_rank_s_sink_does_is_done_by_all():
    """The first rank alone has sinks; one may close the monitor, and at the start one may raise."""

    def closing(record):
        records.append(record["step"])
        if record["step"] == 2:
            monitor.close()

    def broken(record):
        raise OSError("disk full")

    records, probe = [], batch(0, mine(), dtype=torch.float32)
    model = DistributedDataParallel(net())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, RHO)
    with pytest.raises((OSError, ThalwegError), match=r"disk full|on all 2 ranks"):
        Monitor(sam, loss_of, probe, every=1, to=broken)
    assert not sam.optimizer._optimizer_step_post_hooks
    monitor = Monitor(sam, loss_of, probe, every=1, to=closing)
    for step in range(4):
        step_of(sam, step)
    assert monitor.last["step"] == 2
    assert records == ([0, 1, 2] if dist.get_rank() == 0 else [])


@case()
def a_loss_may_ask_for_the_module_and_weights_may_have_16_bits():
    model = DistributedDataParallel(net(dtype=torch.bfloat16))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5)
    probe = batch(0, mine(), dtype=torch.bfloat16)

    def of_module(model, data):
        assert model.training
        return loss_of(model.module, data)

    with Monitor(sam, of_module, probe, every=1) as monitor:
        wide = net(dtype=torch.bfloat16).float()
        alone = on_batch(wide, loss_of, [t.bfloat16().float() for t in pair()[1]])
        known = lambda_max(alone, tolerance=1e-4).value
    assert abs(monitor.last["lambda_max"] / known - 1) < 0.01
    assert monitor.last["fidelity"] > 0.99
    monitor.close()


@case(how=("ascent", "worst", "average", "groups"))
def sharpness_is_that_of_all_ranks(how):
    own, whole = pair()
    options = {"m": 4} if how == "groups" else {"kind": how}
    split = DistributedDataParallel(net(dtype=torch.float64))
    found = sharpness(split, loss_of, [own], 0.3, **options)
    known = sharpness(net(dtype=torch.float64), loss_of, [whole], 0.3, **options)
    assert abs(found.rise - known.rise) < 1e-10 * abs(known.rise)


@case()
def unequal_shares_count_by_their_examples():
    rows = slice(0, 11) if dist.get_rank() == 0 else slice(11, None)
    own, (_, whole) = batch(0, rows, dtype=torch.float64), pair()
    split, plain = DistributedDataParallel(net(dtype=torch.float64)), net(dtype=torch.float64)
    found, known = over(split, loss_of, [own]), on_batch(plain, loss_of, whole)
    vector = torch.ones(known.size, dtype=torch.float64)
    assert abs(found.loss / known.loss - 1) < 1e-12
    torch.testing.assert_close(found(vector), known(vector), rtol=1e-10, atol=1e-12)
    rise = sharpness(split, loss_of, [own], 0.3).rise
    assert abs(rise / sharpness(plain, loss_of, [whole], 0.3).rise - 1) < 1e-10


@case(of=("hessian", "gauss_newton"))
def a_group_averages_a_loss_of_ones_own(of):
    model = net(dtype=torch.float64)

    def product(data, group=None):
        held = {"parameters": list(model.parameters()), "group": group}
        if of == "hessian":
            return hessian_vector_product(lambda: loss_of(model, data), **held)
        x, y = data
        of_outputs = partial(nn.functional.mse_loss, target=y)
        return curvature.gauss_newton_vector_product(lambda: model(x), of_outputs, **held)

    split, alone = (product(*a) for a in zip(pair(), (dist.group.WORLD, None), strict=True))
    vector = torch.ones(alone.size, dtype=torch.float64)
    torch.testing.assert_close(split(vector), alone(vector), rtol=1e-10, atol=1e-12)


@case()
def shards_are_refused_and_the_gathered_model_is_measured():
    sam, model = sharded()
    data = batch(0, mine(), dtype=torch.float32)
    step_of(sam, 0)
    with pytest.raises(ThalwegError, match="gather the model on one rank"):
        on_batch(model, loss_of, data)
    with pytest.raises(ThalwegError, match="gather the model on one rank"):
        Monitor(sam, loss_of, data, every=1)
    page = Path(__file__).parents[2] / "docs" / "curvature-probes.md"
    (code,) = re.findall(r"```python\n(# under FSDP2.*?)```", page.read_text("utf-8"), re.DOTALL)
    every = batch(0, EVERY, dtype=torch.float32)
    held = {"curvature": curvature, "model": model, "make": net, "loss_of": loss_of, "batch": every}
    exec(code, held)
    step_of(sam, 1)  # the others have not waited
    if dist.get_rank() == 0:
        known, start = alone(net(), steps=1), net()
        known, start = (lambda_max(on_batch(each, loss_of, every)).value for each in (known, start))
        assert abs(held["top"].value / known - 1) < 1e-4
        assert abs(held["top"].value / start - 1) > 1e-3  # it is the trained one
