"""Singular values made equal, or the largest alone, against the whole decomposition."""

import pytest
import torch

from thalweg.ascent import Context, spectral

SHAPES = ((2, 2), (5, 40), (40, 5), (32, 32), (90, 60))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-6}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def made(rows, columns, condition, seed=0):
    """A matrix with singular values from 1 down to 1/condition; U and Vᵀ; their sum."""
    g, k = torch.Generator().manual_seed(seed), min(rows, columns)
    u, v = (
        torch.linalg.qr(torch.randn(n, k, generator=g, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    s = condition ** -torch.linspace(0, 1, k, dtype=torch.float64)
    return (u * s) @ v.T, u, v.T, float(s.sum())


def polar(*matrices, **settings):
    return spectral.polar(matrices, Context(**settings))


def first(*matrices, **settings):
    return spectral.first(matrices, Context(**settings))


@dtypes
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_singular_values_are_1_up_to_a_condition_of_10000(shape, condition, size, dtype):
    g, u, vt, total = made(*shape, condition)
    (s,), (n,) = polar((size * g).to(dtype))
    a = s.double() / n
    assert s.dtype == dtype
    assert float((torch.linalg.svdvals(a) - 1).abs().max()) < TOLERANCE[dtype]
    assert n == pytest.approx(size * total, rel=TOLERANCE[dtype])
    # How exact the singular vectors are is up to the smallest value, whoever finds them.
    torch.testing.assert_close(a, u @ vt, rtol=0, atol=TOLERANCE[dtype] * max(1, condition / 100))


@dtypes
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("condition", [1e1, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_largest_singular_value_alone(shape, condition, size, dtype):
    g, u, vt, _ = made(*shape, condition)
    (s,), (n,) = first((size * g).to(dtype))
    assert n == pytest.approx(size, rel=TOLERANCE[dtype])
    torch.testing.assert_close(s.double() / n, u[:, :1] @ vt[:1], rtol=0, atol=3 * TOLERANCE[dtype])


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-11, 1e-8, 1e-5])
def test_of_two_values_that_nearly_agree_one_is_left(gap):
    _, u, vt, _ = made(20, 20, 1.0)
    values = torch.full((20,), 0.5, dtype=torch.float64)
    values[0], values[1] = 1.0, 1.0 - gap
    (s,), (n,) = first((u * values) @ vt)
    found = torch.linalg.svdvals(s / n)
    assert float(found[0]) == pytest.approx(1, rel=1e-12)
    assert float(found[1]) < 1e-14
    assert n == pytest.approx(1, rel=1e-10)


def test_values_that_all_agree():
    q = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]
    (s,), (n,) = first(q.double())
    assert n == pytest.approx(1, rel=1e-6)
    assert torch.linalg.matrix_rank(s) == 1


@dtypes
@pytest.mark.parametrize("rank", [1, 3])
def test_singular_values_of_0_stay_small_and_nothing_leaves_the_ball(rank, dtype):
    _, u, vt, _ = made(20, 30, 1.0)
    (s,), (n,) = polar((u[:, :rank] @ vt[:rank]).to(dtype))
    found = torch.linalg.svdvals(s.double() / n)
    assert float((found[:rank] - 1).abs().max()) < TOLERANCE[dtype]
    assert float(found[rank:].max()) < (1e-6 if dtype == torch.float64 else 0.05)
    assert n == pytest.approx(rank, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("work", [polar, first])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (), (1, 6), (6, 1), (0, 3), (2, 3, 0), (0,)])
def test_zeros_and_nothing(work, shape):
    (s,), (n,) = work(torch.zeros(shape))
    assert torch.equal(s, torch.zeros(shape))
    assert n == 0


@pytest.mark.parametrize("work", [polar, first])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1), (1, 7, 1, 1), (7, 1, 1), ()], ids=str)
def test_one_row_or_column_is_its_own(work, shape, monkeypatch):
    monkeypatch.setattr(spectral, "_stacked", None)  # no iteration
    t = torch.arange(1.0, 8.0)[: 7 if shape else 1].reshape(shape)
    (s,), (n,) = work(t)
    assert torch.equal(s, t)
    assert n == pytest.approx(float(t.norm()), rel=1e-6)


def test_a_convolution_is_the_matrix_of_its_filters():
    g, u, vt, total = made(6, 18, 10.0)
    (s,), (n,) = polar(g.reshape(6, 2, 3, 3))
    torch.testing.assert_close(s, n * (u @ vt).reshape(6, 2, 3, 3), rtol=0, atol=1e-10 * total)


