r"""The singular values of matrices that move: all of them made equal, or the largest alone.

Matrices of one shape go together, and only products of matrices are taken: an accelerator reads no
number and does not wait, and every cell of a grid is one more matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thalweg.ascent.context import Context, Number
from thalweg.ascent.shards import gathered, placed

#: Singular values down to this share of a bound on the largest become 1 in `polar`, by dtype; the
#: bound is at most 3 times too large. What is smaller may be noise of rounding, and stays below.
_LEAST = {torch.float32: 2e-5, torch.float64: 2e-9}
#: No step of `polar` makes a larger value much smaller than a smaller one: it would be rounded.
_FLOOR = 0.05
#: How often `first` squares: 2^-k bounds what is lost where two singular values nearly agree.
_SQUARINGS = {torch.float32: 22, torch.float64: 36}
#: Entries of matrices that are worked on at once.
_TOGETHER = 2**24
_Work = Callable[[Tensor], tuple[Tensor, Tensor]]


def polar(
    direction: Sequence[Tensor], context: Context
) -> tuple[Sequence[Tensor], Sequence[Number]]:
    """Return n·UVᵀ and n, the sum of the singular values, of every tensor as a matrix.

    Singular values from the largest to its 10⁴th part (10⁸th in float64) count; those of 0 stay.

    Args:
        direction: One tensor per parameter. A sharded one (DTensor) is gathered: all ranks call.
        context: The step.

    Returns:
        Tensors of the same shapes, sharded alike, in float32 for 16 bits; and a number for each.

    Example:
        >>> s, n = polar([torch.tensor([[3.0, 0.0], [0.0, 1.0]])], Context())
        >>> s[0].round(decimals=4), round(n[0], 4)
        (tensor([[4., 0.],
                [0., 4.]]), 4.0)
    """
    return _batched(_polar, direction, context)


def first(
    direction: Sequence[Tensor], context: Context
) -> tuple[Sequence[Tensor], Sequence[Number]]:
    """Return n·u₁v₁ᵀ and n, the largest singular value, of every tensor as a matrix.

    Args:
        direction: One tensor per parameter. A sharded one (DTensor) is gathered: all ranks call.
        context: The step.

    Returns:
        Tensors of the same shapes, sharded alike, in float32 for 16 bits; and a number for each.

    Example:
        >>> s, n = first([torch.tensor([[3.0, 0.0], [0.0, 1.0]])], Context())
        >>> s[0].round(decimals=4), round(n[0], 4)
        (tensor([[3., 0.],
                [0., 0.]]), 3.0)
    """
    return _batched(_first, direction, context)


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


def _polar(wide: Tensor) -> tuple[Tensor, Tensor]:
    """n·UVᵀ and n of a stack of matrices, by the iteration of Newton and Schulz, scaled."""
    x = _shrunk(wide)
    for a, b in _steps(_LEAST[wide.dtype]):
        x = a * x - b * (x @ x.mT @ x)
    n = (wide * x).sum((-2, -1))
    return n[..., None, None] * x, n


@functools.cache
def _steps(least: float) -> tuple[tuple[float, float], ...]:
    """Return a and b of the steps x ← a·x - b·x³ that take all of [least, 1] to 1, from below.

    In every step 1 is the largest value that x takes in [0, 1], so that no singular value leaves
    the ball; and the ends of the interval go to one place, which makes the smallest grow most.
    """
    found = []
    while least < 1 - 1e-14:
        low = max(least, _FLOOR)
        top = math.sqrt((1 + low + low * low) / 3)  # p(low) = p(1) puts the maximum here
        a, b = 1.5 / top, 0.5 / top**3  # p(top) = 1
        found.append((a, b))
        least = a * least - b * least**3
    return tuple(found)


def _first(wide: Tensor) -> tuple[Tensor, Tensor]:
    """n·u₁v₁ᵀ and n of a stack of matrices: their Gram matrix squared until one vector is left."""
    x = _unit(wide)
    gram = x @ x.mT  # of trace 1
    cheap, alone = _cheap_to_read(wide), 1 - 8 * torch.finfo(wide.dtype).eps
    for _ in range(_SQUARINGS[wide.dtype]):
        gram = gram @ gram
        trace = _not_zero(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
        gram = gram / trace
        if cheap and bool((trace > alone).all()):
            break
    # Where singular values agree many vectors are left, and every column is one that will do.
    column = gram.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    u = gram.take_along_dim(column, -1)
    u = u / _not_zero(torch.linalg.vector_norm(u, dim=(-2, -1)))
    v = u.mT @ wide  # n·v₁ᵀ
    largest = v.abs().amax((-2, -1))  # whose square may not fit
    n = largest * torch.linalg.vector_norm(v / _not_zero(largest), dim=(-2, -1))
    return u * v, n


def _shrunk(wide: Tensor) -> Tensor:
    """Divide every matrix by a bound on its largest singular value, at most k^(1/8) times that."""
    x = _unit(wide)
    gram = x @ x.mT
    # The Euclidean norm of the fourth power of x bounds the fourth power of the value.
    bound = torch.linalg.vector_norm(gram @ gram, dim=(-2, -1)) ** 0.25
    return x / _not_zero(bound * (1 + 8 * torch.finfo(x.dtype).eps))


def _unit(wide: Tensor) -> Tensor:
    """Divide every matrix by its Euclidean norm, also where that does not fit."""
    x = wide / _not_zero(wide.abs().amax((-2, -1)))
    return x / _not_zero(torch.linalg.vector_norm(x, dim=(-2, -1)))


def _not_zero(numbers: Tensor) -> Tensor:
    """Return what a stack of matrices can be divided by."""
    return torch.where(numbers == 0, 1.0, numbers)[..., None, None]


def _batched(
    work: _Work, direction: Sequence[Tensor], context: Context
) -> tuple[Sequence[Tensor], Sequence[Number]]:
    """Do the work on all matrices of one shape at once, the wide ones and the tall ones."""
    found = list(direction)
    norms: list[Number] = [0.0] * len(direction)
    alike: dict[object, list[int]] = {}
    for place, d in enumerate(direction):
        lying = sorted((d.shape[context.cells :][:1].numel(), d.shape[context.cells + 1 :].numel()))
        form = None if lying[0] <= 1 else (*lying, d.dtype, d.device)
        alike.setdefault(form, []).append(place)
    # Of one row or column: n·UVᵀ and n·u₁v₁ᵀ are the matrix itself.
    flat = alike.pop(None, [])
    for place, n in zip(flat, context.norms([direction[i] for i in flat]), strict=True):
        norms[place] = n
    for places in alike.values():
        share = max(1, _TOGETHER // direction[places[0]].numel())
        for some in [places[i : i + share] for i in range(0, len(places), share)]:
            tensors = [direction[i] for i in some]
            for place, s, n in zip(some, *_stacked(work, tensors, context), strict=True):
                found[place], norms[place] = s, n
    return found, norms


def _stacked(
    work: _Work, tensors: Sequence[Tensor], context: Context
) -> tuple[list[Tensor], Sequence[Number]]:
    """Do the work on matrices of one shape, lying or standing."""
    wholes = list(map(gathered, tensors))
    rows = [matrix(t, context.cells) for t in wholes]
    tall = [m.shape[-2] > m.shape[-1] for m in rows]
    stack = torch.stack([m.mT if turn else m for m, turn in zip(rows, tall, strict=True)])
    with torch.autocast(stack.device.type, enabled=False):  # its 16 bits are too few here
        s, n = work(stack.float() if stack.itemsize == 2 else stack)
    each = [m.mT if turn else m for m, turn in zip(s, tall, strict=True)]
    found = [placed(m.reshape(t.shape), t) for m, t in zip(each, tensors, strict=True)]
    if context.cells:
        return found, list(n)
    return found, n.tolist() if _cheap_to_read(n) else list(n.double())


def _cheap_to_read(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
