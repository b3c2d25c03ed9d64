"""Where the methods end: the bounce across a valley, the neuron's limit, the loss's scale."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number, raised
from thalweg.theory.edges import edge, stable_product


def bounce_amplitude(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Distance from the minimum at which the iterate bounces back and forth.

    At every power above 0 the step overshoots near the minimum and undershoots far from it. On
    the two-point bounce between them the multiplier is exactly -1:

    .. math:: a_p = \frac1\lambda \left(\frac{\eta\rho\lambda^2}{2-\eta\lambda}\right)^{1/p}

    and the gradient norm is :math:`\lambda a_p`. Whether the bounce attracts is told by
    :func:`bounce_multiplier`. The amplitude is finite for every radius, but for a small power
    and :math:`\eta\rho\lambda^2 > 2-\eta\lambda` astronomically large (infinite once it leaves
    the range of a float).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative; at 0 there is no bounce and the amplitude is 0.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.
        power: The normalization p, no unit. Positive: at power 0 there is no bounce.

    Returns:
        Distance along the top eigenvector, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``, where every start diverges.

    Assumes:
        Quadratic loss, no momentum, no cap on the perturbation.

    Source:
        Derived here. Power 1 with ``eta * curvature < 1``: also in Wen, Ma & Li, How Does
        Sharpness-Aware Minimization Minimize Sharpness?, 2023.

    Example:
        >>> bounce_amplitude(eta=0.1, rho=0.05, curvature=10.0)
        0.05
    """
    quantity("rho", rho, at_least=0)
    quantity("power", power, above=0)
    product = stable_product(eta, curvature)
    return cast(
        Number, raised(product * rho * curvature / (2.0 - product), 1.0 / power) / curvature
    )


def bounce_multiplier(
    eta: Number | float, curvature: Number | float, power: Number | float = 1.0
) -> Number:
    r"""Factor by which one step multiplies a small deviation from the bounce's amplitude.

    .. math:: 1 - p\,(2 - \eta\lambda)

    The bounce attracts while this is above -1: always for p <= 1, and for p > 1 only where
    :math:`\eta\lambda > 2 - 2/p`. The radius does not enter.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.
        power: The normalization p, no unit. Positive: at power 0 there is no bounce.

    Returns:
        The factor, no unit; below 1, and above -1 where the bounce is stable.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``.

    Assumes:
        Quadratic loss, ``rho > 0``, no momentum, no cap; the deviation is along the top
        eigenvector.

    Source:
        Derived here.

    Example:
        >>> bounce_multiplier(eta=0.1, curvature=10.0, power=0.5)
        0.5
    """
    quantity("power", power, above=0)
    return cast(Number, 1.0 - power * (2.0 - stable_product(eta, curvature)))


def single_neuron_limit(
    power: Number | float,
    eta: Number | float,
    rho: Number | float,
    x0: Number | float,
    y0: Number | float,
) -> Number:
    r"""Limit of :math:`y^2` when training the single neuron :math:`L(x, y) = \ell(xy)`.

    The minima are the line x = 0, with curvature :math:`s = y^2`. With
    :math:`\gamma = y_0^2 - x_0^2`, which gradient flow keeps:

    - gradient descent (``rho=0``) ends at :math:`\min(\gamma, 2/\eta)`;
    - power 0 at :math:`\min(\gamma, s)`, with :math:`s(1+\rho s) = 2/\eta`;
    - every power in (0, 1] does not stop: it drifts along the minima to the saddle, 0. At
      power 1 exponentially fast, below 1 algebraically, :math:`s \sim t^{-p/(4(1-p))}`: what a
      finite run shows is given by ``single_neuron_drift_steps``.

    Args:
        power: The normalization p, no unit, from 0 to 1. Above 1 there is no such limit
            everywhere: the bounce is unstable on the way down, at small :math:`s`.
        eta: Step size. Positive.
        rho: Radius. Not negative; 0 gives gradient descent.
        x0: Start of the weight that tends to 0. Not 0, where nothing would move.
        y0: Start of the other weight, larger in modulus.

    Returns:
        Limit of the squared weight, which is the curvature at the minimum reached. As
        :math:`\ell''(0) = 1` everything here is in the units of the problem.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        :math:`\ell` even and convex with :math:`\ell''(0) = 1`; leading order in eta: with
        :math:`\ell = \log\cosh`, gradient descent ends about :math:`1.5\eta` below
        :math:`2/\eta`. No divergence on the way.

    Source:
        Derived here. The gradient descent case is the subject of Ahn et al., Learning threshold
        neurons via the "edge of stability", 2023.

    Example:
        >>> single_neuron_limit(power=0.0, eta=0.1, rho=0.1, x0=1.0, y0=61**0.5)
        10.0
        >>> single_neuron_limit(power=1.0, eta=0.1, rho=0.1, x0=1.0, y0=61**0.5)
        0.0
    """
    quantity("power", power, at_least=0)
    everywhere("power", power, power <= 1, "from 0 to 1")
    quantity("eta", eta, above=0)
    quantity("rho", rho, at_least=0)
    quantity("x0", x0)
    quantity("y0", y0)
    everywhere("x0", x0, x0 != 0, "other than 0, where the gradient vanishes")
    gap = y0 * y0 - x0 * x0
    everywhere("y0", y0, gap > 0, "larger than x0 in modulus")
    floor: Any = edge(eta, rho, power=0.0)
    lower = floor * (floor <= gap) + gap * (gap < floor)
    # A product with a condition is a choice that floats and arrays share.
    return cast(Number, lower * ((rho == 0) | (power == 0)))


def rho_for_loss_scale(rho: Number | float, scale: Number | float, power: Number | float) -> Number:
    r"""Radius that keeps the trajectory when the loss is multiplied by ``scale``.

    With :math:`L \to cL` and :math:`\eta \to \eta/c`, the same trajectory needs

    .. math:: \rho \to \rho\, c^{p-1}

    Only at power 1 is it the same radius. An exact symmetry, for every loss.

    Args:
        rho: Radius for the loss as it was. Not negative.
        scale: The factor c on the loss, no unit. Positive.
        power: The normalization p, no unit. Not negative.

    Returns:
        Radius for the scaled loss.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        The step size is divided by ``scale``; the base optimizer is gradient descent, with or
        without momentum, without weight decay.

    Source:
        Derived here.

    Example:
        >>> rho_for_loss_scale(rho=0.05, scale=4.0, power=0.5)
        0.025
    """
    quantity("rho", rho, at_least=0)
    quantity("scale", scale, above=0)
    quantity("power", power, at_least=0)
    return cast(Number, rho * scale ** (power - 1.0))
