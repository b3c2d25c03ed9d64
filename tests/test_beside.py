"""What waits for the base optimizer's step: loops broken off, gates, copies, odd parameters."""

import copy
import gc
import math
import pickle
import weakref

import pytest
import torch
from family import close, loss_of, same, train, weights
from reads import Reads
from test_decoupled import CLEAR, FUSED, LR, METHOD, MOMENTUM, RHO, ByHand, K, build, check, loop
from test_twins import assert_twins
from test_twins_of_parts import CELLS, STEPS, Halves
from torch import nn

from thalweg import SAM, Method, ThalwegError, beside, layout, presets
from thalweg.ascent import Across, Decoupled, Every
from thalweg.lab import simulate

HALVES = [slice(0, 8), slice(8, 16)]


def half_hand(hand, step):
    """A step by the first half of a batch alone."""
    g, h = hand.both(step, HALVES[0])
    return g, [K * (b - a) for a, b in zip(g, h, strict=True)]


@pytest.mark.parametrize("at", [0, 1])
def test_a_loop_that_is_broken_off_leaves_what_the_one_before_it_left(at):
    sam, model = build()
    hand = ByHand()
    for step in range(2):
        sam.optimizer.zero_grad()
        loop(sam, model, step, HALVES[0])
        held = [p.grad.clone() for p in model.parameters()]
        for here in sam.passes():
            if here.index == at:
                break
            loss_of(model, step, HALVES[1])().backward()
        close([p.grad for p in model.parameters()], held)
        sam.optimizer.step()
        hand.step(*half_hand(hand, step))
    check(model, hand)


def test_a_part_that_raises_leaves_nothing_waiting():
    class Bad(Decoupled):
        def beside(self, here, uphill, context):
            raise RuntimeError("not today")

    sam, model = build(method=Method(combine=Bad(1.0)))
    before = weights(model)
    with pytest.raises(RuntimeError, match="not today"):
        loop(sam, model, 0)
    assert same(before, weights(model))
    assert beside.at(sam.optimizer).empty


@pytest.mark.parametrize("reuse", [None, Across(0.5)])
def test_a_closed_gate_gives_nothing_beside(reuse):
    """The gradient that the base optimizer gets is then all that moves the weights."""
    sam, model = build(torch.optim.SGD, Method(combine=Decoupled(K), gate=Every(2), reuse=reuse))
    moved = []
    for step in range(4):
        sam.optimizer.zero_grad()
        loop(sam, model, step)
        plain = [p.detach() - 1e-3 * p.grad for p in model.parameters()]
        sam.optimizer.step()
        gap = max(float((a - b).abs().max()) for a, b in zip(weights(model), plain, strict=True))
        moved.append(gap > 1e-6)
        assert moved[-1] or gap < 1e-15
    assert moved == [True, False, True, False]


@pytest.mark.parametrize("opened", [True, False])
def test_a_micro_batch_whose_gate_is_closed_adds_nothing(opened):
    gate = Every(2) if opened else Every(3)
    sam, model = build(method=Method(combine=Decoupled(K), gate=gate))
    hand = ByHand()
    for part in (HALVES[0], HALVES[1], HALVES[0]):
        loop(sam, model, 0, part)
    sam.optimizer.step()
    (g, h), (other, _) = hand.both(0, HALVES[0]), hand.both(0, HALVES[1])
    total = [2 * a + b for a, b in zip(g, other, strict=True)]
    times = 2 if opened else 1
    hand.step(total, [times * K * (b - a) for a, b in zip(g, h, strict=True)])
    check(model, hand)


@pytest.mark.parametrize("closed", [True, False])
def test_after_a_skipped_step_a_closed_gate_does_not_bring_it_back(closed):
    """zero_grad() in the pass, as a closure has it: before it the spoilt gradients are there."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    gate = Every(2) if closed else Every(1)
    sam, model = build(method=Method(combine=Decoupled(K), gate=gate), scaler=scaler)
    hand = ByHand()
    loop(sam, model, 3, scaler=scaler)
    next(model.parameters()).grad[0, 0] = math.inf
    scaler.step(sam.optimizer)
    scaler.update()
    for _ in sam.passes():
        sam.optimizer.zero_grad()
        scaler.scale(loss_of(model, 0)()).backward()
    scaler.step(sam.optimizer)
    scaler.update()
    if closed:
        hand.step(hand.both(0)[0])
    else:
        hand.whole(0)
    check(model, hand)


def test_it_keeps_no_sam_alive_and_the_step_that_waits_is_still_whole():
    sam, model = build()
    optimizer, gone, hand = sam.optimizer, weakref.ref(sam), ByHand()
    loop(sam, model, 0)
    del sam
    gc.collect()
    assert gone() is None
    optimizer.step()
    hand.whole(0)
    check(model, hand)
    assert not optimizer._optimizer_step_pre_hooks
    assert beside.at(optimizer).empty


def test_a_method_without_it_leaves_the_optimizer_alone():
    sam, model = build(method=presets.mix(2.0))
    train(sam, model, range(2))
    assert not sam.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alike_and_apart(how):
    """Taken while something waits, it has no gradients, and nothing waits for it."""
    sam, model = build()
    train(sam, model, range(2))
    sam.optimizer.zero_grad()
    loop(sam, model, 2)
    twin, other = how((sam, model))
    before = weights(other)
    sam.optimizer.step()
    assert same(weights(other), before)
    for each, trained in ((sam, model), (twin, other)):
        trained.load_state_dict(dict(zip(trained.state_dict(), before, strict=True)))
        each.optimizer.load_state_dict(copy.deepcopy(twin.optimizer.state_dict()))
        train(each, trained, range(3, 6))
    assert same(weights(model), weights(other))
    assert len(twin.optimizer._optimizer_step_post_hooks) == 1


def test_two_of_one_optimizer_add_up():
    sam, model = build()
    other = SAM(sam.optimizer, model, RHO, method=Method(combine=Decoupled(3 * K)))
    hand = ByHand()
    loop(sam, model, 0)
    loop(other, model, 0)
    sam.optimizer.step()
    g, h = hand.both(0)
    hand.step([2 * a for a in g], [4 * K * (b - a) for a, b in zip(g, h, strict=True)])
    check(model, hand)


@CLEAR
def test_what_waits_of_one_goes_when_another_begins_without_gradients(to_none):
    """That other one is plain SAM, and its step is SAM's."""
    found = []
    for earlier in (True, False):
        sam, model = build()
        plain = SAM(sam.optimizer, model, RHO)
        if earlier:
            loop(sam, model, 5)
            sam.optimizer.zero_grad(to_none)
        loop(plain, model, 0)
        sam.optimizer.step()
        found.append(weights(model))
    assert same(*found)


