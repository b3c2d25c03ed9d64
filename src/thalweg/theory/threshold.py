"""Threshold neurons: the step size, or USAM's radius, from which a bias is learned."""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number


def threshold_neuron_eta(d: Number | float) -> Number:
    r"""Step size above which gradient descent learns the bias of threshold neurons.

    The network :math:`f(x) = a^- \sum_i \mathrm{relu}(-x_i + b) + a^+ \sum_i
    \mathrm{relu}(x_i + b)` is to tell the sign of one large coordinate among d noisy ones. At
    :math:`a = 0` and :math:`b = 0` the Hessian's largest eigenvalue, along
    :math:`a^- = a^+`, is :math:`E\lVert x\rVert_1^2/8`, so that direction is unstable above

    .. math:: \eta^* = \frac{16}{E\lVert x\rVert_1^2} \approx \frac{8\pi}{d^2}

    Below, gradient descent stays near the gradient flow. Above, the sum of the two weights
    swings, and a swing pushes the bias down until fewer units fire.

    Args:
        d: Number of coordinates. Positive.

    Returns:
        Step size, for noise of variance 1 (divide by the variance otherwise).

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Logistic loss, both labels equally frequent and mirror images of each other; Gaussian
        noise of variance 1; start at b = 0 and small a; large d. A signal of size 3 and d = 100
        make :math:`\eta^*` 6 % smaller: with data at hand, take :math:`E\lVert x\rVert_1^2`.

    Source:
        Derived here. The transition is the subject of Ahn et al., Learning threshold neurons via
        the "edge of stability", 2023.

    Example:
        >>> round(threshold_neuron_eta(100), 6)
        0.002513
    """
    quantity("d", d, above=0)
    threshold: Any = 8.0 * math.pi / (1.0 * d) ** 2
    return cast(Number, threshold)


def threshold_neuron_rho(eta: Number | float, d: Number | float) -> Number:
    r"""Radius above which USAM (power 0) learns the bias below gradient descent's threshold.

    USAM's own threshold :math:`\eta\lambda(1+\rho\lambda) = 2` at the curvature
    :math:`\lambda = 2/\eta^*` of :func:`threshold_neuron_eta`, solved for the radius:

    .. math:: \rho^* = \frac{\eta^*}{2}\left(\frac{\eta^*}{\eta} - 1\right)

    At powers above 0 no radius divides so: there the edge falls with the gradient.

    Args:
        eta: Step size. Positive, below ``threshold_neuron_eta(d)``.
        d: Number of coordinates. Positive.

    Returns:
        Radius at power 0, in parameter units per gradient unit, for noise of variance 1.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        What ``threshold_neuron_eta`` assumes.

    Source:
        Derived here.

    Example:
        >>> round(threshold_neuron_rho(0.25 * threshold_neuron_eta(100), 100), 5)
        0.00377
    """
    quantity("eta", eta, above=0)
    threshold: Any = threshold_neuron_eta(d)
    everywhere("eta", eta, eta < threshold, "< threshold_neuron_eta(d), or no radius is needed")
    return cast(Number, 0.5 * threshold * (threshold / eta - 1.0))
