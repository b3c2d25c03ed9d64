"""SAM agrees with two plain passes, and its accumulation with the formulas written out."""

import math

import pytest
import torch
from torch import nn

from thalweg import SAM, Method


@pytest.mark.parametrize("form", ["passes", "closure", "block"])
@pytest.mark.parametrize("base", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_two_plain_passes_in_float64(tools, form, base, power):
    tools.check_agreement(form, base, power, torch.float64, 1e-13)


@pytest.mark.parametrize("base", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_two_plain_passes_in_float32(tools, base, power):
    tools.check_agreement("passes", base, power, torch.float32, 1e-6, steps=10)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_every_group_has_its_own_rho_and_0_leaves_the_norm(tools, power):
    def build():
        model = tools.net(dtype=torch.float64)
        first, _, last = model
        groups = [
            {"params": [first.weight], "rho": 0.2},
            {"params": [first.bias], "rho": 0.0},
            {"params": [last.weight], "rho": 0.01},
            {"params": [last.bias]},  # rho comes from SAM
        ]
        return model, torch.optim.SGD(groups, lr=0.05, momentum=0.9)

    model, optimizer = build()
    sam = SAM(optimizer, model, rho=0.1, method=Method(power=power, max_norm=math.inf))
    expected, plain = build()
    plain.param_groups[3]["rho"] = 0.1
    for step in range(10):
        norms = []

        def loss(model=model, step=step, norms=norms):
            norms.append([p.detach().clone() for p in model.parameters()])
            return tools.loss(model, step)()

        tools.forms["passes"](sam, loss)
        tools.two_passes(plain, tools.loss(expected, step), power)
        moved = [float((b - a).norm()) for a, b in zip(*norms, strict=True)]
        assert moved[1] == 0
        assert min(moved[0], moved[2], moved[3]) > 0
        assert sam.last.perturbation_norm == pytest.approx(math.hypot(*moved), rel=1e-12)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_a_group_added_later_takes_part(tools):
    model = tools.net(dtype=torch.float64)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"lacks 2 of the model's 4 trainable .* \(2.weight"):
        sam = SAM(optimizer, model, rho=0.3)
    tools.forms["passes"](sam, tools.loss(model, 0))
    optimizer.add_param_group({"params": model[2].parameters()})
    before = model[2].weight.detach().clone()
    tools.forms["passes"](sam, tools.loss(model, 1))
    assert optimizer.param_groups[1]["rho"] == 0.3
    gradients = [p.grad for p in model.parameters()]
    assert not torch.equal(before, model[2].weight)
    tools.loss(model, 2)()
    model.zero_grad()
    for here in sam.passes():
        tools.loss(model, 2)().backward()
        if here.ascent:
            gradients = [p.grad.clone() for p in model.parameters()]
    whole = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert sam.last.grad_norm == pytest.approx(whole, rel=1e-12)


def test_frozen_and_tied_parameters(tools):
    def build():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
        model = model.double()
        model[2].weight = model[0].weight
        model[3].weight.requires_grad_(False)
        return model, torch.optim.SGD(model.parameters(), lr=0.05)

    (model, optimizer), (expected, plain) = build(), build()
    frozen = model[3].weight.clone()
    plain.param_groups[0]["rho"] = 0.2
    sam = SAM(optimizer, model, rho=0.2)
    for step in range(10):
        tools.forms["passes"](sam, tools.loss(model, step))
        tools.two_passes(plain, tools.loss(expected, step))
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)
    assert torch.equal(frozen, model[3].weight)
    assert model[3].weight.grad is None


