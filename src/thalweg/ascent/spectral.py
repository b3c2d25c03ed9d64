"""The singular values of matrices that move: all of them made equal, or the largest alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.ascent.context import Context, Number


def polar(
    direction: Sequence[Tensor], context: Context
) -> tuple[Sequence[Tensor], Sequence[Number]]:
    """Return n·UVᵀ and n, the sum of the singular values, of every tensor as a matrix.

    Args:
        direction: One tensor per parameter.
        context: The step.
    """
    found, norms = [], []
    for d in direction:
        m = matrix(d, context.cells)
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
        n = s.sum(-1)
        found.append(((u @ vt) * n[..., None, None]).reshape(d.shape))
        norms.append(n)
    return found, norms


def first(
    direction: Sequence[Tensor], context: Context
) -> tuple[Sequence[Tensor], Sequence[Number]]:
    """Return n·u₁v₁ᵀ and n, the largest singular value, of every tensor as a matrix.

    Args:
        direction: One tensor per parameter.
        context: The step.
    """
    found, norms = [], []
    for d in direction:
        u, s, vt = torch.linalg.svd(matrix(d, context.cells), full_matrices=False)
        one = u[..., :, :1] @ vt[..., :1, :]
        found.append((one * s[..., :1, None]).reshape(d.shape))
        norms.append(s[..., 0])
    return found, norms


def matrix(tensor: Tensor, cells: int = 0) -> Tensor:
    """Return a tensor as a matrix: the rows of its first dimension; a vector as one column.

    Args:
        tensor: A parameter, or one of every cell.
        cells: How many dimensions belong to no parameter.

    Example:
        >>> matrix(torch.zeros(8, 3, 5, 5)).shape, matrix(torch.zeros(8)).shape
        (torch.Size([8, 75]), torch.Size([8, 1]))
    """
    if tensor.ndim == cells:
        return tensor[..., None, None]
    return tensor.flatten(cells + 1) if tensor.ndim > cells + 1 else tensor[..., None]
