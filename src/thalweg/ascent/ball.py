"""The neighbourhood in which SAM looks uphill, and how far it looks.

A ball is told by its *sharp* operator. For a direction d it gives s = n·a, where a maximizes
<d, a> over the unit ball and n = <d, a> is the dual norm of d. Then ε = ρ n^(-p) s: with p = 0
the sharp operator itself, with p = 1 the maximizer on the ball of radius ρ. In the Euclidean
ball s = d, so that nothing of the size of the model is written here.

A ball of many tensors has a norm for each, and puts these together: as one vector, or by their
maximum, over tensors or over layers. Its scale S gives the units: e is in it if S⁻¹e is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.ascent import spectral
from thalweg.ascent.context import Context, Number, ratio
from thalweg.ascent.gives import fitting
from thalweg.ascent.scale import Scale
from thalweg.ascent.slots import of_tensors, takes
from thalweg.cut import Pieces
from thalweg.errors import ThalwegError, brief

#: How the norms of the tensors become one: ``"all"``: the root of the sum of their squares;
#: ``"tensor"``: the largest, so that every tensor moves by the whole radius; ``"layer"``: the
#: largest over layers, each the root of the sum of the squares of its tensors.
Over = Literal["all", "layer", "tensor"]

#: Of a dual norm, from which on what is multiplied once more is too large for float32.
_LARGE = 1e15


class Ball(Protocol):
    """A neighbourhood of the weights."""

    def sharp(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Number]:
        """Return s and the dual norm n of the direction."""
        ...


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A ball that is made of the norms of single tensors."""

    scale: Scale | None = None
    over: Over = "tensor"
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if of_tensors(self.scale) or not (self.scale is None or takes(self.scale, 2)):
            raise ThalwegError(
                "scale must be a part such as FanRatio(), called with (direction, context), or "
                f"None, got {brief(self.scale)}: pass an object, not a class; a word such as "
                '"tensor" is for over='
            )
        if self.over not in get_args(Over):
            raise ThalwegError(f'over must be "all", "layer" or "tensor", got {brief(self.over)}')

    @property
    def needs_scale(self) -> bool:
        """Whether the ball depends on what a loss is multiplied by."""
        return bool(getattr(self.scale, "needs_scale", False))

    def each(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Sequence[Number]]:
        """Return s and n of every tensor alone, in the unit ball of its norm."""
        raise NotImplementedError

    def _units(self, direction: Sequence[Tensor], context: Context) -> Sequence[Number]:
        assert self.scale is not None
        found = self.scale(direction, context)
        return fitting("scale", self.scale, found, direction, numbers=context.cells)

    def sharp(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Number]:
        """Return s and the dual norm n of the direction.

        Args:
            direction: What points uphill, one tensor per parameter.
            context: The step.

        Returns:
            s, one tensor per parameter, and n (zero-dimensional; one per cell in the simulator).
        """
        direction = _wide(direction)
        if self.scale is None:
            return together(*self.each(direction, context), self.over, context)
        units = self._units(direction, context)
        if _are_numbers(units, direction):  # they come out of the norm, and again out of s
            found, norms = self.each(direction, context)
            norms = [u * n for u, n in zip(units, norms, strict=True)]
            return together(found, norms, self.over, context, [u * u for u in units])
        found, norms = self.each(context.each(torch.mul, direction, units), context)
        found, norm = together(found, norms, self.over, context)
        return context.each(torch.mul, found, units), norm


@dataclass(frozen=True, slots=True)
class L2(_Scaled):
    """Euclidean length, unless told otherwise of all the chosen parameters as one vector.

    Attributes:
        scale: The units; 1 if ``None``.
        over: How the lengths of the tensors become one.

    Example:
        >>> import torch
        >>> L2().sharp([torch.tensor([3.0, 4.0])], Context())
        ([tensor([3., 4.])], tensor(5., dtype=torch.float64))
        >>> s, n = L2(over="tensor").sharp([torch.tensor([3.0, 4.0]), torch.ones(1)], Context())
        >>> [t / n for t in s]  # every tensor by the whole radius
        [tensor([0.6000, 0.8000]), tensor([1.])]
    """

    over: Over = "all"

    def each(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Sequence[Number]]:
        """Return the tensors themselves, and their lengths."""
        return direction, context.norms(direction)

    def sharp(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Number]:
        """Return s and the dual norm n of the direction; without a scale s is the direction.

        Args:
            direction: What points uphill, one tensor per parameter.
            context: The step.

        Returns:
            s, one tensor per parameter, and n (zero-dimensional; one per cell in the simulator).
        """
        if self.over != "all":
            return _Scaled.sharp(self, direction, context)
        if self.scale is None:
            return direction, context.norm(direction)
        direction = _wide(direction)
        units = self._units(direction, context)
        norm = context.norm(context.each(torch.mul, direction, units))
        large = isinstance(norm, float) and norm > _LARGE  # s would overflow before ε does
        return context.each(_far_stretched if large else _stretched, direction, units), norm


