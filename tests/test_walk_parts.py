"""What parts see on the way, what is read, which passes there are, and what the block refuses."""

import math

import pytest
import torch
from family import METHODS, add, base, build, close, grads, loss_of, net, same, train, weights
from reads import Reads

from thalweg import SAM, Method, ThalwegError, layout
from thalweg.ascent import L2, Adaptive, Every, Gaussian, Magnitude, Momentum, WithMean, spectral

EVERY = pytest.mark.parametrize("name", METHODS)


@EVERY
def test_on_an_accelerator_nothing_is_read_except_by_a_gate_that_judges(name, monkeypatch):
    """The branch for accelerators, taken on the CPU."""
    found = []
    judges = isinstance(METHODS[name].gate, Adaptive)
    for costly in (False, True):
        monkeypatch.setattr(layout, "costly_to_read", lambda device, costly=costly: costly)
        monkeypatch.setattr(spectral, "_cheap_to_read", lambda tensor, costly=costly: not costly)
        sam, model = build(name)
        counts = []
        for step in range(4):
            loss = loss_of(model, step)
            with Reads() as reads:
                for _ in sam.passes():
                    loss().backward()
            counts.append(reads.count)
            sam.optimizer.step()
            sam.optimizer.zero_grad()
        assert not costly or all(n <= (3 if judges else 0) for n in counts), counts
        found.append((weights(model), sam.state_dict(), sam.log_dict()))
    close(found[0][0], found[1][0], 1e-11)
    memories = [state.get("memory", {"tensors": {}, "numbers": {}}) for _, state, _ in found]
    assert memories[1]["numbers"] == pytest.approx(memories[0]["numbers"], rel=1e-10)
    for i, held in memories[0]["tensors"].items():
        close(held.values(), memories[1]["tensors"][i].values(), 1e-11)
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-9, nan_ok=True)


def test_parts_see_the_weights_at_w_wherever_the_gradient_was_taken():
    seen = []

    class Sees(Magnitude):
        def __call__(self, direction, context):
            seen.append([w.detach().clone() for w in context.weights])
            return super().__call__(direction, context)

    def combine(g, h, context):
        seen.append([w.detach().clone() for w in context.weights])
        return h

    model = net()
    method = Method(ball=L2(scale=Sees()), combine=combine, ascents=3, points=(1.0, 0.5))
    sam = SAM(base("", model), model, 0.2, method=method)
    at = weights(model)
    for _ in sam.passes():
        loss_of(model, 0)().backward()
    assert len(seen) == 4
    assert all(same(at, each) for each in seen)


def test_noise_of_every_point_is_made_for_the_weights_at_w():
    """Rows as long as the weights' own: at both points, not at the place of the first."""
    model = net()
    method = Method(direction=Gaussian(1, per_filter=True), power=0, points=(1.0, 1.0))
    sam = SAM(base("", model), model, 0.5, method=method)
    at = weights(model)
    for _ in sam.passes():
        far = weights(model)[0] - at[0]
        torch.testing.assert_close(far.norm(dim=1), 0.5 * at[0].norm(dim=1))
        loss_of(model, 0)().backward()


def test_points_are_averaged_where_a_parameter_is_not_in_every_loss():
    a, b = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sam = SAM(torch.optim.SGD([a, b], lr=0.1), None, 0.1, method=Method(points=(1.0, 1.0, 1.0)))
    for late in (False, True):
        sam.optimizer.zero_grad()
        for here in sam.passes():
            loss = 2 * a.sum()
            if here.index == (3 if late else 1):
                loss = loss + 3 * b.sum()
            loss.backward()
        assert a.grad.tolist() == [2, 2]
        assert b.grad.tolist() == [1, 1]


def test_the_length_of_several_ascents_is_that_of_the_whole_way():
    sam, model = build("ascents")
    at = weights(model)
    for here in sam.passes():
        if here.last:
            way = math.dist(*(torch.cat([t.flatten() for t in w]) for w in (weights(model), at)))
        loss_of(model, 0)().backward()
        if here.index == 0:
            norm = float(torch.cat([g.flatten() for g in grads(model)]).norm())
    assert sam.last.perturbation_norm == pytest.approx(way)
    assert 0.1 < way < 0.2
    assert sam.last.grad_norm == pytest.approx(norm)


def test_a_pass_that_waits_for_the_gate_is_the_base_optimizers_until_it_opens():
    sam, model = build("adaptive")
    for step in range(5):
        kinds = []
        for here in sam.passes():
            kinds.append((here.ascent, here.last))
            loss_of(model, step)().backward()
        sam.optimizer.step()
        sam.optimizer.zero_grad()
        assert kinds == [(False, True)] * len(kinds)
        assert sam.last.moved == (len(kinds) == 2)
        assert sam.log_dict()["sam/steps"] == step + 1


@pytest.mark.parametrize("answer", [0, torch.tensor(False), None])
def test_a_gate_may_answer_by_anything_that_is_true_or_false(answer):
    sam, _ = build("plain")
    sam.method = Method(gate=lambda step: answer) if answer is not None else Method(gate=Every(2))
    sam._step = 1
    assert [here.last for here in sam.passes()] == [True]


class Judge:
    def __call__(self, step):
        return None

    def judge(self, gradient, context):
        return "yes"


