"""Buffers and random numbers: what every pass finds, and where the first one leaves them."""

import torch
from torch import nn

from thalweg.replay import Buffers, RandomState


class Custom(nn.Module):
    """A normalization layer of one's own, known by its running statistics."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))
        self.register_buffer("running_var", None)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.running_mean.lerp_(x.mean(0), 0.1)
            self.calls.add_(1)
        return x - self.running_mean


class Counter(nn.Module):
    """Has a buffer, but no running statistics."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))


def test_running_statistics_are_put_back_for_any_layer_that_has_them():
    model = nn.Sequential(Custom(), nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval(), Counter())
    buffers = dict(model.named_buffers())
    before = {name: b.clone() for name, b in buffers.items()}
    addresses = {name: b.data_ptr() for name, b in buffers.items()}

    def change():
        model[:3](torch.randn(8, 2) + 3)
        model[3].calls.add_(1)
        model[2].running_mean.add_(1)

    held = Buffers(model)
    held.save()
    change()
    held.put_back()
    changed = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {"2.running_mean"}  # of a layer in evaluation mode
    assert {name: b.data_ptr() for name, b in model.named_buffers()} == addresses


def test_a_buffer_is_held_in_training_and_where_the_first_pass_changed_it():
    model = nn.Sequential(Counter(), Counter().eval(), Counter().eval())
    model[0].register_buffer("mask", torch.ones(2, dtype=torch.bool))
    held = Buffers(model)
    model[1].calls.add_(1)  # the first pass
    held.save()
    for layer in model:
        layer.calls.add_(1)  # the second
    model[0].calls.data.fill_(7.0)  # which no version counter tells of
    held.put_back()
    assert [layer.calls.item() for layer in model] == [0.0, 1.0, 1.0]
    assert len(held._layers) == 3


def test_a_buffer_that_comes_or_grows_in_a_pass_is_held():
    layer = Counter()
    layer.register_buffer("late", None)
    held = Buffers(layer)
    layer.late = torch.ones(2)
    held.save()
    layer.late = torch.ones(3)
    layer.calls.resize_(4).fill_(5.0)
    held.put_back()
    assert layer.late.tolist() == [1.0, 1.0]
    assert layer.calls.tolist() == 0.0


def test_a_buffer_that_is_replaced_is_held():
    layer = Counter()
    held = Buffers(layer)
    layer.calls = layer.calls + 1
    after_one = layer.calls
    held.save()
    layer.calls = layer.calls + 1
    held.put_back()
    assert layer.calls is after_one
    assert layer.calls.item() == 1.0


def test_no_model_has_no_buffers():
    held = Buffers(None)
    held.save()
    held.put_back()


def test_the_random_state_is_put_back():
    torch.manual_seed(3)
    state = RandomState()
    first = torch.rand(5)
    torch.rand(1000)
    state.put_back()
    assert torch.equal(torch.rand(5), first)
