"""The guard of the guards: with SAM spoiled, each shared check must fail."""

import dataclasses
import functools
import math

import pytest
import torch

from thalweg import base, gradients, hold, parameters, replay
from thalweg.ascent import Method, method

TRUE_SIZE = method.size
TRUE_PERTURBATION = Method.perturbation


def no_rho(patch):
    patch.setattr(base, "rhos", lambda *args: [])


def other_sign(patch):
    patch.setattr(method, "size", lambda *args: -TRUE_SIZE(*args))
    patch.setattr(base, "told", lambda *args: base.Last(perturbation_norm=1.0))


def no_normalization(patch):
    patch.setattr(method, "size", lambda rho, n, power, cap, *_: TRUE_SIZE(rho, n, 0.0, cap))


def always_normalized(patch):
    patch.setattr(method, "size", lambda rho, n, power, cap, *_: TRUE_SIZE(rho, n, 1.0, cap))


def no_cap(patch):
    patch.setattr(method, "size", lambda rho, n, power, cap, *_: TRUE_SIZE(rho, n, power, math.inf))


def half_the_norm(patch):
    def perturbation(self, g, *args, context, **kw):
        half = dataclasses.replace(context, norm=lambda t: parameters.norm(t[:1]))
        return TRUE_PERTURBATION(self, g, *args, context=half, **kw)

    patch.setattr(Method, "perturbation", perturbation)


def no_restore(patch):
    patch.setattr(hold.Weights, "restore", lambda self: vars(self).update(_away=[], _elsewhere=[]))


def restore_by_subtraction(patch):
    true_move = hold.Weights.move

    def move(self, moves):
        self.undo = [(w, d, factor) for w, d, factor in moves]
        true_move(self, moves)

    @torch.no_grad()
    def restore(self):
        if self._away:
            for w, d, factor in self.undo:
                torch._foreach_sub_(w, [factor * t for t in d])
        self._away = []

    patch.setattr(hold.Weights, "move", move)
    patch.setattr(hold.Weights, "restore", restore)


def no_replay(patch):
    patch.setattr(replay.RandomState, "put_back", lambda self: None)


def no_held_buffers(patch):
    patch.setattr(replay.Buffers, "put_back", lambda self: None)


def ascent_gradient_kept(patch):
    patch.setattr(gradients.Aside, "put_back", lambda self: None)


AGREEMENT = {
    no_rho: [0.0, 0.5, 1.0, 2.0],
    other_sign: [0.0, 0.5, 1.0, 2.0],
    no_normalization: [0.5, 1.0, 2.0],
    always_normalized: [0.0, 0.5, 2.0],
    no_cap: [2.0],
    half_the_norm: [0.5, 1.0],
    no_restore: [0.0, 0.5, 1.0, 2.0],
    ascent_gradient_kept: [0.0, 0.5, 1.0, 2.0],
}
CASES = [
    (mutate, power, form)
    for mutate, powers in AGREEMENT.items()
    for power in powers
    # the other forms clear the ascent gradient in another way
    for form in (["passes"] if mutate is ascent_gradient_kept else ["passes", "closure", "block"])
]


@functools.cache  # unspoiled, once is enough
def agrees(tools, form, power):
    tools.check_agreement(form, "momentum", power, torch.float64, 1e-13)


@pytest.mark.parametrize(("mutate", "power", "form"), CASES)
def test_agreement_with_two_passes_is_noticed(tools, monkeypatch, mutate, power, form):
    agrees(tools, form, power)
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        tools.check_agreement(form, "momentum", power, torch.float64, 1e-13)


@pytest.mark.parametrize("form", ["passes", "closure", "block"])
@pytest.mark.parametrize("mutate", [no_rho, no_restore, restore_by_subtraction])
def test_the_exact_restore_is_noticed(tools, monkeypatch, mutate, form):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        tools.check_restore(form)


@pytest.mark.parametrize("form", ["passes", "closure", "block"])
@pytest.mark.parametrize("mutate", [no_replay, no_held_buffers])
def test_random_numbers_and_buffers_are_noticed(tools, monkeypatch, mutate, form):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        tools.check_random_numbers_and_buffers(form)
