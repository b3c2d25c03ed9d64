r"""In what units each parameter, or each entry of it, is perturbed: the scale S of a ball.

The ball is :math:`\{\varepsilon : \lVert S^{-1}\varepsilon\rVert \le \rho\}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from thalweg.ascent.context import Context, Number
from thalweg.errors import ThalwegError, number


class Scale(Protocol):
    """Gives S: for every tensor one of the same shape, or a number."""

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return the diagonal of S, nowhere below 0."""
        ...


def _dimensions(tensor: Tensor, context: Context) -> int:
    """Of how many dimensions the parameter is."""
    return tensor.ndim - context.cells


@dataclass(frozen=True, slots=True)
class Magnitude:
    """The size of the weights themselves: S = |w| + offset, entry by entry (ASAM).

    Attributes:
        offset: η, so that a weight of 0 can move.
        biases: Whether vectors (biases, gains of normalization layers) are scaled, too; else their
            S is 1. The authors' code leaves them out; the most copied port scales them, and needs
            another rho.

    Source:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021.

    Example:
        >>> context = Context(weights=[torch.tensor([[-2.0]]), torch.tensor([3.0])])
        >>> Magnitude(0.5)([], context)
        [tensor([[2.5000]]), 1.0]
    """

    offset: float = 0.01
    biases: bool = False
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", number("offset", self.offset, at_least=0))

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return |w| + offset."""
        return [
            w.detach().abs() + self.offset if self.biases or _dimensions(w, context) > 1 else 1.0
            for w in context.weights
        ]


@dataclass(frozen=True, slots=True)
class Trust:
    """The length of each tensor, S = ‖w‖: layers move in proportion to their size (LARS).

    Example:
        >>> Trust()([], Context(weights=[torch.tensor([3.0, 4.0])]))
        [5.0]
    """

    stateless: ClassVar[bool] = True

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return the norm of every tensor."""
        return context.norms(context.weights)


@dataclass(frozen=True, slots=True)
class FanRatio:
    r"""S = √(fan_out / fan_in), one number for each tensor.

    By so much a matrix of that spectral norm changes what comes out, whatever its width. A vector
    has a fan_in of 1; the fan_in of a convolution counts its window.

    Source:
        Haas et al., μP²: Effective Sharpness Aware Minimization Requires Layerwise Perturbation
        Scaling, NeurIPS 2024; Yang et al., A Spectral Condition for Feature Learning, 2023.

    Example:
        >>> FanRatio()([], Context(weights=[torch.zeros(8, 2), torch.zeros(9)]))
        [2.0, 3.0]
    """

    stateless: ClassVar[bool] = True

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return one float per tensor."""
        found: list[Number] = []
        for w in context.weights:
            out, *into = tuple(w.shape[context.cells :]) or (1,)
            found.append(math.sqrt(out / math.prod(into)))
        return found


@dataclass(frozen=True, slots=True)
class AdamMetric:
    """The metric of Adam: S = (v̂ + floor)^(-1/4), v̂ its bias-corrected second moment.

    Before Adam's first step S is 1.

    Attributes:
        floor: Added to v̂, so that an entry whose gradient was always 0 does not fly away.
        decay: β₂ of the base optimizer, for the bias correction.

    Raises:
        ThalwegError: If the base optimizer keeps no second moment.

    Example:
        >>> held = {"exp_avg_sq": [torch.tensor([0.016])], "step": [torch.tensor(1.0)]}
        >>> AdamMetric(floor=0.0)([torch.zeros(1)], Context(step=1, state=held.get))
        [tensor([0.5000])]
    """

    floor: float = 1e-8
    decay: float = 0.999
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", number("floor", self.floor, at_least=0))
        object.__setattr__(self, "decay", number("decay", self.decay, at_least=0, below=1))

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return v̂^(-1/4)."""
        held = context.state("exp_avg_sq")
        if context.step > 0 and held and all(v is None for v in held):
            raise ThalwegError(
                'the base optimizer must keep "exp_avg_sq", as Adam and AdamW do, got none of it: '
                "choose one of these, or another scale"
            )
        steps = context.state("step")
        found: list[Number] = []
        for v, t in zip(held, steps, strict=True):
            count = context.step if t is None else t
            found.append(1.0 if v is None else (v / (1 - self.decay**count) + self.floor) ** -0.25)
        return found


@dataclass(frozen=True, slots=True)
class Fisher:
    """The diagonal of the empirical Fisher information: S = (g² + floor)^(-1/2).

    Attributes:
        floor: Added to every g².

    Source:
        Kim et al., Fisher SAM: Information Geometry and Sharpness Aware Minimisation, ICML 2022.

    Example:
        >>> Fisher(floor=1.0)([torch.tensor([0.0])], Context())
        [tensor([1.])]
    """

    floor: float = 1.0
    needs_scale: ClassVar[bool] = True
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", number("floor", self.floor, above=0))

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return (g² + floor)^(-1/2)."""
        return [torch.rsqrt(g * g + self.floor) for g in direction]
