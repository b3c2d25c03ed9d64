"""What a method remembers; saved, loaded and copied."""

import copy
import io
import math
import pickle

import pytest
import torch
from family import METHODS, base, build, flat, loss_of, net, same, train, weights
from torch import nn

from thalweg import SAM, Method, ThalwegError
from thalweg.ascent import Previous
from thalweg.memory import Remembered

EVERY = pytest.mark.parametrize("name", METHODS)


def test_what_a_step_keeps_is_seen_in_it_and_remembered_when_it_is_settled():
    a, b = torch.zeros(2), torch.zeros(3)
    remembered = Remembered()
    draft = remembered.draft()
    draft.of([a, b]).keep("mean", [torch.ones(2), torch.ones(3)])
    draft.of([a]).note("count", 2.0)
    assert not draft.empty
    assert draft.of([b]).recall("mean", [b])[0].tolist() == [1, 1, 1]  # another list, the same step
    assert draft.of([b]).recall("other", [b])[0].tolist() == [0, 0, 0]
    assert draft.of([b]).number("count", 0.0) == 2
    other = remembered.draft()
    assert other.of([a]).recall("mean", [a])[0].tolist() == [0, 0]
    assert other.of([a]).number("count", 7.0) == 7
    draft.settle(1.0)
    assert draft.empty
    assert other.of([a]).recall("mean", [a])[0].tolist() == [1, 1]
    assert other.of([a]).number("count", 7.0) == 2
    other.of([a]).keep("mean", [torch.zeros(2)])
    other.of([a]).note("count", 0.0)
    assert other.of([a]).recall("mean", [a])[0].tolist() == [0, 0]  # before what is remembered
    assert other.of([a]).number("count", 7.0) == 0


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("size", [1.0, 0.0, math.inf, math.nan])
def test_what_came_of_a_gradient_that_is_not_finite_is_forgotten(size, tensor):
    """A tensor is not read: it stands for an accelerator's."""
    a = torch.zeros(2)
    remembered = Remembered()
    draft = remembered.draft()
    for value in (1.0, 2.0):
        draft.of([a]).keep("mean", [torch.full((2,), value)])
        draft.of([a]).note("exact", value + 1e-12)
        last = size if value == 2 else 1.0
        draft.settle(torch.tensor(last, dtype=torch.float64) if tensor else last)
    expected = 2.0 if math.isfinite(size) else 1.0
    assert remembered.draft().of([a]).recall("mean", [a])[0].tolist() == [expected] * 2
    assert float(remembered.numbers["exact"]) == expected + 1e-12
    fresh = Remembered()
    draft = fresh.draft()
    draft.of([a]).keep("mean", [torch.full((2,), math.nan)])
    draft.settle(torch.tensor(math.nan))
    assert fresh.draft().of([a]).recall("mean", [a])[0].tolist() == [0, 0]


def test_a_parameter_that_is_gone_takes_its_memory_along():
    remembered = Remembered()
    w = torch.zeros(2)
    draft = remembered.draft()
    draft.of([w]).keep("mean", [torch.ones(2)])
    draft.settle(1.0)
    assert len(remembered.tensors) == 1
    del w, draft
    assert len(remembered.tensors) == 0


def test_what_was_asked_for_and_not_kept_is_not_in_the_state():
    w, remembered = torch.zeros(2), Remembered()
    draft = remembered.draft()
    assert torch.equal(draft.of([w]).recall("mean", [w])[0], w)
    draft.settle(1.0)
    assert remembered.state_dict([w]) == {"numbers": {}, "tensors": {}}


def test_a_sparse_tensor_is_remembered_dense():
    w = torch.zeros(2, 2)
    draft = Remembered().draft()
    draft.of([w]).keep("mean", [torch.eye(2).to_sparse()])
    assert not draft.of([w]).recall("mean", [w])[0].is_sparse


