"""Another method in mid-run, and what SAM and Method refuse of methods, parts and states."""

import pickle

import pytest
import torch
from family import METHODS, build, flat, loss_of, same, train, weights
from torch import nn

from thalweg import SAM, Method, ThalwegError, presets
from thalweg.ascent import (
    Across,
    AllParameters,
    Cosine,
    Every,
    Filter,
    FollowLR,
    Gradient,
    LargestEntries,
    Mix,
    Momentum,
    Monge,
    Named,
    Normalization,
)


def step_by_scaler(sam, scaler, model):
    for _ in sam.passes():
        scaler.scale(loss_of(model, 0)()).backward()
    scaler.step(sam.optimizer)
    scaler.update()


def test_a_method_that_comes_later_is_told_of_a_scaler_as_the_first_one():
    sam, model = build("plain")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step_by_scaler(sam, scaler, model)  # plain SAM needs no scale
    sam.optimizer.zero_grad()
    sam.method = Method(power=0)
    with pytest.raises(ThalwegError, match="scaler"):
        step_by_scaler(sam, scaler, model)


def test_a_method_that_comes_later_begins_with_nothing_remembered():
    sam, model = build("mean")
    train(sam, model, range(3))
    assert sam.state_dict()["memory"]["tensors"]
    sam.method = presets.variance_suppressed()
    assert sam.state_dict() == {"step": 3}
    fresh = SAM(sam.optimizer, model, 0.2, method=presets.variance_suppressed())
    at, found = model.state_dict(), []
    at = {k: v.clone() for k, v in at.items()}
    for each in (sam, fresh):
        model.load_state_dict(at)
        sam.optimizer.zero_grad()
        for _ in each.passes():
            loss_of(model, 3)().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert same(*found)


def test_what_is_no_method_is_refused_and_the_old_one_stays():
    sam, model = build("mean")
    train(sam, model, range(2))
    before, method = flat(sam.state_dict()), sam.method
    for wrong in ("asam", presets.asam, None, Method):
        with pytest.raises(ThalwegError, match=r"method must be a thalweg\.Method, got"):
            sam.method = wrong
    with pytest.raises(ThalwegError, match="filter must choose some"):
        sam.method = Method(filter=Named("haed"))
    assert sam.method is method
    assert flat(sam.state_dict()) == before


@pytest.mark.parametrize("form", ["passes", "block"])
def test_the_method_stays_while_a_loop_is_open(form):
    sam, model = build("plain")
    at, method = weights(model), sam.method
    loss_of(model, 0)().backward()

    def change():
        with pytest.raises(ThalwegError, match=r"stay as it is while a loop .* before or after"):
            sam.method = Method(power=0)

    if form == "passes":
        for _ in sam.passes():
            loss_of(model, 0)().backward()
            change()
    else:
        with sam.perturbed():
            change()
            loss_of(model, 0)().backward()
    assert sam.method is method
    assert same(at, weights(model))
    sam.method = Method(power=0)
    assert sam.method == Method(power=0)


def test_the_method_goes_into_a_pickle():
    sam, _ = build("mean")
    sam.method = Method(power=0.5)
    assert pickle.loads(pickle.dumps(sam)).method == Method(power=0.5)


def test_a_filter_that_chooses_nothing_is_told_of_at_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for method, known, remedy in (
        (presets.normalization_only(), model, "none is of a normalization layer; leave"),
        (presets.normalization_only(), None, "give SAM the model"),
        (Method(filter=Named("haed")), model, r"choose among 0\.weight, 0\.bias, or leave"),
        (Method(filter=Named("weight")), None, "give SAM the model"),
    ):
        told = rf"filter must choose some of the 2 .* got none by .*\): {remedy}"
        with pytest.raises(ThalwegError, match=told):
            SAM(optimizer, known, 0.1, method=method)
    larger = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(larger.parameters(), lr=0.1)
    with pytest.raises(ThalwegError, match=r"0\.weight, 0\.bias, 1\.weight, \.\.\., or leave"):
        SAM(optimizer, larger, 0.1, method=Method(filter=Named("haed")))
    SAM(torch.optim.SGD([{"params": []}], lr=0.1), None, 0.1, method=Method(filter=Named("x")))


def test_where_the_filter_chooses_nothing_any_more_one_gradient_is_taken():
    class Some:
        """Chooses all, until it is told otherwise."""

        on = True

        def __call__(self, parameter, name, layer):
            return self.on

    sam, model = build("plain")
    chooses = Some()
    sam.method = Method(filter=chooses)
    assert len(list(_passes(sam, model))) == 2
    chooses.on = False
    assert len(list(_passes(sam, model))) == 1


