"""Powers above 1: the law of the iterate at power 2, its exponents and tails, and the cap."""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import everywhere, extra, flag, quantity
from thalweg.theory._numbers import Number, log, raised
from thalweg.theory.bounce import bounce_product


def cauchy_scale(rho: Number | float, curvature: Number | float) -> Number:
    r"""Scale of the Cauchy law that the iterate follows at power 2 without a cap.

    At power 2 a step is :math:`w_+ = (1-\eta\lambda) w - \eta\rho/w`. Where
    :math:`\eta\lambda < 1` the distribution of w tends to a Cauchy law around the minimum, of scale

    .. math:: \sqrt{\rho / \lambda}

    whatever the step size. Half of the time the loss is more than ``rho / 2`` above the minimum;
    its mean is infinite.

    Args:
        rho: Radius at power 2: the perturbation is ``rho / grad_norm`` parameter units long, so
            that rho has the units of the loss. Not negative.
        curvature: Eigenvalue of the Hessian, in gradient units per parameter unit. Positive, with
            ``eta * curvature`` below 1 for the step size in use.

    Returns:
        Median of the distance from the minimum, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Quadratic loss, one mode (the top one: the others die, see :func:`transverse_exponent`),
        a start with a density, no momentum, no cap on the perturbation.

    Source:
        Derived here.

    Example:
        >>> cauchy_scale(rho=0.25, curvature=4.0)
        0.25
    """
    quantity("rho", rho, at_least=0)
    quantity("curvature", curvature, above=0)
    ratio: Any = rho / curvature
    return cast(Number, ratio**0.5)


def lyapunov_exponent(eta: Number | float, curvature: Number | float) -> Number:
    r"""Rate per step at which neighbouring iterates part at power 2 without a cap.

    With :math:`x = \eta\lambda` it is :math:`2\ln(\sqrt{x} + \sqrt{1-x})` for :math:`x \le 1`:
    positive inside, which is chaos, and at most :math:`\ln 2`. Above 1 every start ends on the
    two-point bounce, where it is :math:`\ln|2x-3|`, negative. The radius does not enter.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Eigenvalue of the Hessian, in gradient units per parameter unit. Positive, with
            ``eta * curvature`` below 2.

    Returns:
        Natural logarithm of the mean factor per step; minus infinity at ``eta * curvature`` 1.5.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``.

    Assumes:
        Quadratic loss, one mode, ``rho > 0``, no momentum, no cap on the perturbation.

    Source:
        Derived here.

    Example:
        >>> round(lyapunov_exponent(eta=0.1, curvature=5.0), 6) == round(math.log(2), 6)
        True
    """
    product = bounce_product(eta, curvature)
    inside: Any = product * (product <= 1)
    chaotic = inside**0.5 + (1.0 - inside) ** 0.5
    # The branch not taken is multiplied away, so each has to be harmless where it is not taken.
    return cast(Number, 2.0 * _log(chaotic) + _log(_kept(2.0 * product - 3.0, product > 1)))


def transverse_exponent(
    eta: Number | float, curvature: Number | float, other: Number | float
) -> Number:
    r"""Rate per step at which another mode dies or grows at power 2 without a cap.

    With :math:`x = \eta\lambda` and r the other eigenvalue over the largest it is
    :math:`\ln(1 - x r (1-r))` for :math:`x \le 1`: negative for every :math:`0 < r < 1`, so one
    mode is left, and positive for r < 0, so no saddle is held. Above 1 it is the logarithm of
    ``transverse_multiplier``'s modulus.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.
        other: The other mode's eigenvalue, in gradient units per parameter unit. At most
            ``curvature``; negative at a saddle.

    Returns:
        Natural logarithm of the mean factor per step.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``.

    Assumes:
        Quadratic loss, the other mode is small, ``rho > 0``, no momentum, no cap on the
        perturbation; for ``eta * curvature <= 1`` the top mode follows its Cauchy law.

    Source:
        Derived here.

    Example:
        >>> round(transverse_exponent(eta=0.1, curvature=5.0, other=2.5), 4)
        -0.1335
    """
    quantity("other", other)
    product = bounce_product(eta, curvature)
    everywhere("other", other, other <= curvature, "<= curvature")
    ratio: Any = other / curvature
    chaotic = 1.0 - product * ratio * (1.0 - ratio)
    on_the_bounce = 1.0 - ratio * (product + (2.0 - product) * ratio)
    above = product > 1
    return cast(Number, _log(_kept(chaotic, product <= 1)) + _log(_kept(on_the_bounce, above)))