def saved(state, how):
    if how == "file":
        torch.save(state, file := io.BytesIO())
        return torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    return copy.deepcopy(state)


@pytest.mark.parametrize("how", ["file", "copy"])
@EVERY
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, how):
    straight, model = build(name, dropout=0.3)
    torch.manual_seed(1)
    train(straight, model, range(3))
    states = (model.state_dict(), straight.optimizer.state_dict(), straight.state_dict())
    file, drawn = saved(states, how), torch.get_rng_state()
    train(straight, model, range(3, 7))
    resumed, again = build(name, dropout=0.3, seed=1)
    again.load_state_dict(file[0])
    resumed.optimizer.load_state_dict(file[1])
    resumed.load_state_dict(file[2])
    torch.set_rng_state(drawn)
    train(resumed, again, range(3, 7))
    assert same(model.state_dict().values(), again.state_dict().values())
    assert flat(straight.state_dict()) == flat(resumed.state_dict())


#: Whose steps depend on earlier ones, each with what it remembers.
STATEFUL = {
    "mean": {"mean"},
    "previous": {"previous"},
    "mean_ascents": {"mean"},
    "look_back": {"across"},
    "adaptive": {"gate mean", "gate variance", "gate known"},
    "adaptive_reuse": {"across", "gate mean", "gate variance", "gate known"},
    "mixture": {"mean", "across", "gate mean", "gate variance", "gate known"},
    "gaussian": set(),
    "gaussian_points": set(),
    "random": set(),
    "window": set(),
    "mix": set(),
}


@EVERY
def test_the_state_has_what_the_method_remembers_and_it_matters(name):
    """Without the state a resumed run is another one."""
    straight, model = build(name)
    train(straight, model, range(3))
    state = straight.state_dict()
    if name not in STATEFUL:
        assert state == {}
        return
    assert state["step"] == 3
    assert {key[-1] for key in flat(state)} - {"step"} == STATEFUL[name]
    forgetful = SAM(straight.optimizer, model, 0.2, method=METHODS[name])
    twin, other = pickle.loads(pickle.dumps((straight, model)))
    train(forgetful, model, range(3, 6))
    train(twin, other, range(3, 6))
    assert not same(weights(model), weights(other))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@EVERY
def test_a_copy_goes_on_alike_and_apart(name, how):
    sam, model = build(name)
    train(sam, model, range(3))
    twin, other = how((sam, model))
    at, state = weights(model), flat(sam.state_dict())
    train(twin, other, range(3, 6))
    assert same(weights(model), at)
    assert flat(sam.state_dict()) == state
    train(sam, model, range(3, 6))
    assert same(weights(model), weights(other))
    assert flat(sam.state_dict()) == flat(twin.state_dict())


def test_a_state_is_not_changed_by_later_steps():
    for name in STATEFUL:
        sam, model = build(name)
        train(sam, model, range(3))
        state = sam.state_dict()
        before = flat(state)
        train(sam, model, range(3, 6))
        assert flat(state) == before, name


@pytest.mark.parametrize("name", ["mean", "previous", "look_back", "adaptive", "mixture"])
def test_a_group_that_is_added_later_is_remembered_and_resumed(name):
    def grown(sam, model):
        model.extra = nn.Linear(3, 3, dtype=torch.float64)
        with torch.no_grad():
            for p in model.extra.parameters():
                p.fill_(0.3)
        sam.optimizer.add_param_group({"params": list(model.extra.parameters())})

    straight, model = build(name)
    train(straight, model, range(2))
    early = straight.state_dict()
    grown(straight, model)
    train(straight, model, range(2, 4))
    late = saved((model.state_dict(), straight.optimizer.state_dict(), straight.state_dict()), "")
    train(straight, model, range(4, 6))
    resumed, again = build(name)
    grown(resumed, again)
    resumed.load_state_dict(early)  # of a run with fewer parameters: the new ones start anew
    again.load_state_dict(late[0])
    resumed.optimizer.load_state_dict(late[1])
    resumed.load_state_dict(late[2])
    train(resumed, again, range(4, 6))
    assert same(weights(model), weights(again))
    with pytest.raises(ThalwegError, match=r"place \d of 6, but there is none"):
        build(name)[0].load_state_dict(
            {"step": 1, "memory": {"tensors": {6: {"mean": torch.ones(3)}}}}
        )


