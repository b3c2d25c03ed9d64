"""The drift along a manifold of minima: its speed, its clock, and where travel is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from thalweg.errors import everywhere, extra, quantity
from thalweg.theory._numbers import Number, raised

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drift_velocity(
    eta: Number | float,
    rho: Number | float,
    lambda_max: Number | float,
    gradient_of_lambda_max: Number | float,
    power: Number | float = 1.0,
    momentum: Number | float = 0.0,
) -> Number:
    r"""Displacement along a manifold of minima, per step, of an iterate on its bounce.

    The bounce across the valley has a mean square that pushes towards smaller curvature:

    .. math:: du = -\frac{\eta}{2(1-\mu)} \left(\frac{2}{\tilde\eta\lambda^2}\right)^2
        \left(\frac{\tilde\eta\rho\lambda^2}{2-\tilde\eta\lambda}\right)^{2/p} P\nabla\lambda,
        \qquad \tilde\eta = \frac{\eta}{1+\mu}

    At power 1 without momentum this is
    :math:`-\tfrac12\eta\rho^2 (2/(2-\eta\lambda))^2 P\nabla\lambda`. Momentum acts with
    :math:`\eta/(1+\mu)` across the valley, where steps alternate, and with
    :math:`\eta/(1-\mu)` along it.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius. Not negative; without it there is no drift.
        lambda_max: Largest eigenvalue of the Hessian at the minimum below the iterate. Positive,
            with ``eta * lambda_max / (1 + momentum)`` below 2.
        gradient_of_lambda_max: Its gradient along the manifold of minima, the vector
            :math:`P\nabla\lambda`, in units of curvature per parameter unit. A number or an array
            of any shape that broadcasts with the others.
        power: The normalization p, no unit. Positive, and such that the bounce is stable:
            ``power * (2 - eta * lambda_max / (1 + momentum)) < 2``.
        momentum: Momentum :math:`\mu` of the base optimizer, as in ``torch.optim.SGD``. From 0,
            below 1.

    Returns:
        Displacement per step, in parameter units, in the shape of the gradient.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        The largest eigenvalue is simple; the iterate is on the two-point bounce; its amplitude
        and its perturbation are short against the length over which the Hessian changes. With
        momentum other cycles coexist, which drift at other speeds.

    Source:
        Derived here. Power 1, in the limit of small step size: Wen, Ma & Li, How Does
        Sharpness-Aware Minimization Minimize Sharpness?, 2023.

    Example:
        >>> round(drift_velocity(eta=0.1, rho=0.1, lambda_max=10.0, gradient_of_lambda_max=2.0), 6)
        -0.004
    """
    quantity("gradient_of_lambda_max", gradient_of_lambda_max)
    speed = _speed(eta, rho, lambda_max, power, momentum, "lambda_max")
    return cast(Number, -speed * gradient_of_lambda_max)


def drift_clock(
    eta: Number | float,
    rho: Number | float,
    lambda_max_history: NDArray[Any],
    power: Number | float = 1.0,
    momentum: Number | float = 0.0,
    every: float = 1,
) -> NDArray[Any]:
    r"""Time :math:`\tau` in which every drift along a valley is the same motion.

    The step size, the radius, the power and the momentum enter :func:`drift_velocity` only
    through a factor. Counted in

    .. math:: \tau = \sum_t \frac{\eta}{2(1-\mu)} \left(\frac{2}{\tilde\eta\lambda_t^2}\right)^2
        \left(\frac{\tilde\eta\rho\lambda_t^2}{2-\tilde\eta\lambda_t}\right)^{2/p},
        \qquad \tilde\eta = \frac{\eta}{1+\mu}

    the iterate follows :math:`du/d\tau = -P\nabla\lambda`, whatever they are: along one valley
    :math:`\lambda_{max}(\tau)` is one curve, and no constant is free.

    Args:
        eta: Step size. Positive.
        rho: Radius. Not negative.
        lambda_max_history: Largest eigenvalue of the Hessian over time, (..., T): an array whose
            last axis is time. Positive, with ``eta * lambda_max / (1 + momentum)`` below 2.
        power: The normalization p, no unit. Positive, and such that the bounce is stable (see
            ``drift_velocity``).
        momentum: Momentum of the base optimizer. From 0, below 1.
        every: Steps from one entry of the history to the next. Positive.

    Returns:
        :math:`\tau` at every entry, (..., T), starting at 0; in (parameter units)^4 per unit of
        loss. Between entries the speed is taken as linear in time.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range, or if
            the history has no axis. Cut the history where it rises above the range: the law
            starts there.

    Assumes:
        What ``drift_velocity`` assumes, at every step. Where several eigenvalues have met at the
        top the law is not derived.

    Source:
        Derived here.

    Example:
        >>> import numpy as np
        >>> drift_clock(0.1, 0.1, np.array([10.0, 10.0, 10.0]), every=50).round(6).tolist()
        [0.0, 0.1, 0.2]
    """
    quantity("every", every, above=0)
    speed = _speed(eta, rho, lambda_max_history, power, momentum, "lambda_max_history")
    shaped = getattr(lambda_max_history, "ndim", 0) > 0
    everywhere("lambda_max_history", lambda_max_history, shaped, "an array whose last axis is time")
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    tau = np.zeros(speed.shape)
    np.cumsum(0.5 * every * (speed[..., 1:] + speed[..., :-1]), axis=-1, out=tau[..., 1:])
    return tau


def travel_bound(
    eta: Number | float,
    rho: Number | float,
    beta: Number | float,
    mu: Number | float,
    loss_gap: Number | float,
) -> Number:
    r"""Upper bound on the length of the path of USAM, or of gradient descent at ``rho=0``.

    On a loss with the Polyak-Lojasiewicz property,
    :math:`\lVert\nabla L\rVert^2 \ge 2\mu(L - L^*)`, the steps are together no longer than

    .. math:: K \sqrt{2 (L_0 - L^*) / \mu}, \qquad
        K = \frac{1 + \sqrt{1 - \mu\eta\tau(2 - \eta\beta\tau)}}{2 - \eta\beta\tau},
        \quad \tau = 1 + \rho\beta

    or, with :math:`\sigma = 1 - \eta\mu(1-\rho^2\beta^2)`, where
    :math:`(1-\rho\beta)\,\sigma < (1+\rho\beta)(1-\eta\beta)` (never for
    :math:`\eta\beta \ge 1`),

    .. math:: K = \sqrt{\frac{\sigma}{(1-\eta\beta)(1-\rho^2\beta^2)}}

    The first form, with :math:`\mu = \beta`, is attained by a quadratic in one dimension. So power
    0 stays near its start, among a continuum of minima too. SAM has no such bound: near a minimum
    it never stops bouncing, and its path is infinite.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive, with
            ``eta * beta * (1 + rho * beta)`` below 2, USAM's threshold.
        rho: Radius at power 0, in parameter units per gradient unit. Not negative, with
            ``rho * beta`` below 1.
        beta: Smoothness: the largest modulus of an eigenvalue of the Hessian, in gradient units
            per parameter unit. Positive.
        mu: The constant of the inequality, in the unit of ``beta``. Positive, at most ``beta``.
        loss_gap: Loss at the start above its infimum. Not negative.

    Returns:
        Length, in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Smoothness and the inequality hold wherever the iterates and their perturbations come; no
        convexity; no momentum.

    Source:
        Derived here.

    Example:
        >>> travel_bound(eta=0.5, rho=0.0, beta=1.0, mu=1.0, loss_gap=0.5)
        1.0
    """
    quantity("eta", eta, above=0)
    quantity("rho", rho, at_least=0)
    quantity("beta", beta, above=0)
    quantity("mu", mu, above=0)
    quantity("loss_gap", loss_gap, at_least=0)
    everywhere("mu", mu, mu <= beta, "<= beta")
    reach: Any = rho * beta
    everywhere("rho * beta", reach, reach < 1, "< 1, where the SAM gradient still points uphill")
    product: Any = eta * beta * (1.0 + reach)
    everywhere("eta * beta * (1 + rho * beta)", product, product < 2, "< 2, USAM's threshold")
    # `within`: the worst step is inside its range. A product with it is a choice that floats and
    # arrays share; where it is false, the other form's roots and quotients get harmless numbers.
    slack: Any = 1.0 - eta * beta
    sigma: Any = 1.0 - eta * mu * (1.0 - reach**2)
    within = (1.0 - reach) * sigma < (1.0 + reach) * slack
    inner = (sigma * within / ((slack * within + 1.0 - within) * (1.0 - reach**2))) ** 0.5
    # Rounding may take the root's argument below 0, where one step lands on the minimum.
    root = abs(1.0 - mu * eta * (1.0 + reach) * (2.0 - product)) ** 0.5
    outer = (1.0 + root) / (2.0 - product)
    factor = inner * within + outer * (1.0 - within)
    return cast(Number, factor * (2.0 * loss_gap / mu) ** 0.5)


def _speed(eta: Any, rho: Any, curvature: Any, power: Any, momentum: Any, name: str) -> Any:
    """How far along minus the gradient of the curvature one step goes."""
    quantity("eta", eta, above=0)
    quantity("rho", rho, at_least=0)
    quantity(name, curvature, above=0)
    quantity("power", power, above=0)
    quantity("momentum", momentum, at_least=0, below=1)
    across = eta / (1.0 + momentum)
    product = across * curvature
    everywhere(f"eta * {name} / (1 + momentum)", product, product < 2, "< 2, where bounces end")
    bound = f"< 2 / (2 - eta * {name} / (1 + momentum)), where the bounce is stable"
    everywhere("power", power, power * (2.0 - product) < 2, bound)
    grad_norm = raised(product * rho * curvature / (2.0 - product), 1.0 / power)
    # Amplitude plus perturbation, where the SAM gradient is taken.
    reach = 2.0 * grad_norm / (product * curvature)
    return 0.5 * eta / (1.0 - momentum) * raised(reach, 2.0)
