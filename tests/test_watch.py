"""Telemetry of rounding and of the loss, the totals, and the warnings that come once."""

import math
import warnings

import pytest
import torch
from torch import nn

from thalweg import SAM, ThalwegError
from thalweg.telemetry import Pass


def rounded(dtype, rho, entries=4096, **kwargs):
    """Return SAM after a step on random weights of a dtype, along a random gradient."""
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(entries, generator=draw).to(dtype).requires_grad_()
    direction = torch.randn(entries, generator=draw).to(dtype)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, rho, **kwargs)
    before = w.detach().clone()
    for here in sam.passes():
        (w * direction).sum().backward()
        if here.last:
            meant = rho * direction.double() / direction.double().norm()
            real = w.detach().double() - before.double()
    share = (real != 0).sum().item() / (meant != 0).sum().item()
    return sam, share, float(torch.dot(real, meant) / (real.norm() * meant.norm()))


@pytest.mark.parametrize(("dtype", "rho"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_what_rounding_swallows_is_told_once_with_the_numbers(dtype, rho):
    with pytest.warns(UserWarning, match=r"rounding swallows the perturbation: .* % of the entr"):
        sam, share, cosine = rounded(dtype, rho)
    assert 0.05 < share < 0.95
    assert sam.last.share_moved == pytest.approx(share, abs=1e-12)
    assert sam.last.fidelity == pytest.approx(cosine, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = sam.optimizer.param_groups[0]["params"][0]
        for _ in sam.passes():
            w.sum().backward()
    assert math.isnan(sam.last.share_moved)  # without telemetry it is measured once


def test_no_word_of_rounding_where_it_swallows_nothing():
    sam, _, _ = rounded(torch.bfloat16, 100.0)
    assert sam.last.fidelity > 0.99
    assert math.isnan(rounded(torch.float32, 0.05, telemetry=True)[0].last.fidelity)


def test_fidelity_on_request_is_that_of_the_rounded_weights():
    with pytest.warns(UserWarning, match="rounding swallows"):
        narrow, _, _ = rounded(torch.bfloat16, 0.05, telemetry=True)
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(4096, generator=draw).bfloat16().float().requires_grad_()
    direction = torch.randn(4096, generator=draw).bfloat16().float()
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.05, telemetry=True)
    for here in sam.passes():
        (w * direction).sum().backward()
        if here.last:
            full = sam.fidelity(torch.float32)
            with pytest.warns(UserWarning, match="weights rounded to bfloat16 let .* % of the"):
                share, cosine = sam.fidelity(torch.bfloat16)
    assert full == (1.0, pytest.approx(1.0, abs=1e-6))
    assert share == pytest.approx(narrow.last.share_moved, abs=2e-3)
    assert cosine == pytest.approx(narrow.last.fidelity, abs=2e-3)


@pytest.mark.parametrize("telemetry", [False, True])
def test_fidelity_at_a_wrong_time(telemetry):
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.05, telemetry=telemetry)
    for here in sam.passes():
        w.sum().backward()
        if here.ascent or not telemetry:
            with pytest.raises(ThalwegError, match="must be called while the weights are moved"):
                sam.fidelity(torch.bfloat16)
    with pytest.raises(ThalwegError, match="with telemetry=True"):
        sam.fidelity(torch.bfloat16)


@pytest.mark.parametrize("form", ["passes", "closure"])
def test_the_loss_rise_is_that_of_the_two_losses(form):
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)

    def loss():
        value = (w**2).sum()
        value.backward()
        return value

    if form == "closure":
        sam.step(loss)
    else:
        for here in sam.passes():
            here.loss = loss()
    assert sam.last.loss_rise == pytest.approx(5.5**2 - 5.0**2, rel=1e-6)
    assert sam.log_dict()["sam/loss_rise"] == pytest.approx(5.25, rel=1e-6)


@pytest.mark.parametrize("wrong", ["0.5", None, torch.zeros(2), [1.0]])
def test_what_is_no_loss(wrong):
    with pytest.raises(ThalwegError, match="loss must be a number or a tensor of one, got"):
        Pass(0, ascent=True, last=False).loss = wrong


def test_a_stored_loss_keeps_no_graph():
    here = Pass(0, ascent=True, last=False)
    here.loss = torch.ones(1, requires_grad=True).sum() * 2
    assert here.loss.item() == 2
    assert not here.loss.requires_grad
    here.loss = 3
    assert here.loss.item() == 3


