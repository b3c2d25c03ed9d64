"""What SAM tells a gradient scaler of, and the other ranks."""

import math

import pytest
import torch

from thalweg.scaling import Scaling, in_use, named_in


def told(*parameters, enabled=True):
    """Return the scaling of a loop with a scaler of its own."""
    scaler = torch.amp.GradScaler("cpu", enabled=enabled)
    return Scaling(torch.optim.SGD(parameters, lr=0.1), scaler, needed=True)


@pytest.mark.parametrize("wrap", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("norm", [1.0, 0.0, math.inf, math.nan])
def test_a_gradient_is_spoilt_only_where_the_norm_is_not_finite(norm, wrap):
    a, b = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    scaling = told(a, b)
    b.grad = torch.tensor([3.0, 4.0])
    scaling.tell([a, b], wrap(norm))
    assert a.grad is None
    if math.isfinite(norm):
        assert b.grad.tolist() == [3, 4]
    else:
        assert not torch.isfinite(b.grad).any()
    scaling.tell([a], wrap(norm))
    assert a.grad is None


@pytest.mark.parametrize("wrap", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("norm", [1.0, math.inf, math.nan])
def test_the_coming_gradient_is_spoilt_before_it_is_shared(norm, wrap):
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.zeros(2)
    seen = []
    end = told(w).tell_others([w], wrap(norm))
    w.register_hook(lambda g: seen.append(g.clone()))  # stands for what shares it
    w.sum().backward()
    assert torch.isfinite(seen[0]).all() == math.isfinite(norm)
    end()
    w.grad = None
    w.sum().backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_a_scaler_that_does_nothing_is_told_nothing():
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.ones(2)
    scaling = told(w, enabled=False)
    scaling.tell([w], math.inf)
    scaling.tell_others([w], math.inf)()
    assert w.grad.tolist() == [1.0, 1.0]


def test_no_scaler_is_in_use_here():
    assert in_use() is None


def test_a_scaler_is_found_in_what_a_function_refers_to():
    scaler = torch.amp.GradScaler("cpu")
    off = torch.amp.GradScaler("cpu", enabled=False)
    assert named_in(lambda: scaler) is scaler
    assert named_in(lambda: off) is None
    assert named_in(print) is None
