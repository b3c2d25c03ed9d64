"""The loss on a line or a plane through the weights, as it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.ascent import L2, Ball
from thalweg.curvature.balls import Neighbourhood
from thalweg.curvature.directions import Direction, basis, fitting, share_explained
from thalweg.curvature.given import teller
from thalweg.curvature.losses import Losses
from thalweg.curvature.setting import LossOf
from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.parameters import norm


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The loss along a line; float64 on the CPU.

    Attributes:
        at: Coordinates t, (n,): the loss is taken at w + t · direction.
        losses: (n,); they need not be finite.
        loss: The loss at w.
        length: Euclidean length of the direction, in parameter units.
        label: What the direction is, in words.
    """

    at: Tensor
    losses: Tensor
    loss: float
    length: float
    label: str

    @property
    def rises(self) -> Tensor:
        """The loss minus the loss at w, (n,)."""
        return self.losses - self.loss


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The loss on a plane; float64 on the CPU.

    Attributes:
        along_first: Coordinates a, (n,).
        along_second: Coordinates b, (n,).
        losses: Entry [i, j] is the loss at w + a_i · first + b_j · second, (n, n); they need not
            be finite.
        loss: The loss at w.
        lengths: Euclidean lengths of the two directions, in parameter units.
        cosine: Of the angle between them.
        share: Share of the squared movement that lies in the plane; ``None`` where no moves were
            given.
        label: The same in words, to stand beside a drawing.
    """

    along_first: Tensor
    along_second: Tensor
    losses: Tensor
    loss: float
    lengths: tuple[float, float]
    cosine: float
    share: float | None
    label: str

    @property
    def rises(self) -> Tensor:
        """The loss minus the loss at w, (n, n)."""
        return self.losses - self.loss


def plane(
    model: nn.Module,
    loss_of: LossOf,
    batches: Iterable[Any],
    first: Direction,
    second: Direction,
    *,
    radius: float = 1.0,
    steps: int = 11,
    moves: Iterable[Direction] | None = None,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Plane:
    """Return the loss on a grid in the plane through the weights along two directions.

    The weights come back bit for bit; ``.grad``, modes, buffers and torch's random numbers are
    untouched.

    Args:
        model: The model.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: Gone through once for every point: a list of batches, or a loader that gives the
            same every time.
        first: One tensor per parameter, or one vector, (D,), such as an eigenvector or a move.
        second: Likewise; not parallel to the first. It need not be perpendicular.
        radius: The grid goes from -radius to radius, in units of the directions.
        steps: Points along each axis; an odd number has w itself among them.
        moves: What the drawing is held against: see :func:`share_explained`.
        parameters: Which are moved; all that require a gradient unless told otherwise.
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype, and batches turned to it.
        progress: Called with the number of points done, after each.

    Returns:
        The grid.

    Raises:
        ThalwegError: If an argument is out of range, or a direction does not fit.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0)
        >>> e1, e2 = torch.eye(2)
        >>> found = plane(model, lambda m, x: (m(x) ** 2).sum(), [torch.eye(2)], e1, e2, steps=3)
        >>> found.losses
        tensor([[2., 1., 2.],
                [1., 0., 1.],
                [2., 1., 2.]], dtype=torch.float64)
    """
    tell = teller(progress)
    losses = Losses(model, loss_of, batches, parameters=parameters, training=training, dtype=dtype)
    across = fitting("first", first, losses.parameters)
    down = fitting("second", second, losses.parameters)
    grid = _grid(radius, steps)
    _, cosine = basis(across, down)
    share = None if moves is None else share_explained(moves, across, down)
    middle, found = losses.value(), []
    for done, (a, b) in enumerate(((a, b) for a in grid for b in grid), 1):
        with losses.at([a * u + b * v for u, v in zip(across, down, strict=True)]):
            found.append(losses.value())
        tell(done)
    at = torch.tensor(grid, dtype=torch.float64)
    values = torch.tensor(found, dtype=torch.float64).view(len(grid), len(grid))
    lengths = float(norm(across)), float(norm(down))
    if share is None:
        label = "what share of the training movement lies in this plane was not measured"
    else:
        label = f"{share:.1%} of the squared movement lies in this plane"
    return Plane(at, at.clone(), values, middle, lengths, cosine, share, label)


def line(
    model: nn.Module,
    loss_of: LossOf,
    batches: Iterable[Any],
    direction: Direction | None = None,
    *,
    radius: float = 1.0,
    steps: int = 21,
    at: Sequence[float] | None = None,
    ball: Ball | None = None,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Line:
    """Return the loss along a line through the weights; SAM's own unless told otherwise.

    Without a direction it is that of SAM's ascent over all the batches, g/‖g‖ in the Euclidean
    ball. The coordinate is then rho: the loss at w + ε, ε = rho · g/‖g‖.

    Args:
        model: The model.
        loss_of: As for :func:`plane`.
        batches: As for :func:`plane`.
        direction: As for :func:`plane`, or ``None``.
        radius: The line goes from -radius to radius, in units of the direction.
        steps: Points; an odd number has w itself among them.
        at: The coordinates themselves, instead of ``radius`` and ``steps``.
        ball: The neighbourhood that SAM's direction is of.
        parameters: As for :func:`plane`.
        training: As for :func:`plane`.
        dtype: As for :func:`plane`.
        progress: As for :func:`plane`.

    Returns:
        The line.

    Raises:
        ThalwegError: As :func:`plane`; and without a direction, if the gradient is 0 or not finite.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.0)
        >>> line(model, lambda m, x: (m(x) ** 2).sum(), [torch.ones(1, 1)], steps=3).losses
        tensor([0., 1., 4.], dtype=torch.float64)
    """
    tell = teller(progress)
    losses = Losses(model, loss_of, batches, parameters=parameters, training=training, dtype=dtype)
    points = _grid(radius, steps) if at is None else _points(at)
    if direction is None:
        label = "along SAM's ascent g/‖g‖; the coordinate is rho"
        shape = L2() if ball is None else ball
        if ball is not None:
            label = f"along SAM's ascent in the ball {shape!r}; the coordinate is rho"
        middle, gradient = losses.here()
        along = Neighbourhood(shape, losses, 1.0).uphill(gradient)
        if not float(norm(along)) > 0:
            raise ThalwegError(
                "the gradient must not be 0, or SAM has no direction, got 0: pass a direction"
            )
    else:
        label = "along a given direction"
        along = fitting("direction", direction, losses.parameters)
        middle = losses.value()
    found = []
    for done, t in enumerate(points, 1):
        with losses.at([t * d for d in along]):
            found.append(losses.value())
        tell(done)
    coordinates, values = (torch.tensor(x, dtype=torch.float64) for x in (points, found))
    return Line(coordinates, values, middle, float(norm(along)), label)


def _points(at: Sequence[float]) -> list[float]:
    if isinstance(at, str) or not isinstance(at, Iterable):
        raise ThalwegError(f"at must be a list of numbers, got {brief(at)}")
    return [number("an entry of at", t) for t in at]


def _grid(radius: float, steps: int) -> list[float]:
    radius = number("radius", radius, above=0)
    steps = whole("steps", steps, at_least=2)
    half = (steps - 1) / 2
    return [radius * ((i - half) / half) for i in range(steps)]  # 0 itself in the middle
