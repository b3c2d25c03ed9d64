"""Sharded checkpoints, by torch.distributed.checkpoint, in the middle of training."""

from __future__ import annotations

import torch
import torch.distributed.checkpoint as dcp
from harness import case
from together import (
    BASES,
    EVERY,
    FORMS,
    RHO,
    close,
    loss_of,
    mine,
    net,
    same_bits,
    shard,
    sharded,
    shared_folder,
    train,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from thalweg import SAM


def save(folder, model, optimizer, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load(folder, model, optimizer, flat, partial=False):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    whole = {"model": weights, "optimizer": state}
    planner = dcp.DefaultLoadPlanner(allow_partial_load=partial)
    dcp.load(whole, checkpoint_id=folder, planner=planner)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=whole["model"],
        optim_state_dict=whole["optimizer"],
        options=options,
    )


@case(base=("momentum", "adamw"), flat=(False, True))
def resumed_bit_for_bit(base, flat):
    """SAM is built first, then the checkpoint is loaded; rho comes with it."""
    with shared_folder() as folder:
        sam, model = sharded(base=base, rho=0.2)
        train(sam, model, steps=3)
        save(folder, model, sam.optimizer, flat)
        train(sam, model, steps=3, first=3)

        again, resumed = sharded(base=base)
        for p in resumed.parameters():
            torch.nn.init.zeros_(p)
        load(folder, resumed, again.optimizer, flat)
        assert [group["rho"] for group in again.optimizer.param_groups] == [0.2]
        train(again, resumed, steps=3, first=3)
        assert same_bits(model, resumed)


@case(flat=(False, True), first=("load", "sam"))
def checkpoint_without_sam(flat, first):
    """A checkpoint of the base optimizer alone is taken up; SAM goes on from there.

    Once SAM is built the groups have a rho that the file lacks, so a strict load would refuse it.
    """
    with shared_folder() as folder:
        model = shard(net())
        optimizer = BASES["momentum"](model.parameters())
        for step in range(3):
            base_step(model, optimizer, step)
        save(folder, model, optimizer, flat)
        sam = SAM(optimizer, model, RHO)
        train(sam, model, steps=3, first=3)

        resumed = shard(net())
        optimizer = BASES["momentum"](resumed.parameters())
        if first == "load":
            load(folder, resumed, optimizer, flat)
        again = SAM(optimizer, resumed, RHO)
        if first == "sam":
            load(folder, resumed, optimizer, flat, partial=True)
        train(again, resumed, steps=3, first=3)
        assert same_bits(model, resumed)
        assert [group["rho"] for group in optimizer.param_groups] == [RHO]


def base_step(model, optimizer, step):
    optimizer.zero_grad()
    loss_of(model, step, mine())().backward()
    optimizer.step()


@case(flat=(False, True))
def checkpoint_with_sam_into_the_base(flat):
    """A checkpoint written with SAM is taken up by the base optimizer alone."""
    with shared_folder() as folder:
        sam, model = sharded()
        train(sam, model, steps=3)
        save(folder, model, sam.optimizer, flat)
        plain = shard(net())
        optimizer = BASES["momentum"](plain.parameters())
        load(folder, plain, optimizer, flat)
        assert same_bits(model, plain)
        base_step(plain, optimizer, 3)
        base_step(model, sam.optimizer, 3)
        assert same_bits(model, plain)


@case()
def into_one_process():
    """A state gathered whole on every rank goes on in one process, rho included.

    Here SAM comes first: torch refuses a whole state with a key that the groups lack.
    """
    sam, model = sharded(rho=0.2)
    train(sam, model, steps=3)
    options = StateDictOptions(full_state_dict=True)
    weights, state = get_state_dict(model, sam.optimizer, options=options)
    single = net()
    optimizer = BASES["momentum"](single.parameters())
    one = SAM(optimizer, single, RHO)
    set_state_dict(
        single, optimizer, model_state_dict=weights, optim_state_dict=state, options=options
    )
    assert same_bits(single, model)
    assert [group["rho"] for group in optimizer.param_groups] == [0.2]
    train(sam, model, steps=3, first=3)
    for step in range(3, 6):
        FORMS["passes"](one, loss_of(single, step, EVERY))
    close(single, model, 1e-6)
