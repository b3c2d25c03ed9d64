"""A list of tensors seen as one long vector: its norm, its inner product.

The production form uses torch's ``_foreach`` operations; the simulator, whose tensors have the
cells of a grid first, takes :func:`cell_norms` instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SIXTEEN_BITS = (torch.float16, torch.bfloat16)
#: Entries whose squares lose digits in float32 can only matter in norms below this.
_TINY = 1e-12


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all the tensors together.

    In float32 a norm overflows at 1e30, and loses digits below 1e-19 before it underflows. On the
    CPU the result is looked at, and taken again in float64 where it is tiny or not finite. On an
    accelerator nothing is read back: the squares are summed in float64 at once. 16-bit tensors
    are summed in float32.

    Args:
        tensors: Real tensors of any shapes and dtypes, sparse ones included; may be empty.

    Returns:
        The norm: float64, zero-dimensional, on the device of the first tensor.

    Example:
        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5., dtype=torch.float64)
    """
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    wide = tensors[0].device.type != "cpu"
    total = _norm(tensors, wide=wide)
    if not wide and not _TINY < total < math.inf:
        total = _norm(tensors, wide=True)
    return total


def _norm(tensors: Sequence[Tensor], *, wide: bool) -> Tensor:
    home = tensors[0].device
    tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    parts: list[Tensor] = []
    kinds = {(t.dtype, t.device) for t in tensors}
    for dtype, device in kinds:
        same = tensors
        if len(kinds) > 1:
            same = [t for t in tensors if t.dtype is dtype and t.device == device]
        accumulate = torch.float32 if dtype in _SIXTEEN_BITS else None
        each = torch.stack(torch._foreach_norm(same, 2, torch.float64 if wide else accumulate))
        parts.append(torch.linalg.vector_norm(each, dtype=torch.float64).to(home))
    total: Tensor = torch.linalg.vector_norm(torch.stack(parts))
    return total


def cell_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of every cell of a grid, in plain operations and the tensors' own dtype.

    Args:
        tensors: Real tensors of one dtype, each with the cells first.

    Returns:
        One norm per cell, (B,).

    Example:
        >>> cell_norms([torch.tensor([3.0, 0.0]), torch.tensor([[4.0, 0.0], [6.0, 8.0]])])
        tensor([ 5., 10.])
    """
    squares = [t * t if t.ndim == 1 else (t * t).flatten(1).sum(1) for t in tensors]
    return torch.sqrt(sum(squares[1:], start=squares[0]))


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors of the same shapes.

    Args:
        left: Real tensors.
        right: As many, of the same shapes and devices.

    Returns:
        The inner product: float64, zero-dimensional, on the device of the first tensor.

    Example:
        >>> dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
        tensor(11., dtype=torch.float64)
    """
    if not left:
        return torch.zeros((), dtype=torch.float64)
    home = left[0].device
    parts = [
        (a.float() * b.float() if a.dtype in _SIXTEEN_BITS else a * b).sum()
        for a, b in zip(left, right, strict=True)
    ]
    return torch.stack([part.to(home, torch.float64) for part in parts]).sum()