def _passes(sam, model):
    for here in sam.passes():
        loss_of(model, 0)().backward()
        yield here


STATEFUL = ("mean", "previous", "look_back", "adaptive", "mixture")


@pytest.mark.parametrize("other", [*STATEFUL, "random", "gaussian"])
@pytest.mark.parametrize("name", STATEFUL)
def test_the_memory_of_another_method_is_refused(name, other):
    sam, model = build(name)
    train(sam, model, range(3))
    state = sam.state_dict()
    into, _ = build(other)
    before = flat(into.state_dict())
    if sam.method.keeps == into.method.keeps:
        into.load_state_dict(state)
        assert flat(into.state_dict()) == flat(state)
        return
    with pytest.raises(ThalwegError, match=r"state must come of a method that remembers by \w+"):
        into.load_state_dict(state)
    assert flat(into.state_dict()) == before


def test_the_state_of_a_method_with_other_numbers_is_taken():
    sam, model = build("mean")
    train(sam, model, range(2))
    into = SAM(sam.optimizer, model, 0.2, method=presets.friendly(0.5, 0.5))
    assert into.method != sam.method
    into.load_state_dict(sam.state_dict())
    assert flat(into.state_dict()) == flat(sam.state_dict())
    assert {len(METHODS[name].keeps.split(", ")) for name in ("mean", "mixture")} == {1, 3}


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"mask": Named("x")}, r"mask must be called with \(direction, context\), and Named"),
        ({"filter": LargestEntries(0.5)}, r"filter must be called with \(parameter, name, layer"),
        (
            {"combine": Across()},
            r"combine must be called with \(here, uphill, context\), and Across",
        ),
        ({"reuse": Mix(0.5), "gate": Every(2)}, r"reuse must .* have a method learn\(\), and Mix"),
        ({"reuse": lambda g, c: g, "gate": Every(2)}, r"reuse must .* have a method learn\(\)"),
        ({"gate": Cosine(5)}, r"gate must be called with \(step\), and Cosine"),
        ({"schedule": Every(2)}, r"schedule must be called with \(rho, step, lr\), and Every"),
        ({"size": AllParameters()}, r"size must be called with \(norm, step\), and AllParameters"),
        ({"direction": Mix(0.5)}, r"direction must be called with \(gradient, context\), and Mix"),
        ({"ball": Gradient()}, r"ball must be a part such as L2\(\), got Gradient"),
        ({"mask": "largest"}, r"mask must be a part such as LargestEntries\(0.5\) or None, got"),
        ({"reuse": Across()}, r"gate must close at some steps where reuse is given.*Every\(5\)"),
    ],
)
def test_a_part_of_another_slot_is_refused(slots, message):
    with pytest.raises(ThalwegError, match=message):
        Method(**slots)


def test_parts_are_taken_however_they_are_called():
    def gate(step, *, offset=1):
        return step > offset

    class Open(Filter):
        def __call__(self, *place):
            return True

    found = Method(gate=gate, filter=Open(), size=max, mask=lambda *given: given[0])
    assert found.gate is gate
    Method(size=Monge(), direction=Momentum(), mask=LargestEntries(0.5))
    assert Normalization()(torch.ones(1), "", nn.LayerNorm(1))


@pytest.mark.parametrize("gives", [float("nan"), -0.1, float("inf"), "much"])
def test_what_a_schedule_gives_must_be_a_radius(gives):
    sam, model = build("plain")
    wild = Method(schedule=lambda rho, step, lr: gives if step else rho)
    sam.method = wild
    train(sam, model, range(1))
    at = weights(model)
    with pytest.raises(ThalwegError, match=r"what the schedule .* gives must be .* >= 0, got"):
        train(sam, model, range(1, 2))
    assert same(at, weights(model))


def test_every_group_follows_its_own_learning_rate():
    a, b = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.05}]
    method = Method(schedule=FollowLR(lr_max=0.1))
    sam = SAM(torch.optim.SGD(groups, lr=0.1), None, 0.2, method=method)
    for here in sam.passes():
        if here.last:
            far = a.item() - 1, b.item() - 1
        (a + b).sum().backward()
    assert far[0] == pytest.approx(2 * far[1])
    assert far[1] > 0


def test_a_base_without_learning_rate_is_told_of():
    class Bare(torch.optim.Optimizer):
        def step(self, closure=None):
            pass

    w = torch.ones(1, requires_grad=True)
    with pytest.raises(ThalwegError, match='every param group must have an "lr"'):
        SAM(Bare([w], {}), None, 0.2, method=Method(schedule=FollowLR(lr_max=0.1)))
