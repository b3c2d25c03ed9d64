"""FSDP2 (fully_shard): SAM on shards is SAM in one process on the whole batch."""

from __future__ import annotations

import math

import pytest
import torch
from harness import case
from together import (
    BASES,
    EVERY,
    FORMS,
    RHO,
    STEPS,
    alone,
    close,
    full,
    local,
    loss_of,
    mine,
    net,
    rows,
    same_bits,
    same_on_all_ranks,
    shard,
    sharded,
    train,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from thalweg import SAM, Method, ThalwegError


@case(form=tuple(FORMS), reshard=(True, False))
def equals_one_process(form, reshard):
    sam, model = sharded(reshard_after_forward=reshard)
    train(sam, model, form=form)
    close(model, alone(net()), 1e-6)
    assert same_on_all_ranks(model)


@case()
def equals_one_process_in_float64():
    sam, model = sharded(net(dtype=torch.float64))
    train(sam, model)
    close(model, alone(net(dtype=torch.float64)), 1e-14)


@case(form=tuple(FORMS), nested=(False, True))
def kept_whole_after_backward(form, nested):
    """Parameters that stay whole hide their shards from the next forward."""
    sam, model = sharded(nested=nested)
    model.set_reshard_after_backward(False)
    train(sam, model, form=form)
    close(model, alone(net()), 1e-6)


@case(form=tuple(FORMS), reshard=(True, False))
def forward_in_between(form, reshard):
    """A forward without a backward leaves parameters whole, before a step and inside one."""
    sam, model = sharded(reshard_after_forward=reshard)

    def look(step):
        with torch.no_grad():
            return loss_of(model, step, mine())()

    for step in range(STEPS):
        look(step)
        loss = loss_of(model, step, mine())

        def both(step=step, loss=loss):
            look(step)
            value = loss()
            value.backward()
            look(step)
            return value.detach().requires_grad_()  # its backward does nothing more

        FORMS[form](sam, both)
        look(step)
    close(model, alone(net()), 1e-6)


@case(power=(0.0, 0.5, 2.0))
def powers(power):
    cap = 0.3 if power > 1 else math.inf
    sam, model = sharded(sam={"method": Method(power=power, max_norm=cap)})
    train(sam, model)
    close(model, alone(net(), power=power, cap=cap), 1e-6)


@case(base=("adamw", "adamw_foreach", "adamw_fused"))
def adam(base):
    """In float64: where a gradient is small, Adam makes much of its rounding."""
    sam, model = sharded(net(dtype=torch.float64), base=base)
    train(sam, model)
    close(model, alone(net(dtype=torch.float64), base="adamw"), 1e-10)


@case()
def groups_with_their_own_rho():
    """One group is off; the norm is that of the others together."""
    model = shard(net())
    parameters = list(model.parameters())
    rhos = [0.2, 0.0, 0.05, 0.05]
    groups = [{"params": [p], "rho": rho} for p, rho in zip(parameters, rhos, strict=True)]
    sam = SAM(BASES["momentum"](groups), model, 0.3)
    train(sam, model)
    close(model, alone(net(), rhos=rhos), 1e-6)


@case()
def clipping():
    """Clipping after the passes acts on the SAM gradient; the ascent uses the raw one."""
    sam, model = sharded()
    for step in range(STEPS):
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            loss_of(model, step, mine())().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        sam.optimizer.step()
    close(model, alone(net(), clip=0.2), 1e-6)


@case(form=tuple(FORMS))
def telemetry(form):
    """The numbers are those of one process."""
    sam, model = sharded(sam={"telemetry": True})
    single = net()
    one = SAM(BASES["momentum"](single.parameters()), single, RHO, telemetry=True)
    for step in range(3):
        train(sam, model, form=form, steps=1, first=step)
        FORMS[form](one, loss_of(single, step, EVERY))
        for name in ("grad_norm", "perturbation_norm", "descent_norm", "cosine", "curvature"):
            found, expected = float(getattr(sam.last, name)), float(getattr(one.last, name))
            assert math.isclose(found, expected, rel_tol=1e-4), name
    shares = []
    for engine, trained, which in ((sam, model, mine()), (one, single, EVERY)):
        for here in engine.passes():
            loss_of(trained, 3, which)().backward()
            if here.last:
                shares.append(engine.fidelity(torch.bfloat16))
    assert math.isclose(shares[0][0], shares[1][0], abs_tol=1e-6)
    assert math.isclose(shares[0][1], shares[1][1], abs_tol=1e-4)
    close(model, alone(net(), steps=3), 1e-6)


@case(micros=(1, 2), whole=(False, True))
def m_sam_and_accumulation(micros, whole):
    """An ascent for each of two micro-batches, each reduced with its last part only."""
    sam, model = sharded()
    model.set_reshard_after_backward(not whole)
    for step in range(STEPS):
        sam.optimizer.zero_grad()
        for k in range(micros):
            for _ in sam.passes():
                for part in range(2):
                    model.set_requires_gradient_sync(part == 1)
                    which = mine(2 * k + part, 2 * micros)
                    (loss_of(model, step, which)() / 2 / micros).backward()
        sam.optimizer.step()
    groups = [[rows(0, k, micros), rows(1, k, micros)] for k in range(micros)]
    close(model, alone(net(), groups=groups), 1e-6)
    assert same_on_all_ranks(model)


@case(form=tuple(FORMS), keep=(False, True))
def exact_restore(form, keep):
    """At a learning rate of 0 not one bit of a shard changes, nor its address."""
    sam, model = sharded(base="still", rho=0.5, nested=False, sam={"keep_backup": keep})
    before, places = full(model), [p.data_ptr() for p in local(model)]
    for step in range(20):
        train(sam, model, form=form, steps=1, first=step)
        assert sam.last.moved
    assert same_bits(model, before)
    assert [p.data_ptr() for p in local(model)] == places


@case()
def a_thousand_exact_restores():
    """The gradients of twenty steps are given again and again: no time goes into making them."""
    sam, model = sharded(base="still", rho=0.5)
    before, places = full(model), [p.data_ptr() for p in local(model)]
    parameters, kept = list(model.parameters()), []
    for step in range(20):
        train(sam, model, steps=1, first=step)
        kept.append([p.grad for p in parameters])
    for step in range(980):
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            for p, g in zip(parameters, kept[step % 20], strict=True):
                p.grad = g.clone()
        sam.optimizer.step()
        assert sam.last.moved
    assert same_bits(model, before)
    assert [p.data_ptr() for p in local(model)] == places


@case(reduction=("scatter", "between_copies"), reshard=(True, False))
def ascent_per_rank_is_refused(reduction, reshard):
    """Without the reduction there is no gradient to move by; the next proper step is right."""
    copies = reduction == "between_copies"
    names = {"mesh_dim_names": ("copies", "shards")}
    mesh = init_device_mesh("cpu", (2, 1), **names) if copies else None
    sam, model = sharded(reshard_after_forward=reshard, mesh=mesh)
    switch = model.set_requires_all_reduce if copies else model.set_requires_gradient_sync
    train(sam, model, steps=2)
    before = full(model)

    def step():
        for here in sam.passes():
            switch(not here.ascent)
            loss_of(model, 7, mine())().backward()  # must leave no trace in the next step

    with pytest.raises(ThalwegError, match="ascent"):
        step()
    assert same_bits(model, before)
    switch(True)
    train(sam, model, steps=3, first=2)
    close(model, alone(net(), steps=5), 1e-6)


@case()
def waiting_reduction_is_refused():
    """A SAM gradient that is not reduced would come into the next micro-batch's ascent."""
    sam, model = sharded()

    def step():
        for k in range(2):
            for here in sam.passes():
                model.set_requires_gradient_sync(here.ascent or k == 1)
                loss_of(model, 7, mine(k, 2))().backward()

    with pytest.raises(ThalwegError, match="set_requires_gradient_sync"):
        step()
    model.set_requires_gradient_sync(True)
    train(sam, model, steps=3)
    close(model, alone(net(), steps=3), 1e-6)
