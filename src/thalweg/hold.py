"""The only writer of parameters: what SAM moves is put back from here, bit for bit.

They come back from a copy, never by subtraction: w + ε - ε is not w in floating point, and the
replicas of a distributed run would drift apart. On the CPU a large weight that nobody else has a
view of is not written to at all: w + ε goes into the memory that is else for the copy, and the
parameter points there for a while. Memory is what takes the time, and this takes half of it.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from thalweg import layout, sharded
from thalweg.cut import Pieces

_FORM = operator.attrgetter("dtype", "device", "shape")
_FORM_ON_CPU = operator.attrgetter("dtype", "shape")  # there is but one device to lie on
#: Entries that are multiplied before they are added, on an accelerator.
_BATCH = 2**22
#: What every dtype can hold.
ANY_HOLDS = torch.finfo(torch.float16).max
#: Parameters, directions of the same shapes, and the factor, for each group.
Moves = Sequence[tuple[Sequence[Tensor], Sequence[Tensor], float | Tensor]]


class Weights:
    """Moves parameters and puts them back. Its backup buffers are kept from step to step.

    Args:
        model: Is resharded before every move and after every restore, where it shards its
            parameters; ``None`` if there is none.
        keep: Whether the buffers are kept when the weights are back.

    Example:
        >>> w = torch.tensor([1.0, 2.0])
        >>> weights = Weights()
        >>> weights.move([([w], [torch.ones(2)], 0.5)])
        >>> w
        tensor([1.5000, 2.5000])
        >>> weights.restore()
        >>> w
        tensor([1., 2.])
    """

    def __init__(self, model: nn.Module | None = None, *, keep: bool = True) -> None:
        self._model = model
        self._keep = keep
        self._backup = WeakIdKeyDictionary()  # a parameter that is gone takes its copy along
        self._away: list[Tensor] = []
        self._elsewhere: list[tuple[Tensor, Tensor]] = []
        self._back: list[Tensor] = []
        self._known: list[Tensor] = []
        self._forms: list[Any] = []
        self._copies: list[Tensor] = []
        self._large: set[Tensor] = set()
        self._sharded = False

    @property
    def moved(self) -> bool:
        """Whether any weight is away from its place."""
        return bool(self._away or self._elsewhere)

    @torch.no_grad()
    def move(self, moves: Moves) -> None:
        """Add ``factor * direction`` to parameters, after a copy of them is safe.

        Args:
            moves: A factor given as a tensor is applied without reading it, and where it is 0 the
                parameters stay even if the direction is not finite.
        """
        self.restore()
        moving = [p for group, _, _ in moves for p in group]
        if not moving:
            return
        self._room(moving)
        if self._sharded:  # what was gathered before the move would go on being used
            sharded.reshard(self._model)
            moves = [(layout.local(p), layout.local(d), f) for p, d, f in moves]
            moving = [p for group, _, _ in moves for p in group]
        copies = self._copies
        pointing: list[Tensor] = []
        if type(moves[0][1]) is Pieces:
            moves, pointing = self._pieces_elsewhere(moves)
            if pointing:
                out = set(pointing)
                pairs = zip(moving, copies, strict=True)
                copies = [copy for p, copy in pairs if p not in out]
                moving = [p for p in moving if p not in out]
        elif self._large and all(isinstance(f, float) and f < ANY_HOLDS for _, _, f in moves):
            moves, pointing = self._written_elsewhere(moves)
            moving = [p for group, _, _ in moves for p in group]
            copies = [self._backup[p] for p in moving]
        if moving:
            torch._foreach_copy_(copies, moving)
        self._away, self._back = moving, copies
        self._elsewhere = [(p, p.data) for p in pointing]
        _add(moves, set(pointing))
        for p in pointing:
            _point(p, self._backup[p])
        torch.clear_autocast_cache()  # autocast would go on using its copies of the weights

    def _written_elsewhere(self, moves: Moves) -> tuple[Moves, list[Tensor]]:
        """Write w + ε beside the weights where that will do; return what is left, and where."""
        left: list[tuple[list[Tensor], list[Tensor], float | Tensor]] = []
        pointing = []
        for group, direction, factor in moves:
            stay, along = [], []
            for p, d in zip(group, direction, strict=True):
                if p in self._large and _unshared(p) and _FORM(p) == _FORM(d) and not d.is_sparse:
                    torch.add(p, d, alpha=float(factor), out=self._backup[p])
                    pointing.append(p)
                else:
                    stay.append(p)
                    along.append(d)
            left += [(stay, along, factor)] if stay else []
        return left, pointing

    def _pieces_elsewhere(self, moves: Moves) -> tuple[Moves, list[Tensor]]:
        """Do the same where ε is made piece by piece: one move, whose factor is a float."""
        [(group, direction, factor)] = moves
        assert isinstance(direction, Pieces)
        assert isinstance(factor, float)
        if factor >= ANY_HOLDS:
            return [(group, list(direction), factor)], []
        free = {p for p in group if p in self._large and _unshared(p) and p.is_contiguous()}
        for p, portion, piece in direction.of_large(group, free):
            new = portion.of(self._backup[p])
            torch.add(portion.of(p), piece, alpha=factor, out=new)
        return moves, [p for p in group if p in free]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every moved weight back, bit for bit. Does nothing where none is moved."""
        if not self.moved:
            return
        if self._away:
            torch._foreach_copy_(self._away, self._back)
        for p, own in self._elsewhere:
            _point(p, own)
            if not _unshared(self._backup[p]):  # a view was taken there: let it see the weights
                self._backup[p].copy_(own)
                del self._backup[p]
                self._known = []
        self._away, self._back, self._elsewhere = [], [], []
        torch.clear_autocast_cache()
        if self._sharded:
            sharded.reshard(self._model)
        if not self._keep:
            self.release()

    @property
    def before(self) -> dict[Tensor, Tensor]:
        """Of every parameter that is away, the copy taken before."""
        copies = {p: self._backup[p] for p in self._known} if self.moved else {}
        return copies | dict(self._elsewhere)

    def release(self) -> None:
        """Give the backup buffers back, after putting the weights back."""
        self.restore()
        self._backup.clear()
        self._known, self._forms, self._copies = [], [], []
        self._large = set()

    def _room(self, moving: list[Tensor]) -> None:
        """Make room for a copy of each parameter, kept from step to step."""
        # A parameter can be given another dtype, device or shape between steps.
        form = _FORM if torch.accelerator.is_available() else _FORM_ON_CPU
        forms = list(map(form, moving))
        if layout.same(moving, self._known) and forms == self._forms:
            return
        unfit = []
        for p in moving:
            if p not in self._backup or _FORM(self._backup[p]) != _FORM(p):
                unfit.append(p)
        for kind, places in layout.kinds(unfit).items() if unfit else ():
            small = []
            for p in [unfit[i] for i in places]:
                if kind.mesh or p.numel() >= layout.SMALL:
                    self._backup[p] = torch.empty_like(p)
                else:
                    small.append(p)
            # Side by side they are copied faster.
            sizes = [p.numel() for p in small]
            rooms = torch.empty(sum(sizes), dtype=kind.dtype, device=kind.device)
            for p, room in zip(small, torch.split(rooms, sizes), strict=True):
                self._backup[p] = room.view(p.shape)
        self._known, self._forms = moving, forms
        self._copies = layout.local([self._backup[p] for p in moving])
        self._sharded = any(map(layout.is_sharded, moving))
        plain = layout.all_plain(moving) and not layout.costly_to_read(moving[0].device)
        self._large = {
            p
            for p in moving
            if plain and p.numel() >= layout.SMALL and p.stride() == self._backup[p].stride()
        }


