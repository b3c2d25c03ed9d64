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
from thalweg.errors import ThalwegError, brief, flag, number, whole


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

    The mean is :math:`m \leftarrow \beta m + (1 - \beta) g`, updated first, and 0 at the start. It
    learns at every ascent: not at a step whose gate is closed, and several times where a step has
    several ascents.

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
        mean = context.each(
            lambda m, g: torch.add(m, g - m, alpha=1 - self.decay), before, gradient
        )
        context.memory.keep("mean", mean)
        if self.gradient == 0 and self.mean == 1:
            return mean
        a, b = self.gradient, self.mean
        return context.each(
            lambda m, g: torch.add(g if a == 1 else a * g, m, alpha=b), mean, gradient
        )


@dataclass(frozen=True, slots=True)
class Momentum:
    """What the base optimizer remembers of earlier gradients; no ascent gradient is taken.

    Attributes:
        sign: -1 looks where the next step leads, 1 to the other side.
        key: Under which name the base optimizer keeps it: ``"momentum_buffer"`` of SGD,
            ``"exp_avg"`` of Adam.

    Raises:
        ThalwegError: If the sign is another number, or the key is no name.

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
        if isinstance(self.sign, bool) or self.sign not in (-1, 1):
            raise ThalwegError(f"sign must be 1 or -1, got {brief(self.sign)}")
        if not isinstance(self.key, str):
            raise ThalwegError(f'key must be a name such as "exp_avg", got {brief(self.key)}')

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the momentum, one tensor per parameter; 0 before the first step.

        Args:
            gradient: None.
            context: The step, in which the base optimizer's state is looked up.

        Raises:
            ThalwegError: If the base optimizer has stepped and keeps nothing under the key.
        """
        held = context.state(self.key)
        if context.stepped and held and all(t is None for t in held):
            raise ThalwegError(
                f'the base optimizer must keep "{self.key}", got none of it: give it a momentum, '
                'or name what it keeps, such as key="exp_avg" for Adam'
            )
        still = zip(held, context.weights, strict=True)
        return [torch.zeros_like(w) if t is None else self.sign * t for t, w in still]


@dataclass(frozen=True, slots=True)
class Previous:
    """The gradient that the step before took, at its w + ε; no ascent gradient is taken.

    Only steps that are perturbed are learnt from: under a gate it is the gradient of the last of
    these, which may be many steps old.

    Example:
        >>> context = Context(weights=[torch.zeros(1)])
        >>> Previous().learn([torch.tensor([2.0])], context)
        >>> Previous()([], context)
        [tensor([2.])]
    """

    looks: ClassVar[bool] = False

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what was learnt last, one tensor per parameter; 0 in the first step.

        Args:
            gradient: None.
            context: The step.
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

    Raises:
        ThalwegError: If it is no function.

    Example:
        >>> Given(lambda weights: [torch.ones_like(w) for w in weights])(
        ...     [], Context(weights=[torch.zeros(2)])
        ... )
        [tensor([1., 1.])]
    """

    of: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    looks: ClassVar[bool] = False
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.of):
            raise ThalwegError(f"of must be a function of the weights, got {brief(self.of)}")

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what the caller gives, one tensor per parameter.

        Args:
            gradient: None.
            context: The step.
        """
        return self.of(context.weights)


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
        flag("per_filter", self.per_filter)

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the noise, one tensor per parameter.

        Args:
            gradient: None.
            context: The step.
        """
        place = (self.seed, context.step, context.point)
        # Every cell draws what it would draw alone: cells come and go.
        weights = [w.detach() for w in context.weights]
        like = [w[0] if context.cells else w for w in weights]
        noise = [seeded(w, *place, i) for i, w in enumerate(like)]
        if context.cells:
            noise = [z.expand_as(w) for z, w in zip(noise, weights, strict=True)]
        if not self.per_filter:
            return noise
        return [
            z * (_rows(w, context) / _rows(z, context).clamp_min(1e-30))
            for z, w in zip(noise, weights, strict=True)
        ]


def _rows(tensor: Tensor, context: Context) -> Tensor:
    """The norm of every row; of a vector, of all of it."""
    across = range(context.cells, tensor.ndim)
    if context.inputs_first and len(across) > 1:  # one row is a bias
        across = across if tensor.shape[context.cells] == 1 else across[:-1]
    elif len(across) > 1:
        across = across[1:]
    if not across:
        return tensor.abs()
    lengths: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(across), keepdim=True)
    return lengths
