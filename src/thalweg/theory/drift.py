"""How long the drift along a valley of minima takes."""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number, largest, log, raised


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

    # w = 2/s - eta is the distance from gradient descent's edge. In log w the integrand is smooth
    # up to that edge, where in s it has a root; it grows like w to a power below `rate`.
    start = (2.0 - eta * s_from) / s_from
    ratio = (2.0 - eta * s_to) / s_to / start
    length = log(ratio)
    rate = 4.0 + 4.0 / power

    def integrand(fraction: float) -> Any:
        w = start * ratio**fraction
        s = 2.0 / (w + eta)
        return eta * s**3 / 8.0 * raised(w / (eta * rho * s), 2.0 / power) * (0.5 * s * s * w)

    # The error of three-point Gauss-Legendre is below (rate * panel)^6 / 2e6, relative.
    panels = math.ceil(10.0 * largest(rate * length)) or 1
    node = 0.5 * 0.6**0.5
    total: Any = 0.0
    for panel in range(panels):
        left, middle, right = ((panel + 0.5 + at) / panels for at in (-node, 0.0, node))
        total = total + 5.0 * integrand(left) + 8.0 * integrand(middle) + 5.0 * integrand(right)
    return cast(Number, total * length / (18.0 * panels))