def test_a_closure_may_return_anything():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)
    for value in (None, "done", torch.zeros(3), 1):

        def closure(value=value):
            w.sum().backward()
            return value

        assert sam.step(closure) is value
        assert math.isnan(sam.last.loss_rise)


def test_the_log_is_flat_and_counts_what_was_skipped():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)
    for factor in (1.0, math.nan, 0.0, math.inf, 1.0):
        for here in sam.passes():
            (w * (factor if here.ascent else 1.0)).sum().backward()
    found = sam.log_dict()
    assert (found["sam/steps"], found["sam/skipped"]) == (5.0, 3.0)
    assert found["sam/perturbation_norm"] == pytest.approx(0.5)
    assert all(type(value) is float for value in found.values())
    assert all(name.startswith("sam/") for name in found)
    sam.optimizer.param_groups[0]["rho"] = 0.0
    for _ in sam.passes():
        w.sum().backward()
    assert (sam.log_dict()["sam/steps"], sam.log_dict()["sam/skipped"]) == (6.0, 3.0)


def train(rho, curvature, noise, steps, telemetry=True):
    """Train on a quadratic whose loss has an offset that differs from batch to batch."""
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=1e-3), None, rho, telemetry=telemetry)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        offset = noise * torch.randn((), generator=draw)

        def closure(offset=offset):
            sam.optimizer.zero_grad()
            loss = curvature * (w**2).sum() / 2 + offset
            loss.backward()
            return loss

        sam.step(closure)
    return sam


@pytest.mark.parametrize(
    ("rho", "noise", "what"),
    [
        (1e-6, 1.0, r"rho is too small to matter here: .* differs by"),
        (0.1, 1.0, None),
        (1e-6, 1e-6, None),
    ],
)
def test_a_rise_lost_in_the_noise_is_told_of_once(rho, noise, what):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(rho, 1.0, noise, 49)
        assert not said
        train(rho, 1.0, noise, 150)
    assert len(said) == (what is not None)
    if what:
        with pytest.warns(UserWarning, match=what):
            train(rho, 1.0, noise, 50)


def test_an_epsilon_that_goes_past_the_hill_is_told_of():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(0.3, -1.0, 0.0, 100)  # concave: uphill is towards 0, at a distance of sqrt(2)
        assert not said
    with pytest.warns(UserWarning, match=r"rho is too large here: in 50 of the last 50 steps"):
        train(3.0, -1.0, 0.0, 50)


def test_without_telemetry_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(3.0, -1.0, 0.0, 100, telemetry=False)
        train(1e-6, 1.0, 1.0, 100, telemetry=False)


def test_where_both_weights_and_biases_are_of_16_bits_one_warning_names_them_all():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64).bfloat16(), nn.Linear(64, 64).half())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 1e-3)
    x = torch.randn(4, 64)

    def step():
        for _ in sam.passes():
            model[1](model[0](x.bfloat16()).half()).float().sum().backward()

    with pytest.warns(UserWarning, match=r"(bfloat16 and float16|float16 and bfloat16) weights"):
        step()


def test_steps_in_which_nothing_moves_are_told_of():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)

    def steps(n, factor):
        for _ in range(n):
            for here in sam.passes():
                (w * (factor if here.ascent else 1.0)).sum().backward()

    steps(49, math.nan)
    steps(1, 1.0)
    steps(49, math.inf)
    with pytest.warns(UserWarning, match="nothing was perturbed in the last 50 steps"):
        steps(1, 0.0)
    steps(60, 0.0)  # once is enough


def test_a_batch_of_its_own_for_the_ascent_is_no_small_rho():
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=1e-3), None, 0.05, telemetry=True)
    draw = torch.Generator().manual_seed(0)
    for _ in range(100):
        for here in sam.passes():
            loss = (w**2).sum() / 2 + torch.randn((), generator=draw)
            loss.backward()
            here.loss = loss
        sam.optimizer.zero_grad()


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

    def block():
        with sam.perturbed():
            pass

    with pytest.warns(UserWarning, match="no parameter .* in the last pass"):
        block()


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_telemetry_of_gradients_whose_squares_float32_cannot_hold(size):
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5, telemetry=True)
    sam.step(lambda: (size * w**2 / 2).sum().backward())
    assert sam.last.cosine == pytest.approx(1.0, abs=1e-6)
    assert sam.last.cosine <= 1.0
    assert sam.last.curvature == pytest.approx(size, rel=1e-5)
