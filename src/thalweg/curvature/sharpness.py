"""Sharpness: how far the loss rises at radius rho, each kind with its definition.

w is moved and comes back bit for bit. No second derivative is taken: losses and gradients alone.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from thalweg.ascent import L2, Ball
from thalweg.curvature.balls import Neighbourhood, is_ellipsoid
from thalweg.curvature.losses import Losses
from thalweg.curvature.setting import LossOf
from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.parameters import norm

Kind = Literal["ascent", "worst", "average"]

_MEANS: dict[Kind, str] = {
    "ascent": "L(w + ε) − L(w), ε the steepest ascent of length ρ",
    "worst": "max of L(w + ε) − L(w) over the ball of radius ρ, bounded from below by a search",
    "average": "mean of L(w + ε) − L(w) over ε drawn on the sphere of radius ρ",
}
#: Steps of the search, its starts, and drawn directions, where they are not told.
_STEPS, _STARTS, _DIRECTIONS = 20, 2, 20
#: A search whose step is this share of the radius has arrived.
_ARRIVED = 1e-6


@dataclass(frozen=True, slots=True)
class Sharpness:
    """A loss rise, and what it is the rise of.

    Attributes:
        rise: The loss rise, in units of the loss.
        error: Standard error of the rise where it is a mean over drawn directions, else ``None``.
        perturbation_norm: ‖ε‖ in Euclidean length: of the ε found; where there are many, the mean.
        definition: What was measured, in words.
        evaluations: Losses taken with or without a gradient, each over all the batches; with m,
            each over one group.
        loss: The loss at the weights.
    """

    rise: float
    error: float | None
    perturbation_norm: float
    definition: str
    evaluations: int
    loss: float


def sharpness(
    model: nn.Module,
    loss_of: LossOf,
    batches: Iterable[Any],
    rho: float,
    *,
    kind: Kind = "ascent",
    ball: Ball | None = None,
    m: int | None = None,
    steps: int | None = None,
    starts: int | None = None,
    directions: int | None = None,
    seed: int = 0,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Sharpness:
    r"""Return how far the loss rises at radius rho around the weights.

    L is the mean loss over all examples of all batches. ρ is the radius of the ball, Euclidean
    unless told otherwise, g the gradient of L.

    * ``"ascent"``, what SAM looks at: L(w + ε) − L(w) where ε maximizes ⟨g, ε⟩ over the ball, which
      in the Euclidean ball is ρ g/‖g‖. Where g = 0, ε is 0 and so is the rise.
    * ``"worst"``: the maximum of L(w + ε) − L(w) over the ball. What is returned is the best that
      was found by projected gradient ascent, from the ascent of SAM and from drawn points: **a
      lower bound of the maximum**, never below 0. A step that does not raise the loss is taken back
      and shortened, so more steps never lower the result.
    * ``"average"``: the mean of L(w + ε) − L(w) over ε on the sphere ‖ε‖ = ρ, which for small ρ is
      ρ² tr H/(2D). Each drawn direction is taken both ways, which cancels the slope; the standard
      error is that of the mean over such pairs. Where the ball has a scale T, ε is T times a point
      on the sphere.

    With ``m`` it is the m-sharpness: the mean over groups of m examples of the rise of the group's
    own loss at the group's own ε. A group does not reach from one batch into the next; what is left
    of a batch is a smaller group, and counts by its size.

    The rise is a difference: where it is below about 1e-6 of the loss, float32 does not see it;
    measure with ``dtype=torch.float64``. Weights come back bit for bit, also after an exception;
    ``.grad``, modes, buffers and torch's random numbers are untouched.

    Args:
        model: The model.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: Gone through once for every loss: a list of batches, or a loader that gives the
            same every time.
        rho: Radius, in units of the parameters, or of the scale of the ball.
        kind: ``"ascent"``, ``"worst"`` or ``"average"``.
        ball: The neighbourhood; all parameters in Euclidean length unless told otherwise. That of
            ASAM is ``thalweg.presets.asam().ball``.
        m: Examples in a group; all of them unless told otherwise. Not for ``"average"``, where the
            groups would make no difference.
        steps: For ``"worst"``: gradients after the first, from every start; 20 unless told.
        starts: For ``"worst"``: how many; the first is the ascent of SAM. 2 unless told.
        directions: For ``"average"``: how many are drawn, at least 2; 20 unless told.
        seed: Of what is drawn.
        parameters: Which are moved; all that require a gradient unless told otherwise.
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype, and batches turned to it.
        progress: Called with the number of losses taken; with ``m``, after every group.

    Returns:
        The rise with its definition.

    Raises:
        ThalwegError: If an argument is out of range or does not fit the kind, or if the loss or
            its gradient at the weights is not finite.

    Source:
        Foret et al., Sharpness-Aware Minimization, ICLR 2021 (ascent, worst case, m-sharpness);
        Andriushchenko and Flammarion, Towards Understanding SAM, ICML 2022 (average case, there
        with normal ε); Kwon et al., ICML 2021 (adaptive).

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.0)
        >>> found = sharpness(model, lambda m, x: (m(x) ** 2).mean(), [torch.ones(4, 1)], rho=0.5)
        >>> found.rise, found.perturbation_norm  # 1.5² − 1²
        (1.25, 0.5)
    """
    rho, seed = number("rho", rho, at_least=0), whole("seed", seed)
    if kind not in list(_MEANS):  # what has no hash is told of, too
        *most, last = (f'"{known}"' for known in _MEANS)
        raise ThalwegError(f"kind must be {', '.join(most)} or {last}, got {brief(kind)}")
    steps = _for("worst", "steps", steps, _STEPS, kind, at_least=1)
    starts = _for("worst", "starts", starts, _STARTS, kind, at_least=1)
    directions = _for("average", "directions", directions, _DIRECTIONS, kind, at_least=2)
    if m is not None and kind == "average":
        raise ThalwegError(
            f"m must be left out for kind='average', got {m!r}: the mean over drawn directions is "
            "the same for groups of any size"
        )
    losses = Losses(
        model,
        loss_of,
        batches,
        parameters=parameters,
        training=training,
        dtype=dtype,
        progress=progress,
    )
    ball = L2() if ball is None else ball
    space = Neighbourhood(ball, losses, rho)

    def measure(some: Losses) -> list[float]:
        if kind == "average":
            return _average(some, space, directions, seed)
        loss, gradient = some.here()
        if kind == "worst":
            return [*_worst(some, space, loss, gradient, steps, starts, seed), loss]
        epsilon = space.uphill(gradient)
        return [_loss_at(some, epsilon) - loss, float(norm(epsilon)), loss]

    error = None
    if m is None:
        rise, length, loss, *rest = measure(losses)
        error = rest[0] if rest else None
    else:
        rise, length, loss = _over_groups(losses, whole("m", m, at_least=1), measure)
    return Sharpness(rise, error, length, _words(kind, ball, m), losses.evaluations, loss)


def _for(kind: Kind, name: str, value: int | None, usual: int, now: Kind, *, at_least: int) -> int:
    if value is not None and now != kind:
        raise ThalwegError(
            f"{name} must be left out for kind={now!r}, got {value!r}: it is for kind={kind!r}"
        )
    return whole(name, usual if value is None else value, at_least=at_least)


def _words(kind: Kind, ball: Ball, m: int | None) -> str:
    shape = f"{ball!r}, of radius ρ"
    if is_ellipsoid(ball):
        shape = "‖ε‖ ≤ ρ" if ball.scale is None else f"‖T⁻¹ε‖ ≤ ρ, T = {ball.scale!r}"
    groups = (
        "" if m is None else f"; mean over groups of {m} examples, each with its own loss and ε"
    )
    return f"{_MEANS[kind]}; ball: {shape}{groups}"


def _loss_at(losses: Losses, epsilon: Sequence[Tensor]) -> float:
    with losses.at(epsilon):
        return losses.value()


def _over_groups(
    losses: Losses, m: int, measure: Callable[[Losses], list[float]]
) -> tuple[float, float, float]:
    """Return the means of rise, length and loss over the groups."""
    sums, seen = [0.0, 0.0, 0.0], 0
    with losses.unnoticed(), contextlib.closing(losses.groups(m)) as groups:
        for group, count in groups:
            sums = [s + x * count for s, x in zip(sums, measure(group), strict=True)]
            seen += count
            losses.told(group.evaluations)
    *sums, all_seen = losses.over_ranks([*sums, seen])
    if not all_seen:
        raise ThalwegError("batches must hold at least one batch, got none")
    return cast(tuple[float, float, float], tuple(s / all_seen for s in sums))


def _average(losses: Losses, space: Neighbourhood, directions: int, seed: int) -> list[float]:
    """Return the mean rise, the mean length, the loss, and the standard error of the rise."""
    if not is_ellipsoid(space.ball):
        raise ThalwegError(
            "ball must be L2() for kind='average', with no scale or one of the weights alone, got "
            f"{space.ball!r}: on no other sphere is it known how to draw"
        )
    loss = losses.value()
    if not math.isfinite(loss):
        raise ThalwegError(f"the loss must be finite at the weights, got {loss}")
    draw = torch.Generator().manual_seed(seed)
    rises, lengths = [], []
    for _ in range(directions):
        epsilon = space.drawn(draw)
        ways = [_loss_at(losses, epsilon), _loss_at(losses, [-e for e in epsilon])]
        rises.append(sum(ways) / 2 - loss)
        lengths.append(float(norm(epsilon)))
    finite = all(map(math.isfinite, rises))
    error = statistics.stdev(rises) / math.sqrt(directions) if finite else math.nan
    return [sum(rises) / directions, sum(lengths) / directions, loss, error]


def _worst(
    losses: Losses,
    space: Neighbourhood,
    loss: float,
    gradient: list[Tensor],
    steps: int,
    starts: int,
    seed: int,
) -> tuple[float, float]:
    """Return the largest rise that was found in the ball, and the length of its ε."""
    draw = torch.Generator().manual_seed(seed)
    best, length, lost = 0.0, 0.0, False  # the weights are in the ball
    for start in range(starts):
        epsilon = space.drawn(draw) if start else space.uphill(gradient)
        if not start and not float(norm(epsilon)) > 0:
            epsilon = space.drawn(draw)
        with losses.at(epsilon):
            value, slope = losses.slope()
        share = 1.0
        for _ in range(steps):
            if not math.isfinite(value) or share < _ARRIVED:
                break
            tried = space.within(epsilon, space.uphill(slope), share)
            with losses.at(tried):
                found, there = losses.slope()
            if found > value:
                epsilon, value, slope, share = tried, found, there, 1.5 * share
            else:
                share = share / 4
        lost = lost or math.isnan(value)
        if value - loss > best:
            best, length = value - loss, float(norm(epsilon))
    return (math.nan, math.nan) if lost and not best else (best, length)
