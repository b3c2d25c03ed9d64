"""What holds for plain SAM holds for every method: a step is one backward(), rho = 0 is off."""

import pytest
import torch
from family import METHODS, add, base, build, close, grads, loss_of, net, same, train, weights

from thalweg import SAM

EVERY = pytest.mark.parametrize("name", METHODS)
#: How many gradients the first steps take, where it is not two.
COUNTS = {
    "momentum": [1, 1, 1, 1],
    "previous": [1, 1, 1, 1],
    "given": [1, 1, 1, 1],
    "gaussian": [1, 1, 1, 1],
    "ascents": [4, 4, 4, 4],
    "mean_ascents": [3, 3, 3, 3],
    "points": [3, 3, 3, 3],
    "look_back": [2, 1, 2, 1],
    "mix": [2, 1, 2, 1],
    "random": [1, 2, 1, 1],
    "window": [1, 2, 2, 2],
    "adaptive": [2, 2, 2, 1],
    "adaptive_reuse": [3, 3, 3, 1],
    "mixture": [4, 4, 4, 1],
}


@EVERY
def test_a_method_takes_its_gradients_and_trains_otherwise_than_plain_sam(name):
    sam, model = build(name)
    seen = []
    train(sam, model, range(4), seen)
    assert seen == COUNTS.get(name, [2, 2, 2, 2])
    other = SAM(base(name, twin := net()), twin, 0.2)
    train(other, twin, range(4))
    assert same(weights(model), weights(twin)) == (name == "plain")


def gradient(name, steps, *, held=None, clear=None, dropout=0.0):
    """The gradient that a loop leaves after some steps, and how many passes it took."""
    sam, model = build(name, dropout=dropout)
    train(sam, model, range(steps))
    sam.optimizer.zero_grad()
    if held is not None:
        loss_of(model, held)().backward()
    before = grads(model)
    torch.manual_seed(9)
    count = 0
    for _ in sam.passes():
        if clear is not None:
            sam.optimizer.zero_grad(set_to_none=clear)
        loss_of(model, steps)().backward()
        count += 1
    return grads(model), before, count


@pytest.mark.parametrize("steps", [2, 3])
@EVERY
def test_a_loop_acts_like_one_backward(name, steps):
    """With dropout, so that every pass must see the same one. At 3, gates are closed."""
    alone, nothing, count = gradient(name, steps, dropout=0.3)
    added, held, again = gradient(name, steps, held=50, dropout=0.3)
    assert count == again
    assert not any(t.any() for t in nothing)
    assert any(t.any() for t in held)
    close(added, add(alone, held))


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("steps", [2, 3])
@EVERY
def test_zero_grad_in_every_pass_is_honoured(name, steps, clear):
    alone, _, _ = gradient(name, steps)
    found, _, _ = gradient(name, steps, held=50, clear=clear)
    close(found, alone)


@EVERY
def test_micro_batches_in_every_pass_are_the_whole_batch(name):
    found = []
    for parts in (1, 4):
        sam, model = build(name, norm=False)
        seen = []
        for step in range(6):
            sam.optimizer.zero_grad()
            count = 0
            for _ in sam.passes():
                for k in range(parts):
                    part = slice(k * 16 // parts, (k + 1) * 16 // parts)
                    (loss_of(model, step, part)() / parts).backward()
                count += 1
            seen.append(count)
            sam.optimizer.step()
        found.append((weights(model), seen))
    assert found[0][1] == found[1][1]
    close(found[0][0], found[1][0], 1e-10)


# What a decoupled one does beside the base's step is not in the gradients that are added up here.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "decoupled"])
def test_a_loop_for_every_micro_batch_is_a_step_of_the_method_each(name):
    """The gradients add up; memory, gates and schedules count loops, not the base's steps."""
    together, model = build(name)
    apart, twin = build(name)
    for sam, trained in ((together, model), (apart, twin)):
        train(sam, trained, range(1))
    for step in range(1, 4):
        sums = None
        together.optimizer.zero_grad()
        for k in range(2):
            for _ in together.passes():
                loss_of(model, step, slice(8 * k, 8 * k + 8))().backward()
            apart.optimizer.zero_grad()
            for _ in apart.passes():
                loss_of(twin, step, slice(8 * k, 8 * k + 8))().backward()
            sums = grads(twin) if sums is None else add(sums, grads(twin))
        for p, total in zip(twin.parameters(), sums, strict=True):
            p.grad = total
        for sam in (together, apart):
            sam.optimizer.step()
        close(weights(model), weights(twin), 1e-10)
    assert together._step == apart._step == 7


@EVERY
def test_rho_zero_is_the_base_optimizer_bit_for_bit(name):
    sam, model = build(name, rho=0.0, dropout=0.4)
    plain = net(dropout=0.4)
    optimizer = base(name, plain)
    seen = []
    torch.manual_seed(5)
    train(sam, model, range(6), seen)
    torch.manual_seed(5)
    for step in range(6):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.02 + 0.01 * (step % 3)
        loss_of(plain, step)().backward()
        optimizer.step()
    assert seen == [1] * 6
    assert same(model.state_dict().values(), plain.state_dict().values())


def test_a_radius_that_has_come_to_zero_is_the_base_optimizer_though_the_gate_reuses():
    sam, model = build("look_back")
    train(sam, model, range(3))
    sam.optimizer.param_groups[0]["rho"] = 0.0
    sam.optimizer.zero_grad()
    for _ in sam.passes():
        loss_of(model, 3)().backward()
    found = grads(model)
    sam.optimizer.zero_grad()
    loss_of(model, 3)().backward()
    assert same(found, grads(model))


@EVERY
def test_every_pass_sees_the_same_dropout_and_statistics_advance_once(name):
    sam, model = build(name, dropout=0.5)
    train(sam, model, range(2))
    for step in (2, 3):
        masks = []
        before = int(model[1].num_batches_tracked)
        mean = model[1].running_mean.clone()
        sam.optimizer.zero_grad()
        at = weights(model)
        torch.manual_seed(step)
        for here in sam.passes():
            x = torch.ones(16, 5, dtype=torch.float64) * torch.arange(16).reshape(-1, 1)
            out = model(x)
            masks.append(out == 0)
            (out**2).mean().backward()
            if here.index == 0:
                once = model[1].running_mean.clone()
                drawn = torch.get_rng_state()
        assert all(torch.equal(m, masks[0]) for m in masks)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert int(model[1].num_batches_tracked) == before + 1
        assert torch.equal(model[1].running_mean, once)
        assert not torch.equal(once, mean)
        assert same(at, weights(model))
