"""With the stock torch.amp.GradScaler: the scale never shows, an overflow is always heard of."""

import math

import pytest
import torch

from thalweg import SAM, Method, ThalwegError


def run(tools, form, scale, power, given, steps=5, **kwargs):
    """Train in float64, where a power of two as the scale changes no digit."""
    model = tools.net(dtype=torch.float64)
    optimizer = tools.optimizers["momentum"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    sam = SAM(optimizer, model, 0.1, scaler=scaler if given else None, **kwargs, method=power)
    lasts = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = tools.loss(model, step)
        if form == "closure":

            def closure(loss=loss):
                optimizer.zero_grad()
                value = loss()
                scaler.scale(value).backward()
                return value

            sam.step(closure)
        else:
            if form == "passes":
                for _ in sam.passes():
                    scaler.scale(loss()).backward()
            else:
                scaler.scale(loss()).backward()
                with sam.perturbed():
                    scaler.scale(loss()).backward()
            scaler.step(optimizer)
            scaler.update()
        lasts.append(sam.last)
    return model, lasts


@pytest.mark.parametrize("form", ["passes", "block"])
def test_plain_sam_needs_no_scaler_argument(tools, form):
    one, _ = run(tools, form, 1.0, Method(), given=False)
    much, _ = run(tools, form, 65536.0, Method(), given=False)
    for p, q in zip(one.parameters(), much.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("form", ["passes", "block", "closure"])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_with_the_scaler_every_power_is_free_of_the_scale(tools, form, power):
    method = tools.method(power)
    plain = tools.train("passes", "momentum", power=power, steps=5, dtype=torch.float64)
    one, quiet = run(tools, form, 1.0, method, given=True, telemetry=True)
    much, loud = run(tools, form, 65536.0, method, given=True, telemetry=True)
    for p, q, r in zip(one.parameters(), much.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(p, r, rtol=1e-13, atol=1e-14)
    for a, b in zip(quiet, loud, strict=True):
        for name in ("grad_norm", "perturbation_norm", "capped", "descent_norm", "cosine"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-11)
        assert a.curvature == pytest.approx(b.curvature, rel=1e-9)


@pytest.mark.parametrize("kwargs", [{"method": Method(power=0)}, {"telemetry": True}])
def test_a_method_that_must_know_the_scale_asks_for_the_scaler(tools, kwargs):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(optimizer, model, 0.1, **kwargs)
    for _ in sam.passes():
        scaler.scale(tools.loss(model, 0)()).backward()
    with pytest.raises(ThalwegError, match=r"write SAM\(\.\.\., scaler=scaler\)"):
        scaler.step(optimizer)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("where", [0, 1])
def test_unscaling_inside_the_loop_is_an_error(tools, given, where):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(optimizer, model, 0.1, scaler=scaler if given else None)
    for _ in sam.passes():  # test_scaling.py has the very first loop
        scaler.scale(tools.loss(model, 0)()).backward()
    scaler.step(optimizer)
    scaler.update()
    before = [p.detach().clone() for p in model.parameters()]

    def wrong():
        for here in sam.passes():
            scaler.scale(tools.loss(model, 0)()).backward()
            if here.index == where:
                scaler.unscale_(optimizer)

    with pytest.raises(ThalwegError, match=r"unscale_\(optimizer\) must come after the last pass"):
        wrong()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_loss_that_is_not_scaled_is_an_error(tools):
    model = tools.net()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, scaler=scaler)
    with pytest.raises(ThalwegError, match=r"write scaler\.scale\(loss\)\.backward\(\)"):
        tools.forms["passes"](sam, tools.loss(model, 0))


class Script:
    """A training script whose scaler is an attribute."""

    def __init__(self, tools):
        self.model = tools.net()
        self.loss = tools.loss(self.model, 0)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def closure(self):
        self.model.zero_grad()
        loss = self.loss()
        self.scaler.scale(loss).backward()
        return loss


@pytest.mark.parametrize("kind", ["method", "function"])
def test_a_closure_that_uses_a_scaler_sam_does_not_know_is_an_error(tools, kind):
    script = Script(tools)
    before = [p.detach().clone() for p in script.model.parameters()]
    sam = SAM(torch.optim.SGD(script.model.parameters(), lr=0.1), script.model, 0.1)
    scaler = script.scaler

    def closure():
        return scaler.scale(script.loss()).backward()

    with pytest.raises(ThalwegError, match=r"write SAM\(\.\.\., scaler=scaler\)"):
        sam.step(script.closure if kind == "method" else closure)
    assert all(torch.equal(p, b) for p, b in zip(script.model.parameters(), before, strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_base_with_a_scaler(tools, fused):
    found = []
    for scale in (1.0, 65536.0):
        model = tools.net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        sam = SAM(optimizer, model, 0.1, power=0.5, scaler=scaler)
        for step in range(5):
            for _ in sam.passes():
                scaler.scale(tools.loss(model, step)()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        found.append(model)
    for p, q in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_step_takes_the_scaler_s_step_and_updates_it(tools):
    model = tools.net()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2, growth_factor=2.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, scaler=scaler)
    before = model[0].weight.detach().clone()

    def closure():
        sam.optimizer.zero_grad()
        value = tools.loss(model, 0)()
        scaler.scale(value).backward()
        return value

    first = tools.loss(model, 0)().item()
    assert sam.step(closure).item() == first
    assert not torch.equal(before, model[0].weight)
    sam.step(closure)
    assert scaler.get_scale() == 8.0


@pytest.mark.parametrize("form", ["passes", "block", "closure"])
@pytest.mark.parametrize("wrong", [math.inf, math.nan])
@pytest.mark.parametrize("where", [0, 1])
def test_an_overflow_in_either_pass_skips_the_step_and_lowers_the_scale(form, wrong, where):
    w = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(optimizer, None, 0.1, scaler=scaler)
    calls = []

    def backward():
        factor = wrong if len(calls) == where else 1.0
        calls.append(1)
        scaler.scale((factor * w).sum()).backward()

    if form == "closure":

        def closure():
            optimizer.zero_grad()
            backward()
            return 0.0

        sam.step(closure)
    else:
        if form == "passes":
            for _ in sam.passes():
                backward()
        else:
            backward()
            with sam.perturbed():
                backward()
        scaler.step(optimizer)
        scaler.update()
    assert len(calls) == 2
    assert w.tolist() == [1.0, 1.0, 1.0]
    assert scaler.get_scale() == 512.0


def test_without_the_scaler_an_overflow_in_the_ascent_is_a_plain_step():
    w = torch.ones(3, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(torch.optim.SGD([w], lr=0.5), None, 0.1)
    for here in sam.passes():
        scaler.scale((w * (math.inf if here.ascent else 1.0)).sum()).backward()
    scaler.step(sam.optimizer)
    assert w.tolist() == [0.5, 0.5, 0.5]


def test_a_disabled_scaler_is_as_good_as_none():
    w = torch.ones(3, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    sam = SAM(torch.optim.SGD([w], lr=0.5), None, 0.1, scaler=scaler)
    for here in sam.passes():
        scaler.scale((w * (math.nan if here.ascent else 1.0)).sum()).backward()
    scaler.step(sam.optimizer)
    assert w.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.filterwarnings("ignore:no parameter of the optimizer got a gradient")
def test_an_ascent_without_any_gradient_is_no_overflow():
    w = torch.ones(3, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(torch.optim.SGD([w], lr=0.5), None, 0.1, scaler=scaler)
    for here in sam.passes():
        if not here.ascent:
            scaler.scale(w.sum()).backward()
    assert sam.last.why == "no parameter got a gradient in the first pass"
    scaler.step(sam.optimizer)
    scaler.update()
    assert w.tolist() == [0.5, 0.5, 0.5]
    assert scaler.get_scale() == 1024.0


def test_gradients_can_be_clipped_after_the_loop(tools):
    model, plain = tools.net(dtype=torch.float64), tools.net(dtype=torch.float64)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, scaler=scaler)
    for _ in scaled.passes():
        scaler.scale(tools.loss(model, 0)()).backward()
    scaler.unscale_(scaled.optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    scaler.step(scaled.optimizer)
    sam = SAM(torch.optim.SGD(plain.parameters(), lr=0.1), plain, 0.1)
    for _ in sam.passes():
        tools.loss(plain, 0)().backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
    sam.optimizer.step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)