def test_the_method_may_change_between_the_loop_and_its_step_and_between_steps():
    sam, model = build()
    hand = ByHand()
    loop(sam, model, 0)
    sam.method = Method()
    sam.optimizer.step()
    hand.whole(0)
    for step in (1, 2):
        sam.optimizer.zero_grad()
        loop(sam, model, step)
        sam.optimizer.step()
        hand.step(hand.both(step)[1])
        check(model, hand)
        sam.method = METHOD
        sam.optimizer.zero_grad()
        loop(sam, model, step)
        sam.optimizer.step()
        hand.whole(step)
        check(model, hand)
        sam.method = Method()


def test_a_base_without_a_learning_rate_is_an_error():
    sam, model = build()
    sam.optimizer.param_groups[0]["lr"] = None
    before = weights(model)
    with pytest.raises(ThalwegError, match='the "lr" of param group 0 must be a number, got None'):
        loop(sam, model, 0)
    assert same(before, weights(model))


@pytest.mark.parametrize("scaled", [False, True])
def test_on_an_accelerator_nothing_is_read(monkeypatch, scaled):
    monkeypatch.setattr(layout, "costly_to_read", lambda device: True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam, model = build(FUSED if scaled else MOMENTUM, scaler=scaler if scaled else None)
    for step in range(3):
        losses = [loss_of(model, step, part) for part in HALVES]
        with Reads() as reads:
            for loss in losses:
                for _ in sam.passes():
                    (scaler.scale(loss()) if scaled else loss()).backward()
            (scaler.step if scaled else torch.optim.SGD.step)(sam.optimizer)
        assert reads.count == 0
        sam.optimizer.zero_grad(set_to_none=False)
        if scaled:
            scaler.update()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_get_a_sum_of_32_bits(dtype):
    """Of 16 bits, 1 and half of the next step after it would be 1."""
    tiny = torch.finfo(dtype).eps / 4
    w = torch.ones(3, dtype=dtype, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=1.0), None, 0.5, method=Method(combine=Decoupled(1.0)))
    for g in (tiny, tiny, 1.0):
        for here in sam.passes():
            ((g if here.ascent else 2 * g) * w).sum().backward()
    w.grad = torch.full_like(w, 1e-7)  # which moves nothing
    sam.optimizer.step()
    assert w.tolist() == [-2 * tiny] * 3


def test_sparse_gradients_are_as_dense_ones():
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(10, 4, sparse=sparse, dtype=torch.float64)
        last = nn.Linear(4, 3, dtype=torch.float64)
        model = nn.Sequential(table, last)
        sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), model, RHO, method=METHOD)
        for step in range(3):
            sam.optimizer.zero_grad()
            for part in range(2):
                words = torch.tensor([[step, part + 1, 5], [2, 2, step + part]])
                for _ in sam.passes():
                    (torch.tanh(model(words)) - 1).square().mean().backward()
            assert table.weight.grad.is_sparse == sparse
            sam.optimizer.step()
        found.append(weights(model))
    close(*found)


def test_in_the_simulator_micro_batches_average_it():
    problem = Halves()
    found = simulate(problem, **CELLS["tanh"], method=METHOD, momentum=0.9, steps=STEPS)
    for cell, (eta, rho, seed) in enumerate(zip(*CELLS["tanh"].values(), strict=True)):
        w = {k: nn.Parameter(t[0]) for k, t in problem.start(torch.tensor([seed])).items()}
        sam = SAM(torch.optim.SGD(w.values(), lr=eta, momentum=0.9), None, rho, method=METHOD)
        stream = problem.stream(torch.tensor([seed]))
        for step in range(STEPS):
            sam.optimizer.zero_grad()
            for part in stream(step):
                for _ in sam.passes():
                    loss = problem.loss({k: t[None] for k, t in w.items()}, part).sum()
                    (loss / 2).backward()
            sam.optimizer.step()
        own = {name: t.detach().numpy() for name, t in w.items()}
        assert_twins(own, {k: value[cell] for k, value in found.final.items()})
