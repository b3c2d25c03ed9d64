"""The edge of stability at every power, and USAM's threshold solved for rho and for eta."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number


def edge(
    eta: Number | float,
    rho: Number | float = 0.0,
    grad_norm: Number | float = 1.0,
    power: Number | float = 1.0,
) -> Number:
    r"""Curvature at which one step is marginally stable.

    Along an eigenvector of the Hessian with eigenvalue :math:`\lambda`, a step whose gradient is
    taken at :math:`w + \rho g/\lVert g\rVert^p` multiplies that coordinate by
    :math:`1 - \eta\lambda(1 + \rho\lambda/\lVert g\rVert^p)`. The edge is the :math:`\lambda`
    that makes it -1:

    .. math:: \lambda_{edge} = \frac{4}{\eta\,(1 + \sqrt{1 + 8\rho/(\eta\lVert g\rVert^p)})}

    It is :math:`2/\eta` at ``rho=0``. At power 0 it is a true threshold. At every power above 0
    it falls to 0 with the gradient, so no minimum with positive curvature is a fixed point: the
    iterate settles where its gradient norm puts it on the edge (see ``bounce_amplitude``).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative; 0 gives gradient descent.
        grad_norm: Euclidean norm of the gradient before the perturbation. Positive; without
            effect at power 0.
        power: The normalization p, no unit. 0 is USAM, 1 is SAM.

    Returns:
        Eigenvalue of the Hessian, in gradient units per parameter unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Quadratic loss, gradient along the eigenvector, no momentum, one global norm. The
        condition compares :math:`|w|` before and after a step; it is not the Jacobian's
        condition along the gradient.

    Source:
        Power 1: Long & Bartlett, Sharpness-Aware Minimization and the Edge of Stability, 2023.
        Every other power: derived here.

    Example:
        >>> edge(eta=0.1)
        20.0
        >>> round(edge(eta=0.1, rho=0.05), 4)
        12.3607
    """
    quantity("eta", eta, above=0)
    quantity("rho", rho, at_least=0)
    quantity("grad_norm", grad_norm, above=0)
    quantity("power", power, at_least=0)
    # hypot(1, stretch), as the modulus of a complex number, is the square root of the formula; a
    # vanishing gradient at power 2 would overflow in the formula's own square.
    stretch: Any = (8.0 * rho / eta) ** 0.5 * grad_norm ** (-0.5 * power)
    return cast(Number, 4.0 / (eta * (1.0 + abs(1.0 + 1j * stretch))))


def largest_stable_rho(eta: Number | float, curvature: Number | float) -> Number:
    r"""Radius above which USAM (power 0) leaves a minimum of the given curvature.

    USAM is a linear map on a quadratic. It converges from every start if and only if
    :math:`\eta\lambda(1+\rho\lambda) < 2` for every eigenvalue, hence

    .. math:: \rho^* = \left(\frac{2}{\eta\lambda} - 1\right) / \lambda

    For power 0 alone: at every power p > 0 the radius drops out of the divergence threshold,
    which is :math:`\eta\lambda < 2` whatever the radius. A minimum is then never left to
    infinity and never reached either: the iterate bounces (see ``bounce_amplitude``).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below 2.

    Returns:
        Radius at power 0, in parameter units per gradient unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2``, where no radius is stable.

    Assumes:
        Quadratic loss, no momentum.

    Source:
        Derived here.

    Example:
        >>> largest_stable_rho(eta=0.1, curvature=10.0)
        0.1
    """
    return cast(Number, (2.0 / stable_product(eta, curvature) - 1.0) / curvature)


def largest_stable_eta(rho: Number | float, curvature: Number | float) -> Number:
    r"""Step size above which USAM (power 0) leaves a minimum of the given curvature.

    The condition of :func:`largest_stable_rho`, solved for the step size:

    .. math:: \eta^* = \frac{2}{\lambda + \rho\lambda^2}

    For power 0 alone: at every power p > 0 the radius drops out of the divergence threshold,
    which is gradient descent's :math:`2/\lambda` (this function at ``rho=0``).

    Args:
        rho: Radius at power 0, in parameter units per gradient unit. Not negative.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive.

    Returns:
        Step size, in parameter units per gradient unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Quadratic loss, no momentum.

    Source:
        Derived here.

    Example:
        >>> largest_stable_eta(rho=0.1, curvature=10.0)
        0.1
    """
    quantity("rho", rho, at_least=0)
    quantity("curvature", curvature, above=0)
    denominator: Any = curvature * (1.0 + rho * curvature)
    return cast(Number, 2.0 / denominator)


def stable_product(eta: Any, curvature: Any) -> Any:
    """``eta * curvature``, below gradient descent's own threshold, or an error."""
    quantity("eta", eta, above=0)
    quantity("curvature", curvature, above=0)
    product = eta * curvature
    everywhere("eta * curvature", product, product < 2, "< 2, the threshold of gradient descent")
    return product
