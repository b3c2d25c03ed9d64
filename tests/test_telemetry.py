"""What ``sam.last`` tells is what was done."""

import math

import pytest
import torch

from thalweg import SAM, ThalwegError
from thalweg.telemetry import NO_RADIUS, Last, Pass


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def expected(tools, step, rho, power):
    """g, h and ε of a fresh network, one vector each."""
    model = tools.net(dtype=torch.float64)
    tools.loss(model, step)().backward()
    g = flat(p.grad for p in model.parameters())
    epsilon = rho * g / g.norm() ** power
    model.zero_grad()
    torch.nn.utils.vector_to_parameters(flat(model.parameters()) + epsilon, model.parameters())
    tools.loss(model, step)().backward()
    return g, flat(p.grad for p in model.parameters()), epsilon


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", ["plain", "held", "closure", "block"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_norms_cosine_and_curvature(tools, power, how, set_to_none):
    model = tools.net(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sam = SAM(optimizer, model, 0.3, power=power, telemetry=True)
    loss = tools.loss(model, 0)
    if how != "plain":  # something in .grad that must not show
        tools.loss(model, 1)().backward()

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        value = loss()
        value.backward()
        return value

    if how == "closure":
        sam.step(closure)
    elif how == "block":
        closure()
        with sam.perturbed():
            loss().backward()
    else:
        for _ in sam.passes():
            loss().backward()
    g, h, epsilon = expected(tools, 0, 0.3, power)
    last = sam.last
    assert last.grad_norm == pytest.approx(float(g.norm()), rel=1e-12)
    assert last.perturbation_norm == pytest.approx(float(epsilon.norm()), rel=1e-12)
    assert last.descent_norm == pytest.approx(float(h.norm()), rel=1e-12)
    cosine = float(g @ h / (g.norm() * h.norm()))
    assert cosine < 0.999
    assert last.cosine == pytest.approx(cosine, rel=1e-12)
    curvature = float((h - g) @ epsilon / (epsilon @ epsilon))
    assert last.curvature == pytest.approx(curvature, rel=1e-10)


def test_micro_batches_are_told_from_what_grad_held(tools):
    model = tools.net(dtype=torch.float64)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.3, telemetry=True)
    tools.loss(model, 1)().backward()
    for _ in sam.passes():
        for _ in range(2):
            (tools.loss(model, 0)() / 2).backward()
    _, h, _ = expected(tools, 0, 0.3, 1.0)
    assert sam.last.descent_norm == pytest.approx(float(h.norm()), rel=1e-12)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 10.0])
def test_on_a_quadratic_the_curvature_is_the_rayleigh_quotient(rho):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    hessian = a @ a.T
    w = torch.randn(6, generator=draw, dtype=torch.float64).requires_grad_()
    sam = SAM(torch.optim.SGD([w], lr=0.01), None, rho, telemetry=True)
    for _ in range(3):
        g = hessian @ w.detach()
        sam.optimizer.zero_grad()
        for _ in sam.passes():
            (w @ hessian @ w / 2).backward()
        assert sam.last.curvature == pytest.approx(float(g @ hessian @ g / (g @ g)), rel=1e-10)
        sam.optimizer.step()


@pytest.mark.filterwarnings("ignore:rounding swallows")
def test_the_curvature_is_that_of_the_epsilon_that_rounding_let_through():
    w = torch.tensor([1.0, 256.0], dtype=torch.bfloat16, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.1, telemetry=True)
    for _ in sam.passes():  # 256 + 0.07 is 256: the second entry stays
        (w.float()[0] ** 2 * 4 + w.float()[1] * 8).backward()
    assert sam.last.curvature == pytest.approx(8.0, rel=1e-6)


def test_without_telemetry_the_gradient_uphill_is_not_told_of(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.3)
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert sam.last.grad_norm > 0
    told = (sam.last.descent_norm, sam.last.cosine, sam.last.curvature)
    assert all(map(math.isnan, told))


def test_a_plain_step_tells_that_nothing_moved(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.3, telemetry=True)
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert sam.last.moved
    sam.optimizer.param_groups[0]["rho"] = 0.0
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert not sam.last.moved
    assert math.isnan(sam.last.grad_norm)
    assert repr(sam.last) == repr(Last(reason=NO_RADIUS))


def test_the_curvature_is_along_epsilon_where_a_group_is_off():
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, 3.0))
    groups = [{"params": [a]}, {"params": [b], "rho": 0.0}]
    sam = SAM(torch.optim.SGD(groups, lr=0.0), None, 0.1, telemetry=True)
    for _ in sam.passes():
        (5 * a * a / 2 + 7 * b * b / 2).backward()
    g, h = (torch.tensor([x, 21.0], dtype=torch.float64) for x in (10.0, 10.5))
    assert sam.last.grad_norm == pytest.approx(10.0)  # over the perturbed ones
    assert sam.last.descent_norm == pytest.approx(float(h.norm()))
    assert sam.last.cosine == pytest.approx(float(g @ h / (g.norm() * h.norm())))
    assert sam.last.curvature == pytest.approx(5.0)


@pytest.mark.parametrize("form", ["passes", "closure"])
def test_the_loss_rise_is_that_of_the_two_losses(form):
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)

    def loss():
        value = (w**2).sum()
        value.backward()
        return value

    if form == "closure":
        sam.step(loss)
    else:
        for here in sam.passes():
            here.loss = loss()
    assert sam.last.loss_rise == pytest.approx(5.5**2 - 5.0**2, rel=1e-6)
    assert sam.log_dict()["sam/loss_rise"] == pytest.approx(5.25, rel=1e-6)


@pytest.mark.parametrize("wrong", ["0.5", None, torch.zeros(2), [1.0]])
def test_what_is_no_loss(wrong):
    with pytest.raises(ThalwegError, match="loss must be a number or a tensor of one, got"):
        Pass(0, ascent=True, last=False).loss = wrong


def test_a_stored_loss_keeps_no_graph():
    here = Pass(0, ascent=True, last=False)
    here.loss = torch.ones(1, requires_grad=True).sum() * 2
    assert here.loss.item() == 2
    assert not here.loss.requires_grad
    here.loss = 3
    assert here.loss.item() == 3


def test_a_closure_may_return_anything():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)
    for value in (None, "done", torch.zeros(3), 1):

        def closure(value=value):
            w.sum().backward()
            return value

        assert sam.step(closure) is value
        assert math.isnan(sam.last.loss_rise)


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_telemetry_of_gradients_whose_squares_float32_cannot_hold(size):
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5, telemetry=True)
    sam.step(lambda: (size * w**2 / 2).sum().backward())
    assert sam.last.cosine == pytest.approx(1.0, abs=1e-6)
    assert sam.last.cosine <= 1.0
    assert sam.last.curvature == pytest.approx(size, rel=1e-5)
