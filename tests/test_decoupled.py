"""What goes past the base optimizer: applied once, with its step; never without it."""

import copy
import functools
import math

import pytest
import torch
from family import close, grads, loss_of, net, same, train, weights

from thalweg import SAM, Method, layout, presets
from thalweg.ascent import Decoupled

K, RHO, LR = 1.5, 0.2, 0.1
MOMENTUM = functools.partial(torch.optim.SGD, lr=LR, momentum=0.9)
FUSED = functools.partial(torch.optim.Adam, lr=LR, fused=True)
METHOD = Method(combine=Decoupled(K))
DEVICES = pytest.mark.parametrize("costly", [False, True], ids=["cpu", "accelerator"])
CLEAR = pytest.mark.parametrize("to_none", [True, False], ids=["none", "zeros"])


@pytest.fixture
def device(monkeypatch, costly):
    """The branch for accelerators, taken on the CPU."""
    monkeypatch.setattr(layout, "costly_to_read", lambda device: costly)


def build(base=MOMENTUM, method=METHOD, **options):
    model = net(norm=False)
    return SAM(base(model.parameters()), model, RHO, method=method, **options), model


def loop(sam, model, step, part=slice(None), *, scaler=None, factor=1.0, bad=None):
    """Take the gradients of a step; one of them may be spoilt."""
    for here in sam.passes():
        loss = factor * loss_of(model, step, part)()
        if here.index == bad:
            loss = loss * math.inf
        (loss if scaler is None else scaler.scale(loss)).backward()


class ByHand:
    """The same in plain tensors, with a base optimizer of its own."""

    def __init__(self, base=MOMENTUM):
        self.model = net(norm=False)
        self.base = base(self.model.parameters())

    def both(self, step, part=slice(None)):
        """Return g and h."""
        w = list(self.model.parameters())
        g = torch.autograd.grad(loss_of(self.model, step, part)(), w)
        n = torch.cat([t.flatten() for t in g]).norm()
        twin = copy.deepcopy(self.model)
        with torch.no_grad():
            for p, t in zip(twin.parameters(), g, strict=True):
                p += RHO / n * t
        return list(g), torch.autograd.grad(loss_of(twin, step, part)(), list(twin.parameters()))

    def step(self, g, beside=None, lr=LR):
        """Let the base optimizer have g, then take lr times the rest off the weights."""
        for p, t in zip(self.model.parameters(), g, strict=True):
            p.grad = t
        self.base.step()
        with torch.no_grad():
            for p, t in zip(self.model.parameters(), beside or [], strict=bool(beside)):
                p -= lr * t

    def whole(self, step):
        g, h = self.both(step)
        self.step(g, [K * (b - a) for a, b in zip(g, h, strict=True)])


def check(model, hand):
    close(weights(model), weights(hand.model), 1e-11)


@pytest.mark.parametrize("form", ["passes", "block", "closure"])
@DEVICES
def test_it_is_its_formula_with_momentum(device, form):
    sam, model = build()
    hand = ByHand()
    for step in range(4):
        sam.optimizer.zero_grad()
        if form == "passes":
            loop(sam, model, step)
        elif form == "block":
            loss_of(model, step)().backward()
            with sam.perturbed():
                loss_of(model, step)().backward()
        else:
            sam.step(
                lambda step=step: (sam.optimizer.zero_grad(), loss_of(model, step)().backward())
            )
        if form != "closure":
            sam.optimizer.step()
        hand.whole(step)
        check(model, hand)


@pytest.mark.parametrize("tensor", [False, True])
@DEVICES
def test_the_learning_rate_is_that_of_the_group_when_the_step_is_taken(device, tensor):
    first, last = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    kind = torch.tensor if tensor else float
    groups = [{"params": [first], "lr": kind(0.1)}, {"params": [last], "lr": kind(0.1)}]
    sam = SAM(torch.optim.SGD(groups), None, RHO, method=METHOD)
    for _ in sam.passes():
        ((first**2).sum() + (last**2).sum()).backward()
    sam.optimizer.param_groups[1]["lr"] = kind(0.4)
    sam.optimizer.step()
    # g = 2 in every entry, h - g = 2 ε, and ε = ρ / 2 of each
    for w, lr in ((first, 0.1), (last, 0.4)):
        torch.testing.assert_close(w.detach(), 1 - lr * (2 + K * RHO) * torch.ones_like(w))


def test_with_maximize_it_goes_the_other_way_too():
    """Under plain SGD, k = 1 is SAM."""
    found = []
    for method in (Method(), presets.decoupled(1.0)):
        sam, model = build(functools.partial(torch.optim.SGD, lr=LR, maximize=True), method)
        train(sam, model, range(3))
        found.append(weights(model))
    close(*found)


@DEVICES
def test_it_is_applied_once(device):
    sam, model = build()
    hand = ByHand()
    loop(sam, model, 0)
    sam.optimizer.step()
    sam.optimizer.step()
    g, h = hand.both(0)
    hand.step(g, [K * (b - a) for a, b in zip(g, h, strict=True)])
    hand.step(g)
    check(model, hand)


