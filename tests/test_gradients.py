"""Which gradient is which."""

import pytest
import torch

from thalweg.gradients import Aside, Both


def leaf(*values):
    return torch.tensor(values, requires_grad=True)


def test_aside_takes_away_and_brings_back_the_same_tensors():
    a, b = leaf(1.0), leaf(2.0)
    (3 * a).sum().backward()
    there = a.grad
    held = Aside([a, b])
    assert a.grad is None
    b.grad = torch.tensor([7.0])
    a.grad = torch.tensor([9.0])
    held.put_back()
    assert a.grad is there
    assert a.grad.item() == 3
    assert b.grad is None
    a.grad = None
    held.put_back()  # the second time there is nothing to bring back
    assert a.grad is None


def test_a_gradient_in_a_bucket_is_copied_aside_as_the_next_pass_overwrites_it():
    a, bucket = leaf(1.0, 2.0), torch.tensor([3.0, 4.0, 5.0])
    a.grad = bucket[:2]
    held = Aside([a])
    bucket.zero_()
    held.put_back()
    assert a.grad.tolist() == [3, 4]


def test_merge_adds_what_came_since():
    a, b, c, d = leaf(1.0), leaf(1.0), leaf(1.0), leaf(1.0)
    a.grad, b.grad = torch.tensor([1.0]), torch.tensor([2.0])
    there = a.grad
    held = Aside([a, b, c, d])
    a.grad, c.grad = torch.tensor([10.0]), torch.tensor([20.0])
    held.merge()
    assert a.grad is there
    assert [None if p.grad is None else p.grad.item() for p in (a, b, c, d)] == [11, 2, 20, None]


@pytest.mark.parametrize("clear", [None, "none", "zeros"])
def test_both_tells_g_from_h(clear):
    a = leaf(1.0, 2.0)
    a.grad = torch.tensor([1.0, 2.0])
    both = Both([a])
    a.grad = torch.tensor([100.0, 200.0])
    both.remember()
    if clear == "none":
        a.grad = None
    elif clear == "zeros":
        a.grad.zero_()
    for _ in range(2):  # two micro-batches
        (a * torch.tensor([5.0, 6.0])).sum().backward()
    both.forget()
    assert both.here[0].tolist() == [1, 2]
    assert both.uphill[0].tolist() == [10, 12]
    both.write([torch.tensor([7.0, 8.0])])
    held = torch.tensor([100.0, 200.0]) if clear is None else torch.zeros(2)
    assert torch.equal(a.grad, held + torch.tensor([7.0, 8.0]))
    assert not a._backward_hooks


def test_both_knows_the_parameters_that_have_both():
    a, b, c = leaf(1.0), leaf(1.0), leaf(1.0)
    a.grad, b.grad = torch.tensor([1.0]), torch.tensor([2.0])
    both = Both([a, b, c])
    a.grad, b.grad, c.grad = torch.tensor([5.0]), None, torch.tensor([6.0])
    assert [p is a for p in both.parameters] == [True]
    assert [g.item() for g in both.here] == [1]
    assert [h.item() for h in both.uphill] == [5]


def test_a_combine_that_returns_too_few_is_found():
    a = leaf(1.0)
    a.grad = torch.tensor([1.0])
    both = Both([a])
    with pytest.raises(ValueError, match="zip"):
        both.write([])
