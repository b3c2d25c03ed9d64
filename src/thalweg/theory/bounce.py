"""The two-point bounce across a valley: its size, what it attracts, the radius it feels."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number, raised


def bounce_amplitude(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    power: Number | float = 1.0,
    momentum: Number | float = 0.0,
) -> Number:
    r"""Distance from the minimum at which the iterate bounces back and forth.

    At every power above 0 the step overshoots near the minimum and undershoots far from it. On
    the two-point bounce between them the multiplier is exactly -1:

    .. math:: a_p = \frac1\lambda
        \left(\frac{\tilde\eta\rho\lambda^2}{2-\tilde\eta\lambda}\right)^{1/p},
        \qquad \tilde\eta = \frac{\eta}{1+\mu}

    and the gradient norm is :math:`\lambda a_p`. Whether the bounce attracts is told by
    :func:`bounce_multiplier`. The amplitude is finite for every radius, but for a small power
    and :math:`\tilde\eta\rho\lambda^2 > 2-\tilde\eta\lambda` astronomically large (infinite once
    it leaves the range of a float).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative; at 0 there is no bounce and the amplitude is 0.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below ``2 * (1 + momentum)``.
        power: The normalization p, no unit. Positive: at power 0 there is no bounce.
        momentum: The factor :math:`\mu` of heavy-ball momentum, no unit. From 0 to below 1. With
            it longer cycles may attract as well, from other starts: this is the two-point
            bounce, not the only end.

    Returns:
        Distance along the top eigenvector, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2 * (1 + momentum)``, where the bounce does not exist.

    Assumes:
        Quadratic loss, no cap on the perturbation, no weight decay, no Nesterov momentum.

    Source:
        Derived here. Power 1 with ``eta * curvature < 1``: also in Wen, Ma & Li, How Does
        Sharpness-Aware Minimization Minimize Sharpness?, 2023.

    Example:
        >>> bounce_amplitude(eta=0.1, rho=0.05, curvature=10.0)
        0.05
    """
    quantity("rho", rho, at_least=0)
    quantity("power", power, above=0)
    product = bounce_product(eta, curvature, momentum)
    return cast(
        Number, raised(product * rho * curvature / (2.0 - product), 1.0 / power) / curvature
    )


def bounce_multiplier(
    eta: Number | float,
    curvature: Number | float,
    power: Number | float = 1.0,
    momentum: Number | float = 0.0,
) -> Number:
    r"""Factor by which a step multiplies a small deviation from the bounce's amplitude.

    .. math:: m = 1 - p\,(2 - \tilde\eta\lambda), \qquad \tilde\eta = \frac{\eta}{1+\mu}

    With momentum a deviation has two factors, the roots of :math:`z^2 - (1+\mu) m z + \mu = 0`.
    Both lie inside the unit circle if and only if :math:`|m| < 1`, so with or without momentum
    the bounce attracts always for p <= 1, and for p > 1 only where
    :math:`\tilde\eta\lambda > 2 - 2/p`. The radius does not enter.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below ``2 * (1 + momentum)``.
        power: The normalization p, no unit. Positive: at power 0 there is no bounce.
        momentum: The factor :math:`\mu` of heavy-ball momentum, no unit. From 0 to below 1.

    Returns:
        The factor of the larger modulus, no unit; for a pair of complex factors their modulus,
        the square root of ``momentum``. From -1 to 1, both excluded, where the bounce is stable.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2 * (1 + momentum)``.

    Assumes:
        Quadratic loss, ``rho > 0``, no cap, no weight decay, no Nesterov momentum; the deviation
        is along the top eigenvector.

    Source:
        Derived here.

    Example:
        >>> bounce_multiplier(eta=0.1, curvature=10.0, power=0.5)
        0.5
    """
    quantity("power", power, above=0)
    plain = 1.0 - power * (2.0 - bounce_product(eta, curvature, momentum))
    return cast(Number, _larger_root(plain, momentum))


def transverse_multiplier(
    eta: Number | float,
    curvature: Number | float,
    other: Number | float,
    momentum: Number | float = 0.0,
) -> Number:
    r"""Factor by which a step on the bounce multiplies a small deviation along another mode.

    With :math:`r` the other eigenvalue over the largest and :math:`x = \tilde\eta\lambda`:

    .. math:: 1 - x r - (2-x) r^2

    It is the same at every power and radius, and below 1 in modulus for every :math:`0 < r < 1`:
    on the bounce every other mode dies. A negative eigenvalue makes a saddle. Its mode dies too
    where :math:`\frac{x}{2-x} < -r < \frac{2}{2-x}`, and the saddle is not left (see
    ``held_saddle``).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, along which the iterate bounces, in
            gradient units per parameter unit. Positive, with ``eta * curvature`` below
            ``2 * (1 + momentum)``.
        other: The other mode's eigenvalue, in gradient units per parameter unit, of any sign.
        momentum: The factor :math:`\mu` of heavy-ball momentum, no unit. From 0 to below 1.

    Returns:
        The factor, no unit; with momentum the one of two with the larger modulus, as in
        :func:`bounce_multiplier`.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2 * (1 + momentum)``.

    Assumes:
        Quadratic loss; the iterate is on its bounce, ``rho > 0``, no cap, no weight decay, no
        Nesterov momentum.

    Source:
        Derived here.

    Example:
        >>> transverse_multiplier(eta=0.1, curvature=10.0, other=5.0)
        0.25
    """
    quantity("other", other)
    product = bounce_product(eta, curvature, momentum)
    ratio = other / curvature
    return cast(Number, _larger_root(1.0 - ratio * (product + (2.0 - product) * ratio), momentum))


def effective_radius(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Length of the perturbation on the bounce: the radius at which SAM bounces alike.

    .. math:: r_p = \left[\rho \left(\frac{\eta\lambda^2}{2-\eta\lambda}\right)^{1-p}\right]^{1/p}

    Power p ends where power 1 ends with this radius. As the curvature falls, p < 1 shrinks it
    and p > 1 stretches it; at p = 1 it is ``rho``.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.
        power: The normalization p, no unit. Positive: at power 0 there is no bounce.

    Returns:
        Length of the perturbation, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``.

    Assumes:
        Quadratic loss, no momentum, no cap on the perturbation.

    Source:
        Derived here.

    Example:
        >>> effective_radius(eta=0.1, rho=0.04, curvature=5.0, power=1.0)
        0.04
        >>> round(effective_radius(eta=0.1, rho=0.04, curvature=5.0, power=0.5), 6)
        0.002667
    """
    quantity("rho", rho, at_least=0)
    quantity("power", power, above=0)
    product = bounce_product(eta, curvature)
    slope = product * curvature / (2.0 - product)
    return cast(Number, raised(rho * raised(slope, 1.0 - power), 1.0 / power))


def bounce_product(eta: Any, curvature: Any, momentum: Any = 0.0) -> Any:
    """``eta * curvature / (1 + momentum)``, below gradient descent's threshold, or an error."""
    quantity("eta", eta, above=0)
    quantity("curvature", curvature, above=0)
    quantity("momentum", momentum, at_least=0, below=1)
    product = eta * curvature
    wanted = "< 2 * (1 + momentum), the threshold of gradient descent"
    everywhere("eta * curvature", product, product < 2.0 * (1.0 + momentum), wanted)
    return product / (1.0 + momentum)


def _larger_root(plain: Any, momentum: Any) -> Any:
    """Root of ``z**2 - (1 + momentum) * plain * z + momentum`` with the larger modulus."""
    half = 0.5 * (1.0 + momentum) * plain
    spread = half * half - momentum
    # A product with a condition is a choice that floats and arrays share.
    real = (spread * (spread > 0)) ** 0.5 * (2.0 * (half >= 0) - 1.0) + half
    return real * (spread >= 0) + momentum**0.5 * (spread < 0)
