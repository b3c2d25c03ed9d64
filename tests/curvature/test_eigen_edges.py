"""Searches for eigenvalues: what they overlook, what they leave behind, what they refuse."""

import math

import nets
import pytest
import torch
from searches import SEARCHES, diagonal, each_search

from thalweg import ThalwegError
from thalweg.curvature import (
    lambda_max,
    on_batch,
    smallest_eigenvalue,
    top_eigenvalues,
)


class Diagonal:
    """A product with a diagonal matrix in float32: to Lanczos' method as good as any."""

    def __init__(self, size, gap, seed, slope=1.0):
        draw = torch.Generator().manual_seed(seed)
        self.values = 0.5 * torch.rand(size, generator=draw)
        self.values[:2] = torch.tensor([2.0, 2.0 * (1 - gap)])
        self.size, self.parameters = size, (torch.zeros(size),)
        self.gradient = [torch.randn(size, generator=draw)]
        self.gradient[0][0] *= slope

    def __call__(self, vector):
        return self.values * vector


def overlooked(products, start=None):
    """Return how many searches ended elsewhere, and how many of these said so."""
    missed = said = 0
    for seed, product in enumerate(products):
        found = lambda_max(product, seed=seed, start=start)
        missed += abs(found.value / 2 - 1) > 1e-3
        said += not found.converged
    return missed, said


@pytest.mark.parametrize(("gap", "most"), [(0.1, 1), (0.05, 2), (0.02, 6)])
@pytest.mark.parametrize("size", [200, 1000, 10_000])
def test_a_second_eigenvalue_that_is_near_is_seldom_taken_for_the_first(size, gap, most):
    # Of 100 each; lambda_max has the shares of 1000.
    missed, said = overlooked(Diagonal(size, gap, seed) for seed in range(100))
    assert missed <= most
    assert said == 0


@pytest.mark.parametrize("size", [200, 1000, 10_000])
def test_the_first_is_found_where_the_gradient_has_nothing_of_it(size):
    missed, said = overlooked(Diagonal(size, 0.25, seed, slope=0.0) for seed in range(100))
    assert missed <= 1
    assert said == 0


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("size", [200, 1000, 10_000])
def test_a_former_eigenvector_that_has_become_the_second_is_left(size, slope):
    second = torch.zeros(size)
    second[1] = 1.0
    missed, said = overlooked((Diagonal(size, 0.09, seed, slope) for seed in range(100)), second)
    assert missed <= 3
    assert said == 0


@each_search
def test_deterministic_and_without_a_trace(search):
    model, batch, _ = nets.known("convnet")
    before = nets.state(model)
    product = on_batch(model, nets.loss_of, batch)
    first, again = (SEARCHES[search](product, seed=3) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, SEARCHES[search](product, seed=4).vectors)
    assert nets.state(model) == before
    assert not first.vectors.requires_grad


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 0}, "k must be a whole number >= 1, got 0"),
        ({"k": 1.5}, "k must be a whole number >= 1"),
        ({"k": 8}, r"k must be at most .*7.*, got 8"),
        ({"tolerance": 0}, "tolerance must be a finite number > 0"),
        ({"tolerance": math.nan}, "tolerance must be a finite number > 0"),
        ({"tolerance": "1"}, "tolerance must be a finite number > 0"),
        ({"most": 1}, "most must be a whole number >= 2"),
        ({"most": None}, "most must be a whole number >= 2"),
        ({"room": 2}, "room must be a whole number >= 3"),
        ({"room": "3"}, "room must be a whole number >= 3"),
        ({"start": torch.ones(6)}, r"start must be a vector of the 7 entries.*got \(6,\)"),
        ({"start": torch.ones(1, 1, 7)}, r"start must be a vector.*got \(1, 1, 7\)"),
        ({"start": [1.0] * 7}, "start must be a vector.*got list"),
        ({"seed": "a"}, "seed must be a whole number >= 0"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    product = diagonal(torch.arange(7.0))
    with pytest.raises(ThalwegError, match=said):
        top_eigenvalues(product, **{"k": 2, **settings})
    assert product.count == 0
    if "k" not in settings:
        for search in (lambda_max, smallest_eigenvalue):
            other = {"most": 0, "room": 1}
            name = next(iter(settings))
            with pytest.raises(ThalwegError, match=f"^{name} must be"):
                search(product, **({name: other[name]} if name in other else settings))


@each_search
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_product_that_is_not_finite_is_an_error(bad, search):
    matrix = torch.eye(5, dtype=torch.float64)
    matrix[1, 2] = bad
    with pytest.raises(ThalwegError, match="the product must be finite, got inf or nan"):
        SEARCHES[search](nets.Dense(matrix))


@each_search
def test_a_start_that_is_zero_or_not_finite_gives_way_to_a_random_one(search):
    product = diagonal([4.0, 1.0, -2.0, 0.5])
    expected = SEARCHES[search](product, tolerance=1e-9).values.tolist()
    for bad in (0.0, math.inf, math.nan):
        found = SEARCHES[search](product, tolerance=1e-9, start=torch.full((4,), bad))
        assert found.values.tolist() == pytest.approx(expected, rel=1e-8)
