"""What the base optimizer gets, from the gradient here (g) and the one uphill (h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Combine(Protocol):
    """Makes one gradient out of the passes' gradients."""

    def __call__(self, here: Sequence[Tensor], uphill: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the base optimizer gets."""
        ...


@dataclass(frozen=True, slots=True)
class SAMGradient:
    """The gradient at w + ε, as it is.

    Example:
        >>> SAMGradient()([], [])
        []
    """

    def __call__(self, here: Sequence[Tensor], uphill: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the uphill gradient.

        Args:
            here: Gradient at w, one tensor per parameter.
            uphill: Gradient at w + ε, one tensor per parameter.

        Returns:
            ``uphill``.
        """
        return uphill