@torch.no_grad()
def shift(moves: Moves) -> None:
    """Add ``factor * direction`` to parameters for good, as an optimizer's step does.

    Args:
        moves: As for :meth:`Weights.move`; of sharded tensors, each rank shifts its own part.

    Example:
        >>> w = torch.tensor([1.0, 2.0])
        >>> shift([([w], [torch.ones(2)], -0.5)])
        >>> w
        tensor([0.5000, 1.5000])
    """
    _add([(layout.local(p), layout.local(d), factor) for p, d, factor in moves])


def _add(moves: Moves, but: Container[Tensor] = ()) -> None:
    """Add every move; of one that is made piece by piece, not to some large parameters."""
    for group, direction, factor in moves:
        if type(direction) is Pieces:
            for some, part in direction.pairs(group, but):
                torch._foreach_add_(some, part, alpha=float(factor))
        elif isinstance(factor, Tensor):
            for some, part in _batches(group, direction):
                torch._foreach_add_(some, [_product(factor, d) for d in part])
        elif factor < ANY_HOLDS or factor <= min(torch.finfo(d.dtype).max for d in direction):
            torch._foreach_add_(list(group), list(direction), alpha=factor)
        else:  # of a gradient so small that its own dtype cannot hold the factor
            torch._foreach_add_(list(group), [d.double() * factor for d in direction])


def _unshared(tensor: Tensor) -> bool:
    """Whether nobody else has a view of a tensor's memory."""
    count = getattr(torch._C, "_storage_Use_Count", None)  # which not every version of torch has
    # One is the tensor itself, the other the handle that is asked.
    return count is not None and count(tensor.untyped_storage()._cdata) == 2


def _point(p: Tensor, memory: Tensor) -> None:
    """Let a parameter lie in other memory; what autograd has saved of it is known to be old."""
    p.data = memory
    torch.autograd.graph.increment_version(p)


def _batches(
    group: Sequence[Tensor], direction: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Cut two lists side by side, so that what is made of a piece takes little memory."""
    some: list[Tensor] = []
    part: list[Tensor] = []
    entries = 0
    for p, d in zip(group, direction, strict=True):
        if some and entries + p.numel() > _BATCH:
            yield some, part
            some, part, entries = [], [], 0
        some.append(p)
        part.append(d)
        entries += p.numel()
    if some:
        yield some, part


def _product(factor: Tensor, direction: Tensor) -> Tensor:
    """Return factor * direction, unread; 0 where the factor is, and never an overflowed factor."""
    factor = factor.to(direction.device)
    if direction.is_sparse:
        d = direction.coalesce()
        return torch.sparse_coo_tensor(d.indices(), _product(factor, d.values()), d.shape)
    wide = direction.float() if direction.dtype.itemsize == 2 else direction
    held = factor.clamp(max=torch.finfo(wide.dtype).max).to(wide.dtype)
    return torch.where(factor != 0, wide * held, 0.0)
