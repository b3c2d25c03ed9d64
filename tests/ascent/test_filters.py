"""Which parameters and which entries are perturbed."""

import re

import pytest
import torch
from torch import nn

from thalweg import ThalwegError
from thalweg.ascent import Context, LargestEntries, LargestTensors, Named, Normalization

P = torch.zeros(3)


class BatchNormAct2d(nn.BatchNorm2d):
    """A normalization layer by what it comes from, not by its own name."""


class Normalizer(nn.Linear):
    """None, though its name begins so."""


@pytest.mark.parametrize(
    ("layer", "is_one"),
    [
        (BatchNormAct2d(3), True),
        (nn.BatchNorm2d(3), True),
        (nn.LayerNorm(3), True),
        (nn.RMSNorm(3), True),
        (nn.InstanceNorm1d(3), True),
        (Normalizer(3, 3), False),
        (nn.Linear(3, 3), False),
        (None, False),
    ],
    ids=str,
)
def test_what_is_a_normalization_layer(layer, is_one):
    assert Normalization()(P, "0.weight", layer) is is_one


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("(",), "pattern must be a regular expression, got '\\('"),
        ((3,), "pattern must be a regular expression, got 3"),
        ((b"x",), "pattern must be a regular expression, got b'x'"),
        ((re.compile(b"x"),), "pattern must be a regular expression, got re.compile"),
        (("x", "no"), "invert must be True or False, got 'no'"),
        (("x", 1), "invert must be True or False, got 1"),
    ],
    ids=str,
)
def test_names_are_asked_for_by_an_expression(words, told):
    with pytest.raises(ThalwegError, match=told):
        Named(*words)


def test_names_that_fit_or_do_not():
    names = ("head.weight", "body.bias", "body.weight")
    for pattern in ("head|bias", re.compile("head|bias")):
        assert [Named(pattern)(P, n, None) for n in names] == [True, True, False]
        assert [Named(pattern, invert=True)(P, n, None) for n in names] == [False, False, True]


def test_the_largest_tensors_are_so_for_their_number_of_entries():
    """By its whole length the first would be the largest, the second the next."""
    d = [torch.ones(9), torch.full((4,), -1.25), 1.5 * torch.ones(1), torch.zeros(2)]
    for count, kept in ((1, [2]), (2, [1, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])):
        found = LargestTensors(count)(d, Context())
        for i, (f, t) in enumerate(zip(found, d, strict=True)):
            assert torch.equal(f, t if i in kept else torch.zeros_like(t))


def test_all_that_are_as_large_as_the_last_one_are_kept():
    (found,) = LargestEntries(0.25)([torch.tensor([1.0, -1.0, 1.0, 0.5])], Context())
    assert found.tolist() == [1.0, -1.0, 1.0, 0.0]
    d = [torch.ones(4), -torch.ones(1), torch.zeros(1)]
    assert [bool(t.any()) for t in LargestTensors(1)(d, Context())] == [True, True, False]
