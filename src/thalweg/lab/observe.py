"""Observers: what is kept of a quantity while a simulation runs, without storing the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number, whole


@dataclass(frozen=True)
class Observer:
    """Something kept of one quantity of the problem.

    Attributes:
        quantity: The name that the problem's ``observe`` gives it.
        every: How many steps lie between two looks, the first of which is at the start.
    """

    quantity: str
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.quantity, str):
            raise ThalwegError(
                "quantity must be the name of something that the problem observes, got "
                f"{brief(self.quantity)}"
            )
        whole("every", self.every, at_least=1)

    def begin(self, value: Tensor) -> list[Tensor]:
        """Return the record after the first look, at the start of all the cells."""
        return [value]

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Add a look at all the cells to the record."""
        raise NotImplementedError

    def finish(self, record: list[Tensor]) -> Tensor:
        """Return what was kept, cells first."""
        return record[0]


@dataclass(frozen=True)
class Final(Observer):
    """The latest value: that at the end.

    Example:
        >>> from thalweg.lab import Quadratic, simulate
        >>> watch = {"end": Final("distance")}
        >>> simulate(Quadratic([1.0]), eta=0.5, steps=2, observe=watch).observed["end"].tolist()
        0.25
    """

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Keep this one."""
        record[0] = value


@dataclass(frozen=True)
class Maximum(Observer):
    """The largest value seen; NaN is passed over.

    Example:
        >>> from thalweg.lab import Quadratic, simulate
        >>> watch = {"most": Maximum("distance")}
        >>> simulate(Quadratic([1.0]), eta=0.5, steps=2, observe=watch).observed["most"].tolist()
        1.0
    """

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Keep the larger."""
        record[0] = torch.fmax(record[0], value)


@dataclass(frozen=True)
class Minimum(Observer):
    """The smallest value seen; NaN is passed over.

    Example:
        >>> from thalweg.lab import Quadratic, simulate
        >>> watch = {"least": Minimum("distance")}
        >>> simulate(Quadratic([3.0]), eta=0.5, steps=2, observe=watch).observed["least"].tolist()
        0.25
    """

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Keep the smaller."""
        record[0] = torch.fmin(record[0], value)


@dataclass(frozen=True)
class FirstPassage(Observer):
    """The first step at which the quantity is below (or above) a level; infinity if never.

    Attributes:
        below: The level, if it is to be fallen below.
        above: The level, if it is to be exceeded.

    Raises:
        ThalwegError: Unless exactly one of the two is given.

    Example:
        >>> FirstPassage("y_squared", below=1.0).below
        1.0
    """

    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.below is None) == (self.above is None):
            raise ThalwegError(
                f"exactly one of below and above must be given, got below={self.below!r} and "
                f"above={self.above!r}"
            )
        name = "below" if self.above is None else "above"
        number(name, getattr(self, name))

    def begin(self, value: Tensor) -> list[Tensor]:
        """Return 0 for the cells that start beyond the level, infinity for the others."""
        return [torch.where(self._beyond(value), 0.0, math.inf).to(value)]

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Note this step for the cells that pass now."""
        now = self._beyond(value) & torch.isinf(record[0])
        record[0] = torch.where(now, float(step), record[0])

    def _beyond(self, value: Tensor) -> Tensor:
        if self.below is not None:
            return value < self.below
        assert self.above is not None
        return value > self.above


@dataclass(frozen=True)
class History(Observer):
    """The values at every ``every``-th step, from the start on; a frozen cell keeps its last.

    The result has the shape of the grid, then one entry per look.

    Example:
        >>> from thalweg.lab import Quadratic, simulate
        >>> watch = {"path": History("distance", every=2)}
        >>> simulate(Quadratic([1.0]), eta=0.5, steps=4, observe=watch).observed["path"].tolist()
        [1.0, 0.25, 0.0625]
    """

    def look(self, record: list[Tensor], value: Tensor, step: int) -> None:
        """Append the values."""
        record.append(value)

    def finish(self, record: list[Tensor]) -> Tensor:
        """Return all the looks, cells first."""
        return torch.stack(record, dim=1)