@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("where", [0, 1])
def test_a_parameter_without_gradient_in_one_pass(where, telemetry):
    a, b = (torch.tensor([x, 1.0], dtype=torch.float64, requires_grad=True) for x in (2.0, 3.0))
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    sam = SAM(optimizer, None, rho=0.5, telemetry=telemetry)
    for _ in range(2):  # the second time, buffers from the first lie about
        start = a.detach().clone(), b.detach().clone()
        for here in sam.passes():
            loss = (a**2).sum() + ((b**2).sum() if here.index == where else 0.0)
            loss.backward()
        both = torch.cat([2 * start[0], 2 * start[1]]) if where == 0 else 2 * start[0]
        expected = 2 * (start[0] + 0.5 * 2 * start[0] / both.norm())
        torch.testing.assert_close(a.grad, expected, rtol=1e-13, atol=0)
        if where == 0:
            assert b.grad is None
        else:  # not perturbed, for it had no gradient
            torch.testing.assert_close(b.grad, 2 * start[1], rtol=0, atol=0)
        assert torch.equal(a, start[0])
        assert torch.equal(b, start[1])
        optimizer.step()
        optimizer.zero_grad()


def test_micro_batches_inside_the_loop_are_the_big_batch(tools):
    whole, parts = tools.net(dtype=torch.float64), tools.net(dtype=torch.float64)
    x, y = tools.batch(0, torch.float64)
    for model, chunks in ((whole, 1), (parts, 4)):
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
        for _ in sam.passes():
            for xs, ys in zip(x.chunk(chunks), y.chunk(chunks), strict=True):
                (((model(xs) - ys) ** 2).mean() / chunks).backward()
    for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("telemetry", [False, True])
def test_what_grad_held_is_added_to_as_by_one_backward(tools, telemetry):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5, telemetry=telemetry)
    for _ in sam.passes():
        tools.loss(model, 0)().backward()
    h = [p.grad for p in model.parameters()]
    model.zero_grad()
    tools.loss(model, 1)().backward()
    held = [(p.grad, p.grad.clone()) for p in model.parameters()]
    for _ in sam.passes():
        tools.loss(model, 0)().backward()
    for p, (there, old), new in zip(model.parameters(), held, h, strict=True):
        assert p.grad is there
        assert torch.equal(p.grad, old + new)


@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_zero_grad_inside_the_loop_clears_what_was_there(tools, set_to_none, telemetry):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sam = SAM(optimizer, model, rho=0.5, telemetry=telemetry)
    found = []
    for _ in range(2):
        for _ in sam.passes():
            optimizer.zero_grad(set_to_none=set_to_none)
            tools.loss(model, 0)().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_m_sam_is_the_mean_of_the_gradients_uphill_of_each_part(tools):
    model = tools.net(dtype=torch.float64)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    x, y = tools.batch(0, torch.float64)

    def loss(params, xs, ys):
        return ((torch.func.functional_call(model, params, (xs,)) - ys) ** 2).mean() / 4

    w = {name: p.detach() for name, p in model.named_parameters()}
    expected = {name: torch.zeros_like(p) for name, p in w.items()}
    for xs, ys in zip(x.chunk(4), y.chunk(4), strict=True):
        g = torch.func.grad(loss)(w, xs, ys)
        n = math.sqrt(sum(float(t.square().sum()) for t in g.values()))
        h = torch.func.grad(loss)({k: w[k] + 0.5 * g[k] / n for k in w}, xs, ys)
        expected = {k: expected[k] + h[k] for k in w}
        for _ in sam.passes():
            (((model(xs) - ys) ** 2).mean() / 4).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-12, atol=1e-14)


def test_another_batch_for_the_ascent(tools):
    model = tools.net(dtype=torch.float64)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    w = [p.detach().clone() for p in model.parameters()]
    for here in sam.passes():
        tools.loss(model, 1 if here.ascent else 0)().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    tools.loss(model, 1)().backward()
    g = [p.grad.clone() for p in model.parameters()]
    n = math.sqrt(sum(float(t.square().sum()) for t in g))
    model.zero_grad()
    with torch.no_grad():
        for p, start, d in zip(model.parameters(), w, g, strict=True):
            p.copy_(start + 0.5 * d / n)
    tools.loss(model, 0)().backward()
    for p, f in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(f, p.grad, rtol=1e-12, atol=1e-14)
