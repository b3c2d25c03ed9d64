"""Every ball, with every scale: how long ε is, that nothing in it does better."""

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from neighbourhoods import (
    BALLS,
    CASES,
    LAYERS,
    OVER,
    SCALES,
    SHAPES,
    close,
    context,
    draw,
    epsilon,
    inner,
    own,
    units,
    values,
)

from thalweg import parameters
from thalweg.ascent import (
    L2,
    Context,
    FanRatio,
    LInf,
    Magnitude,
    Method,
    Nuclear,
    Spectral,
    Trust,
)
from thalweg.errors import ThalwegError

cases = pytest.mark.parametrize(("ball", "over"), CASES)
seeds, powers, radii = st.integers(0, 2**32), st.floats(0, 2), st.floats(1e-3, 10)
scales = st.sampled_from(list(SCALES))


@cases
@settings(max_examples=12)
@given(seeds, scales, radii, powers)
def test_the_length_of_epsilon_in_its_own_norm(ball, over, seed, scale, rho, power):
    d, at = draw(seed), context(seed)
    method = Method(power=power, max_norm=math.inf, ball=ball(SCALES[scale], over))
    found, p = epsilon(method, d, rho, at)
    length = rho * float(p.norm) ** (1 - power)
    assert own(ball, over, found, units(scale, d, at)) == pytest.approx(length, rel=1e-9)
    assert float(p.length) == pytest.approx(math.sqrt(inner(found, found)), rel=1e-9)
    method = dataclasses.replace(method, max_norm=0.7 * float(p.length))
    cut, p = epsilon(method, d, rho, at)
    assert float(p.length) == pytest.approx(method.cap, rel=1e-9)
    close(cut, [0.7 * t for t in found])


@cases
@settings(max_examples=12)
@given(seeds, scales)
def test_nothing_in_the_ball_points_further_uphill(ball, over, seed, scale):
    d, at = draw(seed), context(seed)
    s, n = ball(SCALES[scale], over).sharp(d, at)
    a, n, u = [t / n for t in s], float(n), units(scale, d, at)
    assert own(ball, over, a, u) <= 1 + 1e-9
    assert inner(d, a) == pytest.approx(n, rel=1e-9)
    for i in range(8):
        # Anywhere, and beside the maximizer.
        x = [r * k for r, k in zip(draw(seed + i), u, strict=True)]
        beside = [t + 0.1 * k * r for t, k, r in zip(a, u, draw(seed - i), strict=True)]
        for e in (x, beside):
            assert inner(d, e) / own(ball, over, e, u) <= n * (1 + 1e-9)


@cases
@settings(max_examples=12)
@given(seeds, scales)
def test_the_dual_norm(ball, over, seed, scale):
    d, at = draw(seed), context(seed)
    _, n = ball(SCALES[scale], over).sharp(d, at)
    each = [float(BALLS[ball][1](t * u)) for t, u in zip(d, units(scale, d, at), strict=True)]
    groups = {"all": [0] * len(each), "tensor": range(len(each)), "layer": LAYERS}[over]
    layers = [
        math.hypot(*[x for x, k in zip(each, groups, strict=True) if k == g]) for g in {*groups}
    ]
    assert float(n) == pytest.approx(sum(layers), rel=1e-9)


@cases
@settings(max_examples=12)
@given(seeds, scales, st.integers(1, 4))
def test_all_cells_at_once_are_the_loop_over_cells(ball, over, seed, scale, many):
    cells = [(draw(4 * (seed + i)), context(seed + i)) for i in range(many)]
    stacked = [torch.stack(ts) for ts in zip(*[d for d, _ in cells], strict=True)]
    held = {
        "exp_avg_sq": [
            torch.stack(vs) for vs in zip(*[at.state("exp_avg_sq") for _, at in cells], strict=True)
        ],
        "step": [3.0] * len(SHAPES),
    }
    grid = Context(
        weights=[torch.stack(ws) for ws in zip(*[at.weights for _, at in cells], strict=True)],
        step=3,
        norm=parameters.cell_norms,
        norms=lambda tensors: [parameters.cell_norms([t]) for t in tensors],
        state=held.get,
        layers=lambda: LAYERS,
        cells=1,
    )
    s, n = ball(SCALES[scale], over).sharp(stacked, grid)
    assert n.shape == (many,)
    for i, (d, at) in enumerate(cells):
        alone, norm_alone = ball(SCALES[scale], over).sharp(d, at)
        assert float(n[i]) == pytest.approx(float(norm_alone), rel=1e-9)
        close([t[i] for t in s], alone, rtol=1e-7, atol=1e-9 * float(n[i]))


