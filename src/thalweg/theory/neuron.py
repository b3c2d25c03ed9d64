"""The single neuron: where each power ends, and how long the drift along its minima takes."""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import ThalwegError, everywhere, extra, quantity
from thalweg.theory._numbers import Number, largest, log, raised
from thalweg.theory.edges import edge


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
    quantity("power", power, at_least=0, at_most=1)
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


def single_neuron_drift_steps(
    eta: Number | float,
    rho: Number | float,
    s_from: Number | float,
    s_to: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Number of steps in which :math:`s = y^2` drifts down the minima of :math:`\ell(xy)`.

    On its bounce the iterate slides towards smaller curvature :math:`s`, per step by
    :math:`ds = -\frac{8}{\eta s^3} \left(\frac{\eta\rho s^2}{2-\eta s}\right)^{2/p}`, hence

    .. math:: \int_{s_{to}}^{s_{from}}
        \frac{\eta s^3}{8} \left(\frac{2-\eta s}{\eta\rho s^2}\right)^{2/p} ds

    At power 1 this is :math:`[F(s_{from}) - F(s_{to})]/(8\eta\rho^2)` with
    :math:`F(s) = 4\ln s - 4\eta s + \eta^2 s^2/2`.

    Args:
        eta: Step size. Positive.
        rho: Radius. Positive: without it there is no drift.
        s_from: Curvature at the start. Below ``2 / eta``, where the bounce begins.
        s_to: Curvature at the end. Positive, at most ``s_from``.
        power: The normalization p, no unit. Positive, with ``power * (2 - eta * s_to) < 2``, so
            that the bounce is stable all the way (see ``bounce_multiplier``).

    Returns:
        Number of steps, as a real number; infinite once it leaves the range of a float.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        :math:`\ell` even and convex with :math:`\ell''(0) = 1`; no momentum; the iterate is on
        its bounce. Leading order: amplitude and perturbation, times y, are small (with
        :math:`\ell = \log\cosh`, within .1 % where their sum times y is below .1, and 1 to 6 %
        at .12 to .31), and rho is small against the square root of eta.

    Source:
        Derived here.

    Example:
        >>> round(single_neuron_drift_steps(eta=0.1, rho=0.05, s_from=2.0, s_to=0.2))
        4255
        >>> round(single_neuron_drift_steps(eta=0.1, rho=0.05, s_from=8.0, s_to=5.0, power=0.5))
        26909
    """
    quantity("eta", eta, above=0)
    quantity("rho", rho, above=0)
    quantity("s_from", s_from, above=0)
    quantity("s_to", s_to, above=0)
    quantity("power", power, above=0)
    everywhere("s_from", s_from, eta * s_from < 2, "< 2 / eta")
    everywhere("s_to", s_to, s_to <= s_from, "<= s_from")
    everywhere("power", power, power * (2.0 - eta * s_to) < 2, "< 2 / (2 - eta * s_to)")

    _, length = _to_the_edge(eta, s_from, s_to)
    return cast(Number, _steps(eta, rho, s_from, power, length))


def single_neuron_s_after(
    eta: Number | float,
    rho: Number | float,
    s_from: Number | float,
    steps: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Curvature :math:`s = y^2` to which the drift has come after a number of steps.

    :func:`single_neuron_drift_steps` solved for its end: for power 1 it falls exponentially in
    the end, for power p below 1 as :math:`t^{-p/(4(1-p))}`.

    Args:
        eta: Step size. Positive.
        rho: Radius. Positive.
        s_from: Curvature at the start. Below ``2 / eta``.
        steps: Number of steps, a real number. Not negative.
        power: The normalization p, no unit. Positive, with ``power * (2 - eta * s_from) < 2``,
            so that the bounce is stable at the start.

    Returns:
        The curvature, from 0 to ``s_from``; 0 where it would be below 2e-50.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if at a
            power above 1 the bounce loses its stability before that many steps are done.

    Assumes:
        What ``single_neuron_drift_steps`` assumes.

    Source:
        Derived here.

    Example:
        >>> round(single_neuron_s_after(eta=0.1, rho=0.05, s_from=2.0, steps=4255.0), 3)
        0.2
        >>> round(single_neuron_s_after(0.1, 0.1, s_from=9.8, steps=1e6, power=0.5), 3)
        1.362
    """
    quantity("eta", eta, above=0)
    quantity("rho", rho, above=0)
    quantity("s_from", s_from, above=0)
    quantity("steps", steps, at_least=0)
    quantity("power", power, above=0)
    everywhere("s_from", s_from, eta * s_from < 2, "< 2 / eta")
    everywhere("power", power, power * (2.0 - eta * s_from) < 2, "< 2 / (2 - eta * s_from)")
    arguments: tuple[Any, ...] = (eta, rho, s_from, steps, power)
    if not any(hasattr(argument, "shape") for argument in arguments):
        alone: Any = _s_after(*(float(argument) for argument in arguments))
        return cast(Number, alone)
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    return cast(Number, np.vectorize(_s_after, otypes=[float])(*arguments))


def _s_after(eta: float, rho: float, s_from: float, steps: float, power: float) -> float:
    """Solve :func:`_steps` for its length: a bracket by doubling, then Newton inside it."""
    longest = max(1.0, math.log(1e50 * s_from / (2.0 - eta * s_from)))  # s is 2e-50 there
    if power > 1:
        # Here power * (2 - eta s) is 2.
        longest = _to_the_edge(eta, s_from, 2.0 * (power - 1.0) / (power * eta))[1]
    low, high = 0.0, min(0.01, longest)
    while _steps(eta, rho, s_from, power, high) < steps:
        if high == longest and power > 1:
            most = _steps(eta, rho, s_from, power, longest)
            raise ThalwegError(
                f"steps must be at most {most:g}, where the bounce loses its stability, got {steps}"
            )
        if high == longest:
            return 0.0
        low, high = high, min(2.0 * high, longest)
    guess = high
    for _ in range(100):
        excess = _steps(eta, rho, s_from, power, guess) - steps
        low, high = (low, guess) if excess > 0 else (guess, high)
        slope = _steps_per_length(eta, rho, s_from, power, guess)
        newton = guess - excess / slope if 0 < slope < math.inf else math.inf
        following = newton if low < newton < high else 0.5 * (low + high)
        if abs(following - guess) <= 1e-15 * guess:
            break
        guess = following
    return 2.0 / ((2.0 - eta * s_from) / s_from * math.exp(guess) + eta)


def _to_the_edge(eta: Any, s_from: Any, s_to: Any) -> tuple[Any, Any]:
    """Distance w = 2/s - eta from gradient descent's edge at the start, and ln of its growth.

    In log w the integrand is smooth up to that edge, where in s it has a root.
    """
    start = (2.0 - eta * s_from) / s_from
    return start, log((2.0 - eta * s_to) / s_to / start)


def _steps_per_length(eta: Any, rho: Any, s_from: Any, power: Any, length: Any) -> Any:
    """Integrand of the number of steps in log w, at this distance from the start."""
    w = (2.0 - eta * s_from) / s_from * math.e**length
    s = 2.0 / (w + eta)
    return eta * s**3 / 8.0 * raised(w / (eta * rho * s), 2.0 / power) * (0.5 * s * s * w)


def _steps(eta: Any, rho: Any, s_from: Any, power: Any, length: Any) -> Any:
    """Number of steps in which log w grows by ``length``."""
    # The integrand grows like w to a power below 4 + 4/p; the error of three-point Gauss-Legendre
    # is below (that power * panel)^6 / 2e6, relative.
    panels = math.ceil(10.0 * largest((4.0 + 4.0 / power) * length)) or 1
    node = 0.5 * 0.6**0.5
    total: Any = 0.0
    for panel in range(panels):
        for at, weight in ((-node, 5.0), (0.0, 8.0), (node, 5.0)):
            here = length * ((panel + 0.5 + at) / panels)
            total = total + weight * _steps_per_length(eta, rho, s_from, power, here)
    return total * length / (18.0 * panels)
