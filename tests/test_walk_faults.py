"""Every method under fire: loops broken off, overflows, odd parameters, 16 bits."""

import contextlib
import copy
import dataclasses
import math

import pytest
import torch
from family import (
    METHODS,
    build,
    close,
    flat,
    grads,
    loss_of,
    same,
    train,
    weights,
)

from thalweg import Method, ThalwegError
from thalweg.ascent import (
    WithMean,
)

EVERY = pytest.mark.parametrize("name", METHODS)


class StopError(Exception):
    """What a test raises itself."""


def broken(sam, model, step, at, how):
    """Take a loop that ends early, in pass ``at``; return whether it came so far."""
    count = 0

    def loop():
        nonlocal count
        for here in sam.passes():
            count += 1
            if here.index == at and how == "before":
                raise StopError
            loss = loss_of(model, step)()
            if here.index == at:
                if how == "return":
                    return
                if how == "raise":
                    raise StopError
            loss.backward()
            if here.index == at and how == "break":
                break

    with contextlib.suppress(StopError):
        loop()
    return count > at


@pytest.mark.parametrize("step", [2, 3])
@EVERY
def test_a_loop_that_is_broken_off_leaves_weights_memory_and_counts(name, step):
    """And the next step is that of a run in which it never was. At 3, gates are closed."""
    for how in ("before", "break") if step == 2 else ("raise", "return"):
        for at in range(4):
            sam, model = build(name)
            train(sam, model, range(step))
            twin_sam = copy.deepcopy(sam)
            before, state = weights(model), flat(sam.state_dict())
            places = [p.data_ptr() for p in model.parameters()]
            buffers = [b.clone() for b in model.buffers()]
            if not broken(sam, model, 7, at, how):
                break
            assert flat(sam.state_dict()) == state
            assert same(weights(model), before)
            assert [p.data_ptr() for p in model.parameters()] == places
            assert not any(p._backward_hooks for p in model.parameters())
            for b, old in zip(model.buffers(), buffers, strict=True):
                b.copy_(old)  # which the first pass has advanced, as it should
            train(sam, model, range(step, step + 2))
            train(twin_sam, twin_sam.model, range(step, step + 2))
            assert same(weights(model), weights(twin_sam.model))
            assert flat(sam.state_dict()) == flat(twin_sam.state_dict())
        assert at > 0


@EVERY
def test_a_loop_broken_off_adds_only_what_the_open_pass_has_added(name):
    sam, model = build(name, norm=False)
    train(sam, model, range(2))
    for at in range(4):
        sam.optimizer.zero_grad()
        loss_of(model, 50)().backward()
        held, part = grads(model), None
        for here in sam.passes():
            if here.index == at:
                for p in model.parameters():
                    assert p.requires_grad
                now = torch.autograd.grad(loss_of(model, 2)(), list(model.parameters()))
                loss_of(model, 2)().backward()
                part = now
                break
            loss_of(model, 2)().backward()
        if part is None:
            break
        close(grads(model), [a + b for a, b in zip(held, part, strict=True)], 1e-11)
    assert at > 0


def scaled(name, scale, steps=6, bad=None, given=True):
    """Train in float64, where a power of two as the scale changes no digit."""
    scaler = None
    if scale is not None:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    sam, model = build(name, scaler=scaler if given else None)
    seen = []
    for step in range(steps):
        count = 0
        for here in sam.passes():
            loss = loss_of(model, step)()
            if bad is not None and (step, here.index) == bad[:2]:
                loss = loss * bad[2]
            (loss if scaler is None else scaler.scale(loss)).backward()
            count += 1
        if scaler is None:
            sam.optimizer.step()
        else:
            scaler.step(sam.optimizer)
            scaler.update()
        sam.optimizer.zero_grad()
        seen.append(count)
    return sam, model, seen, scaler


@EVERY
def test_a_scaler_changes_neither_weights_nor_memory_nor_decisions(name):
    plain, model, seen, _ = scaled(name, None)
    one, unit, ones, _ = scaled(name, 1.0)
    much, loud, many, _ = scaled(name, 65536.0)
    assert seen == ones == many
    close(weights(model), weights(loud), 1e-12)
    close(weights(model), weights(unit), 1e-12)
    assert flat(one.state_dict()).keys() == flat(much.state_dict()).keys()
    for sam in (one, much):
        for key, value in flat(plain.state_dict()).items():
            found = flat(sam.state_dict())[key]
            torch.testing.assert_close(
                torch.tensor(found or 0), torch.tensor(value or 0), rtol=1e-11, atol=1e-13
            )


