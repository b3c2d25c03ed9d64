"""FSDP2 with models and options of many kinds: uneven, 16-bit, partly plain, in two dimensions."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from harness import WORLD, case
from together import (
    BASES,
    FORMS,
    RHO,
    STEPS,
    alone,
    close,
    full,
    length,
    local,
    loss_of,
    mine,
    net,
    same_bits,
    same_on_all_ranks,
    shard,
    sharded,
    train,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from thalweg import SAM, ThalwegError


@case(nested=(False, True), out=(1, 3))
def uneven(nested, out):
    """Sizes that do not divide; with one output the second rank has an empty shard."""
    sam, model = sharded(net(out=out), nested=nested)
    train(sam, model, out=out)
    close(model, alone(net(out=out), out=out), 1e-6)
    if out == 1 and dist.get_rank() == 1:
        assert not local(model)[-1].numel()


def by_hand(model, optimizer, step, rho=RHO):
    """Take one step of SAM on shards, written out, buffers held; at rho = 0 the base's step."""
    loss = loss_of(model, step, mine())
    optimizer.zero_grad()
    loss().backward()
    if rho:
        g = [p.grad for p in model.parameters()]
        n, buffers = length(full(g)), [b.clone() for b in model.buffers()]
        w, before = local(model), [p.clone() for p in local(model)]
        for p, d in zip(w, local(g), strict=True):
            p.add_(d, alpha=rho / n)
        optimizer.zero_grad()
        loss().backward()
        for t, b in zip((*w, *model.buffers()), (*before, *buffers), strict=True):
            t.copy_(b)
    optimizer.step()


@case(rho=(0.0, RHO))
def mixed_precision(rho):
    """Under a bfloat16 policy rho = 0 is the base bit for bit, and ε reaches the forward."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    sam, model = sharded(rho=rho, mp_policy=policy)
    train(sam, model)
    plain, moved = shard(net(), mp_policy=policy), shard(net(), mp_policy=policy)
    optimizers = [BASES["momentum"](m.parameters()) for m in (plain, moved)]
    for step in range(STEPS):
        by_hand(plain, optimizers[0], step, rho=0.0)
        by_hand(moved, optimizers[1], step)
    apart = max(float((p - q).abs().max()) for p, q in zip(full(plain), full(moved), strict=True))
    assert apart > 1e-3
    if rho:  # a factor that differs in its last bit may round another way in bfloat16
        close(model, moved, apart / 20)
    else:
        assert same_bits(model, plain)


@case(rho=(0.0, RHO))
def batch_norm(rho):
    """Every rank has its own running statistics, which advance once a step."""
    sam, model = sharded(net(middle=[nn.BatchNorm1d(7)]), rho=rho)
    train(sam, model)
    plain = shard(net(middle=[nn.BatchNorm1d(7)]))
    optimizer = BASES["momentum"](plain.parameters())
    for step in range(STEPS):
        by_hand(plain, optimizer, step, rho)
    close(model, plain, 1e-6 if rho else 0.0)
    close(model.buffers(), plain.buffers(), 1e-6 if rho else 0.0)
    assert int(model[1].num_batches_tracked) == STEPS


@case(form=tuple(FORMS))
def plain_tensors_beside(form):
    """DTensor and plain parameters in one model; the plain gradient is reduced by hand."""
    model = net()
    plain = [model[0].bias, model[2].weight]
    fully_shard(model, ignored_params=set(plain))
    sam = SAM(BASES["momentum"](model.parameters()), model, RHO)

    def reduced(loss):
        before = [None if p.grad is None else p.grad.clone() for p in plain]
        loss.backward()
        for p, old in zip(plain, before, strict=True):
            assert old is None, "the tensors of this case get one gradient a pass"
            dist.all_reduce(p.grad)
            p.grad /= 2

    for step in range(STEPS):
        loss = loss_of(model, step, mine())
        sam.optimizer.zero_grad()
        if form == "passes":
            for _ in sam.passes():
                reduced(loss())
            sam.optimizer.step()
        elif form == "closure":

            def closure(loss=loss):
                sam.optimizer.zero_grad()
                value = loss()
                reduced(value)
                return value

            sam.step(closure)
        else:
            reduced(loss())
            with sam.perturbed():
                reduced(loss())
            sam.optimizer.step()
    close(model, alone(net()), 1e-6)
    assert same_on_all_ranks(model)


@case(copies=(1, 2))
def hybrid(copies):
    """A two-dimensional mesh: shards in one direction, copies in the other."""
    mesh = init_device_mesh("cpu", (copies, WORLD // copies), mesh_dim_names=("copies", "shards"))
    sam, model = sharded(mesh=mesh)
    train(sam, model)
    close(model, alone(net()), 1e-6)
    assert same_on_all_ranks(model)


@case()
def a_sharded_model_must_be_given():
    """Without the model nothing could be resharded."""
    model = shard(net())
    with pytest.raises(ThalwegError, match="model"):
        SAM(BASES["momentum"](model.parameters()), None)
