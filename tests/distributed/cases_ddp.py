"""DistributedDataParallel: SAM in two processes is SAM in one on the whole batch."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.distributed as dist
from harness import WORLD, case
from together import (
    BASES,
    EVERY,
    FORMS,
    RHO,
    STEPS,
    alone,
    close,
    full,
    length,
    loss_of,
    mine,
    net,
    rows,
    sam_gradient,
    same_bits,
    same_on_all_ranks,
    train,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import SAM, Method

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
#: So small that every parameter has a bucket of its own, and several are in flight at once.
SMALL = 1e-5


def ddp(model=None, *, base="momentum", rho=RHO, method=None, telemetry=False, **options):
    """Return SAM and the model that it trains, wrapped."""
    wrapped = DistributedDataParallel(model or net(), **options)
    optimizer = BASES[base](wrapped.parameters())
    return SAM(optimizer, wrapped, rho, method=method, telemetry=telemetry), wrapped


@case(form=tuple(FORMS), dtype=tuple(TOLERANCE), view=(False, True))
def equals_one_process(form, dtype, view):
    sam, model = ddp(net(dtype=dtype), gradient_as_bucket_view=view, bucket_cap_mb=SMALL)
    train(sam, model, form=form)
    close(model, alone(net(dtype=dtype)), TOLERANCE[dtype])
    assert same_on_all_ranks(model)


@case(power=(0.0, 0.5, 2.0))
def powers(power):
    cap = 0.3 if power > 1 else math.inf
    sam, model = ddp(method=Method(power=power, max_norm=cap))
    train(sam, model)
    close(model, alone(net(), power=power, cap=cap), 1e-6)


@case(form=tuple(FORMS))
def static_graph(form):
    sam, model = ddp(static_graph=True)
    train(sam, model, form=form)
    close(model, alone(net()), 1e-6)


class Spare(nn.Module):
    """A network with a parameter that its output does not depend on."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = net(), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


@case(form=tuple(FORMS), view=(False, True))
def unused_parameters(form, view):
    sam, model = ddp(Spare(), find_unused_parameters=True, gradient_as_bucket_view=view)
    train(sam, model, form=form)
    close(model.module.used, alone(net()), 1e-6)
    assert all(p.grad is None for p in model.module.spare.parameters())


@case(view=(False, True))
def accumulation(view):
    """Micro-batches inside the passes, reduced with the last of them only, are the big batch."""
    sam, model = ddp(gradient_as_bucket_view=view, bucket_cap_mb=SMALL)
    for step in range(STEPS):
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            for k in range(4):
                with contextlib.nullcontext() if k == 3 else model.no_sync():
                    (loss_of(model, step, mine(k, 4))() / 4).backward()
        sam.optimizer.step()
    close(model, alone(net()), 1e-6)
    assert same_on_all_ranks(model)


def m_sam(sam, model, *, steps=STEPS, micros=1, apart=False, lazy=False, to_none=True):
    """Train by a loop over micro-batches, each with an ascent of its own.

    ``apart``: an ascent of its own on every rank. ``lazy``: the SAM gradients are reduced with the
    last micro-batch only, as in ordinary accumulation.
    """
    for step in range(steps):
        sam.optimizer.zero_grad(set_to_none=to_none)
        for k in range(micros):
            loss = loss_of(model, step, mine(k, micros))
            for here in sam.passes():
                waits = (here.ascent and apart) or (here.last and lazy and k < micros - 1)
                with model.no_sync() if waits else contextlib.nullcontext():
                    (loss() / micros).backward()
        sam.optimizer.step()


def groups(micros, apart):
    """Return the rows that share an ascent in :func:`m_sam`."""
    parts = [[rows(rank, k, micros) for rank in range(WORLD)] for k in range(micros)]
    return [[part] for both in parts for part in both] if apart else parts


#: Micro-batches, whether each rank has ascents of its own, whether the reduction waits.
KINDS = {
    "ranks": (1, True, False),
    "micros": (2, False, False),
    "lazy": (2, False, True),
    "both": (2, True, False),
    "lazy_both": (2, True, True),
}


@case(kind=tuple(KINDS), view=(False, True))
def m_sam_equals_its_formula(kind, view):
    """Ascents per rank, per micro-batch, and both; held gradients may be bucket views."""
    micros, apart, lazy = KINDS[kind]
    sam, model = ddp(gradient_as_bucket_view=view, bucket_cap_mb=SMALL)
    m_sam(sam, model, micros=micros, apart=apart, lazy=lazy)
    expected = alone(net(), groups=groups(micros, apart))
    close(model, expected, 1e-6)
    assert same_on_all_ranks(model)
    # It is another method than the global ascent.
    others = zip(full(expected), full(alone(net())), strict=True)
    assert max(float((p - q).abs().max()) for p, q in others) > 1e-4


@case(kind=("micros", "lazy"), to_none=(False, True))
def bucket_views_change_no_bit(kind, to_none):
    """Four micro-batches: a gradient held on entry must outlive the next backward."""
    _, apart, lazy = KINDS[kind]
    found = []
    for view in (False, True):
        sam, model = ddp(gradient_as_bucket_view=view, bucket_cap_mb=SMALL, base="adamw")
        m_sam(sam, model, steps=3, micros=4, apart=apart, lazy=lazy, to_none=to_none)
        found.append(model)
    assert same_bits(*found)


@case(dtype=(torch.float32, torch.bfloat16), micros=(1, 2))
def replicas_stay_the_same(dtype, micros):
    """Each rank moves its weights elsewhere; only an exact restore keeps the replicas together."""
    sam, model = ddp(net(dtype=dtype))
    m_sam(sam, model, steps=50, micros=micros, apart=True)
    assert sam.last.moved
    assert same_on_all_ranks(model)


