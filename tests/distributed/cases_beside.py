"""What goes past the base optimizer, where weights are sharded: each rank shifts its own part."""

from __future__ import annotations

import torch
import torch.distributed as dist
from family import base, loss_of, net
from harness import WORLD, case
from together import close, full, mine, rows, same_bits, same_on_all_ranks, shard
from torch.distributed.tensor import DTensor

from thalweg import SAM, beside, presets

METHOD = presets.decoupled(1.5)
STEPS = 4


def sharded(make=None, **options):
    """Return SAM and the network that it trains."""
    model = shard(net(norm=False, dtype=options.pop("dtype", torch.float64)))
    optimizer = make(model.parameters()) if make else base("decoupled", model)
    return SAM(optimizer, model, 0.2, method=METHOD, **options), model


@case()
def two_loops_before_a_step_equal_one_process():
    sam, model = sharded()
    single = net(norm=False)
    one = SAM(base("decoupled", single), single, 0.2, method=METHOD)
    for step in range(STEPS):
        for k in range(2):
            for _ in sam.passes():
                (loss_of(model, step, mine(k, 2))() / 2).backward()
            for _ in one.passes():
                for rank in range(WORLD):
                    (loss_of(single, step, rows(rank, k, 2))() / 2 / WORLD).backward()
        for each in (sam, one):
            each.optimizer.step()
            each.optimizer.zero_grad()
    close(model, single, 1e-9)
    assert same_on_all_ranks(model)


BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
}


@case(kind=tuple(BASES))
def one_rank_s_overflow_takes_it_along_on_all(kind):
    """The run goes on as if the step that the scaler has skipped had never been."""
    found = []
    for steps in ((0, 9, 1), (0, 1)):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
        sam, model = sharded(BASES[kind], scaler=scaler)
        for step in steps:
            before = full(model)
            for k in range(2):  # the first one is fine, and waits
                for here in sam.passes():
                    loss = loss_of(model, step, mine(k, 2))() / 2
                    if step == 9 and k and here.last and dist.get_rank() == 0:
                        loss = loss * float("inf")
                    scaler.scale(loss).backward()
            scaler.step(sam.optimizer)
            scaler.update()
            sam.optimizer.zero_grad()
            assert same_bits(model, before) == (step == 9)
        found.append(full(model))
    close(*found, 1e-12)


@case()
def of_16_bit_weights_it_is_wider_and_sharded_as_they_are():
    sam, model = sharded(dtype=torch.bfloat16)
    before = full(model)
    for _ in sam.passes():
        loss_of(model, 0, mine())().backward()
    held = beside.at(sam.optimizer)._held
    assert len(held) == len(list(model.parameters()))
    for p, t in held.items():
        assert isinstance(t, DTensor)
        assert (t.dtype, t.placements) == (torch.float32, p.placements)
    sam.optimizer.step()
    assert not same_bits(model, before)
    assert same_on_all_ranks(model)
