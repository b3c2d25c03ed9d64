"""A script written for another SAM runs after one changed import, with the same weights."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import pytorch_optimizer
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from thalweg import ThalwegError, compat

THEIRS = "from pytorch_optimizer import SAM"
OURS = "from thalweg.compat import SAM"
BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
}

#: How people write it for the other SAMs: two forwards, two calls, a scheduler on the wrapper.
SCRIPT = """
from pytorch_optimizer import SAM
import torch

model = make_model()
optimizer = SAM(model.parameters(), base_optimizer=Base, rho=RHO, adaptive=False, **settings)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
norms = []

for step in range(20):
    inputs, targets = batch(step)

    # first forward and backward
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.first_step(zero_grad=True)

    # second forward and backward
    loss_fn(model(inputs), targets).backward()
    optimizer.second_step(zero_grad=True)
    scheduler.step()
"""

#: The other form: the gradient first, then a closure.
CLOSURES = """
from pytorch_optimizer import SAM
import torch

model = make_model()
optimizer = SAM(model.parameters(), Base, RHO, **settings)

for step in range(20):
    inputs, targets = batch(step)

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        return loss

    closure()
    optimizer.step(closure)
"""


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()


def digits(step):
    data = load_digits()
    rows = slice(32 * step, 32 * step + 32)
    return torch.tensor(data.data[rows] / 8 - 1), torch.tensor(data.target[rows])


def run(script, base, rho=0.1):
    kind, settings = BASES[base]
    names = {"make_model": make_model, "batch": digits, "loss_fn": cross_entropy}
    names |= {"Base": kind, "settings": settings, "RHO": rho}
    with warnings.catch_warnings():
        if THEIRS in script:  # theirs sees a scheduler ahead of the optimizer; ours must not
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        exec(script, names)
    return names


def loss_of(model, step=0):
    inputs, targets = digits(step)
    return cross_entropy(model(inputs), targets)


def made(base="momentum", rho=0.1, **options):
    model = make_model()
    kind, settings = BASES[base]
    return model, compat.SAM(model.parameters(), kind, rho=rho, **settings, **options)


def two_calls(model, optimizer, step=0):
    loss_of(model, step).backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, step).backward()
    optimizer.second_step(zero_grad=True)


def copies(model):
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def same(model, before):
    return all(torch.equal(a, b) for a, b in zip(copies(model), before, strict=True))


def check_close(model, other, tolerance=1e-6):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("script", [SCRIPT, CLOSURES], ids=["two calls", "closure"])
def test_adaptive_means_the_same(script, base):
    script = script.replace("adaptive=False, ", "").replace(
        "**settings)", "adaptive=A, **settings)"
    )
    plain = run(script.replace(THEIRS, OURS).replace("=A", "=False"), base, rho=0.5)
    script = script.replace("=A", "=True")
    theirs = run(script, base, rho=0.5)
    ours = run(script.replace(THEIRS, OURS), base, rho=0.5)
    check_close(ours["model"], theirs["model"])
    pairs = zip(ours["model"].parameters(), plain["model"].parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) > 1e-3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("script", [SCRIPT, CLOSURES], ids=["two calls", "closure"])
def test_one_changed_import_gives_the_same_weights(script, base):
    theirs = run(script, base)
    ours = run(script.replace(THEIRS, OURS), base)
    assert type(ours["optimizer"]) is compat.SAM is not type(theirs["optimizer"])
    check_close(ours["model"], theirs["model"])
    # The test would see a SAM that does nothing, or goes the other way.
    plain = run(script.replace(THEIRS, OURS), base, rho=0.0)
    far = max(
        float((p - q).detach().abs().max())
        for p, q in zip(ours["model"].parameters(), plain["model"].parameters(), strict=True)
    )
    assert far > 1e-3


def test_the_scheduler_moves_the_learning_rate_of_the_base():
    found = run(SCRIPT.replace(THEIRS, OURS), "momentum")
    assert found["optimizer"].base_optimizer.param_groups[0]["lr"] == 0.05 / 4


def test_what_is_the_base_optimizer_s_is_the_very_same_object():
    model, optimizer = made()
    for _ in range(2):
        base = optimizer.base_optimizer
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert optimizer.state is base.state
        assert optimizer.param_groups is base.param_groups
        assert optimizer.defaults is base.defaults
        two_calls(model, optimizer)
        optimizer.load_state_dict(optimizer.state_dict())  # torch replaces state and groups here
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    two_calls(model, optimizer)
    assert seen == [1]
    assert "rho: 0.1" in repr(optimizer)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        optimizer.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("base", BASES)
def test_resume_is_bit_identical_and_the_base_loads_it(base):
    model, optimizer = made(base)
    for step in range(5):
        two_calls(model, optimizer, step)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    other, resumed = made(base, rho=0.7)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["rho"] == 0.1  # of the file
    plain = BASES[base][0](make_model().parameters(), **BASES[base][1])
    plain.load_state_dict(saved["optimizer"])  # a checkpoint of the base, and nothing else
    assert all(
        torch.equal(a[key], b[key])
        for a, b in zip(plain.state.values(), optimizer.state.values(), strict=True)
        for key in b
    )
    for step in range(5, 10):
        two_calls(model, optimizer, step)
        two_calls(other, resumed, step)
    assert same(other, copies(model))


def test_copies_and_pickles_stand_alone():
    model, optimizer = made()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    two_calls(model, optimizer)
    scheduler.step()
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        other, again = copied((model, optimizer))
        assert again.base_optimizer is not optimizer.base_optimizer
        assert again.param_groups[0]["params"][0] is next(other.parameters())
        two_calls(model, optimizer, 1)
        assert not same(other, copies(model))
        two_calls(other, again, 1)
        assert same(other, copies(model))


@pytest.mark.parametrize("given", [True, False])
def test_batch_norm_advances_once_where_the_model_is_known(given):
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10)).double()
    optimizer = compat.SAM(
        model.parameters(), torch.optim.SGD, lr=0.1, model=model if given else None
    )
    two_calls(model, optimizer)
    assert model[0].num_batches_tracked == (1 if given else 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_gc": True}, "^use_gc must be False, got True: (?!.*perturb_eps)"),
        ({"perturb_eps": 0.1}, "^perturb_eps must be from 0 to 1e-8, got 0.1: (?!.*use_gc)"),
        ({"perturb_eps": None}, "^perturb_eps must be from 0 to 1e-8, got None"),
        ({"adaptive": "yes"}, "^adaptive must be True or False, got 'yes'$"),
        ({"rho": -1.0}, "rho must be"),
    ],
)
def test_what_has_no_counterpart_is_an_error(options, told):
    with pytest.raises(ThalwegError, match=told):
        compat.SAM(make_model().parameters(), torch.optim.SGD, lr=0.1, **options)


def test_an_adaptive_group_and_an_instance_are_errors():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ThalwegError, match="adaptive must be the same for all param groups"):
        compat.SAM([{"params": [w], "adaptive": True}], torch.optim.SGD, lr=0.1)
    with pytest.raises(ThalwegError, match=r"with an instance, use thalweg\.SAM"):
        compat.SAM([w], torch.optim.SGD([w], lr=0.1))
    with pytest.raises(ThalwegError, match=r"got the module Linear: pass its \.parameters\(\)$"):
        compat.SAM(nn.Linear(1, 1), torch.optim.SGD, lr=0.1)
    optimizer = compat.SAM(
        [{"params": [w], "rho": 0.3, "adaptive": False}], torch.optim.SGD, lr=1.0
    )
    late = torch.ones(2, requires_grad=True)
    with pytest.raises(ThalwegError, match="adaptive must be the same for all param groups"):
        optimizer.add_param_group({"params": [late], "adaptive": True})
    optimizer.add_param_group({"params": [late]})
    (w.sum() + late.sum()).backward()
    optimizer.first_step()
    assert [group["rho"] for group in optimizer.param_groups] == [0.3, 0.05]
    assert w.tolist() == pytest.approx([1.15, 1.15])
    assert late.tolist() == pytest.approx([1.025, 1.025])


def test_their_keyword_names_are_taken():
    w = torch.ones(2, requires_grad=True)
    compat.SAM(
        params=[w],
        base_optimizer=pytorch_optimizer.Lion,
        rho=0.05,
        adaptive=False,
        use_gc=False,
        perturb_eps=1e-12,
        foreach=None,
        lr=1e-3,
    )
    compat.SAM([w], torch.optim.SparseAdam, foreach=None)  # which does not know the word
