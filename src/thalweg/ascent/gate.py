"""When to perturb, and with what radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Gate(Protocol):
    """Decides in Python, before anything is computed, whether a step is perturbed."""

    def __call__(self, step: int) -> bool:
        """Return whether the gate is open at this step."""
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Every step is perturbed.

    Example:
        >>> Always()(0)
        True
    """

    def __call__(self, step: int) -> bool:
        """Open the gate.

        Args:
            step: How many steps went before.

        Returns:
            True.
        """
        return True


class Schedule(Protocol):
    """Turns the rho of a group into the radius at a step."""

    def __call__(self, rho: float, step: int) -> float:
        """Return the radius at this step."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The radius is the group's rho, which a scheduler may move.

    Example:
        >>> Constant()(0.05, step=7)
        0.05
    """

    def __call__(self, rho: float, step: int) -> float:
        """Return rho unchanged.

        Args:
            rho: The group's rho.
            step: How many steps went before.

        Returns:
            The radius.
        """
        return rho
