"""A list of tensors seen as one long vector: its norm, its inner product.

The production form goes through the tensors in pieces; the simulator, whose tensors have the
cells of a grid first, takes :func:`cell_norms` instead.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from thalweg import layout

_LAYOUT = operator.attrgetter("layout")
#: Entries whose squares lose digits in float32 can only matter in norms below this.
_TINY = 1e-12
#: Entries that are summed in one go on the CPU.
_ROW = 1024


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor that products and sums can be made of: dense, in float32 for 16 bits.

    Args:
        tensor: Any real tensor.

    Example:
        >>> wide(torch.ones(1).half())
        tensor([1.])
    """
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return dense.float() if dense.itemsize == 2 else dense


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all the tensors together.

    In float32 a norm overflows at 1e30, and loses digits below 1e-19 before it underflows. On the
    CPU the result is looked at, and taken again in float64 where it is tiny or not finite. On an
    accelerator, and where ranks must do alike, nothing is looked at: the squares are summed in
    float64 at once. 16-bit tensors are summed in float32.

    Args:
        tensors: Real tensors of any shapes and dtypes, sparse ones included; may be empty. Of
            sharded ones (DTensor) every rank must call; the norm is that of the whole tensors.

    Returns:
        The norm: float64, zero-dimensional, on the device of the first tensor.

    Example:
        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5., dtype=torch.float64)
    """
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    if torch.sparse_coo in set(map(_LAYOUT, tensors)):
        tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    plain = layout.all_plain(tensors) and len(layout.devices(tensors)) == 1
    if not plain or layout.costly_to_read(tensors[0].device):
        return _norm_unread(tensors)
    vectors = layout.vectors(tensors, _ROW)
    total = _norm(vectors)
    return total if _TINY < float(total) < math.inf else _norm(vectors, torch.float64)


@torch.no_grad()
def _norm_unread(tensors: Sequence[Tensor]) -> Tensor:
    parts = []
    for kind, places in layout.kinds(tensors).items():
        held = layout.local([tensors[i] for i in places])
        each = torch.stack(torch._foreach_norm(held, 2, torch.float64))
        part = torch.linalg.vector_norm(each)
        parts.append(kind.whole(part.square()).sqrt() if kind.mesh else part)
    home = tensors[0].device
    total: Tensor = torch.linalg.vector_norm(torch.stack([part.to(home) for part in parts]))
    return total


@torch.no_grad()
def _norm(vectors: Iterable[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The norm of plain vectors on the CPU, each looked at once."""
    # There, torch sums a long float32 vector in a few running sums: at 30 million entries the norm
    # is wrong by .2 %. In rows it is right, and takes no longer.
    norms: list[Tensor] = []
    for vector in vectors:
        wide = dtype or (torch.float32 if vector.itemsize == 2 else vector.dtype)
        rest = vector.numel() % _ROW
        if rest:
            end = vector[-rest:]
            norms.append(torch.linalg.vector_norm(end, 2, 0, keepdim=True, dtype=wide))
            vector = vector[:-rest]
        if vector.numel():
            norms.append(torch.linalg.vector_norm(vector.view(-1, _ROW), 2, 1, dtype=wide))
    each = norms[0] if len(norms) == 1 else torch.cat(norms)
    total: Tensor = torch.linalg.vector_norm(each, dtype=torch.float64)
    return total


def norm_of(vectors: Callable[[], Iterable[Tensor]]) -> float:
    """Return the Euclidean norm of vectors on the CPU that are made one after the other.

    Args:
        vectors: Makes plain one-dimensional tensors; again where the norm is tiny or not finite.

    Example:
        >>> norm_of(lambda: (torch.tensor([n]) for n in (3.0, 4.0)))
        5.0
    """
    total = float(_norm(vectors()))
    return total if _TINY < total < math.inf else float(_norm(vectors(), torch.float64))