@pytest.mark.parametrize(
    ("gate", "wanted"),
    [(lambda step: "yes", "True, False or None"), (Judge(), "True or False")],
)
def test_a_gate_that_says_neither_is_refused(gate, wanted):
    sam, model = build("plain")
    sam.method = Method(gate=gate)
    before = weights(model)
    with pytest.raises(ThalwegError, match=f"gate must give {wanted}, got 'yes' of"):
        train(sam, model, range(1))
    assert same(weights(model), before)


@pytest.mark.parametrize("name", ["momentum", "gaussian", "ascents", "points", "look_back"])
def test_the_block_refuses_what_does_not_take_two_gradients(name):
    sam, model = build(name)
    loss_of(model, 0)().backward()
    with pytest.raises(ThalwegError, match=r"perturbed\(\) must have a method that takes two"):
        sam.perturbed().__enter__()


@pytest.mark.parametrize("name", ["mean", "gap", "magnitude", "entries", "named"])
def test_the_block_and_the_closure_are_the_loop(name):
    found = []
    for form in ("passes", "block", "closure"):
        sam, model = build(name)
        for step in range(4):
            loss = loss_of(model, step)
            sam.optimizer.zero_grad()
            if form == "passes":
                for _ in sam.passes():
                    loss().backward()
            elif form == "block":
                loss().backward()
                with sam.perturbed():
                    loss().backward()
            else:

                def closure(loss=loss, sam=sam):
                    sam.optimizer.zero_grad()
                    value = loss()
                    value.backward()
                    return value

                sam.step(closure)
            if form != "closure":
                sam.optimizer.step()
        found.append(weights(model))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_telemetry_of_methods_that_do_not_look_and_of_several_passes():
    for name in ("momentum", "previous", "ascents", "points", "adaptive", "look_back", "mixture"):
        told, model = build(name, telemetry=True)
        untold, twin = build(name)
        train(told, model, range(4))
        train(untold, twin, range(4))
        assert same(weights(model), weights(twin)), name
        assert told.log_dict()["sam/steps"] == 4


def test_without_a_model_and_with_frozen_groups():
    frozen = torch.ones(2)
    w = torch.ones(2, requires_grad=True)
    groups = [{"params": [frozen]}, {"params": [w], "momentum": 0.9}]
    for direction in (Gaussian(1), Momentum(), WithMean()):
        optimizer = torch.optim.SGD(groups, lr=0.1)
        sam = SAM(optimizer, None, 0.1, method=Method(direction=direction))
        for _ in sam.passes():
            (w**2).sum().backward()
        optimizer.step()
        assert frozen.tolist() == [1, 1]


def test_ascents_and_points_are_their_formulas():
    """Written out, in float64, with a norm that has no buffers."""
    sam, model = build("mixture", norm=False)
    sam.method = Method(ascents=2, points=(0.5, 1.0), combine=lambda g, h, _: add(g, h))
    names = [name for name, _ in model.named_parameters()]

    def at(w):
        leaves = [t.detach().clone().requires_grad_() for t in w]
        inside = dict(zip(names, leaves, strict=True))

        def forward(x):
            return torch.func.functional_call(model, inside, x)

        forward.parameters = model.parameters
        return torch.autograd.grad(loss_of(forward, 0)(), leaves)

    def along(w, d, radius):
        n = math.sqrt(sum(float(t.square().sum()) for t in d))
        return [a + radius * b / n for a, b in zip(w, d, strict=True)]

    w = weights(model)
    g = at(w)
    first = along(w, g, 0.1)
    second = along(first, at(first), 0.1)
    half = [(a + b) / 2 for a, b in zip(w, second, strict=True)]
    h = [(a + b) / 2 for a, b in zip(at(half), at(second), strict=True)]
    for _ in sam.passes():
        loss_of(model, 0)().backward()
    close(grads(model), add(g, h))


def as_ball(part):
    """A ball that calls a part."""

    class Ball:
        def sharp(self, direction, context):
            return part(direction, context), context.norm(direction)

    return Ball()


class Judge:
    """A gate that calls a part, and opens."""

    def __init__(self, part):
        self.part = part

    def __call__(self, step):
        return None

    def judge(self, gradient, context):
        return bool(self.part(gradient, context))


SLOTS = {
    "direction": lambda part: {"direction": part},
    "mask": lambda part: {"mask": part},
    "ball": lambda part: {"ball": as_ball(part)},
    "scale": lambda part: {"ball": L2(scale=part)},
    "gate": lambda part: {"gate": Judge(part)},
    "combine": lambda part: {"combine": lambda here, uphill, context: part(uphill, context)},
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("what", ["gradient", "weights"])
def test_a_part_that_writes_to_what_it_is_given_is_refused(slot, what):
    def part(given, context):
        for t in given if what == "gradient" else context.weights:
            with torch.no_grad():
                t.mul_(2)
        return given

    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.1, method=Method(**SLOTS[slot](part)))
    with pytest.raises(ThalwegError, match=r"parts must not write to .*: return new tensors"):
        sam.step(lambda: w.sum().backward())
    sam.method = Method(**SLOTS[slot](lambda given, context: [2 * t for t in given]))
    sam.step(lambda: w.sum().backward())
