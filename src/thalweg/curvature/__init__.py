"""Curvature of any loss: Hessian products, the spectrum, sharpness, a monitor in training."""

from thalweg.curvature.density import Density, spectrum
from thalweg.curvature.directions import filter_normalized, share_explained
from thalweg.curvature.eigen import Eigenpairs, lambda_max, smallest_eigenvalue, top_eigenvalues
from thalweg.curvature.measure import on_batch, over
from thalweg.curvature.monitor import Monitor
from thalweg.curvature.planes import Line, Plane, line, plane
from thalweg.curvature.product import (
    Product,
    gauss_newton_vector_product,
    hessian_vector_product,
)
from thalweg.curvature.records import Record, read_records
from thalweg.curvature.setting import frozen
from thalweg.curvature.sharpness import Sharpness, sharpness
from thalweg.curvature.trace import Estimate, trace

__all__ = [
    "Density",
    "Eigenpairs",
    "Estimate",
    "Line",
    "Monitor",
    "Plane",
    "Product",
    "Record",
    "Sharpness",
    "filter_normalized",
    "frozen",
    "gauss_newton_vector_product",
    "hessian_vector_product",
    "lambda_max",
    "line",
    "on_batch",
    "over",
    "plane",
    "read_records",
    "share_explained",
    "sharpness",
    "smallest_eigenvalue",
    "spectrum",
    "top_eigenvalues",
    "trace",
]
