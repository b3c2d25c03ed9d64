"""The neighbourhood in which SAM looks uphill, and how far it looks: the power p.

A ball is told by its *sharp* operator. For a direction d it gives s = n·a, where a maximizes
<d, a> over the unit ball and n = <d, a> is the dual norm of d. Then ε = ρ n^(-p) s: with p = 0
the sharp operator itself, with p = 1 the maximizer on the ball of radius ρ. In the Euclidean
ball s = d, so that nothing of the size of the model is written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg import parameters

#: Numbers of a step: floats where they are cheap to read, tensors of one elsewhere.
Number = float | Tensor
Norm = Callable[[Sequence[Tensor]], Number]


class Ball(Protocol):
    """A neighbourhood of the weights."""

    def sharp(self, direction: Sequence[Tensor], norm: Norm) -> tuple[Sequence[Tensor], Number]:
        """Return s and the dual norm n of the direction."""
        ...


@dataclass(frozen=True, slots=True)
class L2:
    """All the chosen parameters as one vector, in Euclidean length.

    Example:
        >>> L2().sharp([torch.tensor([3.0, 4.0])])
        ([tensor([3., 4.])], tensor(5., dtype=torch.float64))
    """

    def sharp(
        self, direction: Sequence[Tensor], norm: Norm = parameters.norm
    ) -> tuple[Sequence[Tensor], Number]:
        """Return the direction itself and its Euclidean norm.

        Args:
            direction: What points uphill, one tensor per parameter.
            norm: How the norm of a list is taken; the simulator passes a form that can be batched.

        Returns:
            The direction, and its norm (zero-dimensional).
        """
        return direction, norm(direction)


def size(rho: Number, norm: Number, power: Number = 1.0, max_norm: Number = math.inf) -> Number:
    """Return the factor c of ε = c·s, that is ρ n^(-p), cut so that c·n stays within the cap.

    Args:
        rho: Radius, in units of parameters times (norm units)^(p-1).
        norm: Dual norm n of the direction. Where it is a float, all others must be floats.
        power: The normalization p.
        max_norm: Cap on the length c·n of ε.

    Returns:
        The factor, of the kind of ``norm``; 0 where n is not finite, or 0 at p > 0: no move.

    Source:
        p = 1: Foret et al., Sharpness-Aware Minimization, ICLR 2021. p = 0 and the comparison:
        Dai, Ahn and Sra, The Crucial Role of Normalization in SAM, NeurIPS 2023.

    Example:
        >>> size(0.1, torch.tensor([4.0, 0.0, torch.inf]), power=0.5)
        tensor([0.0500, 0.0000, 0.0000])
        >>> size(0.1, 4.0, power=0.5)
        0.05
    """
    if isinstance(norm, float):
        return _size_of_floats(rho, norm, power, max_norm)
    factor = rho * norm**-power
    if not isinstance(max_norm, float) or math.isfinite(max_norm):
        factor = torch.minimum(factor, max_norm / norm)
    # The length is NaN or infinite where n is not finite, and for p > 0 where n is 0.
    return torch.where(factor * norm < math.inf, factor, 0.0)


def _size_of_floats(rho: Any, norm: float, power: Any, max_norm: Any) -> float:
    """The same in plain numbers, which take a tenth of the time."""
    if not 0 < norm < math.inf or rho == 0:
        return float(rho) if norm == 0 == power else 0.0
    try:
        factor = min(rho * norm**-power, max_norm / norm)
    except OverflowError:  # of a tiny norm
        factor = max_norm / norm
    return float(factor) if factor * norm < math.inf else 0.0
