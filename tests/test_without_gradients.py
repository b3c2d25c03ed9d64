"""What SAM says of passes without gradients, and of steps without a perturbation."""

import copy
import math

import pytest
import torch

import thalweg
from thalweg import SAM, Method, ThalwegError


def only(sam, w, *, first):
    """Call backward in one of the two passes."""
    for here in sam.passes():
        if here.ascent == first:
            w.sum().backward()


def test_warnings_point_at_the_line_of_the_caller():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)
    with pytest.warns(UserWarning, match="no parameter of the optimizer got a gradient") as said:
        only(sam, w, first=False)
    assert said[0].filename == __file__
    half = torch.randn(64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    other = SAM(torch.optim.SGD([half], lr=0.0), None, 1e-4)
    with pytest.warns(UserWarning, match="rounding swallows") as said:
        other.step(lambda: (half * half).sum().backward())
    assert said[0].filename == __file__


def test_a_last_pass_without_backward_is_told_of():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5)
    with pytest.warns(UserWarning, match="no parameter .* in the last pass"):
        only(sam, w, first=True)
    w.sum().backward()

    def block(sam):
        with sam.perturbed():
            pass

    with pytest.warns(UserWarning, match="no parameter .* in the last pass"):
        block(SAM(torch.optim.SGD([w], lr=0.1), None, 0.5))
    w.sum().backward()
    block(sam)  # once is enough


def test_of_two_passes_without_backward_the_first_is_told_of():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5)
    with pytest.warns(UserWarning, match="in the first pass") as said:
        for _ in sam.passes():
            pass
    assert len(said) == 1
    assert sam.last.why == "no parameter got a gradient in the first pass"
    with pytest.warns(UserWarning, match="in the last pass"):
        only(sam, w, first=True)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_cleared_before_the_step_are_told_of(set_to_none):
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5)

    def train(*, clear):
        for _ in sam.passes():
            w.square().sum().backward()
        if clear:
            sam.optimizer.zero_grad(set_to_none)
        sam.optimizer.step()
        sam.optimizer.zero_grad()

    if set_to_none:
        with pytest.warns(UserWarning, match="cleared between the loop over passes") as said:
            train(clear=True)
        assert said[0].filename == __file__
        train(clear=True)  # once is enough
    train(clear=not set_to_none)  # zeros cannot be told from gradients without looking at them
    sam.optimizer.step()  # without a loop, one may do what one likes


def test_a_step_that_makes_its_own_gradients_is_not_told_of():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5)

    def climb():
        for _ in sam.passes():
            w.square().sum().backward()

    for closure in ((climb,), ()):
        for _ in range(2):
            if not closure:
                climb()
            sam.optimizer.step(*closure)
            sam.optimizer.zero_grad()
    climb()  # and its step is left out
    sam.optimizer.zero_grad()
    sam.optimizer.step(closure=lambda: w.square().sum().backward())
    sam.optimizer.zero_grad()
    sam.optimizer.step()


def test_a_record_without_a_perturbation_says_why():
    w = torch.ones(2, requires_grad=True)
    method = Method(gate=lambda step: step != 1)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5, method=method)

    def step(factor=1.0):
        for here in sam.passes():
            if here.index == 0:
                begun.append(sam.last.why)
            (w * factor).sum().backward()
            if factor == 2:
                break
        return sam.last.why

    begun = [sam.last.why]
    found = [step(), step(), step(2), step(math.nan), step(0)]
    assert sam.last.grad_norm == 0
    sam.optimizer.param_groups[0]["rho"] = 0.0
    found.append(step())
    early = "the first pass is not over"
    bad = "the gradient, or the direction made of it, was "
    off = "rho, or what the schedule makes of it, is 0"
    assert found == ["", "the gate was closed", early, f"{bad}not finite", f"{bad}0", off]
    assert begun == ["there was no step yet", *[early] * 6]
    assert repr(sam.last) == f"Last(moved=False, why={off!r})"
    assert set(sam.last.known()) == {"grad_norm", "perturbation_norm", "capped"}
    w.sum().backward()
    sam.method = Method()
    with sam.perturbed():
        pass
    assert sam.last.why == off
    sam.optimizer.param_groups[0]["rho"] = 0.5
    sam.method = thalweg.presets.look_back()
    for _ in range(2):
        for _ in sam.passes():
            w.sum().backward()
    assert sam.last.why == "the gate was closed"


def test_a_block_that_is_not_entered_is_told_of_at_the_step():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5)
    w.square().sum().backward()
    sam.perturbed()
    with pytest.raises(ThalwegError, match=r"perturbed\(\) must be entered, .*: write `with sam"):
        sam.optimizer.step()
    with sam.perturbed():
        w.square().sum().backward()
    sam.optimizer.step()
    assert sam.last.moved


@pytest.mark.parametrize("name", ["telemetry", "keep_backup"])
def test_a_flag_is_true_or_false_and_stays(name):
    w = torch.ones(2, requires_grad=True)
    for bad in ("yes", 1, None):
        with pytest.raises(ThalwegError, match=rf"^{name} must be True or False, got"):
            SAM(torch.optim.SGD([w], lr=0.1), None, **{name: bad})
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, **{name: False})
    with pytest.raises(
        ThalwegError, match=rf"^sam\.{name} must stay .*: make SAM anew with {name}"
    ):
        setattr(sam, name, True)
    setattr(sam, name, False)
    assert getattr(copy.deepcopy(sam), name) is False


def test_a_forward_outside_of_the_loop_is_told_of():
    x, w = torch.randn(100, 2), torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5, telemetry=True)

    def train():
        for row in x:
            loss = (w * row).sum()
            for here in sam.passes():
                here.loss = loss
                loss.backward(retain_graph=True)
            sam.optimizer.step()
            sam.optimizer.zero_grad()

    with pytest.warns(UserWarning, match="put the forward pass, too, into the loop") as said:
        train()
    assert len(said) == 1


def test_a_filter_says_true_or_false():
    model = torch.nn.Linear(2, 2)
    method = Method(filter=lambda parameter, name, layer: "no")
    with pytest.raises(ThalwegError, match=r"^filter must give True or False .*, got 'no' of"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, method=method)
