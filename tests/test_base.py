"""What SAM refuses: every message says what was wanted, what came, and what to do."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from thalweg import SAM, Method, ThalwegError, checks, layout


def build(**changes):
    w = torch.ones(2, requires_grad=True)
    given = {"optimizer": torch.optim.SGD([w], lr=0.1), "model": None, "rho": 0.1} | changes
    return SAM(given.pop("optimizer"), given.pop("model"), given.pop("rho"), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": torch.optim.SGD},
            r"optimizer must be an instance, got the class SGD: .*SGD",
        ),
        (
            {"optimizer": nn.Linear(1, 1)},
            r"optimizer must be a torch\.optim\.Optimizer, got Linear",
        ),
        ({"optimizer": None}, r"optimizer must be a torch\.optim\.Optimizer, got NoneType"),
        ({"optimizer": [torch.ones(1)]}, r"got list: write SAM\(torch.optim.SGD"),
        (
            {"optimizer": torch.optim.LBFGS([torch.ones(1, requires_grad=True)])},
            r"one gradient a step, but LBFGS takes many .* choose another base optimizer",
        ),
        (
            {"optimizer": torch.optim.Adadelta([torch.ones(1, requires_grad=True)])},
            r"\"rho\".*Adadelta has a rho of its own \(rho=0\.9\): choose another",
        ),
        ({"rho": -0.1}, r"rho must be a finite number >= 0, got -0\.1"),
        ({"rho": math.nan}, r"rho must be a finite number >= 0, got nan"),
        ({"rho": math.inf}, r"rho must be a finite number >= 0, got inf"),
        ({"rho": "0.1"}, r"rho must be .*got '0\.1' \(pass a number, not a string\)"),
        ({"rho": None}, r"rho must be .*got None"),
        ({"rho": True}, r"rho must be .*got True"),
        ({"power": "1"}, r"power must be a finite number >= 0, got '1'"),
        ({"power": -1}, r"power must be a finite number >= 0, got -1"),
        ({"power": math.nan}, r"power must be .*got nan"),
        (
            {"power": 1, "method": Method()},
            r"power and method must not both .*method=Method\(power",
        ),
        ({"method": "SAM"}, r"method must be a thalweg\.Method, got 'SAM': write method=Method"),
        ({"method": Method}, r"method must be a thalweg\.Method"),
        ({"model": "net"}, r"model must be a torch\.nn\.Module or None, got str: write SAM"),
        ({"model": 0.05}, r"model must be a torch\.nn\.Module or None, got float"),
        ({"scaler": 65536.0}, r"scaler must be a torch\.amp\.GradScaler or None, got float"),
        ({"optimizer": iter([torch.ones(1)]), "lr": 0.1}, r"list_iterator: .* take compat\.SAM"),
        ({"lr": 0.1}, r"^lr must be left out: .* got lr=0\.1; an option of the base optimizer"),
        ({"adaptive": True}, r"adaptive must .*=presets\.asam_all\(offset=0\.0\), or .*compat"),
        (
            {"optimizer": torch.optim.SGD([torch.ones(1, dtype=torch.cfloat, requires_grad=True)])},
            r"parameters must be real, got .*complex64.*shape \(1,\): train torch\.view_as_real",
        ),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ThalwegError, match=message):
        build(**changes)


def test_an_error_of_the_project_is_a_value_error():
    with pytest.raises(ValueError, match="rho must be"):
        build(rho=-1)
    assert issubclass(thalweg.ThalwegError, ValueError)


@pytest.mark.parametrize("slot", ["direction", "filter", "ball", "schedule", "gate", "combine"])
def test_a_slot_refuses_what_is_no_part(slot):
    usual = type(getattr(Method(), slot))
    for wrong in ("global", 3, usual, None):
        with pytest.raises(ThalwegError, match=rf"{slot} must be a part such as {usual.__name__}"):
            Method(**{slot: wrong})


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan, "1"])
def test_a_cap_must_be_positive(cap):
    with pytest.raises(ThalwegError, match="max_norm must be a number > 0"):
        Method(max_norm=cap)


@pytest.mark.parametrize("rho", [math.nan, -0.1, "0.1", math.inf, None])
@pytest.mark.parametrize("form", ["passes", "closure", "block"])
def test_a_rho_that_goes_bad_later_is_found_at_the_next_step(tools, form, rho):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.1)
    sam.optimizer.param_groups[0]["rho"] = rho
    before = model[0].weight.detach().clone()
    with pytest.raises(ThalwegError, match=r'the "rho" of param group . must be'):
        tools.forms[form](sam, tools.loss(model, 0))
    assert torch.equal(model[0].weight, before)
    sam.optimizer.param_groups[0]["rho"] = 0.1
    tools.forms[form](sam, tools.loss(model, 0))
    assert sam.last.moved


def test_a_rho_in_the_groups_is_checked_at_once():
    w = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [w], "rho": 0.1}, {"params": [], "rho": -1.0}], lr=0.1)
    with pytest.raises(ThalwegError, match=r'the "rho" of param group . must be .*got -1'):
        SAM(optimizer, None, rho=0.1)


@pytest.mark.parametrize("closure", [None, 3])
def test_step_needs_a_closure(closure):
    with pytest.raises(ThalwegError, match=rf"closure .*got {closure}.*for _ in sam\.passes\(\)"):
        build().step(closure)


def test_the_block_needs_gradients():
    with pytest.raises(ThalwegError, match=r"needs gradients.*loss\.backward\(\) before the block"):
        build().perturbed().__enter__()


def test_a_rho_left_over_in_the_groups_is_used_with_a_warning():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    SAM(optimizer, None, rho=0.2)
    with pytest.warns(
        UserWarning, match=r"rho=0\.2, which is used.*rho=0\.5, given now or by default, is not"
    ) as w_:
        sam = SAM(optimizer, None, rho=0.5)
    assert w_[0].filename == __file__  # it points at the line that made it
    for _ in sam.passes():
        w.square().sum().backward()
    assert sam.last.perturbation_norm == pytest.approx(0.2)


def test_no_warning_where_nothing_is_lost():
    w, v = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([w], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAM(optimizer, None, rho=0.2)
        SAM(optimizer, None, rho=0.2)
        groups = [{"params": [w], "rho": 0.1}, {"params": [v], "rho": 0.3}]
        SAM(torch.optim.SGD(groups, lr=0.1), None, rho=0.2)  # set by hand, group by group
        off = torch.optim.SGD([{"params": [w]}, {"params": [v], "rho": 0.0}], lr=0.1)
        SAM(off, None, rho=0.2)
    assert [group["rho"] for group in off.param_groups] == [0.2, 0.0]


@pytest.mark.parametrize("rho", [1, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_any_single_number_is_a_rho(rho):
    sam = build(rho=rho)
    assert sam.optimizer.param_groups[0]["rho"] == float(rho)


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "DeepSpeedEngine"])
def test_a_wrapper_that_hides_the_parameters_is_refused(name):
    inner = nn.Linear(2, 2)
    model = nn.Sequential(type(name, (nn.Sequential,), {})(inner))
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    with pytest.raises(ThalwegError, match=rf"wrapped by {name}.* use .* fully_shard"):
        SAM(optimizer, model)


def test_a_device_that_is_not_tested_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "_UNTESTED", {"cpu"})
    with pytest.raises(ThalwegError, match="must lie on the CPU or a CUDA device, got cpu"):
        build()


def test_sharded_parameters_need_the_model(monkeypatch):
    monkeypatch.setattr(layout, "is_sharded", lambda p: True)
    with pytest.raises(ThalwegError, match=r"sharded \(DTensor\), got None: .* pass the module"):
        build()


def test_another_model_is_asked_about():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"lacks 2 of the model's 2 .* is this the model that"):
        SAM(optimizer, nn.Linear(2, 2))


def test_rho_is_given_once_and_can_be_read():
    sam = build(rho=1)
    with pytest.raises(ThalwegError, match=r'got 0\.5: .*; write `for group in .*\["rho"\] = '):
        sam.rho = 0.5
    assert sam.rho == copy.deepcopy(sam).rho == sam.optimizer.param_groups[0]["rho"] == 1.0


def test_a_sam_tells_what_it_is():
    sam = build(power=0.5)
    assert repr(sam) == "SAM(SGD, rho=0.1, power=0.5)"
    sam.optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], "rho": 0.0})
    sam.method = Method(ascents=2)
    assert repr(sam) == "SAM(SGD, rho=[0.1, 0.0], method=Method(ascents=2))"


def test_parameters_left_out_are_told_of():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.warns(
        UserWarning, match=r"lacks 2 of the model's 4 trainable .* \(1\.weight is the first\)"
    ):
        SAM(torch.optim.SGD(model[0].parameters(), lr=0.1), model)
    model[1].requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAM(torch.optim.SGD(model[0].parameters(), lr=0.1), model)