BAD = {
    "no dict": (None, r"state must be what sam\.state_dict\(\) gave, got None"),
    "keys": ({}, r"must have the keys \['memory', 'method', 'step'\], got \[\]: it was saved"),
    "optimizer": ({"param_groups": [], "state": {}}, r"must come from sam\.state_dict\(\)"),
    "step": ({"step": "3"}, r"the \"step\" of a state must be a whole number >= 0, got '3'"),
    "negative": ({"step": -1}, r"step.* got -1"),
    "memory": ({"step": 3, "memory": 5}, r"the \"memory\" of a state must be what .* got 5"),
    "shape": (
        {"step": 3, "memory": {"tensors": {0: {"mean": torch.ones(7)}}}},
        r"got \{'mean': \(7,\)\} for the one at place 0 of 6, but its shape is \(8, 5\)",
    ),
    "place": ({"step": 3, "memory": {"tensors": {-1: {"mean": torch.ones(3)}}}}, r"place -1 of 6"),
    "no tensor": ({"step": 3, "memory": {"tensors": {0: {"mean": 2.0}}}}, r"\{'mean': \(\)\}"),
    "word": ({"step": 3, "memory": {"tensors": {"w": {}}}}, r"the \"memory\" of a state must"),
    "numbers": ({"step": 3, "memory": {"numbers": {"a": "b"}}}, r"the \"memory\" of a state"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_state_that_does_not_fit_names_what_is_wrong_and_changes_nothing(kind):
    sam, model = build("mean")
    train(sam, model, range(2))
    before = flat(sam.state_dict())
    state, message = BAD[kind]
    with pytest.raises(ThalwegError, match=message):
        sam.load_state_dict(state)
    assert flat(sam.state_dict()) == before


def test_loading_in_an_open_loop_closes_it():
    sam, model = build("mean")
    train(sam, model, range(1))
    state, at = sam.state_dict(), weights(model)
    loop = sam.passes()
    next(loop)
    loss_of(model, 1)().backward()
    next(loop)
    sam.load_state_dict(state)
    assert same(weights(model), at)
    with pytest.raises(ThalwegError, match="must come after the loop"):
        next(loop)
    assert flat(sam.state_dict()) == flat(state)


def test_keys_that_came_back_as_text_are_taken_up():
    """Some formats of files know no other keys."""
    sam, model = build("mean")
    train(sam, model, range(2))
    state = sam.state_dict()
    held = {str(i): tensors for i, tensors in state["memory"]["tensors"].items()}
    other, _ = build("mean")
    other.load_state_dict({"step": 2, "memory": {"numbers": {}, "tensors": held}})
    assert flat(other.state_dict()) == flat(state)


def test_a_state_without_a_memory_is_one_of_a_run_that_remembers_nothing_yet():
    fresh, _ = build("mean")
    assert fresh.state_dict() == {"step": 0}
    sam, model = build("mean")
    train(sam, model, range(2))
    sam.load_state_dict({"step": 0})
    assert sam.state_dict() == {"step": 0}


def test_previous_remembers_the_gradient_uphill_and_not_what_becomes_of_it():
    model = net()
    sam = SAM(base("", model), model, 0.2, method=Method(direction=Previous()))
    for _ in sam.passes():
        loss_of(model, 0)().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    sam.optimizer.zero_grad(set_to_none=False)
    held = sam.state_dict()["memory"]["tensors"]
    assert same([held[i]["previous"] for i in range(6)], wanted)
