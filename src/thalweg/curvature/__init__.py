"""Curvature of any model's loss: Hessian products, the ends of the spectrum, trace, sharpness."""

from thalweg.curvature.eigen import Eigenpairs, lambda_max, smallest_eigenvalue, top_eigenvalues
from thalweg.curvature.measure import frozen, on_batch, over
from thalweg.curvature.product import (
    Product,
    gauss_newton_vector_product,
    hessian_vector_product,
)

__all__ = [
    "Eigenpairs",
    "Product",
    "frozen",
    "gauss_newton_vector_product",
    "hessian_vector_product",
    "lambda_max",
    "on_batch",
    "over",
    "smallest_eigenvalue",
    "top_eigenvalues",
]
