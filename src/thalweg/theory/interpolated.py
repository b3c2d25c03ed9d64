r"""The interpolated ascent between USAM and SAM: its edge, its thresholds and its bounce.

The perturbation is :math:`\rho\,(1 - l + l/\lVert g\rVert)\,g`: USAM's at l = 0, SAM's at l = 1.
"""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import everywhere, extra, quantity
from thalweg.theory._numbers import Number
from thalweg.theory.edges import base_edge, edge, largest_stable_eta, largest_stable_rho


def interpolated_edge(
    eta: Number | float,
    rho: Number | float,
    share: Number | float,
    grad_norm: Number | float = 1.0,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Curvature at which one step with the interpolated ascent is marginally stable.

    The perturbation is a multiple of the gradient as it is for every power, so the edge is that
    of USAM with the radius that this gradient norm makes, :math:`\rho(1 - l + l/\lVert g\rVert)`:

    .. math:: \eta\lambda\left(1 + \rho\left(1 - l + l/\lVert g\rVert\right)\lambda\right) = 2

    (with c/λ in the place of 2/(ηλ) under momentum or decay, c as in :func:`edge`). For l above 0
    it falls to 0 with the gradient: no minimum with positive curvature is a fixed point.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius. Not negative; 0 gives the base optimizer.
        share: How much is normalized, l, no unit. 0 is USAM, 1 is SAM.
        grad_norm: Euclidean norm of the gradient before the perturbation. Positive; without
            effect at ``share=0``.
        momentum: As in :func:`edge`.
        weight_decay: As in :func:`edge`.
        nesterov: As in :func:`edge`.
        decoupled: As in :func:`edge`.

    Returns:
        Eigenvalue of the Hessian, in gradient units per parameter unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            decay is so large that no curvature is stable.

    Assumes:
        As in :func:`edge`.

    Source:
        The ascent: Oikonomou & Loizou, Sharpness-Aware Minimization: General Analysis and
        Improved Rates, 2025. Its edge: derived here.

    Example:
        >>> round(interpolated_edge(eta=0.1, rho=0.05, share=1.0), 4)
        12.3607
        >>> round(interpolated_edge(eta=0.1, rho=0.05, share=0.5, grad_norm=0.1), 4)
        6.9015
    """
    quantity("rho", rho, at_least=0)
    quantity("share", share, at_least=0, at_most=1)
    quantity("grad_norm", grad_norm, above=0)
    radius: Any = rho * (1.0 - share + share / grad_norm)
    found = edge(eta, radius, 1.0, 0.0, momentum, weight_decay, nesterov, decoupled)
    return cast(Number, found)


def interpolated_largest_rho(
    eta: Number | float,
    curvature: Number | float,
    share: Number | float,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Radius above which the interpolated ascent diverges on a quadratic.

    Far from the minimum the normalized part is bounded while the rest grows with the distance:
    what is left there is USAM with the radius :math:`(1-l)\rho`. Hence

    .. math:: \rho^* = \frac{c/\lambda - 1}{(1 - l)\,\lambda}

    with c as in :func:`edge`, :math:`2/\eta` for gradient descent. Only at l = 1 is every radius
    stable. For l above 0 stable means bounded: the iterate ends on a bounce
    (see :func:`interpolated_bounce_amplitude`), not in the minimum.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, below the edge at ``rho=0``.
        share: How much is normalized, l, no unit. 0 is USAM, 1 is SAM.
        momentum: As in :func:`edge`.
        weight_decay: As in :func:`edge`.
        nesterov: As in :func:`edge`.
        decoupled: As in :func:`edge`.

    Returns:
        Radius; infinite at ``share=1``.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            base optimizer itself leaves this minimum, where no radius is stable.

    Assumes:
        As in :func:`edge`, with decay too wherever the minimum is.

    Source:
        Derived here.

    Example:
        >>> interpolated_largest_rho(eta=0.1, curvature=10.0, share=0.5)
        0.2
        >>> interpolated_largest_rho(eta=0.1, curvature=10.0, share=1.0)
        inf
    """
    quantity("share", share, at_least=0, at_most=1)
    whole: Any = largest_stable_rho(
        eta, curvature, 1.0, 0.0, momentum, weight_decay, nesterov, decoupled
    )
    if not hasattr(share, "shape"):
        return cast(Number, whole / (1.0 - share) if share < 1 else whole * math.inf)
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    with np.errstate(divide="ignore"):
        return cast(Number, whole / (1.0 - share))


def interpolated_largest_eta(
    rho: Number | float,
    curvature: Number | float,
    share: Number | float,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Step size above which the interpolated ascent diverges on a quadratic.

    The condition of :func:`interpolated_largest_rho`, solved for the step size; for gradient
    descent

    .. math:: \eta^* = \frac{2}{\lambda\,(1 + (1-l)\rho\lambda)}

    It depends on the radius for every l below 1.

    Args:
        rho: Radius. Not negative.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive.
        share: How much is normalized, l, no unit. 0 is USAM, 1 is SAM.
        momentum: As in :func:`edge`.
        weight_decay: As in :func:`edge`.
        nesterov: As in :func:`edge`.
        decoupled: As in :func:`edge`.

    Returns:
        Step size, in parameter units per gradient unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        As in :func:`edge`, with decay too wherever the minimum is.

    Source:
        Derived here.

    Example:
        >>> round(interpolated_largest_eta(rho=0.5, curvature=10.0, share=0.75), 5)
        0.08889
    """
    quantity("rho", rho, at_least=0)
    quantity("share", share, at_least=0, at_most=1)
    radius: Any = rho * (1.0 - share)
    found = largest_stable_eta(
        radius, curvature, 1.0, 0.0, momentum, weight_decay, nesterov, decoupled
    )
    return cast(Number, found)


def interpolated_bounce_amplitude(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    share: Number | float,
    momentum: Number | float = 0.0,
) -> Number:
    r"""Distance from the minimum at which the iterate bounces between two points.

    The distance whose gradient norm makes the curvature the edge:

    .. math:: a = \frac{l\rho\lambda}{c - \lambda - (1-l)\rho\lambda^2},\qquad
        c = \frac{2(1+\mu)}{\eta}

    It grows without limit as the radius tends to :func:`interpolated_largest_rho`. Without
    momentum almost every start ends on it. With momentum it attracts what comes near, but longer
    cycles exist beside it.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius. Not negative, and below the divergence threshold.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, below the edge at ``rho=0``.
        share: How much is normalized, l, no unit. At 0 there is no bounce: the amplitude is 0.
        momentum: As in :func:`edge`.

    Returns:
        Distance along the top eigenvector, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            iterate diverges.

    Assumes:
        Quadratic loss, no weight decay, no Nesterov momentum, no cap on the perturbation.

    Source:
        Derived here.

    Example:
        >>> interpolated_bounce_amplitude(eta=0.1, rho=0.05, curvature=10.0, share=0.5)
        0.03333333333333333
    """
    room = _room(eta, rho, curvature, share, momentum)
    return cast(Number, share * rho * curvature / room)


def interpolated_bounce_multiplier(
    eta: Number | float, rho: Number | float, curvature: Number | float, share: Number | float
) -> Number:
    r"""Factor by which one step multiplies a small deviation from the bounce's amplitude.

    .. math:: \eta\lambda\,(1 + (1-l)\rho\lambda) - 1

    Its modulus is below 1 exactly where the iterate does not diverge: every bounce attracts.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius. Not negative, and below the divergence threshold.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.
        share: How much is normalized, l, no unit. 0 is USAM, which has no bounce: what is
            multiplied is its distance from the minimum, on the other side after each step.

    Returns:
        The factor, no unit; between -1 and 1.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            iterate diverges.

    Assumes:
        Quadratic loss, no momentum, no decay, no cap; the deviation is along the top eigenvector.

    Source:
        Derived here.

    Example:
        >>> interpolated_bounce_multiplier(eta=0.1, rho=0.05, curvature=10.0, share=0.5)
        0.25
    """
    room = _room(eta, rho, curvature, share, 0.0)
    return cast(Number, 1.0 - eta * room)


def _room(eta: Any, rho: Any, curvature: Any, share: Any, momentum: Any) -> Any:
    """How far the base optimizer's edge is above what the part with l = 0 takes of it."""
    quantity("rho", rho, at_least=0)
    quantity("curvature", curvature, above=0)
    quantity("share", share, at_least=0, at_most=1)
    room = base_edge(eta, momentum, 0.0) - curvature
    everywhere("curvature", curvature, room > 0, "< the edge of this eta at rho = 0")
    room = room - (1.0 - share) * rho * curvature * curvature
    everywhere("rho", rho, room > 0, "< interpolated_largest_rho, beyond which there is no bounce")
    return room
