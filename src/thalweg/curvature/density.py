"""The density of a Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.given import product_of
from thalweg.curvature.product import Product
from thalweg.curvature.trace import finite, signs
from thalweg.errors import ThalwegError, brief, number, whole

#: Share of the range between the outermost nodes that a node is smoothed over.
_WIDTH = 0.01


@dataclass(frozen=True, slots=True)
class Density:
    """How the eigenvalues of a matrix are spread: nodes with weights that sum to 1.

    Attributes:
        nodes: Where on the axis of eigenvalues, ascending, (n,).
        weights: The share of the D eigenvalues that stands there, (n,).
        mean: The mean eigenvalue, which is the trace over D.
        error: The standard error of the mean, over the random vectors; NaN with one vector.
        size: How many eigenvalues there are, D.
        products: Products taken.
    """

    nodes: Tensor
    weights: Tensor
    mean: float
    error: float
    size: int
    products: int

    def moment(self, order: int) -> float:
        """Return the mean of the eigenvalues to some power; 2 gives ‖H‖² of Frobenius over D.

        Args:
            order: The power, from 0.
        """
        return float(self.weights @ self.nodes ** whole("order", order))

    def on(self, grid: Tensor | Sequence[float], width: float | None = None) -> Tensor:
        """Return the density, every node smoothed to a Gaussian; its integral is 1.

        Args:
            grid: Eigenvalues, of any shape.
            width: Standard deviation of the Gaussians, in the units of an eigenvalue; a hundredth
                of the range of the nodes unless told otherwise.

        Returns:
            The share of eigenvalues per unit, float64, in the shape of the grid.

        Raises:
            ThalwegError: If the width is not above 0, or must be given since there is no range.

        Example:
            >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            >>> density = Density(ends, torch.tensor([0.8, 0.2]).double(), 0.2, 0.0, 10, 2)
            >>> density.on([0.0, 0.5, 1.0], width=0.1).round(decimals=3).tolist()
            [3.192, 0.0, 0.798]
        """
        if width is None:
            width = _WIDTH * float(self.nodes[-1] - self.nodes[0])
            if width == 0:
                raise ThalwegError(
                    "width must be given where all eigenvalues are one, got None: pass a number "
                    "in the units of an eigenvalue"
                )
        width = number("width", width, above=0)
        at = _points(grid).unsqueeze(-1)
        bumps = torch.exp(-(((at - self.nodes) / width) ** 2) / 2)
        found: Tensor = bumps @ self.weights / (width * math.sqrt(2 * math.pi))
        return found

    def cumulative(self, grid: Tensor | Sequence[float]) -> Tensor:
        """Return which share of the eigenvalues is at most so large.

        Args:
            grid: Eigenvalues, of any shape.

        Returns:
            Shares from 0 to 1, float64, in the shape of the grid; see :func:`spectrum` for how far
            they are from the true ones.

        Example:
            >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            >>> density = Density(ends, torch.tensor([0.75, 0.25]).double(), 0.25, 0.0, 8, 2)
            >>> density.cumulative([-1.0, 0.0, 1.0]).tolist()
            [0.0, 0.75, 1.0]
        """
        at = _points(grid).unsqueeze(-1)
        found: Tensor = (self.nodes <= at).double() @ self.weights
        return found


def spectrum(product: Product, *, steps: int = 50, vectors: int = 4, seed: int = 0) -> Density:
    r"""Return the density of all the eigenvalues of a symmetric matrix, such as a Hessian.

    From every random vector of signs z, Lanczos' method makes the Gauss quadrature of
    zᵀf(H)z / zᵀz, which is tr f(H) / D on average: its nodes are the eigenvalues of the
    tridiagonal matrix, its weights the squares of the first entries of its eigenvectors. Every new
    vector of a run is kept orthogonal to all before, so that none of them is found twice; memory is
    ``steps`` vectors of the size of a gradient.

    The cumulative share from one z is off from that of all eigenvalues by two things. The
    quadrature is off by at most the weight of the node before or behind, whichever is larger, since
    a Gauss quadrature and its measure cross in every interval (Chebyshev, Markov, Stieltjes). The
    random vector is off with a standard deviation of at most

    .. math:: \sqrt{2 F (1 - F) / D} \le 1 / \sqrt{2 D}

    (derived here: F is the share, a projection P of rank FD has it, and the variance of zᵀPz is
    2 Σ_{i≠j} P_ij²), divided by the root of ``vectors`` for their mean.

    Args:
        product: From :func:`hessian_vector_product` or another of its kind.
        steps: Products for each random vector, and nodes; no more than D are taken.
        vectors: Random vectors.
        seed: Of the random vectors. torch's generators are not touched.

    Returns:
        A :class:`Density`, on the CPU.

    Raises:
        ThalwegError: If an argument is out of range, or a product is not finite.

    Source:
        Lin, Saad and Yang, Approximating Spectral Densities of Large Matrices, SIAM Review 58,
        2016; for networks: Ghorbani, Krishnan and Xiao, ICML 2019.

    Example:
        >>> from thalweg.curvature import hessian_vector_product
        >>> w = torch.ones(4, dtype=torch.float64, requires_grad=True)
        >>> product = hessian_vector_product(lambda: (w[0] ** 2 * 4 + (w**2).sum()) / 2, [w])
        >>> found = spectrum(product, vectors=1)
        >>> found.nodes.round(decimals=6).tolist(), found.weights.round(decimals=6).tolist()
        ([1.0, 5.0], [0.75, 0.25])
    """
    steps = min(whole("steps", steps, at_least=1), product_of(product).size)
    vectors = whole("vectors", vectors, at_least=1)
    draw = torch.Generator().manual_seed(whole("seed", seed))
    runs = [_quadrature(product, signs(product, draw), steps) for _ in range(vectors)]
    nodes, order = torch.cat([n for n, _ in runs]).sort()
    weights = torch.cat([w for _, w in runs])[order] / vectors
    means = torch.stack([n @ w for n, w in runs])
    error = float(means.std()) / math.sqrt(vectors) if vectors > 1 else math.nan
    return Density(
        nodes, weights, float(means.mean()), error, product.size, sum(len(n) for n, _ in runs)
    )


def _points(grid: object) -> Tensor:
    try:
        return torch.as_tensor(grid, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ThalwegError(
            f"grid must be a tensor or a list of numbers, got {brief(grid)}"
        ) from None


@torch.no_grad()
def _quadrature(product: Product, w: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of one vector's quadrature; fewer where its span is closed."""
    held = w.new_empty(steps, product.size)
    small = torch.zeros(steps, steps, dtype=torch.float64)
    length = torch.linalg.vector_norm(w)
    scale = 0.0
    for i in range(steps):
        held[i] = w / length
        del w  # it would live through the product
        w = finite(product(held[i]))
        scale = max(scale, float(torch.linalg.vector_norm(w)))
        basis = held[: i + 1]
        small[i, i] = float(held[i] @ w)
        for _ in range(2):  # once leaves what rounding brought in
            w -= basis.mT @ (basis @ w)
        length = torch.linalg.vector_norm(w)
        # What is left of a vector within the span is rounding: it has no direction.
        if i + 1 == steps or float(length) <= 100 * torch.finfo(w.dtype).eps * scale:
            break
        small[i, i + 1] = small[i + 1, i] = float(length)
    nodes, mix = torch.linalg.eigh(small[: i + 1, : i + 1])
    return nodes, mix[0] ** 2