@pytest.mark.parametrize("work", [polar, first])
def test_matrices_of_one_shape_go_together_lying_and_standing(work, monkeypatch):
    """Each comes out as it does alone, in the order and the dtype that it came in."""
    shapes = [(4, 6), (6, 4), (5,), (4, 2, 3), (3, 3), (1, 4), (6, 4), (3, 3)]
    matrices = [made(*s, 10.0, i)[0] if len(s) == 2 else None for i, s in enumerate(shapes)]
    matrices[2], matrices[3] = torch.ones(5).double(), made(4, 6, 10.0, 9)[0].reshape(4, 2, 3)
    matrices[4], matrices[6] = matrices[4].float(), matrices[6].half()
    stacked, calls = spectral._stacked, []

    def counted(work, tensors, context):
        calls.append(len(tensors))
        return stacked(work, tensors, context)

    monkeypatch.setattr(spectral, "_stacked", counted)
    found, norms = work(*matrices)
    assert sorted(calls) == [1, 1, 1, 3]  # float64 4 by 6, float32, float16, another 3 by 3
    for m, s, n in zip(matrices, found, norms, strict=True):
        (alone,), (norm,) = work(m)
        assert s.dtype == (torch.float32 if m.dtype == torch.float16 else m.dtype)
        assert s.shape == m.shape
        torch.testing.assert_close(s, alone, rtol=1e-6, atol=1e-6 if s.itemsize == 4 else 1e-12)
        assert n == pytest.approx(norm, rel=1e-6)
    calls.clear()
    monkeypatch.setattr(spectral, "_TOGETHER", 48)  # two of 24 entries at most
    again, _ = work(*matrices)
    assert sorted(calls) == [1, 1, 1, 1, 2]
    assert all(map(torch.allclose, again, found))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_are_worked_on_in_float32(dtype):
    g = (1e3 * made(12, 8, 100.0)[0]).to(dtype)
    for work in (polar, first):
        (s,), (n,) = work(g)
        (expected,), (norm,) = work(g.float())
        assert torch.equal(s, expected)
        assert n == norm


@pytest.mark.parametrize("work", [polar, first])
def test_autocast_does_not_reach_it(work):
    g = made(12, 8, 100.0)[0].float()
    plain, norms = work(g)
    with torch.autocast("cpu", torch.bfloat16):
        found, same = work(g)
    assert torch.equal(found[0], plain[0])
    assert same == norms


@pytest.mark.parametrize("work", [polar, first])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_and_stays_in_its_matrix(work, bad):
    odd, plain = torch.ones(3, 4), made(3, 4, 10.0)[0].float()
    odd[1, 2] = bad
    (_, s), (n, m) = work(odd, plain)
    (alone,), (norm,) = work(plain)
    assert n != n
    assert m == pytest.approx(norm, rel=1e-6)
    torch.testing.assert_close(s, alone)


@pytest.mark.parametrize("work", [polar, first])
def test_the_cells_of_a_grid(work):
    a, b = ([made(4, 6, c, i)[0] for i, c in enumerate((1.5, 10.0, 1e3), k)] for k in (0, 5))
    found, norms = work(torch.stack(a), torch.stack(b).mT, cells=1, norms=lambda tensors: [])
    assert [n.shape for n in norms] == [(3,), (3,)]
    for i in range(3):
        alone, norm = work(a[i], b[i].mT)
        for f, n, s, m in zip(found, norms, alone, norm, strict=True):
            torch.testing.assert_close(f[i], s, rtol=0, atol=1e-10)
            assert float(n[i]) == pytest.approx(m, rel=1e-12)


@pytest.mark.parametrize("least", [2e-9, 2e-5, 0.3])
def test_the_steps_keep_every_value_in_the_ball_and_take_all_from_the_least_to_1(least):
    x = torch.cat([torch.logspace(-12, 0, 2000), torch.linspace(0, 1, 2000)]).double()
    y = x
    for a, b in spectral._steps(least):
        y = a * y - b * y**3
        assert 0 <= float(y.min()) <= float(y.max()) <= 1 + 1e-12
    assert float((y[x >= least] - 1).abs().max()) < 1e-13
    assert float(y[x == 0].max()) == 0


@pytest.mark.parametrize("work", [spectral._polar, spectral._first])
def test_an_accelerator_reads_nothing(work):
    """On "meta" there is nothing to read: it would raise."""
    s, n = work(torch.empty(2, 4, 6, device="meta"))
    assert (s.shape, n.shape) == ((2, 4, 6), (2,))