def tail_index(power: Number | float) -> Number:
    r"""Exponent with which large distances become rare above power 1 without a cap.

    A gradient near 0 is answered by a kick as :math:`|w|^{1-p}`. Where the iterate is chaotic,

    .. math:: P(|w| > t) \sim t^{-1/(p-1)}

    The mean of the loss is infinite at an index of 2 or less, that is for :math:`p \ge 1.5`.

    Args:
        power: The normalization p, no unit. Above 1.

    Returns:
        The exponent, no unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Quadratic loss, one mode, no momentum, no cap; ``eta * curvature < 2 - 2 / power``, where
        the bounce does not attract; that the iterate's law has a density which is positive and
        continuous at the minimum. Exact at power 2 (the Cauchy law). Between 1 and 2 that density
        is not proved: there the index is what was measured.

    Source:
        Derived here.

    Example:
        >>> tail_index(1.5)
        2.0
    """
    quantity("power", power, above=1)
    excess: Any = power - 1.0
    return cast(Number, 1.0 / excess)


def cap_bound(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    power: Number | float,
    every_start: bool = False,
) -> Number:
    r"""Cap on the perturbation's length below which a power above 1 ends as SAM.

    With :math:`\lVert\epsilon\rVert \le R` the iterate has SAM's bounce of radius R, and that
    bounce attracts, if and only if R is below

    .. math:: \left[\rho \left(\frac{2-\eta\lambda}{\eta\lambda^2}\right)^{p-1}\right]^{1/p}

    which is ``effective_radius``: the cap must be shorter than the perturbation it replaces. For
    :math:`\eta\lambda \ge 1` every start ends there. For :math:`\eta\lambda < 1` other attractors
    can join below the bound; there are none up to the bound without the factor
    :math:`2-\eta\lambda`, which ``every_start`` asks for.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long
            before the cap. Not negative.
        curvature: Eigenvalue of the Hessian, in gradient units per parameter unit. Positive, with
            ``eta * curvature`` below 2.
        power: The normalization p, no unit. Above 1.
        every_start: Whether to return the cap up to which every start ends on the bounce (save
            those that meet the minimum itself). Sufficient; for small steps also necessary: 1 %
            above it other attractors were found at ``eta * curvature`` .01, 5 % above at .05.

    Returns:
        Length of the perturbation, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``.

    Assumes:
        Quadratic loss, one mode, no momentum.

    Source:
        Derived here.

    Example:
        >>> round(cap_bound(eta=0.1, rho=0.05, curvature=5.0, power=2.0), 6)
        0.173205
        >>> round(cap_bound(eta=0.1, rho=0.05, curvature=5.0, power=2.0, every_start=True), 6)
        0.141421
    """
    flag("every_start", every_start)
    quantity("rho", rho, at_least=0)
    quantity("power", power, above=1)
    product = bounce_product(eta, curvature)
    stretch: Any = 2.0 - product
    if every_start:
        stretch = 1.0 * (product <= 1) + stretch * (product > 1)
    return cast(
        Number, raised(rho * raised(stretch / (product * curvature), power - 1.0), 1.0 / power)
    )


def _kept(value: Any, condition: Any) -> Any:
    """``value`` where the condition holds, 1 elsewhere, as floats and arrays share it."""
    return value * condition + (1.0 - condition)


def _log(value: Any) -> Any:
    """Logarithm of the modulus, minus infinity at 0."""
    size = abs(value)
    if isinstance(size, (int, float)):
        return log(size) if size else -math.inf
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    with np.errstate(divide="ignore"):
        return np.log(size)
