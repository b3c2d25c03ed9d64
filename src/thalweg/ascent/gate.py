"""When to perturb, and what the base optimizer gets at the other steps.

A step is a loop over ``sam.passes()``. With one for every micro-batch there are several to a step
of the base optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from thalweg.ascent.context import Context, ratio
from thalweg.ascent.draws import uniform
from thalweg.errors import number, whole


class Gate(Protocol):
    """Decides whether a step is perturbed, as a rule before anything is computed.

    One that needs the gradient returns ``None``, and has a method ``judge(gradient, context)``.
    """

    def __call__(self, step: int) -> bool | None:
        """Return whether the gate is open at this step."""
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Every step is perturbed.

    Example:
        >>> Always()(0)
        True
    """

    stateless: ClassVar[bool] = True

    def __call__(self, step: int) -> bool:
        """Open the gate.

        Args:
            step: How many steps went before.

        Returns:
            True.
        """
        return True


@dataclass(frozen=True, slots=True)
class Every:
    """Every k-th step is perturbed, the first one included.

    Attributes:
        k: From one perturbed step to the next.

    Example:
        >>> [Every(3)(step) for step in range(4)]
        [True, False, False, True]
    """

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole("k", self.k, at_least=1))

    def __call__(self, step: int) -> bool:
        """Open the gate at every k-th step.

        Args:
            step: How many steps went before.
        """
        return step % self.k == 0


@dataclass(frozen=True, slots=True)
class Window:
    """The steps from one to another are perturbed: late in training, or all but the first.

    Attributes:
        start: The first step that is perturbed.
        end: The first one after it that is not; ``None`` for never.

    Example:
        >>> [Window(1, 3)(step) for step in range(4)]
        [False, True, True, False]
    """

    start: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", whole("start", self.start))
        if self.end is not None:
            object.__setattr__(self, "end", whole("end", self.end, at_least=self.start))

    def __call__(self, step: int) -> bool:
        """Open the gate within the window.

        Args:
            step: How many steps went before.
        """
        return self.start <= step and (self.end is None or step < self.end)


@dataclass(frozen=True, slots=True)
class Random:
    """Each step is perturbed with the same probability, by a draw of its own.

    The draw belongs to seed and step: every rank draws the same, a resumed run goes on with it, and
    torch's generators are not touched.

    Attributes:
        probability: From 0 to 1.
        seed: The seed.

    Example:
        >>> sum(Random(0.5, seed=1)(step) for step in range(1000))
        494
    """

    probability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        share = number("probability", self.probability, at_least=0, at_most=1)
        object.__setattr__(self, "probability", share)
        object.__setattr__(self, "seed", whole("seed", self.seed))

    def __call__(self, step: int) -> bool:
        """Open the gate by a draw.

        Args:
            step: How many steps went before.
        """
        return uniform(self.seed, step) < self.probability


@dataclass(frozen=True, slots=True)
class Adaptive:
    r"""Steps whose gradient is large among the latest ones are perturbed (AE-SAM).

    Open where :math:`\lVert g\rVert^2 \ge \mu + c\,\sigma`, with the running mean μ and deviation σ
    of ‖g‖²; c goes from ``early`` to ``late``. The norm is read at every step, for which an
    accelerator is waited for; under DistributedDataParallel it is the ranks' mean, so that all
    decide alike.

    Attributes:
        steps: Over how many steps c goes.
        early: c at the start; 1: few steps are perturbed.
        late: c at the end; -1: nearly all are.
        decay: Of the running mean and variance.

    Source:
        Jiang et al., An Adaptive Policy to Employ Sharpness-Aware Minimization, ICLR 2023.

    Example:
        >>> import torch
        >>> gate, context = Adaptive(steps=10), Context()
        >>> gate(0), [bool(gate.judge([t * torch.ones(1)], context)) for t in (1, 2, 1)]
        (None, [True, True, False])
    """

    steps: int
    early: float = 1.0
    late: float = -1.0
    decay: float = 0.9
    needs_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, at_least=1))
        for name in ("early", "late"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        object.__setattr__(self, "decay", number("decay", self.decay, at_least=0, below=1))

    def __call__(self, step: int) -> None:
        """Wait for the gradient.

        Args:
            step: How many steps went before.
        """

    def judge(self, gradient: Sequence[Tensor], context: Context) -> bool | Tensor:
        """Return whether this gradient is large, and learn from it.

        Args:
            gradient: One tensor per parameter.
            context: The step.

        Returns:
            Whether the gate is open; in the simulator one answer for every cell.
        """
        norm = context.norm(gradient)
        square = context.agreed(norm * norm)
        mean = context.memory.number("gate mean", 0.0)
        variance = context.memory.number("gate variance", 0.0)
        first = context.memory.number("gate known", 0.0) == 0
        mean = square if first else self.decay * mean + (1 - self.decay) * square
        context.memory.note("gate known", 1.0)
        apart = square - mean
        variance = self.decay * variance + (1 - self.decay) * apart * apart
        context.memory.note("gate mean", mean)
        context.memory.note("gate variance", variance)
        done = min(context.step / self.steps, 1.0)
        bound = (1 - done) * self.early + done * self.late
        return square >= mean + bound * variance**0.5


class Reuse(Protocol):
    """What the base optimizer gets where the gate is closed."""

    def learn(self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context) -> None:
        """Remember something of a step whose gate was open."""
        ...

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what the base optimizer gets instead of this gradient."""
        ...


@dataclass(frozen=True, slots=True)
class Across:
    r"""The part of the SAM gradient that lies across the gradient, used again (LookSAM).

    An open step remembers :math:`g_v = h - \frac{\langle g, h\rangle}{\lVert g\rVert^2} g`; a
    closed one takes :math:`g + \alpha \frac{\lVert g\rVert}{\lVert g_v\rVert} g_v`, norms and
    products being those of all parameters together.

    Attributes:
        alpha: α.

    Source:
        Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR 2022.

    Example:
        >>> import torch
        >>> part, context = Across(alpha=0.5), Context()
        >>> g, h = [torch.tensor([2.0, 0.0])], [torch.tensor([2.0, 1.0])]
        >>> part.learn(g, h, context)
        >>> part(g, context)
        [tensor([2., 1.])]
    """

    alpha: float = 0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", number("alpha", self.alpha))

    def learn(self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context) -> None:
        """Remember the part of ``uphill`` that is orthogonal to ``here``.

        Args:
            here: Gradient at w, one tensor per parameter.
            uphill: Gradient at w + ε, one tensor per parameter.
            context: The step.
        """
        context.cut()  # so that norms, too, are those of pieces
        norm = context.norm(here)
        along = ratio(context.dot(here, uphill), norm * norm)
        across = context.each(lambda g, h, n: h - n * g, here, uphill, along)
        context.memory.keep("across", across)

    def __call__(self, gradient: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the gradient with that part added; before the first open step, as it is.

        Args:
            gradient: One tensor per parameter.
            context: The step.
        """
        across = context.memory.recall("across", gradient)
        context.cut()
        factor = self.alpha * ratio(context.norm(gradient), context.norm(across))
        return context.each(lambda g, v, n: g + n * v, gradient, across, factor)
