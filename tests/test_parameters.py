"""A list of tensors as one vector."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg import layout, parameters


def tensors(dtype, sizes=((3, 4), (5,), ()), scale=1.0):
    draw = torch.Generator().manual_seed(0)
    return [
        (scale * torch.randn(size, generator=draw, dtype=torch.float64)).to(dtype) for size in sizes
    ]


def exact(list_of_tensors):
    return math.sqrt(
        math.fsum(x * x for t in list_of_tensors for x in t.double().flatten().tolist())
    )


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_the_norm_is_that_of_one_long_vector(dtype):
    held = tensors(dtype)
    found = parameters.norm(held)
    assert found.dtype == torch.float64
    assert found.ndim == 0
    assert float(found) == pytest.approx(exact(held), rel=1e-6 if dtype != torch.float64 else 1e-15)


@pytest.mark.parametrize("exponent", range(-44, 38, 2))
def test_the_norm_in_float32_holds_its_digits_over_the_whole_range(exponent):
    held = tensors(torch.float32, scale=10.0**exponent)
    assert float(parameters.norm(held)) == pytest.approx(exact(held), rel=1e-6)


def test_dtypes_mix():
    held = tensors(torch.float64) + tensors(torch.bfloat16) + tensors(torch.float32)
    assert float(parameters.norm(held)) == pytest.approx(exact(held), rel=1e-6)


def test_sparse_tensors_count_repeated_rows_as_their_sum():
    sparse = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 2), (3, 2), check_invariants=True)
    assert float(parameters.norm([sparse])) == pytest.approx(8**0.5)


def test_nothing_has_length_zero():
    assert float(parameters.norm([])) == 0
    assert float(parameters.dot([], [])) == 0
    assert float(parameters.norm([torch.zeros(3)])) == 0


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_shows(bad):
    found = float(parameters.norm([torch.ones(3), torch.tensor([1.0, bad])]))
    assert math.isnan(found) if math.isnan(bad) else found == math.inf


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_the_inner_product(dtype):
    left, right = tensors(dtype), [t.flip(0) if t.ndim else t for t in tensors(dtype)]
    expected = math.fsum(
        x * y
        for a, b in zip(left, right, strict=True)
        for x, y in zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True)
    )
    assert float(parameters.dot(left, right)) == pytest.approx(expected, rel=1e-5)


def test_the_inner_product_of_16_bit_tensors_is_summed_in_float32():
    ones = [torch.ones(100_000, dtype=torch.float16)]
    assert float(parameters.dot(ones, ones)) == 100_000


def test_the_inner_product_wants_lists_of_one_length():
    with pytest.raises(ValueError, match="lists must be of one length"):
        parameters.dot([torch.ones(1)], [torch.ones(1), torch.ones(1)])


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=8), st.integers(1, 7))
def test_the_norm_of_a_cell_is_the_norm(numbers, cut):
    held = [torch.tensor(part, dtype=torch.float64) for part in (numbers[:cut], numbers[cut:])]
    cell, fast = parameters.cell_norms([t[None] for t in held]), parameters.norm(held)
    torch.testing.assert_close(cell, fast[None], rtol=1e-14, atol=1e-160)


def test_every_cell_has_its_own_norm():
    held = [
        t.expand(4, *t.shape) * torch.arange(4.0, dtype=torch.float64).reshape(-1, *[1] * t.ndim)
        for t in tensors(torch.float64)
    ]
    together = parameters.cell_norms(held)
    alone = torch.stack([parameters.norm([t[i] for t in held]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=40))
def test_vectors_hold_every_entry_once_and_little_of_it_twice(sizes):
    tensors = [torch.full((size,), float(i)) for i, size in enumerate(sizes)]
    found = layout.vectors(tensors)
    counts = torch.bincount(torch.cat(found).long(), minlength=len(sizes))
    assert counts.tolist() == sizes
    large = {t.data_ptr() for t in tensors if t.numel() >= layout.SMALL}
    assert all(v.numel() <= 2**18 for v in found if v.data_ptr() not in large)
    assert large <= {v.data_ptr() for v in found}  # not copied
