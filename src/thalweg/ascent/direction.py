"""What points uphill, and for which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Direction(Protocol):
    """Turns the ascent gradient into the direction of the ascent."""

    def __call__(self, gradient: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the direction, one tensor per gradient."""
        ...


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient itself.

    Example:
        >>> Gradient()([])
        []
    """

    def __call__(self, gradient: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradient unchanged.

        Args:
            gradient: One tensor per parameter.

        Returns:
            The same list.
        """
        return gradient


class Filter(Protocol):
    """Chooses the parameters that are perturbed; norms are taken over these alone."""

    def __call__(self, parameter: Tensor) -> bool:
        """Return whether this parameter is perturbed."""
        ...


@dataclass(frozen=True, slots=True)
class AllParameters:
    """Every parameter that has a gradient.

    Example:
        >>> import torch
        >>> AllParameters()(torch.zeros(3))
        True
    """

    def __call__(self, parameter: Tensor) -> bool:
        """Choose every parameter.

        Args:
            parameter: A parameter of the base optimizer.

        Returns:
            True.
        """
        return True
