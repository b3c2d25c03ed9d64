"""A list of tensors seen as one long vector: its norm, its inner product.

The production form uses torch's ``_foreach`` operations; the simulator, whose tensors have the
cells of a grid first, takes :func:`cell_norms` instead.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SIXTEEN_BITS = (torch.float16, torch.bfloat16)
#: Entries whose squares lose digits in float32 can only matter in norms below this.
_TINY = 1e-12
#: Entries that are summed in one go on the CPU, and up to how many tensors are put together there.
_ROW, _SMALL = 1024, 16384
_PLAIN = {Tensor, torch.nn.Parameter}
_FORM = operator.attrgetter("dtype", "layout")


def costly_to_read(device: torch.device) -> bool:
    """Return whether reading a number from this device makes the program wait for it.

    Args:
        device: Where the number lies.

    Returns:
        True for every accelerator: there, nothing is read back in a step.

    Example:
        >>> costly_to_read(torch.device("cpu"))
        False
    """
    return device.type != "cpu"


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor: one of which every rank holds its part.

    Args:
        tensor: Any tensor.

    Returns:
        Whether it is. It is known by its method, so that nothing distributed is imported.

    Example:
        >>> is_sharded(torch.zeros(2))
        False
    """
    return hasattr(tensor, "to_local")


def all_plain(tensors: Sequence[Tensor]) -> bool:
    """Return whether none of the tensors is a DTensor or of another special kind.

    Args:
        tensors: Any tensors.

    Returns:
        Whether each is a tensor or a parameter and nothing else.

    Example:
        >>> all_plain([torch.zeros(1), torch.nn.Parameter(torch.zeros(1))])
        True
    """
    return all(map(_PLAIN.__contains__, map(type, tensors)))


def devices(tensors: Sequence[Tensor]) -> set[torch.device]:
    """Return the devices that tensors lie on.

    Args:
        tensors: Any tensors.

    Returns:
        Their devices.

    Example:
        >>> devices([torch.zeros(1), torch.zeros(2)])
        {device(type='cpu')}
    """
    if not torch.accelerator.is_available():
        tensors = tensors[:1]  # there is but one device to lie on
    return {t.device for t in tensors}


@torch.no_grad()
def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the part of each tensor that this rank holds, in the same storage.

    Args:
        tensors: Any tensors.

    Returns:
        Plain tensors; of a plain tensor, itself.

    Example:
        >>> w = torch.zeros(2)
        >>> local([w])[0] is w
        True
    """
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


class _Kind(NamedTuple):
    """What tensors must share to be summed in one go."""

    dtype: torch.dtype
    device: torch.device
    mesh: Any = None
    placements: tuple[Any, ...] = ()

    @classmethod
    def of(cls, t: Tensor) -> _Kind:
        if is_sharded(t):
            return cls(t.dtype, t.device, t.device_mesh, t.placements)  # type: ignore[attr-defined]
        return cls(t.dtype, t.device)

    def whole(self, part: Tensor) -> Tensor:
        """Sum over the ranks what each has found in its own part of sharded tensors."""
        for dimension, placement in enumerate(self.placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(part, group=self.mesh.get_group(dimension))
        return part


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
    home = tensors[0].device
    kinds = _kinds(tensors)
    wide = costly_to_read(home) or any(kind.mesh for kind in kinds)
    total = _norm(kinds, home, wide=wide)
    if not wide and not _TINY < total < math.inf:
        total = _norm(kinds, home, wide=True)
    return total


def _kinds(tensors: Sequence[Tensor]) -> dict[_Kind, Sequence[Tensor]]:
    """What this rank holds of the tensors, by kind, in an order that ranks share."""
    alike = all_plain(tensors) and len(set(map(_FORM, tensors))) == 1 == len(devices(tensors))
    if alike and not tensors[0].is_sparse:
        return {_Kind.of(tensors[0]): tensors}  # nearly always
    kinds: dict[_Kind, Sequence[Tensor]] = {}
    for t, held in zip(tensors, local(tensors), strict=True):
        values = held.coalesce().values() if t.is_sparse else held
        kinds[_Kind.of(t)] = [*kinds.get(_Kind.of(t), []), values]
    return kinds


@torch.no_grad()
def _norm(kinds: dict[_Kind, Sequence[Tensor]], home: torch.device, *, wide: bool) -> Tensor:
    parts: list[Tensor] = []
    for kind, held in kinds.items():
        accumulate = torch.float32 if kind.dtype in _SIXTEEN_BITS else None
        norms = _norms_in_rows if kind.device.type == "cpu" else torch._foreach_norm
        each = norms(list(held), 2, torch.float64 if wide else accumulate)
        part = torch.linalg.vector_norm(torch.stack(each), dtype=torch.float64)
        parts.append((kind.whole(part.square()).sqrt() if kind.mesh else part).to(home))
    return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))


def _norms_in_rows(
    tensors: Sequence[Tensor], order: int, dtype: torch.dtype | None
) -> list[Tensor]:
    """Norms that together make the norm of all, for the CPU, where this is faster and exact.

    There, torch sums a long float32 vector in a few running sums: at 30 million entries the norm
    is wrong by .2 %. And many small tensors are faster in one piece.
    """
    sizes = [t.numel() for t in tensors]
    small = [t for t, size in zip(tensors, sizes, strict=True) if size < _SMALL]
    flat = [t.reshape(-1) for t, size in zip(tensors, sizes, strict=True) if size >= _SMALL]
    if small:
        flat.append(torch._utils._flatten_dense_tensors(small))  # type: ignore[no-untyped-call]
    found = []
    for vector in flat:
        whole = vector.numel() // _ROW * _ROW
        if whole:
            rows = torch.linalg.vector_norm(vector[:whole].view(-1, _ROW), order, 1, dtype=dtype)
            found.append(torch.linalg.vector_norm(rows, order, dtype=torch.float64))
        if whole < vector.numel():
            tail = torch.linalg.vector_norm(vector[whole:], order, dtype=dtype)
            found.append(tail.double())
    return found or [torch.zeros((), dtype=torch.float64)]


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


def summed(tensors: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Add up what was found for every tensor, and where they are sharded, by every rank.

    Args:
        tensors: Of which something was found; not empty.
        parts: What this rank found in its part of each: float64 tensors of one shape.

    Returns:
        The sum, on the device of the first tensor.

    Example:
        >>> summed([torch.zeros(2), torch.zeros(3)], [torch.ones(1), torch.ones(1)])
        tensor([2.])
    """
    kinds: dict[_Kind, list[Tensor]] = {}
    for t, part in zip(tensors, parts, strict=True):
        kinds.setdefault(_Kind.of(t), []).append(part)
    home = tensors[0].device
    wholes = [kind.whole(torch.stack(found).sum(0)).to(home) for kind, found in kinds.items()]
    return torch.stack(wholes).sum(0)


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
    products = [
        (a.float() * b.float() if a.dtype in _SIXTEEN_BITS else a * b).sum().double()
        for a, b in zip(local(left), local(right), strict=True)
    ]
    return summed(left, products)
