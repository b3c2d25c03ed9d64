"""Without strong convexity: where every step lowers the loss, and how far down it goes."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, extra, flag, quantity
from thalweg.theory._numbers import Number, raised


def descent_gradient_norm(
    eta: Number | float,
    rho: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
    convex: bool = False,
) -> Number:
    r"""Gradient norm above which a step lowers the loss, whatever the loss.

    For every beta-smooth loss a step with a larger gradient than this lowers it:

    .. math:: \left[\beta\rho\,\max\left(1, \frac{\eta\beta}{2-\eta\beta}\right)\right]^{1/p}

    For a convex loss the 1 drops out, and what is left is the gradient on the bounce of the
    quadratic of curvature beta. Both are sharp: at smaller gradients the loss rises on that
    bounce's inside, or near the saddle of curvature -beta.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        beta: Smoothness: no eigenvalue of the Hessian is larger in modulus. Positive, with
            ``eta * beta`` below 2.
        power: The normalization p, no unit. Positive.
        convex: Whether the loss is convex.

    Returns:
        Euclidean norm of the gradient before the perturbation.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``, where no gradient is large enough.

    Assumes:
        Gradient exact, no momentum, no cap on the perturbation.

    Source:
        Derived here.

    Example:
        >>> descent_gradient_norm(eta=0.1, rho=0.05, beta=10.0)
        0.5
        >>> round(descent_gradient_norm(eta=0.05, rho=0.05, beta=10.0, convex=True), 6)
        0.166667
    """
    flag("convex", convex)
    quantity("rho", rho, at_least=0)
    quantity("power", power, above=0)
    product = smooth_product(eta, beta)
    factor: Any = product / (2.0 - product)
    if not convex:
        factor = larger(factor, 1.0)
    return cast(Number, raised(beta * rho * factor, 1.0 / power))


def pl_floor(
    eta: Number | float,
    rho: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Excess loss below which SAM stays in the end on a Polyak-Lojasiewicz loss.

    With :math:`\lVert\nabla L\rVert^2 \ge 2\alpha(L - L^*)` and N from
    :func:`descent_gradient_norm`, the limit superior of :math:`L - L^*` is at most

    .. math:: \frac{N^2}{2\alpha}

    The excess over it shrinks at every step by the factor :func:`pl_rate`.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        alpha: The constant of the inequality, in gradient units per parameter unit. Positive, at
            most ``beta``.
        beta: Smoothness, in gradient units per parameter unit. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1.

    Returns:
        Loss above its minimum.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        A beta-smooth loss with the inequality everywhere, convex or not; exact gradient, no
        momentum, no cap. An upper bound; it is attained where ``alpha == beta`` and
        ``eta * beta >= 1``.

    Source:
        Derived here.

    Example:
        >>> round(pl_floor(eta=0.1, rho=0.1, alpha=1.0, beta=10.0), 6)
        0.5
    """
    normalized(power)
    conditioned(alpha, beta)
    norm: Any = descent_gradient_norm(eta, rho, beta, power)
    return cast(Number, 0.5 * norm * norm / alpha)


def pl_rate(
    eta: Number | float,
    alpha: Number | float,
    beta: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Factor by which a step shrinks the excess loss over :func:`pl_floor`.

    .. math:: 1 - p\,\frac{\alpha}{\beta} \min(\eta\beta,\; 2 - \eta\beta)

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        alpha: The constant of the inequality, in gradient units per parameter unit. Positive, at
            most ``beta``.
        beta: Smoothness, in gradient units per parameter unit. ``eta * beta`` is below 2.
        power: The normalization p, no unit. Above 0, at most 1.

    Returns:
        The factor, no unit, from 0 to 1.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * beta >= 2``.

    Assumes:
        As :func:`pl_floor`. It holds while the excess is positive. An upper bound.

    Source:
        Derived here.

    Example:
        >>> round(pl_rate(eta=0.05, alpha=1.0, beta=10.0), 6)
        0.95
    """
    normalized(power)
    conditioned(alpha, beta)
    product = smooth_product(eta, beta)
    slope: Any = -larger(-product, product - 2.0)
    return cast(Number, 1.0 - power * alpha / beta * slope)


def smooth_product(eta: Any, beta: Any) -> Any:
    """``eta * beta``, below gradient descent's own threshold, or an error."""
    quantity("eta", eta, above=0)
    quantity("beta", beta, above=0)
    product = eta * beta
    everywhere("eta * beta", product, product < 2, "< 2, the threshold of gradient descent")
    return product


def conditioned(alpha: Any, beta: Any) -> None:
    """Raise unless ``0 < alpha <= beta``."""
    quantity("alpha", alpha, above=0)
    quantity("beta", beta, above=0)
    everywhere("alpha", alpha, alpha <= beta, "<= beta")


def normalized(power: Any) -> None:
    """Raise unless ``0 < power <= 1``, where the perturbation is bounded by the gradient."""
    quantity("power", power, above=0, at_most=1)


def larger(one: Any, other: Any) -> Any:
    """The larger of two finite or infinite numbers, element by element."""
    if not hasattr(one, "shape") and not hasattr(other, "shape"):
        return max(one, other)
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    return np.maximum(one, other)
