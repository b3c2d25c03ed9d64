"""The block with a method that remembers: what goes wrong in it leaves memory and counts alone."""

import contextlib
import math

import pytest
import torch
from family import FRIENDLY, build, flat, loss_of, same, weights

from thalweg import Method
from thalweg.ascent import Between, Linear, Mix

SIZES = {"power": 0.5, "schedule": Linear(steps=5, start=0.5, end=1.0)}
METHODS = {
    "mean": Method(direction=FRIENDLY, **SIZES),
    "mix": Method(direction=FRIENDLY, combine=Mix(0.7), **SIZES),
    "over time": Method(direction=FRIENDLY, size=Between()),
}


class StopError(Exception):
    """What a test raises itself."""


def made(name):
    """Return SAM with a scaler and its network; a power of two as the scale changes no digit."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10**6)
    sam, model = build("plain", scaler=scaler)
    sam.method = METHODS[name]
    return sam, model


def step(sam, model, number, *, first=1.0, second=1.0):
    """Take a step; its two losses are multiplied, or the block raises."""
    loss = loss_of(model, number)
    sam.optimizer.zero_grad()
    sam.scaler.scale(loss() * first).backward()
    with sam.perturbed():
        if second is None:
            raise StopError
        sam.scaler.scale(loss() * second).backward()
    sam.scaler.step(sam.optimizer)
    sam.scaler.update()


def remembered(sam):
    return {key: value for key, value in flat(sam.state_dict()).items() if key != ("step",)}


@pytest.mark.parametrize("wrong", [None, math.inf, math.nan])
@pytest.mark.parametrize("name", METHODS)
def test_a_block_that_goes_wrong_leaves_memory_and_counts(name, wrong):
    """One that raises never was; one that overflows was a step, of which nothing is remembered."""
    sam, model = made(name)
    twin, other = made(name)
    for number in range(2):
        step(sam, model, number)
        step(twin, other, number)
    before, memory = weights(model), remembered(sam)
    buffers = [b.clone() for b in model.buffers()]
    assert memory
    with pytest.raises(StopError) if wrong is None else contextlib.nullcontext():
        step(sam, model, 7, second=wrong)
    if wrong is not None:
        step(sam, model, 8, first=wrong)
        assert sam.scaler.get_scale() == 256.0
        twin._step += 2
    assert same(before, weights(model))
    assert remembered(sam) == memory
    for b, old in zip(model.buffers(), buffers, strict=True):
        b.copy_(old)  # which the passes at w have advanced, as they should
    for number in range(2, 4):
        step(sam, model, number)
        step(twin, other, number)
    assert same(weights(model), weights(other))
    assert flat(sam.state_dict()) == flat(twin.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_what_a_block_remembers_is_what_the_loop_remembers(name):
    found = []
    for block in (True, False):
        sam, model = made(name)
        for number in range(3):
            if block:
                step(sam, model, number)
                continue
            sam.optimizer.zero_grad()
            for _ in sam.passes():
                sam.scaler.scale(loss_of(model, number)()).backward()
            sam.scaler.step(sam.optimizer)
            sam.scaler.update()
        found.append((weights(model), flat(sam.state_dict())))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
