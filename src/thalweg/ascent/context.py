"""What a part may know of its step beside the gradient, and remember of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.errors import ThalwegError

#: Numbers of a step: floats where they are cheap to read, tensors of one elsewhere; one for every
#: cell of a grid in the simulator.
Number = float | Tensor
Norm = Callable[[Sequence[Tensor]], Number]


class Memory(Protocol):
    """What parts remember from step to step, by name."""

    def recall(self, name: str, like: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors kept under a name; zeros of the shapes of ``like`` before that."""
        ...

    def keep(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep one tensor per parameter."""
        ...

    def number(self, name: str, default: float) -> Number:
        """Return the number kept under a name."""
        ...

    def note(self, name: str, value: Number) -> None:
        """Keep a number."""
        ...


class Notebook:
    """A memory for lists of tensors that are the same ones at every step.

    Example:
        >>> memory = Notebook()
        >>> memory.recall("mean", [torch.ones(2)])
        [tensor([0., 0.])]
        >>> memory.keep("mean", [torch.ones(2)])
        >>> memory.recall("mean", [torch.ones(2)])
        [tensor([1., 1.])]
    """

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}
        self.numbers: dict[str, Number] = {}

    def recall(self, name: str, like: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors kept under a name; zeros of the shapes of ``like`` before that."""
        return self.tensors.get(name) or list(map(nothing, like))

    def keep(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep one tensor per parameter."""
        self.tensors[name] = list(tensors)

    def number(self, name: str, default: float) -> Number:
        """Return the number kept under a name."""
        return self.numbers.get(name, default)

    def note(self, name: str, value: Number) -> None:
        """Keep a number."""
        self.numbers[name] = value


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
        agreed: The mean over ranks of a number that each rank has its own of.
        layers: Gives for each parameter a number, which the parameters of a layer share; none
            where layers are not known.
        names: Gives the name of each parameter in the model; none where names are not known.
        stepped: Whether the base optimizer has taken a step before.
        point: At which of several points around w the gradient is taken next.
        cells: 1 where every tensor has the cells of a grid first, as in the simulator, else 0.

    Example:
        >>> Context().norm([torch.tensor([3.0, 4.0])])
        tensor(5., dtype=torch.float64)
    """

    weights: Sequence[Tensor] = ()
    step: int = 0
    norm: Norm = parameters.norm
    norms: Callable[[Sequence[Tensor]], Sequence[Number]] = parameters.norms
    dot: Callable[[Sequence[Tensor], Sequence[Tensor]], Number] = parameters.dot
    memory: Memory = field(default_factory=Notebook)
    state: Callable[[str], Sequence[Tensor | None]] = _no_state
    agreed: Callable[[Number], Number] = lambda number: number
    layers: Callable[[], Sequence[int]] = tuple
    names: Callable[[], Sequence[str]] = tuple
    stepped: bool = False
    point: int = 0
    cells: int = 0

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
