"""Which saddles hold the iterate, and from how far."""

from __future__ import annotations

import math
from typing import Any, cast

from thalweg.errors import everywhere, extra, quantity
from thalweg.theory._numbers import Number, log
from thalweg.theory.bounce import bounce_product


def saddle_trap(
    eta: Number | float,
    rho: Number | float,
    curvature: Number | float,
    power: Number | float = 1.0,
) -> Number:
    r"""Distance from a saddle, along its descending direction, up to which it traps.

    With :math:`s = \eta|\lambda|` a step multiplies that coordinate by
    :math:`1 + s\,(1 - \rho|\lambda| / \lVert g\rVert^p)`. It shrinks while
    :math:`|y| < (\rho|\lambda|)^{1/p}/|\lambda|`, and past that point it grows for ever.

    - p = 0: all or nothing. Trapped from everywhere if and only if
      :math:`1 < \rho|\lambda| < 1 + 2/s`; above, it swings out to infinity.
    - 0 < p <= 1: that distance, as long as no step from inside leaps out of it:

      .. math:: p^p (1-p)^{1-p}\, s \le (1+s)^{1-p}

      At p = 1 this is :math:`s \le 1`, at p = .5 it is :math:`s \le 2+\sqrt8`. With larger steps
      almost every start leaves.
    - p > 1: never. The kick near the saddle has no bound, and almost every start leaves.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative.
        curvature: Negative eigenvalue of the Hessian at the saddle, in gradient units per
            parameter unit. Its modulus counts, so it may be given without its sign. Not 0.
        power: The normalization p, no unit. 0 is USAM, 1 is SAM.

    Returns:
        Largest trapped distance, in parameter units: 0 where nothing is trapped, infinite where
        everything is.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Quadratic loss, the gradient along the one descending direction, no momentum, no cap.
        Where the valley across is not at rest, see :func:`held_saddle`. That almost every start
        leaves is proved for p >= 1; below 1 it is what was measured.

    Source:
        Derived here. Escape from saddles is the subject of Kim et al., Stability Analysis of
        Sharpness-Aware Minimization, 2023.

    Example:
        >>> saddle_trap(eta=0.1, rho=0.05, curvature=-2.0)
        0.05
        >>> saddle_trap(eta=0.1, rho=0.05, curvature=-2.0, power=2.0)
        0.0
        >>> saddle_trap(eta=0.1, rho=0.6, curvature=-2.0, power=0.0)
        inf
    """
    quantity("eta", eta, above=0)
    quantity("rho", rho, at_least=0)
    quantity("curvature", curvature)
    everywhere("curvature", curvature, curvature != 0, "other than 0")
    quantity("power", power, at_least=0)
    if any(hasattr(value, "shape") for value in (eta, rho, curvature, power)):
        with extra("lab", by="thalweg.theory"):
            import numpy as np

        traps: Any = np.vectorize(_trap, otypes=[float])
        return cast(Number, traps(eta, rho, curvature, power)[()])
    return cast(Number, _trap(eta, rho, curvature, power))


def held_saddle(
    eta: Number | float, curvature: Number | float, momentum: Number | float = 0.0
) -> tuple[Number, Number]:
    r"""Range of the negative eigenvalue in which a bounce across the valley holds a saddle.

    The bounce along the largest eigenvalue :math:`\lambda` keeps the gradient from vanishing,
    and with it the perturbation in every direction. With
    :math:`x = \eta\lambda/(1+\mu)` a saddle's descending direction is held if its eigenvalue lies
    between

    .. math:: -\frac{2\lambda}{2-x} \quad\text{and}\quad -\frac{x\lambda}{2-x}

    both excluded, at every power whose bounce attracts (``bounce_multiplier``) and for every
    radius. Flatter saddles are left. With small steps these are few: about those that descend
    with less than :math:`\eta\lambda^2/2`.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, with ``eta * curvature`` below ``2 * (1 + momentum)``.
        momentum: The factor :math:`\mu` of heavy-ball momentum, no unit. From 0 to below 1.

    Returns:
        The lower and the upper end, in gradient units per parameter unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if
            ``eta * curvature >= 2 * (1 + momentum)``.

    Assumes:
        Quadratic loss, ``rho > 0``, full gradient without noise, no cap. Local: the iterate is
        on its bounce and near the saddle; how near is enough depends on the radius.

    Source:
        Derived here.

    Example:
        >>> held_saddle(eta=0.1, curvature=10.0)
        (-20.0, -10.0)
        >>> low, high = held_saddle(eta=0.01, curvature=10.0)
        >>> round(low, 3), round(high, 3)
        (-10.526, -0.526)
    """
    product = bounce_product(eta, curvature, momentum)
    reach: Any = curvature / (2.0 - product)
    return cast(Number, -2.0 * reach), cast(Number, -product * reach)


def _trap(eta: Any, rho: Any, curvature: Any, power: Any) -> Any:
    """One case of :func:`saddle_trap`."""
    size = abs(curvature)
    step, pull = eta * size, rho * size
    if power > 1 or pull == 0:
        return 0.0
    if power == 0:
        # 1 + step * (1 - pull) is the factor of a step.
        return math.inf if abs(1.0 + step * (1.0 - pull)) < 1 else 0.0
    # The farthest leap from inside over the trap's own size, to the power p, as a logarithm: its
    # factors leave the range of a float for small powers.
    rest = 1.0 - power
    leap = power * log(power) + log(step) - rest * log(1.0 + step)
    leap += rest * log(rest) if rest else 0.0
    if leap > 0:
        return 0.0
    try:
        return float(pull ** (1.0 / power) / size)
    except OverflowError:
        return math.inf
