"""What tests of Accelerate and of Transformers share: a state of their own, and a method."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from thalweg import Method


@contextlib.contextmanager
def own_state():
    """Give a test its own state of Accelerate, of which a process has but one."""
    before = dict(os.environ)

    def reset():
        for state in (AcceleratorState, PartialState, GradientState):
            state._shared_state.clear()

    reset()
    try:
        yield
    finally:
        reset()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def fresh():
    with own_state():
        yield


def same(left, right):
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class EverySecond:
    def __call__(self, step):
        return step % 2 == 0


class Growing:
    def __call__(self, rho, step, lr):
        return rho * (1 + step / 10)


STATEFUL = Method(gate=EverySecond(), schedule=Growing())
