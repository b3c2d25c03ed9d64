"""One norm for every tensor: exact whatever its size, and quick where there are many."""

import math

import pytest
import torch

from thalweg import layout, parameters

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LONG = layout.SMALL + 77
orders = pytest.mark.parametrize("order", [1, 2])


def draw(*sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=g, dtype=torch.float64) for size in sizes]


def exact(tensor, order):
    entries = tensor.double().flatten().tolist()
    largest = max(map(abs, entries), default=0.0) or 1.0
    return largest * math.fsum(abs(x / largest) ** order for x in entries) ** (1 / order)


@orders
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_of_each(dtype, order):
    held = [t.to(dtype) for t in draw((3, 4), (5,), (), (0,), (LONG,), (2, 0), (130, 140))]
    found = parameters.norms(held, order)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    assert all(type(n) is float for n in found)
    assert found == pytest.approx([exact(t, order) for t in held], rel=tolerance)


@orders
@pytest.mark.parametrize("size", [10, LONG], ids=["short", "long"])
@pytest.mark.parametrize("exponent", range(-44, 38, 4))
def test_float32_holds_its_digits_over_the_whole_range(exponent, size, order):
    held = [(10.0**exponent * t).float() for t in draw((size,))]
    expected = [exact(t, order) for t in held]
    assert parameters.norms(held, order) == pytest.approx(expected, rel=1e-6)


@orders
def test_a_long_float32_tensor(order):
    t = torch.full((40_000_000,), 1.1)
    assert parameters.norms([t], order) == pytest.approx(
        [float(t[0]) * t.numel() ** (1 / order)], rel=1e-6
    )


def test_kinds_mix_and_keep_their_places():
    sparse = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 2), (3, 2), check_invariants=True)
    held = [t.to(d) for t, d in zip(draw((4,), (LONG,), (5,), (6,)), DTYPES, strict=True)]
    held = [*held[:2], sparse, *held[2:]]
    expected = [exact(t.to_dense() if t.is_sparse else t, 2) for t in held]
    assert parameters.norms(held) == pytest.approx(expected, rel=1e-6)
    assert expected[2] == pytest.approx(8**0.5)


def test_no_tensors():
    assert parameters.norms([]) == []


@pytest.mark.parametrize("size", [3, LONG], ids=["short", "long"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_shows_in_its_own_norm(bad, size):
    (t,) = draw((size,))
    t[1] = bad
    odd, plain = parameters.norms([t.float(), torch.ones(4)])
    assert plain == 2
    assert math.isnan(odd) if math.isnan(bad) else odd == math.inf


def test_weights_that_require_gradients():
    assert parameters.norms([torch.nn.Parameter(torch.ones(4))]) == [2.0]


def test_many_small_tensors_are_one_call_and_one_read(monkeypatch):
    calls = []

    def counted(name, function):
        def call(*args, **settings):
            calls.append(name)
            return function(*args, **settings)

        return call

    monkeypatch.setattr(torch, "segment_reduce", counted("norm", torch.segment_reduce))
    monkeypatch.setattr(torch, "_foreach_norm", counted("each", torch._foreach_norm))
    monkeypatch.setattr(parameters, "_norm", counted("one", parameters._norm))
    monkeypatch.setattr(torch.Tensor, "tolist", counted("read", torch.Tensor.tolist))
    monkeypatch.setattr(torch.Tensor, "__float__", counted("read", torch.Tensor.__float__))
    parameters.norms([torch.ones(5)] * 200)
    assert calls == ["norm", "read"]


@orders
def test_where_reading_is_costly_nothing_is_read(order, monkeypatch):
    held = [t.to(d) for t, d in zip(draw((4,), (LONG,), (5,), (6,)), DTYPES, strict=True)]
    expected = [exact(t, order) for t in held]
    monkeypatch.setattr(layout, "costly_to_read", lambda device: True)
    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "__float__", "__bool__"):
            patch.setattr(torch.Tensor, name, None)
        found = parameters.norms(held, order)
    assert [(n.dtype, n.ndim) for n in found] == [(torch.float64, 0)] * 4
    assert [float(n) for n in found] == pytest.approx(expected, rel=1e-6)


class Special(torch.Tensor):
    """Not a plain tensor."""


def test_special_tensors_are_floats_too():
    held = [draw((4,))[0].as_subclass(Special), *draw((LONG,), (5,))]
    assert parameters.norms(held) == pytest.approx([exact(t, 2) for t in held], rel=1e-14)
