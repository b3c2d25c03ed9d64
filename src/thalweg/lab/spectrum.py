"""The leading eigenvalues of the Hessian, for all the cells of a grid at once.

Cells never interact, so the Hessian of the summed loss has one block for each cell: one
Hessian-vector product, with a vector for each cell, is the product of every cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.errors import whole
from thalweg.lab.problems import Params, Problem


class Spectrum(NamedTuple):
    """Approximate eigenpairs of every cell's Hessian, the largest eigenvalue first.

    Attributes:
        values: Eigenvalues, (B, k).
        vectors: Unit eigenvectors over all the parameters of a cell in their order, (B, k, D).
        residuals: ‖Hv − λv‖, (B, k). An eigenvalue lies within this of the value.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def flat(params: Params) -> Tensor:
    """Return the parameters of every cell as one vector, (B, D)."""
    return torch.cat([value.flatten(1) for value in params.values()], dim=1)


def like(vectors: Tensor, params: Params) -> list[Tensor]:
    """Return vectors, (B, D), cut into the shapes of the parameters."""
    parts = torch.split(vectors, [value.shape[1:].numel() for value in params.values()], dim=1)
    return [part.reshape(v.shape) for part, v in zip(parts, params.values(), strict=True)]


def hessian(
    problem: Problem, params: Params, batch: Any = None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return every cell's gradient, (B, D), and the product with its Hessian, a function.

    Args:
        problem: Gives the loss.
        params: The point, one for each cell.
        batch: The minibatch, where there are minibatches.

    Returns:
        The gradient, and a function from vectors (B, D) to products (B, D).

    Example:
        >>> from thalweg.lab import Quadratic
        >>> q = Quadratic([4.0, 1.0])
        >>> g, product = hessian(q, q.start(torch.tensor([0])))
        >>> g.tolist(), product(torch.tensor([[0.0, 2.0]], dtype=g.dtype)).tolist()
        ([[4.0, 1.0]], [[0.0, 2.0]])
    """
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        wanted = list(leaves.values())
        slopes = torch.autograd.grad(problem.loss(leaves, batch).sum(), wanted, create_graph=True)

    def product(vectors: Tensor) -> Tensor:
        """One pass back through the gradient, whose graph is kept."""
        parts = torch.autograd.grad(slopes, wanted, like(vectors, params), retain_graph=True)
        return flat(dict(zip(leaves, parts, strict=True)))

    return flat(dict(zip(leaves, (s.detach() for s in slopes), strict=True))), product


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Spectrum:
    """Return approximate eigenpairs by Lanczos' method, every vector kept orthogonal to all.

    Args:
        product: From vectors (B, D) to their products with symmetric matrices, (B, D).
        start: Where to begin, (B, D), in any scale; eigenvectors orthogonal to it are not found.
        steps: Products taken, and eigenpairs returned; no more than D are.

    Returns:
        The eigenpairs. Where fewer exist from this start, the rest has value −∞ and vectors 0.

    Raises:
        ThalwegError: If ``steps`` is not a whole number of at least 1.

    Example:
        >>> diagonal = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
        >>> found = lanczos(lambda v: v * diagonal, torch.ones(1, 3, dtype=torch.float64), 3)
        >>> found.values.round(decimals=6).tolist()
        [[3.0, 2.0, 1.0]]
    """
    steps = min(whole("steps", steps, at_least=1), start.shape[1])
    q = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    basis, products = [q], []
    for _ in range(steps):
        w = product(basis[-1])
        products.append(w)
        scale = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        known = torch.stack(basis, dim=1)
        for _ in range(2):  # once leaves what rounding brought in
            w = w - (known.mT @ (known @ w.unsqueeze(2))).squeeze(2)
        length = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        # What is left of a vector within the span is rounding: it has no direction.
        fresh = length > 100 * torch.finfo(w.dtype).eps * scale
        basis.append(torch.where(fresh, w / length, 0.0))
    v, hv = torch.stack(basis[:steps], dim=1), torch.stack(products, dim=1)
    small = v @ hv.mT
    empty = (v == 0).all(2)  # decoupled from the others by a value below every eigenvalue
    low = -2 * small.abs().sum((1, 2), keepdim=True) - 1
    small = (small + small.mT) / 2 + torch.diag_embed(empty.to(v.dtype)) * low
    values, mix = torch.linalg.eigh(small)
    values, mix = values.flip(1), mix.flip(2).mT
    vectors, images = mix @ v, mix @ hv
    missing = torch.linalg.vector_norm(vectors, dim=2) < 0.5
    residuals = torch.linalg.vector_norm(images - values.unsqueeze(2) * vectors, dim=2)
    return Spectrum(
        torch.where(missing, -torch.inf, values),
        torch.where(missing.unsqueeze(2), 0.0, vectors),
        torch.where(missing, 0.0, residuals),
    )


def leading(
    problem: Problem, params: Params, batch: Any = None, steps: int = 24
) -> tuple[Tensor, Spectrum]:
    """Return every cell's gradient and the leading part of its Hessian's spectrum.

    Lanczos begins at the gradient, beside which a share of a fixed random vector stands in for
    what the gradient lacks: an iterate of SAM bounces along the leading eigenvectors, so its
    gradient is where the search would end.

    Args:
        problem: Gives the loss.
        params: The point, one for each cell.
        batch: The minibatch, or all the data, for problems that have some.
        steps: Hessian-vector products; as many eigenpairs are returned, the first ones accurate.

    Returns:
        The gradient, (B, D), and the eigenpairs.

    Example:
        >>> from thalweg.lab import Quadratic
        >>> q = Quadratic([4.0, 1.0])
        >>> leading(q, q.start(torch.tensor([0])))[1].values.round(decimals=6).tolist()
        [[4.0, 1.0]]
    """
    g, product = hessian(problem, params, batch)
    size = torch.linalg.vector_norm(g, dim=1, keepdim=True)
    drawn = torch.randn(g.shape[1], generator=torch.Generator().manual_seed(0), dtype=g.dtype)
    noise = 0.3 * (drawn / torch.linalg.vector_norm(drawn)).to(g.device)
    start = torch.where(size > 0, g / size, 0.0) + noise
    return g, lanczos(product, start, steps)