@torch.no_grad()
def norms(tensors: Sequence[Tensor], order: int = 2) -> list[float | Tensor]:
    """Return the norm of every tensor by itself, as exact as :func:`norm`.

    Args:
        tensors: As for :func:`norm`. Where they are sharded the ranks speak once for each kind.
        order: 2 for the Euclidean norm, 1 for the sum of the sizes of the entries.

    Returns:
        One number for each: a float on the CPU, where it is cheap to read; elsewhere a float64
        tensor, zero-dimensional.

    Example:
        >>> norms([torch.tensor([3.0, 4.0]), torch.tensor([2.0])])
        [5.0, 2.0]
        >>> norms([torch.tensor([3.0, 4.0]), torch.tensor([2.0])], order=1)
        [7.0, 2.0]
    """
    if not tensors:
        return []
    if torch.sparse_coo in set(map(_LAYOUT, tensors)):
        tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    costly = layout.costly_to_read(tensors[0].device)
    if costly or not layout.all_plain(tensors) or len(layout.devices(tensors)) > 1:
        unread = _norms_unread(tensors, order)
        return list(unread) if costly else torch.stack(unread).tolist()
    found: list[float | Tensor] = [0.0] * len(tensors)
    long = [i for i, t in enumerate(tensors) if order == 2 and t.numel() >= layout.SMALL]
    for i in long:
        found[i] = norm_of(lambda long=tensors[i]: [long.reshape(-1)])  # type: ignore[misc]
    short = sorted(set(range(len(tensors))).difference(long))
    if short:
        each = _short_norms([tensors[i] for i in short], order)
        for i, n in zip(short, each.tolist(), strict=True):
            found[i] = n
    return found


def _short_norms(tensors: list[Tensor], order: int) -> Tensor:
    """The norms of tensors on the CPU, in float64."""
    if order != 2 or len({t.dtype for t in tensors}) > 1:
        return torch.stack(torch._foreach_norm(tensors, order, torch.float64))
    squares, sizes = [], list(map(Tensor.numel, tensors))
    for run in layout.runs(sizes, layout.SMALL):  # several at once, in half the time
        wide = layout.together([tensors[i] for i in run]).double()
        lengths = torch.tensor([sizes[i] for i in run])
        squares.append(torch.segment_reduce(wide * wide, "sum", lengths=lengths))
    return torch.cat(squares).sqrt()


def _norms_unread(tensors: Sequence[Tensor], order: int) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    home = tensors[0].device
    for kind, places in layout.kinds(tensors).items():
        held = layout.local([tensors[i] for i in places])
        each = torch.stack(torch._foreach_norm(held, order, torch.float64))
        if kind.mesh:
            each = kind.whole(each**order) ** (1 / order)
        found.update(zip(places, each.to(home), strict=True))
    return [found[i] for i in range(len(tensors))]


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


def summed(parts: Iterable[tuple[layout.Kind, Tensor]]) -> Tensor:
    """Add up what was found in every piece, and where they are sharded, by every rank.

    Args:
        parts: The kind of each piece and what this rank found in it, float64 tensors of one
            shape; at least one.

    Returns:
        The sum, on the device of the first.

    Example:
        >>> kind = layout.Kind.of(torch.zeros(1))
        >>> summed([(kind, torch.ones(1)), (kind, torch.ones(1))])
        tensor([2.])
    """
    found: dict[layout.Kind, list[Tensor]] = {}
    for kind, part in parts:
        found.setdefault(kind, []).append(part)
    wholes = [kind.whole(torch.stack(same).sum(0)) for kind, same in found.items()]
    return torch.stack([whole.to(wholes[0].device) for whole in wholes]).sum(0)


@torch.no_grad()
def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors of the same shapes.

    Args:
        left: Real tensors.
        right: As many, of the same shapes and devices, sharded alike.

    Returns:
        The inner product: float64, zero-dimensional, on the device of the first tensor.

    Example:
        >>> dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
        tensor(11., dtype=torch.float64)
    """
    if not left:
        return torch.zeros((), dtype=torch.float64)
    return summed((kind, product(a, b)) for kind, (a, b) in layout.pieces(left, right))


def product(a: Tensor, b: Tensor, *, wide: bool = False) -> Tensor:
    """Return the inner product of two tensors of one shape.

    Args:
        a: A real tensor.
        b: Another.
        wide: Whether to multiply in float64, for what overflows or vanishes in the tensors' dtype.

    Returns:
        The inner product: float64, zero-dimensional.

    Example:
        >>> product(torch.ones(2).half(), torch.ones(2).half())
        tensor(2., dtype=torch.float64)
    """
    if wide:
        a, b = a.double(), b.double()
    elif a.itemsize == 2:
        a, b = a.float(), b.float()
    return (a * b).sum().double()
