"""What points uphill.

A direction that ``looks`` is made of the ascent gradient. One that does not is known before, and
saves the gradient evaluation: its step takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from thalweg.ascent.context import Context
from thalweg.ascent.draws import seeded
from thalweg.errors import ThalwegError, number, whole


class Direction(Protocol):
    """Gives the direction of the ascent.

    One that is known before the ascent gradient has an attribute ``looks``, which is False, and
    gets no gradient. One with a method ``learn(uphill, context)`` is told the gradient at w + ε.
    """

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the direction, one tensor per parameter."""
        ...


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient itself.

    Example:
        >>> Gradient()([], Context())
        []
    """

    stateless: ClassVar[bool] = True

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the gradient unchanged.

        Args:
            gradient: One tensor per parameter.
            context: The step.

        Returns:
            The same list.
        """
        return gradient


@dataclass(frozen=True, slots=True)
class WithMean:
    r"""A mix of the gradient and its running mean: :math:`d = a g + b m`.

    The mean is :math:`m \leftarrow \beta m + (1 - \beta) g`, updated first, and 0 at the start.

    Attributes:
        gradient: a.
        mean: b. 1 beside a = 0 keeps what gradients have in common (VaSSO); below 0 it takes that
            away, and leaves the noise (friendly SAM).
        decay: β.

    Example:
        >>> WithMean(gradient=1.0, mean=-1.0, decay=0.5)([torch.tensor([4.0])], Context())
        [tensor([2.])]
    """

    gradient: float = 0.0
    mean: float = 1.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "gradient", number("gradient", self.gradient))
        object.__setattr__(self, "mean", number("mean", self.mean))
        object.__setattr__(self, "decay", number("decay", self.decay, at_least=0, below=1))

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return a·g + b·m, and remember the mean.

        Args:
            gradient: One tensor per parameter.
            context: The step.

        Returns:
            The direction; in float32 where the gradient has 16 bits.
        """
        before = context.memory.recall("mean", gradient)
        mean = [m + (1 - self.decay) * (g - m) for m, g in zip(before, gradient, strict=True)]
        context.memory.keep("mean", mean)
        return [self.gradient * g + self.mean * m for m, g in zip(mean, gradient, strict=True)]


@dataclass(frozen=True, slots=True)
class Momentum:
    """What the base optimizer remembers of earlier gradients; no ascent gradient is taken.

    Attributes:
        sign: -1 looks where the next step leads, 1 to the other side.
        key: Under which name the base optimizer keeps it: ``"momentum_buffer"`` of SGD,
            ``"exp_avg"`` of Adam.

    Raises:
        ThalwegError: If the sign is another number.

    Source:
        Becker et al., Momentum-SAM: Sharpness Aware Minimization without Computational Overhead,
        2024 (sign -1).

    Example:
        >>> held = {"momentum_buffer": [torch.tensor([2.0])]}
        >>> context = Context(weights=[torch.zeros(1)], state=held.get)
        >>> Momentum()([], context)
        [tensor([-2.])]
    """

    sign: int = -1
    key: str = "momentum_buffer"
    looks: ClassVar[bool] = False
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ThalwegError(f"sign must be 1 or -1, got {self.sign!r}")

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the momentum; 0 before the first step.

        Args:
            gradient: None.
            context: The step, in which the base optimizer's state is looked up.

        Returns:
            One tensor per parameter.

        Raises:
            ThalwegError: If the base optimizer has stepped and keeps nothing under the key.
        """
        held = context.state(self.key)
        if context.stepped and held and all(t is None for t in held):
            raise ThalwegError(
                f'the base optimizer must keep "{self.key}", got none of it: give it a momentum, '
                'or name what it keeps, such as Momentum(key="exp_avg")'
            )
        still = zip(held, context.weights, strict=True)
        return [torch.zeros_like(w) if t is None else self.sign * t for t, w in still]


@dataclass(frozen=True, slots=True)
class Previous:
    """The gradient that the step before took, at its w + ε; no ascent gradient is taken.

    Example:
        >>> context = Context(weights=[torch.zeros(1)])
        >>> Previous().learn([torch.tensor([2.0])], context)
        >>> Previous()([], context)
        [tensor([2.])]
    """

    looks: ClassVar[bool] = False

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what was learnt last; 0 in the first step.

        Args:
            gradient: None.
            context: The step.

        Returns:
            One tensor per parameter.
        """
        return context.memory.recall("previous", context.weights)

    def learn(self, uphill: Sequence[Tensor], context: Context) -> None:
        """Remember the gradient at w + ε.

        Args:
            uphill: One tensor per parameter.
            context: The step.
        """
        context.memory.keep("previous", [h.clone() for h in uphill])


@dataclass(frozen=True, slots=True)
class Given:
    """A direction that the caller knows, such as a server's gradient; none is taken for it.

    Attributes:
        of: Returns one tensor for each of the parameters it gets.

    Example:
        >>> Given(lambda weights: [torch.ones_like(w) for w in weights])(
        ...     [], Context(weights=[torch.zeros(2)])
        ... )
        [tensor([1., 1.])]
    """

    of: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    looks: ClassVar[bool] = False
    stateless: ClassVar[bool] = True

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what the caller gives.

        Args:
            gradient: None.
            context: The step.

        Returns:
            One tensor per parameter.

        Raises:
            ThalwegError: If these are not as many, or not of the parameters' shapes.
        """
        found = list(self.of(context.weights))
        if [t.shape for t in found] != [w.shape for w in context.weights]:
            raise ThalwegError(
                "a given direction must have one tensor of the same shape for each of the "
                f"{len(context.weights)} parameters, got {len(found)} of shapes "
                f"{[tuple(t.shape) for t in found][:3]}...: return them in the order asked for"
            )
        return found


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Normal noise, drawn anew from its seed at every step; it is not kept.

    Torch's generators are not touched, and all ranks of a run draw the same.

    Attributes:
        seed: Where the numbers come from, together with the step and the point.
        per_filter: Whether the noise of every row of a tensor is as long as the row itself.

    Source:
        Rows as long as the filters: Li et al., Visualizing the Loss Landscape of Neural Nets,
        NeurIPS 2018; as a perturbation: Bisla et al., Low-Pass Filtering SGD, AISTATS 2022.

    Example:
        >>> context = Context(weights=[torch.ones(2, 3)])
        >>> torch.equal(Gaussian(1)([], context)[0], Gaussian(1)([], context)[0])
        True
    """

    seed: int = 0
    per_filter: bool = False
    looks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole("seed", self.seed)

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the noise.

        Args:
            gradient: None.
            context: The step.

        Returns:
            One tensor per parameter.
        """
        place = (self.seed, context.step, context.point)
        # Every cell draws what it would draw alone: cells come and go.
        like = [w[0] if context.cells else w for w in context.weights]
        noise = [seeded(w, *place, i) for i, w in enumerate(like)]
        if context.cells:
            noise = [z.expand_as(w) for z, w in zip(noise, context.weights, strict=True)]
        if not self.per_filter:
            return noise
        return [
            z * (_rows(w, context.cells) / _rows(z, context.cells).clamp_min(1e-30))
            for z, w in zip(noise, context.weights, strict=True)
        ]


def _rows(tensor: Tensor, cells: int) -> Tensor:
    """The norm of every row; of a vector, of all of it."""
    across = range(cells + (tensor.ndim - cells > 1), tensor.ndim)
    if not across:
        return tensor.abs()
    lengths: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(across), keepdim=True)
    return lengths