@EVERY
def test_an_overflow_in_any_pass_changes_no_memory_and_the_scaler_skips(name):
    for step, wrong in ((2, math.inf), (3, math.nan)):
        before, model, _, _ = scaled(name, 1024.0, steps=step)
        for at in range(5):
            bad = (step, at, wrong)
            sam, other, counts, scaler = scaled(name, 1024.0, steps=step + 1, bad=bad)
            if counts[-1] <= at:
                break
            assert same(weights(model), weights(other)), at
            assert scaler.get_scale() == 512.0, at
            found, wanted = flat(sam.state_dict()), flat(before.state_dict())
            assert found.pop(("step",)) in (None, step + 1)
            wanted.pop(("step",))
            assert found == wanted, at
        assert at > 0


@pytest.mark.parametrize("ascents", [1, 2])
@pytest.mark.parametrize("name", ["mean", "look_back", "gap", "points"])
def test_without_a_scaler_an_ascent_that_is_not_finite_is_a_plain_step(name, ascents):
    """Later passes are finite: the base optimizer gets a gradient, and nothing is remembered."""
    sam, model = build(name)
    sam.method = dataclasses.replace(sam.method, ascents=ascents)
    train(sam, model, range(2))
    memory = sam.state_dict().get("memory")
    before = flat({"memory": memory} if memory else {})
    sam.optimizer.zero_grad()
    for here in sam.passes():
        (loss_of(model, 2)() * (math.nan if here.index == 0 else 1.0)).backward()
    memory = sam.state_dict().get("memory")
    assert flat({"memory": memory} if memory else {}) == before
    assert all(bool(torch.isfinite(g).all()) and bool(g.any()) for g in grads(model)[1:])


@EVERY
def test_a_method_that_must_know_the_scale_asks_for_the_scaler(name):
    method = METHODS[name]
    if not method.scale_matters:
        close(weights(scaled(name, None)[1]), weights(scaled(name, 1024.0, given=False)[1]), 1e-11)
        return
    with pytest.raises(ThalwegError, match=r"write SAM\(\.\.\., scaler=scaler\)"):
        scaled(name, 1024.0, given=False)


@pytest.mark.parametrize("name", ["mean", "previous", "adaptive", "look_back", "mixture"])
def test_float16_under_a_scaler_skips_overflows_until_the_scale_fits(name):
    """Autocast in float16: the first steps overflow, as they do in real runs."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-8)
    sam, model = build(name, scaler=scaler, dtype=torch.float32, norm=False)
    skipped = 0
    for step in range(8):
        before, memory = weights(model), flat(sam.state_dict())
        scale = scaler.get_scale()
        for _ in sam.passes():
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(model, step)()
            scaler.scale(loss).backward()
        scaler.step(sam.optimizer)
        scaler.update()
        sam.optimizer.zero_grad()
        now = flat(sam.state_dict())
        if scaler.get_scale() < scale:
            skipped += 1
            assert same(before, weights(model))
            assert {k: v for k, v in now.items() if k != ("step",)} == {
                k: v for k, v in memory.items() if k != ("step",)
            }
        else:
            assert not same(before, weights(model))
    assert 0 < skipped < 6
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_part_that_raises_leaves_everything_as_it_was():
    class Once(WithMean):
        def __call__(self, gradient, context):
            found = super().__call__(gradient, context)
            if context.step == 1:
                raise StopError
            return found

    sam, model = build("plain")
    sam.method = Method(direction=Once())
    train(sam, model, range(1))
    before, state = weights(model), flat(sam.state_dict())
    with pytest.raises(StopError):
        train(sam, model, range(1, 2))
    assert same(before, weights(model))
    assert flat(sam.state_dict()) == state


@pytest.mark.parametrize("name", ["momentum", "adam_metric"])
def test_a_part_may_look_for_state_before_the_base_optimizer_has_stepped(name):
    """The first steps may be skipped by a scaler, or be micro-batches of one step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam, model = build(name, scaler=scaler)
    for step in range(3):
        for _ in sam.passes():
            scaler.scale(loss_of(model, step)() * (math.inf if step < 2 else 1)).backward()
        scaler.step(sam.optimizer)
        scaler.update()
        sam.optimizer.zero_grad()
    assert sam.optimizer.state
