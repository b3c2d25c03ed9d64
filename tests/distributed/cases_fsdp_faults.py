"""FSDP2 when something goes wrong inside a step, and odd gradients on one rank."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from harness import case
from together import (
    BASES,
    FORMS,
    RHO,
    alone,
    close,
    full,
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
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from thalweg import SAM


class Fault(Exception):  # noqa: N818
    """What these cases raise themselves."""


def fail_in(module: nn.Module, when: str, error: type[BaseException]):
    """Make a module raise in its next forward or backward pass; return what undoes it."""

    def fail(*_: object) -> None:
        raise error

    if when == "forward":
        return module.register_forward_hook(fail)
    return module.register_full_backward_hook(fail)


def interrupted_step(sam, model, form, place, error, at=2):
    """Begin a step and break it off in its second pass, or in another."""
    passes = 0

    def loss():
        nonlocal passes
        passes += 1
        last = passes == at
        if last and place == "before":
            raise error
        # The activation between the layers: the first layer has run, the second has not.
        handle = fail_in(model[1], place, error) if last and place in PLACES[1:3] else None
        try:
            value = loss_of(model, 7, mine())()  # must leave no trace in the next step
            if last and place == "between":
                raise error
            value.backward()
        finally:
            if handle is not None:
                handle.remove()
        return value.detach().requires_grad_()  # what the form does with it adds nothing

    try:
        FORMS[form](sam, loss)
    except error:
        return
    raise AssertionError("the fault did not come")


PLACES = ("before", "forward", "backward", "between")


def check_interrupted(form, place, error=Fault, at=2, **options):
    """The shards are back, and two more steps are those of a run without the fault."""
    whole = options.pop("whole", False)
    sam, model = sharded(**options)
    model.set_reshard_after_backward(not whole)
    train(sam, model, steps=2)
    before, places = full(model), [p.data_ptr() for p in local(model)]
    interrupted_step(sam, model, form, place, error, at)
    assert same_bits(model, before)
    assert [p.data_ptr() for p in local(model)] == places
    sam.optimizer.zero_grad()
    train(sam, model, form=form, steps=2, first=2)
    fresh, expected = sharded(**options)
    expected.set_reshard_after_backward(not whole)
    train(fresh, expected, steps=2)
    train(fresh, expected, form=form, steps=2, first=2)
    assert same_bits(model, expected)


@case(form=("closure", "block"), place=PLACES)
def exception(form, place):
    check_interrupted(form, place)


OPTIONS = {
    "usual": {},
    "root": {"nested": False},
    "kept": {"reshard_after_forward": False},
    "kept_root": {"reshard_after_forward": False, "nested": False},
    "whole": {"reshard_after_forward": False, "whole": True},
}


@case(options=tuple(OPTIONS), place=PLACES)
def exception_in_passes(options, place):
    check_interrupted("passes", place, **OPTIONS[options])


@case(options=("usual", "root"), place=PLACES[1:3])
def exception_in_the_ascent(options, place):
    check_interrupted("passes", place, at=1, **OPTIONS[options])


@case(place=PLACES[1:3])
def interrupt(place):
    check_interrupted("passes", place, error=KeyboardInterrupt)


@case(place=("forward", "between"))
def evaluation_after_an_exception(place):
    """The first thing after a fault may be a forward without gradients: it sees the weights."""
    sam, model = sharded()
    train(sam, model, steps=2)
    with torch.no_grad():
        expected = loss_of(model, 5, mine())()
    interrupted_step(sam, model, "passes", place, Fault)
    with torch.no_grad():
        assert torch.equal(loss_of(model, 5, mine())(), expected)


@case(leave=("break", "return", "stale"))
def left_early(leave):
    """A loop left in its second pass, or kept open by a name, costs the next step nothing."""
    sam, model = sharded()
    train(sam, model, steps=2)
    before = full(model)

    def leave_it():
        for here in sam.passes():
            loss_of(model, 2, mine())().backward()
            if here.last and leave == "break":
                break
            if here.last and leave == "return":
                return

    if leave == "stale":
        loop = sam.passes()
        next(loop)
        loss_of(model, 2, mine())().backward()
        next(loop)
        assert not same_bits(model, before)
    else:
        leave_it()
        assert same_bits(model, before)
    train(sam, model, steps=2, first=2)
    fresh, expected = sharded()
    train(fresh, expected, steps=4)
    assert same_bits(model, expected)


@case()
def weights_differ_inside():
    """In the second pass the shards, and what the forward sees of them, are away from home."""
    sam, model = sharded(base="still", rho=0.5)
    model.set_reshard_after_backward(False)
    before, seen = full(model), []
    for _ in sam.passes():
        loss = loss_of(model, 0, mine())()
        seen.append(loss.item())
        loss.backward()
    assert seen[0] != seen[1]
    assert same_bits(model, before)


@case(value=(0.0, math.inf, math.nan), form=("passes", "block"))
def odd_gradients_in_the_shards_of_one_rank(value, form):
    """Zero in the shards of one rank: both move. Not finite there: neither does."""
    torch.manual_seed(0)
    model = shard(nn.Sequential(nn.Linear(3, 4, bias=False)), nested=False)
    sam = SAM(BASES["still"](model.parameters()), model, RHO)
    before = full(model)
    # The last two of four rows are those of rank 1.
    factor = torch.tensor([1.0, 1.0, value, value])
    x = torch.full((2, 3), 1.0 + dist.get_rank())

    def loss():
        return (model(x) * factor).sum()

    FORMS[form](sam, loss)
    assert same_bits(model, before) or not math.isfinite(value)
    assert sam.last.moved == math.isfinite(value)
    length = RHO if math.isfinite(value) else 0.0
    assert math.isclose(float(sam.last.perturbation_norm), length, rel_tol=1e-6)
    if math.isfinite(value):
        assert math.isclose(float(sam.last.grad_norm), 3 * math.sqrt(6), rel_tol=1e-6)


@case(spoilt_pass=(0, 1))
def scaler_skips_on_all_ranks(spoilt_pass):
    """An overflow on one rank, in either pass: no rank takes the step, all lower the scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    sam, model = sharded(sam={"scaler": scaler})
    for step, spoilt in enumerate((spoilt_pass, None, None)):
        sam.optimizer.zero_grad()
        for here in sam.passes():
            bad = here.index == spoilt and dist.get_rank() == 0
            loss = loss_of(model, max(step - 1, 0), mine())() * (math.inf if bad else 1.0)
            scaler.scale(loss).backward()
        scaler.step(sam.optimizer)
        scaler.update()
        close(model, alone(net(), steps=step), 1e-6)
    assert scaler.get_scale() == 2.0


@case()
def no_gradient_at_all():
    """A gradient of zero everywhere moves nothing, and the next step is right."""
    sam, model = sharded(base="momentum")
    before = full(model)
    for _ in sam.passes():
        (loss_of(model, 0, mine())() * 0.0).backward()
    assert not sam.last.moved
    assert same_bits(model, before)
    train(sam, model, steps=5)
    close(model, alone(net(), steps=5), 1e-6)
    assert same_on_all_ranks(model)


@case(how=("model", "checkpoint"))
def state_dict_inside_has_the_weights(how):
    """Whoever asks for the model's state while its weights are moved gets the unmoved ones."""
    sam, model = sharded()
    before = full(model)
    loop = sam.passes()
    next(loop)
    loss_of(model, 0, mine())().backward()
    next(loop)
    assert not same_bits(model, before)
    state = model.state_dict() if how == "model" else get_model_state_dict(model)
    assert same_bits(state.values(), before)
    assert same_bits(model, before)
    sam.optimizer.zero_grad()
    train(sam, model, steps=3)
    close(model, alone(net(), steps=3), 1e-6)
