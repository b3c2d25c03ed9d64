"""The three searches for eigenvalues, and a product of which all eigenvalues are given."""

from __future__ import annotations

import functools

import nets
import pytest

from thalweg.curvature import (
    hessian_vector_product,
    lambda_max,
    smallest_eigenvalue,
    top_eigenvalues,
)

SEARCHES = {
    "max": lambda_max,
    "top": functools.partial(top_eigenvalues, k=3),
    "smallest": smallest_eigenvalue,
}
each_search = pytest.mark.parametrize("search", SEARCHES)


def diagonal(values):
    """Return the product of a quadratic loss, turned so that no axis is special."""
    loss, w = nets.of(values, nets.turn(len(values)))
    return hessian_vector_product(loss, w)
