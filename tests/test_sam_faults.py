"""Whatever interrupts a step, the weights come back, and the next step is that of a fresh SAM."""

import copy
import gc

import pytest
import torch

from thalweg import SAM, Method, ThalwegError


class Interrupted:
    """A SAM step that is interrupted in one of its passes, and what was there before and then."""

    def __init__(self, tools, telemetry=False):
        self.tools = tools
        self.model = tools.net("batch_norm", "dropout")
        self.optimizer = tools.optimizers["momentum"](self.model.parameters())
        self.sam = SAM(self.optimizer, self.model, rho=0.5, telemetry=telemetry)
        tools.forms["passes"](self.sam, tools.loss(self.model, 0))
        self.held = [p.grad.clone() for p in self.model.parameters()]
        self.parameters = [p.detach().clone() for p in self.model.parameters()]
        torch.manual_seed(11)
        self.before = copy.deepcopy((self.model, self.optimizer))
        plain = copy.deepcopy(self.model)
        self.g = [torch.zeros_like(p) for p in self.model.parameters()]
        loss = tools.loss(plain, 1)()
        self.g = torch.autograd.grad(loss, list(plain.parameters()))
        self.after_one_forward = torch.get_rng_state(), list(plain.buffers())
        torch.manual_seed(11)

    def loss(self):
        return self.tools.loss(self.model, 1)()

    def check(self, rng_and_buffers=True, guarded=False):
        """Everything is where the first pass left it, and SAM works on."""
        for p, old in zip(self.model.parameters(), self.parameters, strict=True):
            assert torch.equal(p, old)
        if rng_and_buffers:
            rng, buffers = self.after_one_forward
            assert torch.equal(torch.get_rng_state(), rng)
            assert all(
                torch.equal(s, t) for s, t in zip(self.model.buffers(), buffers, strict=True)
            )
        # Two hooks look for a gradient scaler and a loop not begun; one is the loop's guard.
        assert len(self.optimizer._optimizer_step_pre_hooks) == 2 + guarded
        assert len(self.model._state_dict_pre_hooks) == guarded
        assert not any(p._backward_hooks for p in self.model.parameters())
        model, optimizer = self.before
        for (name, b), (_, now) in zip(
            model.named_buffers(), self.model.named_buffers(), strict=True
        ):
            assert "running" not in name or not torch.equal(b, now)
        model.load_state_dict(self.model.state_dict())
        fresh = SAM(optimizer, model, rho=0.5)
        for sam, net in ((self.sam, self.model), (fresh, model)):
            torch.manual_seed(5)
            self.tools.forms["passes"](sam, self.tools.loss(net, 2))
        assert self.tools.same_bits(self.model, model)


@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", [0, 1])
def test_an_exception_in_a_pass(tools, where, error, telemetry):
    run = Interrupted(tools, telemetry)

    def interrupted():
        for here in run.sam.passes():
            loss = run.loss()
            if here.index == where:
                raise error("stop")
            loss.backward()

    with pytest.raises(error, match="stop"):
        interrupted()
    for p, old in zip(run.model.parameters(), run.held, strict=True):
        assert torch.equal(p.grad, old)  # the open pass had added nothing
    run.check()


@pytest.mark.parametrize("where", [0, 1])
def test_break_leaves_what_the_open_pass_has_added(tools, where):
    run = Interrupted(tools)
    for here in run.sam.passes():
        run.loss().backward()
        if here.index == where:
            break
    changed = [p.grad - old for p, old in zip(run.model.parameters(), run.held, strict=True)]
    like_g = all(torch.allclose(c, g, atol=1e-6) for c, g in zip(changed, run.g, strict=True))
    assert like_g == (where == 0)
    run.check()


@pytest.mark.parametrize("where", [0, 1])
def test_return_from_a_function(tools, where):
    run = Interrupted(tools)

    def leave():
        for here in run.sam.passes():
            run.loss().backward()
            if here.index == where:
                return here.index
        return None

    assert leave() == where
    run.check()


def test_an_exception_in_the_closure(tools):
    run, calls = Interrupted(tools), []

    def closure():
        calls.append(1)
        run.optimizer.zero_grad()
        loss = run.loss()
        if len(calls) == 2:
            raise RuntimeError("stop")
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="stop"):
        run.sam.step(closure)
    run.check()


def test_an_exception_in_the_block(tools):
    run = Interrupted(tools)
    run.optimizer.zero_grad()
    run.loss().backward()
    first = [p.grad for p in run.model.parameters()]
    values = [g.clone() for g in first]

    def block():
        with run.sam.perturbed():
            run.loss().backward()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        block()
    for p, g, value in zip(run.model.parameters(), first, values, strict=True):
        assert p.grad is g
        assert torch.equal(g, value)
    run.check()


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("undo", ["passes", "step", "release"])
def test_a_loop_that_was_left_open(tools, undo, passes):
    run = Interrupted(tools)
    loop = run.sam.passes()
    next(loop)
    if passes == 2:
        run.loss().backward()
        next(loop)
        run.loss()
        assert not torch.equal(run.model[0].weight, run.parameters[0])
    else:
        run.loss()
    if undo == "passes":
        again = run.sam.passes()
        next(again)
        again.close()
    elif undo == "step":
        for group in run.optimizer.param_groups:
            group["lr"] = 0.0
        velocities = copy.deepcopy(run.optimizer.state_dict())
        run.optimizer.step()
        run.optimizer.load_state_dict(velocities)
        for group in run.optimizer.param_groups:
            group["lr"] = 0.02
    else:
        run.sam.release()
    run.check(guarded=undo == "step")
    calls = {"passes": "another loop", "step": r"optimizer\.step", "release": r"sam\.release"}
    with pytest.raises(
        ThalwegError, match=rf"^{calls[undo]}.* put back before it, and what it did"
    ):
        next(loop)
    assert not run.model._state_dict_pre_hooks


def test_a_stale_loop_that_ends_late_leaves_the_newer_one_alone(tools):
    run = Interrupted(tools)
    stale = run.sam.passes()
    next(stale)
    run.loss().backward()
    next(stale)
    run.optimizer.zero_grad()
    torch.manual_seed(11)
    moved = []
    for here in run.sam.passes():
        if here.ascent:
            del stale
            gc.collect()
        moved.append(not torch.equal(run.model[0].weight, run.parameters[0]))
        run.loss().backward()
    assert moved == [False, True]
    assert torch.equal(run.model[0].weight, run.parameters[0])


def test_a_forgotten_sam_leaves_nothing_behind(tools):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sam = SAM(optimizer, model, rho=0.5)
    loop = sam.passes()
    next(loop)
    del sam, loop
    gc.collect()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_move_that_fails_half_way_is_undone(tools):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]

    class Meddles:
        """A ball that puts a tensor of another shape into the list that it got."""

        def sharp(self, direction, context):
            direction[-1] = torch.ones(7)
            return direction, 1.0

    wrong = Method(direction=lambda g, _: list(g), ball=Meddles())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5, method=wrong)
    with pytest.raises(RuntimeError, match="size"):
        tools.forms["passes"](sam, tools.loss(model, 0))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_the_random_state_is_that_after_the_first_pass_whatever_the_second_draws(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    for draws in (0, 3, 5):
        for here in sam.passes():
            torch.rand(3 if here.ascent else draws)
            if here.ascent:
                state = torch.get_rng_state()
            tools.loss(model, 0)().backward()
        assert torch.equal(torch.get_rng_state(), state)
