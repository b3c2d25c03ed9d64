"""Calls out of order: an error that says what to do, and the weights are back."""

import pytest
import torch

from thalweg import SAM, ThalwegError


@pytest.mark.parametrize("where", [0, 1])
def test_optimizer_step_inside_the_loop(tools, where):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sam = SAM(optimizer, model, rho=0.5)

    def wrong():
        for here in sam.passes():
            tools.loss(model, 0)().backward()
            if here.index == where:
                optimizer.step()

    with pytest.raises(ThalwegError, match=r"optimizer\.step\(\).* move that call after the loop"):
        wrong()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not model._state_dict_pre_hooks


def test_optimizer_step_inside_the_block(tools):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sam = SAM(optimizer, model, rho=0.5)
    tools.loss(model, 0)().backward()

    def wrong():
        with sam.perturbed():
            tools.loss(model, 0)().backward()
            optimizer.step()

    with pytest.raises(ThalwegError, match="move that call after"):
        wrong()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("where", [0, 1])
def test_a_loop_inside_the_loop(tools, where):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=0.5)

    def wrong():
        for here in sam.passes():
            tools.loss(model, 0)().backward()
            if here.index == where:
                for _ in sam.passes():
                    tools.loss(model, 0)().backward()

    with pytest.raises(ThalwegError, match="another loop"):
        wrong()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
