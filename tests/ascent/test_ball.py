"""Geometry: how long ε is, and where it points."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg import parameters
from thalweg.ascent import L2, Context, Method, size

numbers = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)
vectors = st.lists(numbers, min_size=2, max_size=6).filter(any)
pairs = st.tuples(numbers, numbers).filter(any)
powers = st.floats(0, 3)
radii = st.floats(1e-3, 10)


def epsilon(g, rho, power, cap=math.inf):
    """The whole of ε as one vector, from a gradient that is cut into two tensors."""
    g = torch.tensor(g, dtype=torch.float64)
    p = Method(power=power, max_norm=cap).perturbation([g[:1], g[1:]], rho)
    return g, torch.cat([p.factor * d for d in p.direction]), p


@given(vectors, radii, powers)
def test_the_length_of_epsilon(g, rho, power):
    g, found, p = epsilon(g, rho, power)
    n = float(g.norm())
    assert float(found.norm()) == pytest.approx(rho * n ** (1 - power), rel=1e-9)
    assert float(p.length) == pytest.approx(rho * n ** (1 - power), rel=1e-9)
    assert float(p.norm) == pytest.approx(n, rel=1e-12)


@given(vectors, radii, powers)
def test_epsilon_points_along_the_gradient(g, rho, power):
    g, found, _ = epsilon(g, rho, power)
    torch.testing.assert_close(found / found.norm(), g / g.norm(), rtol=1e-9, atol=1e-12)


@given(vectors, radii, powers, st.floats(1e-2, 1e2))
def test_homogeneity(g, rho, power, c):
    _, once, _ = epsilon(g, rho, power)
    _, scaled, _ = epsilon([c * x for x in g], rho, power)
    torch.testing.assert_close(scaled, c ** (1 - power) * once, rtol=1e-9, atol=0)


@given(vectors, radii, powers, st.floats(1e-3, 1e3))
def test_the_cap_is_never_exceeded_and_changes_nothing_below_it(g, rho, power, cap):
    _, free, _ = epsilon(g, rho, power)
    _, found, p = epsilon(g, rho, power, cap)
    length = float(free.norm())
    assert float(found.norm()) <= cap * (1 + 1e-12)
    assert float(p.length) == pytest.approx(min(length, cap), rel=1e-9)
    if length < cap * (1 - 1e-9):
        assert torch.equal(found, free)


@given(
    radii, powers, st.sampled_from([math.inf, math.nan]), st.floats(1e-3, 1e3) | st.just(math.inf)
)
def test_no_size_where_the_norm_is_not_finite(rho, power, norm, cap):
    assert float(size(rho, torch.tensor(norm), power, cap)) == 0


@given(radii, st.floats(1e-3, 3), st.floats(1e-3, 1e3) | st.just(math.inf))
def test_no_size_at_a_norm_of_0_for_any_power_above_0(rho, power, cap):
    assert float(size(rho, torch.tensor(0.0), power, cap)) == 0


@given(radii)
def test_at_power_0_the_size_is_rho_even_at_a_norm_of_0(rho):
    assert float(size(rho, torch.tensor(0.0, dtype=torch.float64), 0.0)) == rho


@given(st.tuples(pairs, pairs))
def test_the_ball_s_maximizer(both):
    """L2 gives s = n·a where a maximizes <d, a> in the unit ball: nothing in it does better."""
    d, b = (torch.tensor(v, dtype=torch.float64) for v in both)
    (s,), n = L2().sharp([d], Context())
    a = s / n
    assert float(a.norm()) == pytest.approx(1, rel=1e-12)
    assert float(d @ a) == pytest.approx(float(n), rel=1e-12)
    assert float(d @ (b / b.norm())) <= float(n) * (1 + 1e-12)


@given(
    st.lists(st.tuples(pairs, radii, powers), min_size=1, max_size=5),
    st.sampled_from([math.inf, 0.5]),
)
def test_for_all_cells_of_a_grid_at_once_it_equals_the_loop(cells, cap):
    method = Method(max_norm=cap)
    g = torch.tensor([c[0] for c in cells], dtype=torch.float64)
    rho, power = (torch.tensor([c[i] for c in cells], dtype=torch.float64) for i in (1, 2))

    grid = Context(norm=parameters.cell_norms, cells=1)
    p = method.perturbation([g[:, :1], g[:, 1]], rho, power, context=grid)
    together = p.factor[:, None] * torch.column_stack([*p.direction])
    for row, (gradient, r, p) in zip(together, cells, strict=True):
        _, alone, _ = epsilon(gradient, r, p, cap)
        torch.testing.assert_close(row, alone, rtol=1e-9, atol=1e-12)
