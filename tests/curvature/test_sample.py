"""The numbers of one sample of a monitor, against what is written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_runs import half_squares, pair, small, train, two_groups, watched
from torch import nn

from thalweg import SAM, Method, theory
from thalweg.curvature.monitor import Monitor


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_one_sample_against_the_dense_hessian(power):
    model, batch = small(), pair()
    names, shapes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)

    def loss(w):
        parts = torch.split(w, [shape.numel() for shape in shapes])
        named = {n: v.view(s) for n, v, s in zip(names, parts, shapes, strict=True)}
        return half_squares(lambda x: torch.func.functional_call(model, named, (x,)), batch)

    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).requires_grad_()
    hessian = torch.autograd.functional.hessian(loss, w)
    values, vectors = torch.linalg.eigh(hessian)
    g = torch.autograd.grad(loss(w), w)[0]
    e = 0.05 * g / g.norm() ** power
    h = torch.autograd.grad(loss(w + e), w)[0]

    def base(params):
        return torch.optim.SGD(params, lr=0.2, momentum=0.5, weight_decay=0.01, nesterov=True)

    _, monitor, (record,) = watched(model, base, power=power)
    close = pytest.approx
    assert record["step"] == 0
    assert record["loss"] == close(loss(w).item())
    assert record["lambda_max"] == close(float(values[-1]), rel=0.01)
    assert abs(record["lambda_max"] - float(values[-1])) <= record["residual"] + 1e-12
    vector = monitor._vector
    assert record["alignment"] == close(float(abs(g @ vector) / g.norm()))
    sine = record["residual"] / (record["lambda_max"] - float(values[-2]))  # Davis and Kahan
    assert float(vector @ vectors[:, -1]) ** 2 >= 1 - sine**2 > 0.9
    assert abs(record["trace"] - float(hessian.trace())) < 5 * record["trace_error"]
    assert record["grad_norm"] == close(float(g.norm()))
    assert record["perturbation_norm"] == close(float(e.norm()))
    assert record["relative_perturbation"] == close((e.norm() / w.norm()).item())
    assert record["loss_rise_predicted"] == close(float(g @ e + e @ hessian @ e / 2))
    assert record["loss_rise"] == close((loss(w + e) - loss(w)).item())
    assert record["cosine"] == close(float(g @ h / g.norm() / h.norm()))
    assert record["change"] == close(float((h - g).norm() / g.norm()))
    assert math.isnan(record["fidelity"])
    assert math.isnan(record["gain"])
    expected = theory.edge(0.2, 0.05, float(g.norm()), power, 0.5, 0.01, nesterov=True)
    assert record["edge"] == close(expected)
    told = {name: record[name] for name in ("lr", "rho", "power", "momentum", "weight_decay")}
    assert told == {"lr": 0.2, "rho": 0.05, "power": power, "momentum": 0.5, "weight_decay": 0.01}
    assert record["nesterov"] is True
    assert 0 < record["seconds"] < 60


def test_without_a_trace_fewer_products_are_taken():
    with_it, without = (watched(monitor={"trace": wanted})[2][0] for wanted in (True, False))
    assert math.isnan(without["trace"])
    assert with_it["products"] == without["products"] + 4


@pytest.mark.parametrize("seen", [1.0, 0.0])  # by the gradient
def test_another_eigenvalue_that_grows_larger_is_found(seen):
    diagonal = torch.full((200,), 0.1, dtype=torch.float64)
    diagonal[0], diagonal[1] = 3.0, 2.7
    model = nn.Linear(200, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.weight[0, 1] = seen

    def loss_of(model, batch):
        return (diagonal * model.weight[0] ** 2).sum() / 2

    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)
    monitor = Monitor(sam, loss_of, torch.zeros(1))
    assert monitor.last["lambda_max"] == pytest.approx(3.0, rel=0.01)
    diagonal[0], diagonal[1] = 2.7, 3.0
    for monitor.steps in range(10):  # other random numbers
        # The last eigenvector, were it exact, is an eigenvector still: of a smaller eigenvalue.
        monitor._vector = torch.eye(200, dtype=torch.float64)[0]
        assert monitor.sample()["lambda_max"] == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"base": lambda params: torch.optim.AdamW(params)}, "AdamW scales the entries"),
        ({"base": two_groups(rho=0.2)}, "differ in rho"),
        ({"method": Method(filter=lambda p, *_: p.ndim > 1)}, "some are not"),
        ({"method": Method(combine=lambda here, uphill, context: here)}, "does something else"),
    ],
)
def test_where_there_is_no_edge_it_says_why(options, reason):
    _, _, (record,) = watched(**options)
    assert math.isnan(record["edge"])
    assert math.isnan(record["ratio"])
    assert reason in record["edge_missing"]
    assert record["lambda_max"] > 0


def test_a_cap_that_bites_is_a_radius_of_its_own():
    _, _, (record,) = watched(rho=1e3, method=Method(power=2, max_norm=0.02))
    assert record["perturbation_norm"] == pytest.approx(0.02)
    assert record["edge"] == pytest.approx(theory.edge(0.1, 0.02, record["grad_norm"]))


def test_every_group_has_its_own_rho():
    sam, _, (record,) = watched(base=two_groups(rho=0.2))
    params = list(sam.model.parameters())
    first, *rest = torch.autograd.grad(half_squares(sam.model, pair()), params)
    others = torch.cat([g.reshape(-1) for g in rest]).norm()
    whole = math.hypot(float(first.norm()), float(others))
    length = math.hypot(0.05 * float(first.norm()), 0.2 * float(others)) / whole
    assert record["perturbation_norm"] == pytest.approx(length)
    assert record["rho"] == 0.2


def test_groups_with_rho_0_are_not_perturbed():
    sam, monitor, (record,) = watched(base=two_groups(rho=0.0))
    g = torch.autograd.grad(half_squares(sam.model, pair()), [next(sam.model.parameters())])[0]
    assert record["grad_norm"] == pytest.approx(float(g.norm()))
    assert record["relative_perturbation"] == pytest.approx(
        0.05 / float(next(sam.model.parameters()).detach().norm())
    )
    for group in sam.optimizer.param_groups:
        group["rho"] = 0.0
    plain = monitor.sample()
    assert (plain["perturbation_norm"], plain["rho"]) == (0.0, 0.0)
    assert math.isnan(plain["loss_rise"])
    assert plain["edge"] == pytest.approx(20.0)


def test_a_learning_rate_is_read_as_the_step_had_it():
    sam, _, records = watched()
    for lr in (0.1, 0.05, 0.02):
        sam.optimizer.param_groups[0]["lr"] = lr
        train(sam, half_squares, [pair()])
        sam.optimizer.param_groups[0]["lr"] = 99.0  # a scheduler moves it after the step
    assert [record["lr"] for record in records[1:]] == [0.1, 0.05, 0.02]


def test_a_schedule_of_rho_stands_where_the_last_step_had_it():
    sam, _, records = watched(method=Method(schedule=lambda rho, step, _: rho * (1 + step)))
    train(sam, half_squares, [pair()] * 3)
    assert [record["rho"] for record in records] == pytest.approx([0.05, 0.05, 0.1, 0.15])
    assert records[-1]["perturbation_norm"] == pytest.approx(0.15)


def test_weights_of_16_bits_are_measured_in_32():
    batch = pair(dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="rounding swallows"):
        sam, monitor, (record,) = watched(small(torch.bfloat16), batch=batch, rho=0.002)
    assert record["fidelity"] < 0.95
    assert record["gain"] < 0.9
    assert "rounding swallows" in monitor.says[0]
    wide = watched(copy.deepcopy(sam.model).float(), batch=[t.float() for t in batch], rho=0.002)[
        2
    ][0]
    assert record["lambda_max"] == pytest.approx(wide["lambda_max"], rel=0.01)
    assert record["grad_norm"] == pytest.approx(wide["grad_norm"], rel=1e-5)
    train(sam, half_squares, [batch])  # SAM would say it in its first step: it has been said


def test_weights_of_several_dtypes_are_measured_in_the_widest():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(5, 4).bfloat16(), nn.Linear(4, 3).double()

        def forward(self, x):
            hidden = self.first(x.to(self.first.weight.dtype)).tanh()
            return self.last(hidden.to(self.last.weight.dtype))

    model = Mixed()
    _, _, (record,) = watched(model, rho=0.5)
    _, _, (wide,) = watched(copy.deepcopy(model).double(), rho=0.5)
    same = ("loss", "lambda_max", "trace", "grad_norm", "perturbation_norm", "edge")
    assert [record[name] for name in same] == pytest.approx([wide[name] for name in same])
    assert record["loss_rise"] == pytest.approx(wide["loss_rise"], rel=0.1)  # ε is rounded
    assert record["fidelity"] > 0.99
