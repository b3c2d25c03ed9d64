"""A part put into a slot takes effect, and does what its formula says."""

import math
from dataclasses import dataclass

import pytest
import torch

from thalweg import SAM, Method, ThalwegError
from thalweg.ascent import Always


def gradient_at(tools, w, step):
    model = tools.net(dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(w, model.parameters())
    tools.loss(model, step)().backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def start(tools):
    return torch.nn.utils.parameters_to_vector(tools.net(dtype=torch.float64).parameters()).detach()


def found(tools, form, method, step=0, **kwargs):
    """The gradient that the base optimizer gets, as one vector."""
    model = tools.net(dtype=torch.float64)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.3, method=method, **kwargs)
    tools.forms[form](sam, tools.loss(model, step))
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


FORMS = pytest.mark.parametrize("form", ["passes", "closure", "block"])


@FORMS
def test_combine(tools, form):
    method = Method(combine=lambda g, h, _: [0.5 * (a + b) for a, b in zip(g, h, strict=True)])
    w = start(tools)
    g = gradient_at(tools, w, 0)
    h = gradient_at(tools, w + 0.3 * g / g.norm(), 0)
    torch.testing.assert_close(found(tools, form, method), (g + h) / 2, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("set_to_none", [None, True, False])
def test_combine_adds_to_what_grad_held_unless_it_is_cleared(tools, set_to_none):
    model = tools.net(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = Method(combine=lambda g, h, _: [0.5 * (a + b) for a, b in zip(g, h, strict=True)])
    sam = SAM(optimizer, model, 0.3, method=method)
    tools.loss(model, 1)().backward()
    for _ in sam.passes():
        if set_to_none is not None:
            optimizer.zero_grad(set_to_none=set_to_none)
        tools.loss(model, 0)().backward()
    got = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    w = start(tools)
    g = gradient_at(tools, w, 0)
    h = gradient_at(tools, w + 0.3 * g / g.norm(), 0)
    held = gradient_at(tools, w, 1) if set_to_none is None else 0.0
    torch.testing.assert_close(got, held + (g + h) / 2, rtol=1e-12, atol=1e-14)


@FORMS
def test_filter(tools, form):
    method = Method(filter=lambda p, *_: p.ndim > 1, power=0.5)
    w = start(tools)
    g = gradient_at(tools, w, 0)
    model = tools.net()
    matrix = torch.cat([torch.full((p.numel(),), p.ndim > 1) for p in model.parameters()])
    d = torch.where(matrix, g, 0.0)
    h = gradient_at(tools, w + 0.3 * d / d.norm() ** 0.5, 0)
    torch.testing.assert_close(found(tools, form, method), h, rtol=1e-12, atol=1e-14)


@FORMS
def test_direction(tools, form):
    method = Method(direction=lambda gradient, _: [torch.sign(t) for t in gradient])
    w = start(tools)
    d = torch.sign(gradient_at(tools, w, 0))
    h = gradient_at(tools, w + 0.3 * d / d.norm(), 0)
    torch.testing.assert_close(found(tools, form, method), h, rtol=1e-12, atol=1e-14)


@dataclass(frozen=True)
class Signs:
    """The ball of the largest entry: its dual norm is the sum of sizes."""

    def sharp(self, direction, context):
        n = sum(t.abs().sum() for t in direction)
        return [n * torch.sign(t) for t in direction], n


@FORMS
def test_ball(tools, form):
    w = start(tools)
    g = gradient_at(tools, w, 0)
    h = gradient_at(tools, w + 0.3 * torch.sign(g) * g.abs().sum() ** 0.5, 0)
    got = found(tools, form, Method(ball=Signs(), power=0.5))
    torch.testing.assert_close(got, h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["passes", "closure"])
def test_gate_and_schedule(tools, form):
    """Every second step, with a radius that grows; written out beside it."""
    method = Method(
        gate=lambda step: step % 2 == 1, schedule=lambda rho, step, lr: rho * (1 + step)
    )
    model = tools.net(dtype=torch.float64)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, method=method)
    w, counts = start(tools), []
    for step in range(6):
        calls = []

        def loss(step=step, calls=calls):
            calls.append(step)
            return tools.loss(model, step)()

        tools.forms[form](sam, loss)
        counts.append(len(calls))
        assert sam.state_dict() == {"step": step + 1}
        u = gradient_at(tools, w, step)
        if step % 2 == 1:
            u = gradient_at(tools, w + 0.1 * (1 + step) * u / u.norm(), step)
        w = w - 0.1 * u
        got = torch.nn.utils.parameters_to_vector(model.parameters())
        torch.testing.assert_close(got, w, rtol=1e-12, atol=1e-13)
    assert counts == [1, 2, 1, 2, 1, 2]


def test_a_schedule_counts_in_the_block_too(tools):
    model = tools.net()
    method = Method(schedule=lambda rho, step, lr: rho * (1 + step))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.1, method=method)
    for step in range(3):
        tools.forms["block"](sam, tools.loss(model, step))
        assert sam.last.perturbation_norm == pytest.approx(0.1 * (1 + step))
    assert sam.state_dict() == {"step": 3}


def test_an_interrupted_step_does_not_count(tools):
    model = tools.net()
    sam = SAM(
        torch.optim.SGD(model.parameters(), lr=0.0), model, method=Method(gate=lambda step: True)
    )
    for _ in sam.passes():
        break
    assert sam.state_dict() == {"step": 0}


def test_the_block_refuses_a_gate_and_names_the_other_forms(tools):
    model = tools.net()
    sam = SAM(
        torch.optim.SGD(model.parameters(), lr=0.1), model, method=Method(gate=lambda step: True)
    )
    tools.loss(model, 0)().backward()
    with pytest.raises(ThalwegError, match=r"passes\(\).*step\(closure\)"), sam.perturbed():
        pass


def test_state_is_empty_for_a_method_without_any_and_is_taken_up(tools):
    def sam(**parts):
        model = tools.net()
        return SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, method=Method(**parts))

    assert sam().state_dict() == {}
    assert sam(gate=Always(), power=0).state_dict() == {}
    gated = sam(gate=lambda step: step % 2 == 0)
    gated.load_state_dict({"step": 3})
    assert gated.state_dict() == {"step": 3}
    assert [here.last for here in gated.passes()] == [True]
    with pytest.raises(ThalwegError, match=r"state must have the keys \['step'\], got \[\]"):
        gated.load_state_dict({})
    with pytest.raises(ThalwegError, match=r"keys \[\], got \['step'\].*another method"):
        sam().load_state_dict({"step": 3})


def test_the_cap_is_on_the_length_over_all_groups():
    a, b = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    groups = [{"params": [a], "rho": 0.4}, {"params": [b], "rho": 0.1}]
    method = Method(power=0, max_norm=0.05)
    sam = SAM(torch.optim.SGD(groups, lr=0.0), None, 0.1, method=method)
    moves = []
    for here in sam.passes():
        moves.append([p.detach().clone() for p in (a, b)])
        ((a + b) ** 2).sum().backward()
        del here
    lengths = [float((y - x).norm()) for x, y in zip(*moves, strict=True)]
    assert lengths[0] == pytest.approx(4 * lengths[1])
    assert 0.03 < math.hypot(*lengths) <= 0.05
    assert sam.last.perturbation_norm == pytest.approx(math.hypot(*lengths))
    assert sam.last.capped == 1
