"""The radius over time; a torch scheduler may move ``"rho"`` in ``param_groups`` instead.

A step is a loop over ``sam.passes()``. With one for every micro-batch there are several to a step
of the base optimizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from thalweg.errors import ThalwegError, number, whole


class Schedule(Protocol):
    """Turns the rho of a group into the radius at a step."""

    def __call__(self, rho: float, step: int, lr: float) -> float:
        """Return the radius at this step.

        Args:
            rho: The group's rho.
            step: How many steps went before.
            lr: The group's learning rate; NaN where it has none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The radius is a multiple of the group's rho, which a scheduler may move.

    Attributes:
        times: The multiple.

    Example:
        >>> Constant()(0.05, step=7, lr=0.1)
        0.05
    """

    times: float = 1.0
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", number("times", self.times, at_least=0))

    def __call__(self, rho: float, step: int, lr: float) -> float:
        """Return that multiple of rho."""
        return rho * self.times


@dataclass(frozen=True, slots=True)
class FollowLR:
    """From a least radius at the least learning rate to rho at the largest, in a straight line.

    Attributes:
        lr_max: The largest learning rate, that after a warm-up: from it on the radius is rho.
        lr_min: The least one.
        rho_min: The radius there and below.

    Raises:
        ThalwegError: If a number is out of range, or a param group has no learning rate.

    Source:
        Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022.

    Example:
        >>> FollowLR(lr_max=0.1)(0.4, step=0, lr=0.05)
        0.2
    """

    lr_max: float
    lr_min: float = 0.0
    rho_min: float = 0.0
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr_min", number("lr_min", self.lr_min, at_least=0))
        object.__setattr__(self, "lr_max", number("lr_max", self.lr_max, above=self.lr_min))
        object.__setattr__(self, "rho_min", number("rho_min", self.rho_min, at_least=0))

    def __call__(self, rho: float, step: int, lr: float) -> float:
        """Return the radius at this learning rate; a rho of 0 stays 0."""
        if math.isnan(lr):
            raise ThalwegError(
                'every param group must have an "lr" for the radius to follow, got none: choose a '
                "schedule over steps, such as Cosine(steps)"
            )
        share = (float(lr) - self.lr_min) / (self.lr_max - self.lr_min)
        share = min(max(share, 0.0), 1.0)
        return self.rho_min + (rho - self.rho_min) * share if rho else 0.0


@dataclass(frozen=True, slots=True)
class Linear:
    """From one multiple of rho to another in a straight line, and constant after it.

    Attributes:
        steps: Over how many steps.
        start: Multiple of rho at the first step; 0 is a warm-up.
        end: Multiple of rho after the last.
        begin: How many steps go before at the multiple ``start``.

    Example:
        >>> [Linear(steps=2)(0.4, step=i, lr=0.1) for i in range(4)]
        [0.4, 0.2, 0.0, 0.0]
        >>> [Linear(steps=2, begin=1)(0.4, step=i, lr=0.1) for i in range(4)]
        [0.4, 0.4, 0.2, 0.0]
    """

    steps: int
    start: float = 1.0
    end: float = 0.0
    begin: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, at_least=1))
        object.__setattr__(self, "begin", whole("begin", self.begin))
        for name in ("start", "end"):
            object.__setattr__(self, name, number(name, getattr(self, name), at_least=0))
        if self.start == self.end:
            raise ThalwegError(
                f"start and end must differ, got {self.start} twice: use Constant({self.start:g})"
            )

    def __call__(self, rho: float, step: int, lr: float) -> float:
        """Return the radius at this step."""
        return rho * (self.start + (self.end - self.start) * self._done(step))

    def _done(self, step: int) -> float:
        return min(max(step - self.begin, 0) / self.steps, 1.0)


@dataclass(frozen=True, slots=True)
class Cosine(Linear):
    """From one multiple of rho to another along half a cosine, and constant after it.

    Example:
        >>> [round(Cosine(steps=2)(0.4, step=i, lr=0.1), 3) for i in range(4)]
        [0.4, 0.2, 0.0, 0.0]
    """

    def __call__(self, rho: float, step: int, lr: float) -> float:
        """Return the radius at this step."""
        done = 0.5 - 0.5 * math.cos(math.pi * self._done(step))
        return rho * (self.start + (self.end - self.start) * done)
