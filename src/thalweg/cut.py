"""Lists of tensors gone through in pieces: what is made of a piece stays in the cache.

Large tensors are cut and small ones put together. What is made of them is made piece by piece, when
it is asked for and as often: fresh memory of the size of a layer, which comes from the system page
by page, costs far more than the numbers in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg import layout, parameters

#: Entries of a piece; of a large tensor, for each thread.
_PIECE = 2**17
_WIDE = (torch.float32, torch.float64)


class Portion(NamedTuple):
    """Where a piece belongs.

    Attributes:
        places: Of the tensors in their list: one that was cut, or several that were put together.
        start: At which entry of one tensor it begins; -1 where several were put together.
        entries: How many it has of one tensor.
    """

    places: list[int]
    start: int
    entries: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return these entries of the tensor that was cut, as a view if it is contiguous."""
        if not tensor.is_contiguous():
            return tensor.reshape(-1).narrow(0, self.start, self.entries)
        return tensor.as_strided((self.entries,), (1,), tensor.storage_offset() + self.start)


class Cut:
    """How lists are cut that have a tensor, or a number, for each of some parameters.

    Args:
        like: The parameters, or tensors of their shapes: plain dense ones on the CPU.

    Example:
        >>> tensors = [torch.ones(2), torch.ones(2, 100000)]
        >>> cut = Cut(tensors)
        >>> found = cut(torch.mul, tensors, [3.0, 0.0])
        >>> found.norm(), found[0]
        (4.242640..., tensor([3., 3.]))
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.like = like
        self.sizes = list(map(Tensor.numel, like))
        self.portions: list[Portion] = []
        self._known: dict[int, tuple[Any, _Held]] = {}
        most = _PIECE * torch.get_num_threads()
        for place, size in enumerate(self.sizes):
            if size >= layout.SMALL:
                starts = range(0, size, most)
                self.portions += [Portion([place], i, min(most, size - i)) for i in starts]
        small = [place for place, size in enumerate(self.sizes) if size < layout.SMALL]
        for run in layout.runs([self.sizes[i] for i in small], _PIECE):
            self.portions.append(Portion([small[i] for i in run], -1, 0))

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Cut | None:
        """Return how lists for these parameters are cut; ``None`` where they must be left whole."""
        if not parameters or layout.costly_to_read(parameters[0].device):
            return None
        fit = _plain(parameters) and len({p.dtype for p in parameters}) == 1
        return cls(parameters) if fit and parameters[0].dtype in _WIDE else None

    def __call__(self, work: Callable[..., Any], *lists: Any) -> Pieces | None:
        """Return what is made of lists entry by entry; ``None`` where some list cannot be cut.

        Args:
            work: Is given a tensor or a number of each list.
            lists: Tensors or numbers, one for each parameter; or one number for all.
        """
        held = list(map(self._of, lists))
        return None if None in held else Pieces(self, work, held)

    def dot(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> float | None:
        """Return the inner product of two lists; ``None`` where one cannot be cut."""
        found = self(parameters.product, left, right)
        return None if found is None else float(sum(found.each()))

    def _of(self, some: Any) -> Pieces | _Held | None:
        if isinstance(some, Pieces):
            return some
        if isinstance(some, float | Tensor):
            return _Held(self, [float(some)] * len(self.like))
        if id(some) not in self._known:  # it is kept, so that its number is no other's
            fit = len(some) == len(self.like)
            if not (fit and _plain([t for t in some if isinstance(t, Tensor)])):
                return None
            self._known[id(some)] = some, _Held(self, some)
        return self._known[id(some)][1]


class _Held:
    """A list of tensors and numbers that are there, as pieces."""

    def __init__(self, cut: Cut, held: Sequence[Any], joined: dict[int, Any] | None = None) -> None:
        self._cut, self.held = cut, held
        self._joined = {} if joined is None else joined

    def piece(self, k: int) -> Any:
        portion = self._cut.portions[k]
        if portion.start >= 0:
            whole = self.held[portion.places[0]]
            return portion.of(whole) if isinstance(whole, Tensor) and whole.ndim else whole
        if k not in self._joined:
            self._joined[k] = self._join(portion.places)
        return self._joined[k]

    def _join(self, places: list[int]) -> Any:
        held = [self.held[i] for i in places]
        some: list[Any] = [t.item() if isinstance(t, Tensor) and not t.ndim else t for t in held]
        numbers = [t for t in some if not isinstance(t, Tensor)]
        if not numbers:
            return layout.together(some)
        like, sizes = self._cut.like[0], [self._cut.sizes[i] for i in places]
        if len(numbers) == len(some):
            if len(set(numbers)) == 1:
                return numbers[0]
            return torch.repeat_interleave(like.new_tensor(numbers), torch.tensor(sizes))
        pairs = list(zip(some, sizes, strict=True))  # numbers among tensors: 1 for every bias
        full = {(t, n): like.new_full((n,), t) for t, n in pairs if not isinstance(t, Tensor)}
        return layout.together([t if isinstance(t, Tensor) else full[t, n] for t, n in pairs])


class Pieces(Sequence[Tensor]):
    """Tensors that are made piece by piece; whole ones to whoever takes them for a list.

    Args:
        cut: How they are cut.
        work: Makes a piece of those of the lists.
        lists: What they are made of, cut likewise.
    """

    def __init__(self, cut: Cut, work: Callable[..., Any], lists: Sequence[Any]) -> None:
        self.cut, self._work, self._lists = cut, work, lists
        self._whole: _Held | None = None
        self._lengths: list[float] | None = None

    def piece(self, k: int) -> Any:
        """Make one piece, or take it of the whole tensors where they are there."""
        if self._whole is not None:
            return self._whole.piece(k)
        return self._work(*[held.piece(k) for held in self._lists])

    def measure(self) -> None:
        """From now on look how long pieces are when they are made for others: it costs least."""
        self._lengths = []

    def measured(self) -> float:
        """Return the Euclidean norm of what was made since :meth:`measure`, and look no longer."""
        lengths, self._lengths = self._lengths, None
        return math.hypot(*lengths) if lengths else float(parameters.norm(self._made()))

    def _looked_at(self, made: Tensor) -> Tensor:
        if self._lengths is not None:
            self._lengths.append(parameters.norm_of(lambda: [made.reshape(-1)]))
        return made

    @torch.no_grad()
    def each(self) -> list[Any]:
        """Make all pieces: for those that take little room."""
        return [self.piece(k) for k in range(len(self.cut.portions))]

    def norm(self) -> float:
        """Return the Euclidean norm of all the tensors together."""
        return parameters.norm_of(lambda: map(self.piece, range(len(self.cut.portions))))

    def of_large(
        self, others: Sequence[Tensor], wanted: Container[Tensor]
    ) -> Iterator[tuple[Tensor, Portion, Tensor]]:
        """Go through the pieces of large tensors.

        Args:
            others: As many, of the same shapes.
            wanted: Those beside which pieces are made.
        """
        for k, portion in enumerate(self.cut.portions):
            other = others[portion.places[0]]
            if portion.start >= 0 and other in wanted:
                yield other, portion, self._looked_at(self.piece(k))

    def pairs(
        self, targets: Sequence[Tensor], but: Container[Tensor] = ()
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Go through other tensors, as views, beside the pieces.

        Args:
            targets: As many, of the same shapes.
            but: Large ones that are left out.
        """
        for k, portion in enumerate(self.cut.portions):
            some = [targets[i] for i in portion.places]
            if portion.start < 0:
                made = self._looked_at(self.piece(k))
                there = self._whole is not None
                yield some, [self[i] for i in portion.places] if there else _apart(made, some)
            elif some[0] in but:
                continue
            elif some[0].is_contiguous():
                yield [portion.of(some[0])], [self._looked_at(self.piece(k))]
            elif portion.start == 0:
                yield some, [self._looked_at(self[portion.places[0]])]

    def __len__(self) -> int:
        return len(self.cut.like)

    def __getitem__(self, place: Any) -> Any:
        return self._made()[place]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._made())

    @torch.no_grad()
    def _made(self) -> Sequence[Tensor]:
        if self._whole is None:
            like, wholes = self.cut.like, list(self.cut.like)
            joined: dict[int, Tensor] = {}
            for k, portion in enumerate(self.cut.portions):
                made, first = self.piece(k), portion.places[0]
                if portion.start < 0:  # small ones lie side by side, and are not copied
                    joined[k] = made.to(like[first].dtype)
                    parts = _apart(joined[k], [like[i] for i in portion.places])
                    for i, part in zip(portion.places, parts, strict=True):
                        wholes[i] = part
                    continue
                if portion.start == 0:
                    wholes[first] = torch.empty(like[first].shape, dtype=like[first].dtype)
                torch._foreach_copy_([portion.of(wholes[first])], [made])
            self._whole = _Held(self.cut, wholes, joined)
            self._lists = ()
        return self._whole.held


def _apart(together: Tensor, like: list[Tensor]) -> list[Tensor]:
    apart: list[Tensor] = torch._utils._unflatten_dense_tensors(together, like)  # type: ignore
    return apart


def _plain(tensors: Sequence[Tensor]) -> bool:
    return layout.all_plain(tensors) and {t.layout for t in tensors} <= {torch.strided}
