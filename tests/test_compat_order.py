"""Calls out of order, errors between the two calls, closures and a scaler, with thalweg.compat."""

from __future__ import annotations

import copy

import pytest
import torch
from test_compat import copies, same

from thalweg import ThalwegError, compat


@pytest.fixture
def loss_of(tools):
    return lambda model, step=0: tools.loss(model, step)()


@pytest.fixture
def made(tools):
    def made(**more):
        model = tools.net(dtype=torch.float64)
        settings = {"lr": 0.05, "momentum": 0.9, **more}
        return model, compat.SAM(model.parameters(), torch.optim.SGD, rho=0.1, **settings)

    return made


@pytest.fixture
def two_calls(loss_of):
    def two_calls(model, optimizer, step=0):
        loss_of(model, step).backward()
        optimizer.first_step(zero_grad=True)
        loss_of(model, step).backward()
        optimizer.second_step(zero_grad=True)

    return two_calls


@pytest.mark.parametrize(
    "way", ["first_step", "step", "state_dict", "load", "group", "zero_grad", "copy"]
)
def test_after_an_error_between_the_calls_the_weights_come_back(way, tools, two_calls, loss_of):
    model = tools.net("batch_norm")
    optimizer = compat.SAM(model.parameters(), torch.optim.SGD, rho=0.1, model=model, lr=0.1)
    loss_of(model).backward()
    before = copies(model)
    optimizer.first_step(zero_grad=True)
    assert not same(model, before)
    loss_of(model).backward()  # and now, say, out of memory
    if way == "first_step":
        with pytest.raises(ThalwegError, match=r"got first_step\(\) again; the weights are back"):
            optimizer.first_step()
    elif way == "step":
        with pytest.raises(ThalwegError, match="out of turn; the weights are in place"):
            optimizer.step(lambda: loss_of(model).backward())
    elif way == "state_dict":
        assert optimizer.state_dict()["state"] == {}
    elif way == "load":
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    elif way == "group":
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)]})
    elif way == "copy":
        copy.deepcopy(optimizer)
    else:
        optimizer.zero_grad()
    assert same(model, before)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ThalwegError, match=r"second_step\(\) needs an open first_step"):
        optimizer.second_step()
    two_calls(model, optimizer)  # and training goes on
    assert optimizer.sam.last.moved


def test_a_step_whose_weights_something_else_put_back_is_an_error(made, two_calls, loss_of):
    model, optimizer = made()
    loss_of(model).backward()
    before = copies(model)
    optimizer.first_step()
    optimizer.base_optimizer.step()
    assert same(model, before)
    with pytest.raises(ThalwegError, match=r"^optimizer\.step\(\) must .* were put back"):
        optimizer.second_step()
    optimizer.zero_grad()
    two_calls(model, optimizer)


def test_an_error_in_the_closure_puts_the_weights_back_at_once(made, loss_of):
    model, optimizer = made()
    before = copies(model)

    def closure():
        loss_of(model).backward()
        if not same(model, before):
            raise KeyboardInterrupt

    loss_of(model).backward()
    for _ in range(2):  # with a gradient, and without one
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
        assert same(model, before)
        optimizer.zero_grad()


def test_calls_out_of_order_are_errors(made, two_calls):
    model, optimizer = made()
    with pytest.raises(ThalwegError, match=r"second_step\(\) needs an open first_step"):
        optimizer.second_step()
    with pytest.raises(ThalwegError, match=r"first_step\(\) needs gradients, got none"):
        optimizer.first_step()
    with pytest.raises(ThalwegError, match=r"step\(\) needs a closure"):
        optimizer.step()
    two_calls(model, optimizer)


def test_zero_grad_between_the_calls_is_part_of_a_step(made, two_calls, loss_of):
    model, optimizer = made()
    other, again = made()
    two_calls(other, again)
    loss_of(model).backward()
    optimizer.first_step()
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.second_step()
    assert same(model, copies(other))


@pytest.mark.parametrize("to_none", [True, False, None])
def test_a_closure_with_no_gradient_before_it_runs_twice_every_time(
    to_none, made, two_calls, loss_of
):
    # As Lightning calls it. Gradients left over from the step before are no first gradient.
    model, optimizer = made()
    other, again = made()
    calls = []
    for step in range(4):

        def closure(step=step):
            if to_none is not None:  # or it leaves that to the step
                optimizer.zero_grad(set_to_none=to_none)
            loss = loss_of(model, step)
            loss.backward()
            calls.append(loss.item())
            return loss

        at_the_weights = loss_of(model, step).item()
        if step == 2 and to_none is not None:
            optimizer.zero_grad(set_to_none=to_none)
        with torch.no_grad():
            assert optimizer.step(closure).item() == at_the_weights
        assert len(calls) == 2 * (step + 1)
        two_calls(other, again, step)
        assert same(model, copies(other))


def test_a_closure_with_a_gradient_before_it_runs_once_and_its_loss_comes_back(made, loss_of):
    model, optimizer = made()
    for step in range(3):
        loss = loss_of(model, step)
        loss.backward()

        def closure(step=step):
            loss = loss_of(model, step)
            loss.backward()
            return loss

        with torch.no_grad():
            assert optimizer.step(closure) > loss
        optimizer.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_steps_in_place_of_second_step_and_a_skipped_step_is_undone(
    fused, made, two_calls, loss_of
):
    model, optimizer = made(fused=fused)
    other, again = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    for step, broken in enumerate([False, True, False]):
        before = copies(model)
        scaler.scale(loss_of(model, step)).backward()
        optimizer.first_step()
        assert not same(model, before)
        scale = scaler.get_scale()
        scaler.scale(loss_of(model, step) * (float("inf") if broken else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert (scaler.get_scale() < scale) == broken
        if broken:
            assert same(model, before)
        else:
            two_calls(other, again, step)
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_random_numbers_drawn_between_the_calls_are_given_back(made, loss_of):
    model, optimizer = made()
    loss_of(model).backward()
    optimizer.first_step()
    inside = torch.rand(3)
    loss_of(model).backward()
    optimizer.second_step()
    assert torch.equal(torch.rand(3), inside)


def test_the_model_s_state_dict_puts_the_weights_back_where_the_model_is_known(tools, loss_of):
    model = tools.net()
    optimizer = compat.SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
    loss_of(model).backward()
    before = copies(model)
    optimizer.first_step()
    assert not same(model, before)
    model.state_dict()
    assert same(model, before)