@DEVICES
def test_what_several_loops_leave_before_one_step_adds_up(device):
    sam, model = build()
    hand = ByHand()
    for step in range(3):
        sam.optimizer.zero_grad()
        halves = [slice(0, 8), slice(8, 16)]
        for part in halves:
            loop(sam, model, step, part, factor=0.5)
        sam.optimizer.step()
        each = [hand.both(step, part) for part in halves]
        g = [0.5 * (a + b) for a, b in zip(each[0][0], each[1][0], strict=True)]
        h = [0.5 * (a + b) for a, b in zip(each[0][1], each[1][1], strict=True)]
        hand.step(g, [K * (b - a) for a, b in zip(g, h, strict=True)])
        check(model, hand)


@pytest.mark.filterwarnings("ignore:the gradients were cleared between the loop")
@pytest.mark.parametrize("where", ["before", "in every pass", "before the step"])
@CLEAR
@DEVICES
def test_it_goes_with_the_gradients_that_are_cleared(device, to_none, where):
    """The step that it waited for was never taken."""
    sam, model = build()
    hand = ByHand()
    loop(sam, model, 5)
    if where == "before":
        sam.optimizer.zero_grad(to_none)
        loop(sam, model, 0)
    elif where == "in every pass":
        for _ in sam.passes():
            sam.optimizer.zero_grad(to_none)
            loss_of(model, 0)().backward()
    else:
        sam.optimizer.zero_grad(to_none)
        before = weights(model)
        sam.optimizer.step()
        assert same(weights(model), before)
        return
    sam.optimizer.step()
    hand.whole(0)
    check(model, hand)


@pytest.mark.parametrize(("bad", "given"), [(0, True), (1, True), (1, False)])
@pytest.mark.parametrize("base", [MOMENTUM, FUSED], ids=["sgd", "fused"])
@DEVICES
def test_a_step_that_a_scaler_skips_takes_it_along(device, base, bad, given):
    """And neither the skipped step nor the next one moves by it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam, model = build(base, scaler=scaler if given else None)
    hand, before = ByHand(base), weights(model)
    loop(sam, model, 5, slice(0, 8), scaler=scaler)  # which waits for a step
    loop(sam, model, 5, slice(8, 16), scaler=scaler, bad=bad)
    scaler.step(sam.optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert same(weights(model), before)
    for step in range(2):
        for _ in sam.passes():
            sam.optimizer.zero_grad()
            scaler.scale(loss_of(model, step)()).backward()
        scaler.step(sam.optimizer)
        scaler.update()
        hand.whole(step)
    check(model, hand)


@DEVICES
def test_a_fused_step_that_is_skipped_though_its_gradients_were_mended(device):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam, model = build(FUSED, scaler=scaler)
    before = weights(model)
    loop(sam, model, 0, scaler=scaler)
    next(model.parameters()).grad[0, 0] = math.inf
    scaler.unscale_(sam.optimizer)
    for p in model.parameters():
        p.grad = p.grad.nan_to_num(posinf=0.0)
    scaler.step(sam.optimizer)
    assert same(weights(model), before)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("base", [MOMENTUM, FUSED], ids=["sgd", "fused"])
@DEVICES
def test_it_is_unscaled_whether_or_not_the_scaler_was_given(device, base, given):
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    sam, model = build(base, scaler=scaler if given else None)
    hand = ByHand(base)
    for step in range(3):
        sam.optimizer.zero_grad()
        loop(sam, model, step, scaler=scaler)
        scaler.step(sam.optimizer)
        scaler.update()
        hand.whole(step)
    check(model, hand)


@DEVICES
def test_an_ascent_that_is_not_finite_is_a_plain_step(device):
    sam, model = build()
    hand = ByHand()
    loop(sam, model, 0, bad=0)
    sam.optimizer.step()
    hand.step(hand.both(0)[0])
    check(model, hand)


@DEVICES
def test_where_it_is_not_finite_itself_nothing_moves_by_it(device):
    """The gradients are; k times their difference is more than float64 can hold."""
    sam, model = build(method=Method(combine=Decoupled(1e308)))
    loop(sam, model, 0, factor=1e3)
    plain = [p - LR * g for p, g in zip(weights(model), grads(model), strict=True)]
    sam.optimizer.step()
    close(weights(model), plain)


@DEVICES
def test_a_gradient_spoilt_after_the_loop_keeps_it_off_the_other_weights(device):
    sam, model = build(torch.optim.SGD)
    loop(sam, model, 0)
    first, *others = model.parameters()
    plain = [p.detach() - 1e-3 * p.grad for p in others]
    first.grad[0, 0] = math.nan
    sam.optimizer.step()
    close([p.detach() for p in others], plain)


def test_a_weight_whose_gradient_was_taken_away_stays():
    sam, model = build()
    loop(sam, model, 0)
    first = next(model.parameters())
    before, first.grad = first.detach().clone(), None
    sam.optimizer.step()
    assert torch.equal(first, before)


@DEVICES
def test_a_second_ascent_that_is_not_finite_leaves_nothing_beside(device):
    """The first one was finite, and so are g and h."""
    sam, model = build(torch.optim.SGD, Method(combine=Decoupled(K), ascents=2))
    loop(sam, model, 0, bad=1)
    plain = [p.detach() - 1e-3 * p.grad for p in model.parameters()]
    sam.optimizer.step()
    close(weights(model), plain)
