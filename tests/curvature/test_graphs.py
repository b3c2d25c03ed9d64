"""What autograd cannot do is told, and not answered with zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg import ThalwegError
from thalweg.curvature import hessian_vector_product


class Square(torch.autograd.Function):
    """x², whose backward cannot be derived."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_an_operation_that_can_be_derived_once_is_an_error(beside):
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.ones(4, 3)

    def loss():
        y = model(x)
        return (Square.apply(y) ** 2 + (y**2 if beside else 0)).mean()

    with pytest.raises(ThalwegError, match="is marked once_differentiable"):
        hessian_vector_product(loss, list(model.parameters()))


def test_a_loss_that_is_not_finite_is_an_error():
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(ThalwegError, match="loss must be finite, got inf"):
        hessian_vector_product(lambda: w.sum() / 0, [w])
