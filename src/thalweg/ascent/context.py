"""What a part may know of its step beside the gradient, and remember of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.errors import ThalwegError

#: Numbers of a step: floats where they are cheap to read, tensors of one elsewhere; one for every
#: cell of a grid in the simulator.
Number = float | Tensor
#: Gives the Euclidean norm of a list.
Norm = Callable[[Sequence[Tensor]], Number]


class Notebook:
    """What parts remember from step to step, by name: lists of tensors, and numbers.

    Args:
        held: Where things are kept: it has ``get`` and takes items. What it is asked for is a pair
            of a name and a key; a number has no key. A dict unless told otherwise.
        keys: What each tensor of a list belongs to, in its order: parameters, or their names; its
            place in the list unless told otherwise.

    Example:
        >>> memory = Notebook()
        >>> memory.recall("mean", [torch.ones(2)])
        [tensor([0., 0.])]
        >>> memory.keep("mean", [torch.ones(2)])
        >>> memory.recall("mean", [torch.ones(2)])
        [tensor([1., 1.])]
        >>> some = Notebook({("mean", "w"): torch.ones(2)}, ["v", "w"])
        >>> some.recall("mean", [torch.ones(1), torch.ones(2)])
        [tensor([0.]), tensor([1., 1.])]
    """

    def __init__(self, held: Any = None, keys: Sequence[Any] | None = None) -> None:
        self._held: Any = {} if held is None else held
        self._keys = keys

    def recall(self, name: str, like: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors kept under a name; zeros of the shapes of ``like`` before that."""
        found = [(self._held.get((name, key)), t) for key, t in self._each(like)]
        return [nothing(t) if old is None else old for old, t in found]

    def keep(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep one tensor per parameter."""
        for key, t in self._each(tensors):
            self._held[name, key] = t

    def number(self, name: str, default: float) -> Number:
        """Return the number kept under a name."""
        found: Number = self._held.get((name, None), default)
        return found

    def note(self, name: str, value: Number) -> None:
        """Keep a number."""
        self._held[name, None] = value

    def _each(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        keys = range(len(tensors)) if self._keys is None else self._keys
        return zip(keys, tensors, strict=True)


def nothing(tensor: Tensor) -> Tensor:
    """Return zeros for a sum that starts: in float32 for a tensor of 16 bits.

    Args:
        tensor: What will be added.

    Example:
        >>> nothing(torch.ones(1).half())
        tensor([0.])
    """
    return torch.zeros_like(tensor, dtype=torch.float32 if tensor.itemsize == 2 else tensor.dtype)


def _no_state(name: str) -> Sequence[Tensor | None]:
    raise ThalwegError(
        f'the method needs "{name}" of a base optimizer, and there is none here: use it through '
        "thalweg.SAM"
    )


@dataclass(frozen=True, slots=True)
class Context:
    """A step as a part sees it. All lists are as long as the gradient, and in its order.

    Attributes:
        weights: The chosen parameters, at w.
        step: How many steps went before.
        norm: Euclidean norm of a list.
        norms: Euclidean norm of each tensor of a list.
        dot: Inner product of two lists.
        memory: What parts remember.
        state: What the base optimizer remembers of each parameter under a name, such as
            ``"exp_avg_sq"``; ``None`` for parameters it has not stepped yet.
        setting: What the base optimizer's param group of each parameter holds under a name, such as
            ``"betas"``; ``None`` where it holds none.
        agreed: The mean over ranks of a number that each rank has its own of.
        layers: Gives for each parameter a number, which the parameters of a layer share; none
            where layers are not known.
        names: Gives the name of each parameter in the model; none where names are not known.
        stepped: Whether the base optimizer has taken a step before.
        point: At which of several points around w the gradient is taken next.
        cells: 1 where every tensor has the cells of a grid first, as in the simulator, else 0.
        inputs_first: Whether a matrix has a row for each input, and a bias one row, as networks of
            the simulator have; torch's layers have the outputs first.
        cut: Gives what goes through lists in pieces, where that can be.

    Example:
        >>> Context().norm([torch.tensor([3.0, 4.0])])
        tensor(5., dtype=torch.float64)
    """

    weights: Sequence[Tensor] = ()
    step: int = 0
    norm: Norm = parameters.norm
    norms: Callable[[Sequence[Tensor]], Sequence[Number]] = parameters.norms
    dot: Callable[[Sequence[Tensor], Sequence[Tensor]], Number] = parameters.dot
    memory: Notebook = field(default_factory=Notebook)
    state: Callable[[str], Sequence[Tensor | None]] = _no_state
    setting: Callable[[str], Sequence[Any]] = _no_state
    agreed: Callable[[Number], Number] = lambda number: number
    layers: Callable[[], Sequence[int]] = tuple
    names: Callable[[], Sequence[str]] = tuple
    stepped: bool = False
    point: int = 0
    cells: int = 0
    inputs_first: bool = False
    cut: Callable[[], Callable[..., Sequence[Tensor] | None] | None] = lambda: None

    def each(self, work: Callable[..., Any], *lists: Any) -> Sequence[Tensor]:
        """Return what is made of lists place by place and entry by entry.

        The engine may put it off until the tensors are used, and take it in pieces.

        Args:
            work: Is given what each list has at one place, and makes a tensor of that.
            lists: Tensors or numbers, one for each parameter; or one number for all.

        Example:
            >>> Context().each(lambda g, n: n * g, [torch.ones(2), torch.ones(1)], [1.0, 2.0])
            [tensor([1., 1.]), tensor([2.])]
        """
        cut = self.cut()
        found = None if cut is None else cut(work, *lists)
        if found is not None:
            return found
        count = max(len(some) for some in lists if isinstance(some, Sequence))
        rows = [some if isinstance(some, Sequence) else [some] * count for some in lists]
        places = zip(*rows, strict=True)
        return [work(*(self._columns(place) if self.cells else place)) for place in places]

    def _columns(self, place: Sequence[Any]) -> list[Any]:
        """Give the cells' numbers the dimensions of the tensors beside them."""
        most = max((t for t in place if isinstance(t, Tensor)), key=Tensor.dim, default=None)
        return [
            t.to(most.dtype).reshape(-1, *[1] * (most.ndim - 1))
            if most is not None and isinstance(t, Tensor) and 0 < t.ndim < most.ndim
            else t
            for t in place
        ]

    def times(self, number: Number, tensor: Tensor) -> Tensor:
        """Return a number times a tensor, each cell's own number in the simulator.

        Args:
            number: One, or one for every cell.
            tensor: One of a list.

        Example:
            >>> Context(cells=1).times(torch.tensor([1.0, 2.0]), torch.ones(2, 3))
            tensor([[1., 1., 1.],
                    [2., 2., 2.]])
        """
        if self.cells and isinstance(number, Tensor) and number.ndim:
            number = number.to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))
        return tensor * number


def ratio(above: Number, below: Number) -> Number:
    """Return a ratio, and 0 where it has no finite value.

    Args:
        above: A number, or one for every cell.
        below: Likewise.

    Example:
        >>> ratio(1.0, 2.0), ratio(1.0, 0.0)
        (0.5, 0.0)
    """
    if isinstance(below, Tensor):
        found = above / below
        return torch.where(torch.isfinite(found), found, 0.0)
    plain = float(above) / float(below) if below else 0.0
    return plain if math.isfinite(plain) else 0.0
