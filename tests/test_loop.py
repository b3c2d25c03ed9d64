"""The guard of an open loop."""

import gc
import weakref

import pytest
import torch
from torch import nn

from thalweg import SAM, ThalwegError
from thalweg.loop import Loops, weakly


def test_a_hook_does_not_keep_its_owner_alive():
    class Owner:
        pass

    owner, called = Owner(), []
    hook = weakly(owner, lambda *given: called.append(given))
    hook("anything", 2)
    assert called == [(owner, "anything", 2)]
    called.clear()
    gone = weakref.ref(owner)
    del owner
    assert gone() is None
    hook()
    assert called == []


def test_other_hooks_on_the_step_go_on_being_called(tools):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    sam = SAM(optimizer, model)
    optimizer.register_step_pre_hook(lambda *_: called.append("after"))
    loop = sam.passes()
    next(loop)
    optimizer.register_step_pre_hook(lambda *_: called.append("late"))
    optimizer.step()
    assert called == ["before", "after", "late"]


@pytest.mark.parametrize("wrap", [lambda m: m, nn.Sequential, nn.DataParallel])
def test_a_state_dict_taken_inside_the_loop_has_the_weights_and_the_loop_raises(tools, wrap):
    model = tools.net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), wrap(model), rho=0.5)
    loop = sam.passes()
    next(loop)
    tools.loss(model, 0)().backward()
    next(loop)
    assert not torch.equal(model[0].weight, before["0.weight"])
    saved = model.state_dict()
    assert all(torch.equal(saved[name], before[name]) for name in before)
    with pytest.raises(ThalwegError, match=r"^model.state_dict\(\) must come after the loop"):
        next(loop)


def test_nothing_is_left_on_the_model_or_the_optimizer(tools):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sam = SAM(optimizer, model, rho=0.5)
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert not model._state_dict_pre_hooks
    loop = sam.passes()
    next(loop)
    assert len(model._state_dict_pre_hooks) == 1
    del loop
    gc.collect()
    assert not model._state_dict_pre_hooks
    del sam
    gc.collect()
    assert not optimizer._optimizer_step_pre_hooks


def test_two_loops_are_never_open_together(tools):
    model = tools.net()
    loops = Loops(torch.optim.SGD(model.parameters(), lr=0.1), model)
    undone = []
    with loops.open() as loop:
        loop.callback(undone.append, 1)
        loops.close()
        assert undone == [1]
        with pytest.raises(ThalwegError, match="must come after"):
            loops.check(loop)


@pytest.mark.parametrize("then", ["step", "passes"])
def test_a_loop_that_is_made_and_not_looped_over_is_an_error(tools, then):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sam = SAM(optimizer, model, rho=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    sam.passes()
    tools.loss(model, 0)().backward()
    with pytest.raises(ThalwegError, match=r"write `for _ in sam\.passes\(\):`"):
        optimizer.step() if then == "step" else sam.passes()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    tools.forms["passes"](sam, tools.loss(model, 0))  # said once; and a loop that begins is none
    for _ in sam.passes():
        break
    sam.passes().close()
    sam.release()
    optimizer.step()


def test_weights_loaded_while_a_loop_is_open_stay(tools):
    model, other = tools.net(), tools.net(seed=1)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=0.5)
    loop = sam.passes()
    next(loop)
    tools.loss(model, 0)().backward()
    next(loop)
    model.load_state_dict(other.state_dict())
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert tools.same_bits(model, other)