@dataclass(frozen=True, slots=True)
class LInf(_Scaled):
    """The largest entry: every entry moves by the whole radius, by its sign.

    Attributes:
        scale: The units; 1 if ``None``.
        over: How the norms of the tensors become one. ``"tensor"``, their largest, is the largest
            entry of all.

    Example:
        >>> import torch
        >>> LInf().sharp([torch.tensor([3.0, -4.0])], Context())
        ([tensor([ 7., -7.])], 7.0)
    """

    def each(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Sequence[Number]]:
        """Return Σ|d| sign(d) and Σ|d| of every tensor."""
        sums: Sequence[Number]
        if context.cells:
            sums = [d.abs().reshape(len(d), -1).sum(1) for d in direction]
        else:
            sums = parameters.norms(direction, order=1)
        pairs = zip(sums, direction, strict=True)
        return [context.times(n, d.sign()) for n, d in pairs], sums


@dataclass(frozen=True, slots=True)
class Spectral(_Scaled):
    """The largest singular value of each matrix: all its singular values become the radius.

    A convolution is the matrix of its filters, a vector a matrix of one column. A singular value of
    0 stays; but a gradient of 16 bits has none, as what is lost by rounding has a full rank.

    Attributes:
        scale: The units; 1 if ``None``. :class:`~thalweg.ascent.FanRatio` fits.
        over: How the norms of the tensors become one.

    Example:
        >>> import torch
        >>> s, n = Spectral().sharp([torch.diag(torch.tensor([3.0, 1.0]))], Context())
        >>> (s[0] / n).round(decimals=4), round(float(n), 4)
        (tensor([[1., 0.],
                [0., 1.]]), 4.0)
    """

    def each(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Sequence[Number]]:
        """Return n·UVᵀ and n, the sum of the singular values, of every matrix."""
        return spectral.polar(direction, context)


@dataclass(frozen=True, slots=True)
class Nuclear(_Scaled):
    """The sum of the singular values of each matrix: only the largest is moved, a rank of one.

    Attributes:
        scale: The units; 1 if ``None``.
        over: How the norms of the tensors become one.

    Source:
        Pethick et al., νSAM: Memory-Efficient Sharpness-Aware Minimization via Nuclear Norm
        Constraints, TMLR 2025.

    Example:
        >>> import torch
        >>> s, n = Nuclear().sharp([torch.diag(torch.tensor([3.0, 1.0]))], Context())
        >>> (s[0] / n).round(decimals=4), round(float(n), 4)
        (tensor([[1., 0.],
                [0., 0.]]), 3.0)
    """

    def each(
        self, direction: Sequence[Tensor], context: Context
    ) -> tuple[Sequence[Tensor], Sequence[Number]]:
        """Return n·u₁v₁ᵀ and n, the largest singular value, of every matrix."""
        return spectral.first(direction, context)


def together(
    each: Sequence[Tensor],
    norms: Sequence[Number],
    over: Over,
    context: Context,
    times: Sequence[Number] = (),
) -> tuple[Sequence[Tensor], Number]:
    """Return the sharp operator and the dual norm of all tensors, from those of every one.

    Args:
        each: s of every tensor alone.
        norms: Its dual norm.
        over: How the norms become one.
        context: The step.
        times: Numbers that s of every tensor is multiplied by.

    Returns:
        s of all and their dual norm.

    Example:
        >>> import torch
        >>> together([torch.tensor([3.0]), torch.tensor([4.0])], [3.0, 4.0], "all", Context())
        ([tensor([3.]), tensor([4.])], 5.0)
        >>> together([torch.tensor([3.0]), torch.tensor([4.0])], [3.0, 4.0], "tensor", Context())
        ([tensor([7.]), tensor([7.])], 7.0)
    """
    if over == "all":
        return context.each(torch.mul, each, times) if times else each, _root(norms)
    places = (context.layers() if over == "layer" else ()) or range(len(norms))
    members: dict[int, list[Number]] = {}
    for place, norm in zip(places, norms, strict=True):
        members.setdefault(place, []).append(norm)
    layers = {place: _root(some) for place, some in members.items()}
    total = sum(layers.values(), start=0.0)
    shares = [ratio(total, layers[place]) for place in places]
    if times:
        shares = [share * n for share, n in zip(shares, times, strict=True)]
    return context.each(torch.mul, each, shares), total


def _wide(direction: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return tensors that can be multiplied: dense, in float32 for 16 bits, which soon run over."""
    if isinstance(direction, Pieces):  # they are
        return direction
    return list(map(parameters.wide, direction))


def _are_numbers(units: Sequence[Number], direction: Sequence[Tensor]) -> bool:
    if isinstance(units, Pieces):
        return False
    pairs = zip(units, direction, strict=True)
    return all(not isinstance(u, Tensor) or u.shape != d.shape for u, d in pairs)


def _stretched(direction: Tensor, unit: Number) -> Tensor:
    return direction * unit * unit


def _far_stretched(direction: Tensor, unit: Number) -> Tensor:
    return (direction * unit).double() * unit


def _root(norms: Sequence[Number]) -> Number:
    return sum((n * n for n in norms), start=0.0) ** 0.5 if len(norms) != 1 else norms[0]
