"""What a product with vectors cannot be made of, or taken with; each is told in words."""

import pytest
import torch
from torch import nn

from thalweg import ThalwegError, layout
from thalweg.curvature import (
    gauss_newton_vector_product,
    hessian_vector_product,
    lambda_max,
    on_batch,
    smallest_eigenvalue,
    spectrum,
    top_eigenvalues,
    trace,
)

each_kind = pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
W = torch.ones(2, requires_grad=True)


def wide(dtype, device="cpu"):
    return torch.ones(1, dtype=dtype, device=device, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda: W * 2,
            r"loss must be a tensor of one number, got the shape.*: take the mean",
        ),
        (lambda: 1.0, "loss must be a tensor of one number, got float"),
        (lambda: (W.sum(), W.sum()), "loss must be a tensor of one number, got tuple"),
        (lambda: W.detach().sum(), "loss must depend on the parameters, got one without a graph"),
        (lambda: (W * torch.inf).sum(), "loss must be finite, got inf"),
        (lambda: (W * torch.nan).sum(), "loss must be finite, got nan"),
    ],
)
@each_kind
def test_bad_losses_are_named(kind, loss, said):
    build = {
        "hessian": lambda: hessian_vector_product(loss, [W]),
        "gauss_newton": lambda: gauss_newton_vector_product(lambda: W + 0, lambda o: loss(), [W]),
    }
    with pytest.raises(ThalwegError, match=said):
        build[kind]()


def test_a_bad_loss_that_is_there_is_named():
    said = r"loss must be a tensor of one number, got the shape \(2,\)"
    with pytest.raises(ThalwegError, match=said):
        hessian_vector_product(W * 2, [W])


def test_a_loss_of_another_model_is_named():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ThalwegError, match="got one that does not see any of them"):
        hessian_vector_product(lambda: (w**2).sum(), [W])


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (W, "parameters must be a list of tensors, got Tensor: pass list"),
        (nn.Linear(1, 1), "parameters must be a list of tensors, got Linear: pass list"),
        ([], "parameters must hold a tensor that requires a gradient, got none"),
        ([torch.ones(2)], "parameters must hold a tensor that requires a gradient, got none"),
        (None, "parameters must be a list of tensors, got NoneType"),
        ([W, None], "parameters must be a list of tensors, got list"),
        ([W, W], "parameters must be different tensors, got one of them twice"),
        ([W, wide(torch.float64)], r"all be float32 or all be float64.*torch.float32, torch.float"),
        ([wide(torch.bfloat16)], "got torch.bfloat16: measure a copy .* dtype=torch.float32"),
        ([wide(torch.float16)], "got torch.float16: measure a copy"),
        ([wide(torch.complex64)], "got torch.complex64"),
        ([W, wide(torch.float32, "meta")], "parameters must be on one device, got cpu, meta"),
    ],
)
def test_bad_parameters_are_named(parameters, said):
    for build in (
        lambda: hessian_vector_product(lambda: (W**2).sum(), parameters),
        lambda: gauss_newton_vector_product(lambda: W**2, torch.sum, parameters),
    ):
        with pytest.raises(ThalwegError, match=said):
            build()


def test_sharded_parameters_are_refused(monkeypatch):
    monkeypatch.setattr(layout, "is_sharded", lambda p: True)
    with pytest.raises(ThalwegError, match=r"must be whole, got sharded ones.*gather the model"):
        hessian_vector_product(lambda: (W**2).sum(), [W])


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (torch.ones(3), r"must have the 2 entries of the parameters.* got the shape \(3,\)"),
        (torch.ones(2, 1), r"must have the 2 entries of the parameters.* got the shape \(2, 1\)"),
        ([torch.ones(3)], r"must have the shapes of the 1 parameters, got \[\(3,\)\]"),
        ([torch.ones(1), torch.ones(1)], "must have the shapes of the 1 parameters"),
        ([], "must have the shapes of the 1 parameters"),
        (None, "the vector must be a tensor of 2 entries, or a list .* got None"),
        ([1, 2], r"the vector must be a tensor of 2 entries, or a list .* got \[1, 2\]"),
        (torch.ones(2).double(), "must be torch.float32 on cpu, .* got torch.float64 on cpu: turn"),
        ([torch.ones(2).half()], "must be torch.float32 on cpu, .* got torch.float16 on cpu"),
        (torch.ones(2, device="meta"), "must be torch.float32 on cpu, .* got torch.float32 on me"),
    ],
)
def test_bad_vectors_are_named(vector, said):
    product = hessian_vector_product(lambda: (W**2).sum(), [W])
    with pytest.raises(ThalwegError, match=said):
        product(vector)
    assert product.count == 0


def test_a_shared_weight_counts_once():
    one, two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    two.weight = one.weight
    model, x = nn.Sequential(one, nn.Tanh(), two), torch.ones(4, 3)
    product = on_batch(model, lambda m, x: (m(x) ** 2).mean(), x)
    assert product.size == 9
    with pytest.raises(ThalwegError, match="got one of them twice: pass list"):
        hessian_vector_product(lambda: (model(x) ** 2).mean(), [one.weight, two.weight])


@pytest.mark.parametrize("loss", [1.0, None, "x", [W], nn.Linear, lambda outputs, more: more])
def test_what_is_no_function_is_named(loss):
    with pytest.raises(ThalwegError, match=r"^loss must be a function of nothing .*: write lambda"):
        hessian_vector_product(loss, [W])
    with pytest.raises(ThalwegError, match=r"^loss must be a function of outputs .*: write lambda"):
        gauss_newton_vector_product(lambda: W**2, loss, [W])
    with pytest.raises(ThalwegError, match=r"^outputs must be a function of nothing that returns"):
        gauss_newton_vector_product(loss, torch.sum, [W])


def test_outputs_without_a_graph_are_named():
    for outputs in (lambda: None, lambda: W.detach()):
        with pytest.raises(ThalwegError, match="outputs must depend on the parameters, got"):
            gauss_newton_vector_product(outputs, torch.sum, [W])


def test_a_loss_whose_graph_is_gone_is_named():
    loss = (W**3).sum()
    loss.backward()
    W.grad = None
    with pytest.raises(ThalwegError, match=r"got one whose graph a backward\(\) has freed: "):
        hessian_vector_product(loss, [W])


def test_a_complex_loss_is_named():
    with pytest.raises(ThalwegError, match=r"one number, got torch\.complex64: take its modulus"):
        hessian_vector_product((W + 1j).sum(), [W])


@pytest.mark.parametrize("measure", [lambda_max, smallest_eigenvalue, spectrum, trace])
@pytest.mark.parametrize("bad", [None, (W**2).sum(), lambda: W.sum(), nn.Linear(1, 1), [W], "x"])
def test_what_is_no_product_is_named(measure, bad):
    said = r"^product must be what hessian_vector_product\(\) gives, got .*: write hessian_vector_p"
    with pytest.raises(ThalwegError, match=said):
        measure(bad)
    with pytest.raises(ThalwegError, match=said):
        top_eigenvalues(bad, 1)
