"""Where tensors lie: on which devices, in whose shards; and how to go through many of them fast."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Tensors with fewer entries are put together, where there are many of them, up to so many
#: entries: scratch memory of a megabyte.
SMALL = 16384
_MANY = 32
_SCRATCH = 2**18
#: With more entries torch wakes its other threads up, which takes longer than the work.
_ALONE = 2**15 - 1
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


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Return whether two lists hold the very same tensors.

    Args:
        left: Any tensors.
        right: Any tensors.

    Example:
        >>> w = torch.zeros(2)
        >>> same([w], [w]), same([w], [w.clone()])
        (True, False)
    """
    return len(left) == len(right) and all(map(operator.is_, left, right))


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


class Kind(NamedTuple):
    """What tensors must share to be summed in one go.

    Attributes:
        dtype: Their dtype.
        device: Where they lie.
        mesh: Of sharded ones, the ranks that hold them.
        placements: Of sharded ones, how each dimension of the mesh divides them.
    """

    dtype: torch.dtype
    device: torch.device
    mesh: Any = None
    placements: tuple[Any, ...] = ()

    @classmethod
    def of(cls, t: Tensor) -> Kind:
        """Return the kind of a tensor."""
        if is_sharded(t):
            return cls(t.dtype, t.device, t.device_mesh, t.placements)  # type: ignore[attr-defined]
        return cls(t.dtype, t.device)

    def whole(self, part: Tensor) -> Tensor:
        """Sum over the ranks what each has found in its own part of sharded tensors."""
        for dimension, placement in enumerate(self.placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(part, group=self.mesh.get_group(dimension))
        return part


def kinds(tensors: Sequence[Tensor]) -> dict[Kind, Sequence[int]]:
    """Return the positions of tensors in their list, by kind, in an order that ranks share.

    Args:
        tensors: Any tensors.

    Returns:
        Positions for each kind.

    Example:
        >>> found = kinds([torch.zeros(1), torch.zeros(1).half(), torch.zeros(2)])
        >>> [(kind.dtype, list(places)) for kind, places in found.items()]
        [(torch.float32, [0, 2]), (torch.float16, [1])]
    """
    alike = all_plain(tensors) and len(set(map(_FORM, tensors))) == 1 == len(devices(tensors))
    if alike:
        return {Kind.of(tensors[0]): range(len(tensors))}  # nearly always
    found: dict[Kind, list[int]] = {}
    for place, t in enumerate(tensors):
        found.setdefault(Kind.of(t), []).append(place)
    return dict(found)


def pieces(*lists: Sequence[Tensor]) -> Iterator[tuple[Kind, list[Tensor]]]:
    """Go through lists of tensors side by side, in few long vectors.

    Many small tensors take much longer one by one than in one piece.

    Args:
        lists: Of as many tensors each, those at one position of one shape. Of a sharded one, the
            part that this rank holds is looked at; a sparse one is made dense.

    Yields:
        The kind of a piece, and the piece of every list, one-dimensional.

    Raises:
        ValueError: If the lists are not of one length.

    Example:
        >>> [(_, (a, b))] = pieces([torch.zeros(2)] * 50, [torch.ones(2)] * 50)
        >>> a.shape, float(b.sum())
        (torch.Size([100]), 100.0)
    """
    if len({len(tensors) for tensors in lists}) > 1:
        raise ValueError(f"lists must be of one length, got {[len(tensors) for tensors in lists]}")
    for kind, places in kinds(lists[0]).items():
        rows: Sequence[Sequence[Tensor]] = lists
        if kind.mesh or len(places) < len(lists[0]):
            rows = [local([tensors[i] for i in places]) for tensors in lists]
        rows = [[t.to_dense() if t.is_sparse else t for t in tensors] for tensors in rows]
        for vector in zip(*map(vectors, rows), strict=True):
            yield kind, list(vector)


def vectors(tensors: Sequence[Tensor], multiple: int = 1) -> list[Tensor]:
    """Return the entries of all the tensors in few long vectors: many small ones in one together.

    Args:
        tensors: Plain dense tensors on one device; lists of the same shapes are cut alike.
        multiple: What is put together is filled up with zeros to a multiple of so many entries.

    Returns:
        One-dimensional tensors.

    Example:
        >>> [v.tolist() for v in vectors([torch.zeros(2, 2), torch.ones(1)])]
        [[0.0, 0.0, 0.0, 0.0], [1.0]]
        >>> len(vectors([torch.zeros(2)] * 100))
        1
    """
    sizes = list(map(Tensor.numel, tensors))
    least = SMALL if len(tensors) - sum(map(SMALL.__le__, sizes)) >= _MANY else 0
    most = _SCRATCH if torch.get_num_threads() == 1 else _ALONE
    if max(sizes) < least and sum(sizes) <= most:
        return [together(tensors, -sum(sizes) % multiple)]
    found: list[Tensor] = []
    small: list[Tensor] = []
    room = most
    for t, size in zip(tensors, sizes, strict=True):
        if size >= least:
            found.append(t.reshape(-1))
            continue
        if size > room:
            found.append(together(small, (room - most) % multiple))
            small, room = [], most
        small.append(t)
        room -= size
    return [*found, together(small, (room - most) % multiple)] if small else found


def runs(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Return the places of neighbours that are put together.

    Args:
        sizes: How many entries each has.
        most: How many those have together that are more than one.

    Example:
        >>> runs([2, 2, 9, 1, 1], 4)
        [[0, 1], [2], [3, 4]]
    """
    found: list[list[int]] = []
    room = 0
    for place, size in enumerate(sizes):
        if not found or size > room:
            found.append([])
            room = most
        found[-1].append(place)
        room -= size
    return found


def together(tensors: Sequence[Tensor], zeros: int = 0) -> Tensor:
    """Return the entries of plain dense tensors in one long vector.

    Args:
        tensors: Of one dtype; at least one.
        zeros: How many zeros come after them.

    Example:
        >>> together([torch.ones(1, 2), torch.ones(1)], 1)
        tensor([1., 1., 1., 0.])
    """
    if zeros:
        tensors = [*tensors, tensors[0].new_zeros(zeros)]
    flat: Tensor = torch._utils._flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return flat