@given(seeds, radii)
@settings(max_examples=25)
def test_in_the_spectral_ball_all_singular_values_become_the_radius(seed, rho):
    d = draw(4 * seed)
    assume(all(values(t).min() > 1e-4 * values(t).max() for t in d))
    found, _ = epsilon(Method(ball=Spectral()), d, rho, context(seed))
    fan, _ = epsilon(Method(ball=Spectral(FanRatio())), d, rho, context(seed))
    for e, f, d_ in zip(found, fan, d, strict=True):
        torch.testing.assert_close(values(e), torch.full_like(values(e), rho), rtol=1e-10, atol=0)
        ratio = math.sqrt(len(e) ** 2 / e.numel()) if e.ndim else 1.0
        torch.testing.assert_close(f, ratio * e, rtol=1e-10, atol=1e-10 * rho)
        assert inner([e], [d_]) > 0


@given(seeds, radii)
@settings(max_examples=25)
def test_in_the_nuclear_ball_one_singular_value_becomes_the_radius_and_the_others_0(seed, rho):
    d = draw(4 * seed)
    found, _ = epsilon(Method(ball=Nuclear()), d, rho, context(seed))
    for e in found:
        first, *others = (values(e) / rho).tolist()
        assert first == pytest.approx(1, rel=1e-10)
        assert max(others, default=0) < 1e-14


@pytest.mark.parametrize("ball", [L2(over="tensor"), L2(Trust()), LInf(), Spectral(), Nuclear()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_do_not_run_over(ball, dtype):
    """A sum of 10⁵ entries of 100 is beyond float16, and a small tensor's share of it, too."""
    d = [torch.full((400, 250), 100.0, dtype=dtype), torch.full((2, 2), 2e-7, dtype=dtype)]
    w = [torch.full((400, 250), 1e-3, dtype=dtype), torch.full((2, 2), 3e-4, dtype=dtype)]
    found, p = epsilon(Method(ball=ball), d, 0.1, Context(weights=w))
    wide = [[t.double() for t in ts] for ts in (d, w)]
    expected, q = epsilon(Method(ball=ball), wide[0], 0.1, Context(weights=wide[1]))
    assert float(p.norm) == pytest.approx(float(q.norm), rel=1e-5)
    close([t.double() for t in found], expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("ball", [L2(), L2(over="tensor"), L2(Magnitude()), LInf(), Spectral()])
def test_sparse_gradients(ball):
    rows = torch.tensor([[1.0, 2.0], [3.0, -5.0], [1.0, 0.5]])
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], rows, (4, 2), check_invariants=True)
    at = Context(weights=[torch.arange(8.0).reshape(4, 2)])
    found, p = epsilon(Method(ball=ball), [sparse], 0.1, at)
    expected, q = epsilon(Method(ball=ball), [sparse.to_dense()], 0.1, at)
    assert float(p.norm) == pytest.approx(float(q.norm), rel=1e-6)
    close([t.to_dense() for t in found], expected, rtol=1e-6)


@pytest.mark.parametrize("ball", list(BALLS))
def test_no_way_uphill_where_the_gradient_is_0_or_not_finite(ball):
    for bad in (0.0, math.nan, math.inf):
        for over in OVER:
            d = [torch.full(shape, bad) for shape in SHAPES]
            p = Method(ball=ball(over=over)).perturbation(d, 0.1)
            assert float(p.factor) == 0


@pytest.mark.parametrize("ball", list(BALLS))
@pytest.mark.parametrize("bad", ["tensor", 3, Magnitude], ids=str)
def test_the_scale_is_a_part(ball, bad):
    with pytest.raises(ThalwegError, match=r"scale must be a part .* got .*: pass an object"):
        ball(bad)


def test_the_choice_of_over_is_checked():
    with pytest.raises(ThalwegError, match=r"over must be .* got 'rows'"):
        Spectral(over="rows")
