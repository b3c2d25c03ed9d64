"""On a strongly convex loss: how close to the minimum every start ends, and how fast."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import quantity
from thalweg.theory._numbers import Number, raised
from thalweg.theory.descent import (
    conditioned,
    descent_gradient_norm,
    larger,
    normalized,
    smooth_product,
)


def convex_floor(
    eta: Number | float,
    rho: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Excess loss below which SAM stays in the end on a strongly convex loss.

    Let :math:`x = \eta\beta` and let a be the bounce on the quadratic of curvature beta
    (``bounce_amplitude``). The limit superior of :math:`L - L^*` is at most

    - :math:`\frac12 \beta a^2` for :math:`\eta \ge 2/(\alpha+\beta)`. Sharp: that quadratic
      attains it;
    - :math:`\frac\beta\alpha\,\frac12 \beta a^2` times
      :math:`\max(1, \frac\alpha\beta (2-x)^2)` for :math:`x \le 1`, in which the maximum is 1
      wherever beta is at least 4 alpha. At power 1 this is of order
      :math:`\eta^2\rho^2`: a small step has a small floor;
    - in between, the smaller of the second (without the maximum) and :math:`\frac12 \beta d^2`
      with the distance d of contraction (:func:`convex_distance_floor`).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        alpha: Strong convexity: the Hessian's eigenvalues are at least this, in gradient units
            per parameter unit. Positive, at most ``beta``.
        beta: Smoothness: they are at most this. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1. At power 0 there is no floor:
            either USAM converges or the bound is infinite (``largest_stable_eta``).

    Returns:
        Loss above its minimum.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        The loss is as said everywhere, not only near its minimum; exact gradient, no momentum.
        Below ``2 / (alpha + beta)`` an upper bound that nothing tried has attained, though for
        small steps some losses stay above the quadratic's bounce.

    Source:
        Derived here.

    Example:
        >>> round(convex_floor(eta=0.185, rho=0.1, alpha=1.0, beta=10.0), 4)
        7.6056
    """
    by_distance: Any = _contracted(eta, rho, alpha, beta, power)
    return cast(
        Number,
        -larger(-0.5 * beta * by_distance * by_distance, -_by_loss(eta, rho, alpha, beta, power)),
    )


def convex_distance_floor(
    eta: Number | float,
    rho: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Distance from the minimum within which SAM stays in the end on a strongly convex loss.

    Gradient descent contracts by :math:`\kappa = \max(1-\eta\alpha,\, \eta\beta-1)`, and the
    perturbation adds at most :math:`\eta\beta` times its length, so the limit superior of the
    distance is at most

    .. math:: d = \frac1\beta \left(\frac{\eta\beta^2\rho}{1-\kappa}\right)^{1/p}

    For :math:`\eta \ge 2/(\alpha+\beta)` this is ``bounce_amplitude`` at curvature beta, and
    sharp. For smaller steps the distance at which strong convexity reaches the loss of
    :func:`convex_floor`'s second case may be shorter; the shorter one is returned.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        alpha: Strong convexity, in gradient units per parameter unit. Positive, at most ``beta``.
        beta: Smoothness, in gradient units per parameter unit. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1.

    Returns:
        Distance, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        As :func:`convex_floor`.

    Source:
        Derived here.

    Example:
        >>> round(convex_distance_floor(eta=0.185, rho=0.1, alpha=1.0, beta=10.0), 4)
        1.2333
    """
    by_distance: Any = _contracted(eta, rho, alpha, beta, power)
    by_loss = (2.0 * _by_loss(eta, rho, alpha, beta, power) / alpha) ** 0.5
    return cast(Number, -larger(-by_distance, -by_loss))


def convex_rate(
    eta: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Factor by which a step shrinks the excess loss over the floor of a convex loss.

    .. math:: 1 - \frac{\alpha}{\beta}\,(2-\eta\beta)\,\min(p,\; \eta\beta)

    The floor is :math:`\frac\beta\alpha\,\frac12 \beta a^2`, the second case of
    :func:`convex_floor`. At power 1 the factor is :math:`1-\alpha\eta(2-\eta\beta)` for
    :math:`\eta\beta \le 1`, which is gradient descent's own by the same argument.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        alpha: Strong convexity, in gradient units per parameter unit. Positive, at most ``beta``.
        beta: Smoothness, in gradient units per parameter unit. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1.

    Returns:
        The factor, no unit, from 0 to 1.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        As :func:`convex_floor`. It holds while the excess is positive. An upper bound.

    Source:
        Derived here.

    Example:
        >>> round(convex_rate(eta=0.05, alpha=1.0, beta=10.0), 6)
        0.925
    """
    normalized(power)
    conditioned(alpha, beta)
    product = smooth_product(eta, beta)
    return cast(Number, 1.0 + alpha / beta * (2.0 - product) * larger(-power, -product))


def convex_distance_rate(
    eta: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Factor by which a step shrinks the excess distance over the contraction's floor.

    .. math:: 1 - p\,(1-\kappa), \qquad \kappa = \max(1-\eta\alpha,\, \eta\beta-1)

    At power 1 it is :math:`\kappa`, gradient descent's own. The floor is d of
    :func:`convex_distance_floor`.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        alpha: Strong convexity, in gradient units per parameter unit. Positive, at most ``beta``.
        beta: Smoothness, in gradient units per parameter unit. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1.

    Returns:
        The factor, no unit, from 0 to 1.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        As :func:`convex_floor`. It holds while the excess is positive. An upper bound.

    Source:
        Derived here.

    Example:
        >>> convex_distance_rate(eta=0.125, alpha=1.0, beta=8.0)
        0.875
    """
    normalized(power)
    return cast(Number, 1.0 - power * _margin(eta, alpha, beta))


def _margin(eta: Any, alpha: Any, beta: Any) -> Any:
    """One minus the contraction of gradient descent."""
    conditioned(alpha, beta)
    product = smooth_product(eta, beta)
    return -larger(-eta * alpha, product - 2.0)


def _contracted(eta: Any, rho: Any, alpha: Any, beta: Any, power: Any) -> Any:
    """Distance floor by contraction."""
    quantity("rho", rho, at_least=0)
    normalized(power)
    margin = _margin(eta, alpha, beta)
    return raised(eta * beta * beta * rho / margin, 1.0 / power) / beta


def _by_loss(eta: Any, rho: Any, alpha: Any, beta: Any, power: Any) -> Any:
    """Loss floor by descent, where the arguments are known to be good."""
    norm: Any = descent_gradient_norm(eta, rho, beta, power, convex=True)
    product = eta * beta
    start = larger(1.0, (product <= 1) * alpha / beta * (2.0 - product) * (2.0 - product))
    return 0.5 * norm * norm / alpha * start