@case(bad=(0.0, math.inf, math.nan))
def one_rank_without_ascent(bad):
    """A rank whose own ascent gradient is zero or not finite stays where it is, the other moves."""
    sam, model = ddp(base="still")
    loss = loss_of(model, 0, mine())
    for here in sam.passes():
        with model.no_sync() if here.ascent else contextlib.nullcontext():
            spoilt = here.ascent and dist.get_rank() == 0
            (loss() * (bad if spoilt else 1.0)).backward()
    assert sam.last.moved == (dist.get_rank() == 1)
    moved = net()
    rhos = [RHO] * 4
    at_w = torch.autograd.grad(loss_of(moved, 0, rows(0))(), list(moved.parameters()))
    uphill = sam_gradient(moved, loss_of(moved, 0, rows(1)), rhos=rhos)
    expected = [(a + b) / 2 for a, b in zip(at_w, uphill, strict=True)]
    close([p.grad for p in model.parameters()], expected, 1e-6)


@case(spoilt_pass=(0, 1), apart=(False, True))
def scaler_skips_on_all_ranks(spoilt_pass, apart):
    """An overflow on one rank, in either pass: no rank takes the step, all lower the scale."""
    model = DistributedDataParallel(net())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    sam = SAM(BASES["momentum"](model.parameters()), model, RHO, scaler=scaler)
    for here in sam.passes():
        with model.no_sync() if here.ascent and apart else contextlib.nullcontext():
            spoilt = here.index == spoilt_pass and dist.get_rank() == 0
            loss = loss_of(model, 0, mine())() * (math.inf if spoilt else 1.0)
            scaler.scale(loss).backward()
    scaler.step(sam.optimizer)
    scaler.update()
    assert same_bits(model, net())
    assert scaler.get_scale() == 2.0
    sam.optimizer.zero_grad()
    for _ in sam.passes():
        scaler.scale(loss_of(model, 0, mine())()).backward()
    scaler.step(sam.optimizer)
    close(model, alone(net(), steps=1), 1e-6)
    assert same_on_all_ranks(model)


@case(form=tuple(FORMS), rho=(0.0, RHO))
def batch_norm(form, rho):
    """Buffers, which DDP broadcasts, advance once a step; at rho = 0 this is plain DDP."""
    sam, model = ddp(net(middle=[nn.BatchNorm1d(7)]), rho=rho)
    train(sam, model, form=form, steps=5)
    plain = DistributedDataParallel(net(middle=[nn.BatchNorm1d(7)]))
    optimizer = BASES["momentum"](plain.parameters())
    for step in range(5):
        loss = loss_of(plain, step, mine())
        loss().backward()
        if rho:
            g = [p.grad.clone() for p in plain.parameters()]
            before = [t.clone() for t in (*plain.parameters(), *plain.buffers())]
            with torch.no_grad():
                for p, d in zip(plain.parameters(), g, strict=True):
                    p.add_(d, alpha=rho / length(g))
            optimizer.zero_grad()
            loss().backward()
            with torch.no_grad():
                for t, b in zip((*plain.parameters(), *plain.buffers()), before, strict=True):
                    t.copy_(b)
        optimizer.step()
        optimizer.zero_grad()
    if rho:
        close(model, plain, 1e-6)
        close(model.buffers(), plain.buffers(), 1e-6)
    else:
        assert same_bits(model, plain)
        assert same_bits(model.buffers(), plain.buffers())


@case(form=tuple(FORMS), view=(False, True))
def telemetry(form, view):
    """Telemetry keeps a gradient, which a bucket view would lose."""
    records = []
    for kept, bucket in ((True, view), (True, False), (False, False)):
        sam, model = ddp(telemetry=kept, gradient_as_bucket_view=bucket, bucket_cap_mb=SMALL)
        train(sam, model, form=form, steps=3)
        records.append((sam.last, model))
    (found, viewed), (expected, _), (_, untold) = records
    assert repr(found) == repr(expected)
    assert same_bits(viewed, untold)
    w = net()
    for step in range(3):  # the last step's numbers, written out
        loss = loss_of(w, step, EVERY)
        g = torch.autograd.grad(loss(), list(w.parameters()))
        h = sam_gradient(w, loss, rhos=[RHO] * 4)
        w = alone(net(), steps=step + 1)
    inner = sum(float((a * b).sum()) for a, b in zip(g, h, strict=True))
    epsilon = [RHO / length(g) * d for d in g]
    rise = sum(float(((b - a) * e).sum()) for a, b, e in zip(g, h, epsilon, strict=True))
    numbers = {
        "grad_norm": length(g),
        "perturbation_norm": RHO,
        "descent_norm": length(h),
        "cosine": inner / length(g) / length(h),
        "curvature": rise / RHO**2,
    }
    for name, number in numbers.items():
        assert math.isclose(getattr(found, name), number, rel_tol=1e-4), name


class InterruptedError(Exception):
    """What a case raises itself."""


@case(place=("before", "between"), view=(False, True))
def exception(place, view):
    """After an exception in the second pass the next step is that of a fresh run."""
    sam, model = ddp(gradient_as_bucket_view=view)
    train(sam, model, steps=2)
    before = full(model)
    with contextlib.suppress(InterruptedError):
        for here in sam.passes():
            loss = loss_of(model, 2, mine())() if place == "between" or here.ascent else None
            if here.last:
                raise InterruptedError
            loss.backward()
    assert same_bits(model, before)
    train(sam, model, steps=2, first=2)
    fresh, expected = ddp(gradient_as_bucket_view=view)
    train(fresh, expected, steps=4)
    assert same_bits(model, expected)
