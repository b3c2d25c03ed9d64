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

from thalweg import parameters
from thalweg.ascent.context import Context, Number
from thalweg.errors import ThalwegError, brief, flag, number


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
        biases: Whether all are scaled, as the most copied port does, which needs another rho. Else
            S is 1 for parameters without "weight" in their name, as in the authors' code: for
            biases, and for tokens, embeddings of positions and gains that are parameters of a
            module by themselves. Where names are not known, or none has "weight" in it, S is 1 for
            vectors and numbers instead.

    Raises:
        ThalwegError: If the offset is below 0, or ``biases`` is neither True nor False.

    Source:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021.

    Example:
        >>> weights = [torch.tensor([[-2.0]]), torch.tensor([3.0])]
        >>> Magnitude(0.5)([], Context(weights=weights))
        [tensor([[2.5000]]), 1.0]
        >>> Magnitude(0.5)([], Context(weights=weights, names=lambda: ["token", "norm.weight"]))
        [1.0, tensor([3.5000])]
    """

    offset: float = 0.01
    biases: bool = False
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", number("offset", self.offset, at_least=0))
        flag("biases", self.biases)

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return |w| + offset."""
        sizes = context.weights
        if self.biases:
            return context.each(self._size, sizes, 0.0)
        names = context.names() or [""] * len(sizes)
        told = any("weight" in name for name in names)
        apart = [
            float("weight" not in name if told and name else _dimensions(w, context) < 2)
            for name, w in zip(names, sizes, strict=True)
        ]
        return context.each(self._size, sizes, apart)

    def _size(self, weight: Tensor, apart: Number) -> Number:
        if isinstance(apart, Tensor):  # of several tensors in one
            return torch.where(apart != 0, 1.0, self._size(weight, 0.0))
        return 1.0 if apart else weight.detach().abs() + self.offset


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
    has a fan_in of 1; the fan_in of a convolution counts its window. Outputs come first, as torch's
    layers have them, unless the context says otherwise. The table of an embedding is taken as it
    lies, its words as outputs, so that its number grows with the vocabulary; by the theory a word
    has a fan_in of 1, and the number is √width. Leave tables out by a filter, or give the numbers
    by :class:`Radii`.

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
            shape = tuple(w.shape[context.cells :]) or (1,)
            out, *into = reversed(shape) if context.inputs_first else shape
            found.append(math.sqrt(out / math.prod(into)))
        return found


@dataclass(frozen=True, slots=True)
class Radii:
    """A number of its own for each tensor.

    Attributes:
        values: As many as tensors are perturbed, in the order of the base optimizer.

    Raises:
        ThalwegError: If they are not numbers from 0, or are not as many.

    Example:
        >>> Radii((1.0, 0.5))([torch.ones(2), torch.ones(3)], Context())
        [1.0, 0.5]
    """

    values: tuple[float, ...]
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            values = tuple(number("each of values", v, at_least=0) for v in self.values)
        except TypeError:
            values = ()
        if not values:
            raise ThalwegError(
                f"values must be a tuple of numbers such as (1.0, 0.5), got {brief(self.values)}"
            )
        object.__setattr__(self, "values", values)

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return the numbers."""
        if len(self.values) != len(direction):
            raise ThalwegError(
                f"values must be as many as the tensors that are perturbed, got "
                f"{len(self.values)} for {len(direction)} tensors: give one for each that the "
                "filter lets through and that has a gradient"
            )
        return list(self.values)


def _double(count: float | Tensor) -> Tensor:
    return torch.as_tensor(count).double()


@dataclass(frozen=True, slots=True)
class AdamMetric:
    """The metric of Adam: S = (v̂ + floor)^(-1/4), v̂ its bias-corrected second moment.

    Before Adam's first step S is 1.

    Attributes:
        floor: Added to v̂, so that an entry whose gradient was always 0 does not fly away.
        decay: β₂, for the bias correction; ``None`` for that in each param group of the base
            optimizer.

    Raises:
        ThalwegError: If the base optimizer keeps no second moment, or has no β₂ and none is given.

    Example:
        >>> held = {"exp_avg_sq": [torch.tensor([0.016])], "step": [torch.tensor(1.0)]}
        >>> AdamMetric(0.0, decay=0.999)([torch.zeros(1)], Context(step=1, state=held.get))
        [tensor([0.5000])]
    """

    floor: float = 1e-8
    decay: float | None = None
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", number("floor", self.floor, at_least=0))
        if self.decay is not None:
            object.__setattr__(self, "decay", number("decay", self.decay, at_least=0, below=1))

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        """Return v̂^(-1/4)."""
        held = context.state("exp_avg_sq")
        if context.stepped and held and all(v is None for v in held):
            raise ThalwegError(
                'the base optimizer must keep "exp_avg_sq", as Adam and AdamW do, got none of it: '
                "choose one of these, or another scale"
            )
        steps, decays = context.state("step"), self._decays(len(held), context)
        # What the optimizer has not stepped yet gets 1.
        seen = [1 - self.floor if v is None else v for v in held]
        # Torch counts in float32, where 1 - β₂ᵗ loses four digits.
        wide = float if context.cut() else _double  # pieces are taken where numbers are read
        counts = [context.step or 1 if t is None else wide(t) for t in steps]
        each = zip(held, decays, counts, strict=True)
        return context.each(self._root, seen, [1 - (v is not None) * b**t for v, b, t in each])

    def _decays(self, count: int, context: Context) -> list[float]:
        if self.decay is not None:
            return [self.decay] * count
        betas = context.setting("betas")
        if None in betas:
            raise ThalwegError(
                'the base optimizer must have "betas" in its param groups, as Adam has, got none: '
                "choose one that has, or give the decay of its second moment, such as decay=0.999"
            )
        return [pair[1] for pair in betas]

    def _root(self, second: Number, part: Number) -> Number:
        if isinstance(second, float):
            return 1.0
        wide = parameters.wide(second)  # 16 bits cannot hold the floor
        return (wide / part + self.floor).rsqrt().sqrt()


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
        return context.each(lambda g: torch.rsqrt(g * g + self.floor), direction)
