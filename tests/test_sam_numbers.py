"""Gradients that are zero, infinite, NaN, huge or tiny."""

import math

import pytest
import torch
from torch import nn

from thalweg import SAM, Method


def step_on(gradients, dtype=torch.float32, form="passes", **kwargs):
    """Take a SAM step on w whose ascent gradient is given; the descent gradient is all 2."""
    w = torch.ones(len(gradients[0]), dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.25)
    sam = SAM(optimizer, None, 0.5, **kwargs)
    ascent = torch.tensor(gradients[0], dtype=dtype)
    seen = []
    if form == "passes":
        for here in sam.passes():
            seen.append(w.detach().clone())
            w.grad = ascent if here.ascent else torch.full_like(w, 2.0)
    else:
        w.grad = ascent
        with sam.perturbed():
            seen = [torch.ones_like(w), w.detach().clone()]
            w.grad = torch.full_like(w, 2.0)
    optimizer.step()
    assert torch.equal(w, torch.full_like(w, 0.5))  # the base optimizer's step, whatever the ascent
    return sam.last, seen[1].double() - seen[0].double()


@pytest.mark.parametrize("form", ["passes", "block"])
@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "gradient",
    [[0.0, 0.0], [1.0, math.inf], [1.0, -math.inf], [1.0, math.nan], [math.nan] * 2],
    ids=str,
)
def test_no_move_along_a_gradient_that_is_zero_or_not_finite(gradient, power, form, telemetry):
    last, epsilon = step_on([gradient], power=power, form=form, telemetry=telemetry)
    assert torch.equal(epsilon, torch.zeros(2, dtype=torch.float64))
    assert not last.moved
    assert last.perturbation_norm == 0
    assert last.capped == 0
    if any(map(math.isnan, gradient)):
        assert math.isnan(last.grad_norm)
    else:
        assert last.grad_norm == math.hypot(*gradient)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e30, torch.float32),
        (1e-30, torch.float32),
        (1e-22, torch.float32),
        (1e-42, torch.float32),
        (1e30, torch.bfloat16),
        (1e-30, torch.bfloat16),
        (1e4, torch.float16),
        (1e-3, torch.float16),
        (1.2e-7, torch.float16),
        (1e150, torch.float64),
    ],
    ids=str,
)
def test_the_norm_neither_overflows_nor_underflows(size, dtype):
    held = torch.tensor([3 * size, -4 * size], dtype=dtype)
    norm = float(torch.linalg.vector_norm(held.double()))
    last, epsilon = step_on([held.tolist()], dtype)
    assert last.grad_norm == pytest.approx(norm, rel=1e-6)
    assert last.perturbation_norm == pytest.approx(0.5, rel=1e-6)
    expected = 0.5 * held.double() / norm
    step = 4 * torch.finfo(dtype).eps  # of w + ε, which is near 1
    torch.testing.assert_close(epsilon, expected, rtol=0, atol=step)


def test_huge_and_tiny_together():
    last, epsilon = step_on([[1e30, 1e-30, 1.0]])
    assert last.grad_norm == pytest.approx(1e30, rel=1e-6)
    torch.testing.assert_close(epsilon[0], torch.tensor(0.5, dtype=torch.float64))
    assert epsilon[1:].tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:rounding swallows")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_many_16_bit_entries_are_summed_in_float32(dtype):
    last, _ = step_on([[1.0] * 100_000], dtype)
    assert last.grad_norm == pytest.approx(100_000**0.5, rel=1e-6)


def test_above_power_1_a_perturbation_is_at_most_1_long_unless_told_otherwise():
    last, epsilon = step_on([[3e-3, 4e-3]], power=2)
    assert (last.perturbation_norm, last.capped) == (pytest.approx(1.0), 1.0)
    torch.testing.assert_close(epsilon.norm().item(), 1.0, rtol=0, atol=1e-6)
    last, _ = step_on([[3e-3, 4e-3]], method=Method(power=2, max_norm=math.inf))
    assert (last.perturbation_norm, last.capped) == (pytest.approx(100.0), 0.0)
    last, _ = step_on([[3.0, 4.0]], power=2)
    assert (last.perturbation_norm, last.capped) == (pytest.approx(0.1), 0.0)


@pytest.mark.parametrize(("power", "length"), [(0, 2.5), (0.5, 0.5 * 5**0.5), (1, 0.5)])
def test_up_to_power_1_there_is_no_cap_unless_asked_for(power, length):
    last, _ = step_on([[3.0, 4.0]], power=power)
    assert (last.perturbation_norm, last.capped) == (pytest.approx(length), 0.0)
    last, _ = step_on([[3.0, 4.0]], method=Method(power=power, max_norm=0.25))
    assert (last.perturbation_norm, last.capped) == (pytest.approx(0.25), 1.0)


def test_the_backup_follows_a_parameter_to_another_dtype(tools):
    layer = nn.Linear(3, 3)
    sam = SAM(torch.optim.SGD(layer.parameters(), lr=0.0), layer, rho=0.5)
    for change in (layer.float, layer.double, layer.bfloat16):
        change()
        if layer.weight.dtype == torch.float64:
            with torch.no_grad():
                layer.weight += 1e-12  # more digits than float32 has
        before = layer.weight.detach().clone()
        layer.zero_grad()
        for _ in sam.passes():
            (layer(torch.eye(3, dtype=before.dtype)) ** 2).sum().backward()
        assert sam.last.moved
        assert torch.equal(layer.weight, before)


def test_no_gradient_anywhere_is_no_move():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, rho=0.5)
    with pytest.warns(UserWarning, match=r"no parameter .* got a gradient .*: call backward\(\)"):
        for _ in sam.passes():
            pass
    sam.optimizer.step()
    assert w.tolist() == [1.0, 1.0]
    assert sam.last.perturbation_norm == 0
