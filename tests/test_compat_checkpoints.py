"""Checkpoints that other SAMs have written load, and what they lack is told."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import pytorch_optimizer
import torch
from test_compat import check_close

import thalweg
from thalweg import ThalwegError, compat

BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
}


def two_calls(optimizer, loss):
    loss().backward()
    optimizer.first_step(zero_grad=True)
    loss().backward()
    optimizer.second_step(zero_grad=True)


class OnlyCopies(torch.optim.Optimizer):
    """Writes a checkpoint of the layout of davda54/sam.

    The wrapper is an optimizer with a state of its own: per parameter one entry, ``old_p``, the
    copy of the weight. The param groups are dicts shared with the base, so they carry ``rho`` and
    ``adaptive`` beside the base's settings; the base's state is not in the file.
    """

    def __init__(self, params, kind, rho, adaptive, **settings):
        super().__init__(params, {"rho": rho, "adaptive": adaptive, **settings})
        self.base = kind(self.param_groups, **settings)
        self.param_groups = self.base.param_groups

    def first_step(self, zero_grad=True):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.detach().clone()

    def second_step(self, zero_grad=True):
        self.base.step()


@pytest.fixture
def written(tools):
    """Return a checkpoint that another SAM wrote after three steps, through a file; its maker."""

    def written(kind, base, adaptive=False, amid=False):
        model = tools.net(dtype=torch.float64)
        base_kind, settings = BASES[base]
        theirs = kind(model.parameters(), base_kind, rho=0.2, adaptive=adaptive, **settings)
        for step in range(3):
            two_calls(theirs, tools.loss(model, step))
        if amid:
            tools.loss(model, 3)().backward()
            theirs.first_step(zero_grad=True)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": theirs.state_dict()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True), model, theirs

    return written


@pytest.mark.parametrize("base", BASES)
def test_a_checkpoint_of_pytorch_optimizer_goes_on_as_if_never_stopped(base, tools, written):
    saved, model, theirs = written(pytorch_optimizer.SAM, base)
    assert "adaptive" in saved["optimizer"]["param_groups"][0]
    other = tools.net(dtype=torch.float64)
    other.load_state_dict(saved["model"])
    kind, settings = BASES[base]
    optimizer = kind(other.parameters(), **settings)
    optimizer.load_state_dict(compat.convert_checkpoint(saved["optimizer"]))
    assert optimizer.param_groups[0]["rho"] == 0.2
    assert "adaptive" not in optimizer.param_groups[0]
    sam = thalweg.SAM(optimizer, other, rho=0.2)
    for step in range(3, 8):
        two_calls(theirs, tools.loss(model, step))
        for _ in sam.passes():
            tools.loss(other, step)().backward()
        optimizer.step()
        optimizer.zero_grad()
    check_close(other, model, 1e-6)


def test_a_checkpoint_of_pytorch_optimizer_loads_into_compat(tools, written):
    saved, model, theirs = written(pytorch_optimizer.SAM, "adamw")
    other = tools.net(dtype=torch.float64)
    kind, settings = BASES["adamw"]
    optimizer = compat.SAM(other.parameters(), kind, rho=0.05, **settings)
    other.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert "adaptive" not in optimizer.param_groups[0]
    for step in range(3, 8):
        two_calls(theirs, tools.loss(model, step))
        two_calls(optimizer, tools.loss(other, step))
    check_close(other, model, 1e-6)


def test_a_checkpoint_from_the_middle_of_a_step_is_told_of(written):
    saved, _, _ = written(pytorch_optimizer.SAM, "momentum", amid=True)
    with pytest.warns(UserWarning, match=r"weights are w \+ ε, not w") as told:
        found = compat.convert_checkpoint(saved["optimizer"])
    assert len(told) == 1
    assert all(set(held) == {"momentum_buffer"} for held in found["state"].values())


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_a_checkpoint_of_davda54_loads_with_one_warning(base, tools, written):
    saved, _, _ = written(OnlyCopies, base)
    assert {"old_p"} == set(saved["optimizer"]["state"][0])  # the layout, as on file
    keys = copy.deepcopy(saved["optimizer"]["param_groups"])
    with pytest.warns(UserWarning, match="start at zero") as told:
        found = compat.convert_checkpoint(saved["optimizer"])
    assert len(told) == 1
    assert told[0].filename == __file__
    assert found["state"] == {}
    assert saved["optimizer"]["param_groups"] == keys  # what came in is not changed
    model = tools.net(dtype=torch.float64)
    model.load_state_dict(saved["model"])
    kind, settings = BASES[base]
    optimizer = kind(model.parameters(), **settings)
    optimizer.load_state_dict(found)
    assert optimizer.param_groups[0]["rho"] == 0.2
    sam = thalweg.SAM(optimizer, model, rho=0.2)
    for _ in sam.passes():
        tools.loss(model, 3)().backward()
    optimizer.step()
    assert sam.last.perturbation_norm == pytest.approx(0.2)


@pytest.mark.parametrize(("kind", "more"), [(pytorch_optimizer.SAM, 0), (OnlyCopies, 1)])
def test_an_adaptive_checkpoint_is_told_of(kind, more, written):
    saved, _, _ = written(kind, "momentum", adaptive=True)
    with warnings.catch_warnings(record=True, action="always") as told:
        found = compat.convert_checkpoint(saved["optimizer"])
    assert len(told) == 1 + more
    assert "whose rho is of another scale" in str(told[-1].message)
    assert found["param_groups"][0]["rho"] == 0.2
    assert "adaptive" not in found["param_groups"][0]


def test_an_adaptive_checkpoint_goes_on_as_such(tools, written):
    saved, model, theirs = written(pytorch_optimizer.SAM, "momentum", adaptive=True)
    kind, settings = BASES["momentum"]
    again = copy.deepcopy(model)
    optimizer = compat.SAM(again.parameters(), kind, adaptive=True, **settings)
    optimizer.load_state_dict(saved["optimizer"])  # without a warning
    for step in range(3, 6):
        two_calls(theirs, tools.loss(model, step))
        two_calls(optimizer, tools.loss(again, step))
    for p, q in zip(again.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    assert optimizer.param_groups[0]["rho"] == 0.2
    assert "adaptive" not in optimizer.param_groups[0]


def test_a_checkpoint_of_an_adaptive_one_of_ours_is_told_of_where_it_leaves(tools):
    model = tools.net()
    kind, settings = BASES["momentum"]
    optimizer = compat.SAM(model.parameters(), kind, rho=0.2, adaptive=True, **settings)
    two_calls(optimizer, tools.loss(model, 0))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["adaptive"] is True
    assert "adaptive" not in optimizer.param_groups[0]
    with pytest.warns(UserWarning, match=r"presets\.asam_all\(offset=0\.0\)"):
        found = compat.convert_checkpoint(saved)
    assert found == optimizer.base_optimizer.state_dict()
    optimizer.load_state_dict(saved)  # without a warning
    assert "adaptive" not in optimizer.param_groups[0]
    plain = compat.SAM(tools.net().parameters(), kind, rho=0.2, **settings)
    with pytest.warns(UserWarning, match="whose rho is of another scale"):
        plain.load_state_dict(saved)
    assert "adaptive" not in plain.state_dict()["param_groups"][0]


def test_a_checkpoint_without_their_keys_comes_back_as_it_is(tools):
    model = tools.net()
    kind, settings = BASES["momentum"]
    optimizer = compat.SAM(model.parameters(), kind, **settings)
    two_calls(optimizer, tools.loss(model, 0))
    saved = optimizer.base_optimizer.state_dict()
    assert len(saved["state"]) == 4
    assert compat.convert_checkpoint(saved) == saved


def test_the_whole_checkpoint_is_not_the_optimizer_s(written):
    saved, _, _ = written(pytorch_optimizer.SAM, "sgd")
    with pytest.raises(ThalwegError, match=r"got \['model', 'optimizer'\]"):
        compat.convert_checkpoint(saved)


@pytest.mark.parametrize("bad", [None, 3, "state", {"optimizer": {}}])
def test_what_is_no_checkpoint_is_told_of(bad):
    with pytest.raises(ThalwegError, match=r'^state_dict must have the keys "state" and "param_gr'):
        compat.convert_checkpoint(bad)
