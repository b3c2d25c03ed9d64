"""The edge of stability at every power, and the same solved for rho and for eta.

Momentum, Nesterov's form and weight decay enter through one number, the curvature that the base
optimizer bears without a perturbation (`base_edge`).
"""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, flag, quantity
from thalweg.theory._numbers import Number, half_power


def edge(
    eta: Number | float,
    rho: Number | float = 0.0,
    grad_norm: Number | float = 1.0,
    power: Number | float = 1.0,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Curvature at which one step is marginally stable.

    Along an eigenvector of the Hessian with eigenvalue :math:`\lambda`, the gradient at
    :math:`w + \rho g/\lVert g\rVert^p` is that of a quadratic with curvature
    :math:`\kappa = \lambda(1 + \rho\lambda/\lVert g\rVert^p)`. The edge is the :math:`\lambda`
    that brings :math:`\kappa` to the base optimizer's own edge c, where a step turns w into -w:

    .. math:: \lambda_{edge} = \frac{2c}{1 + \sqrt{1 + 4\rho c/\lVert g\rVert^p}}

    ===============  ==================================  ==========================================
    :math:`c`        plain momentum                      Nesterov
    ===============  ==================================  ==========================================
    coupled decay    :math:`2(1+\mu)/\eta - \omega`      :math:`2(1+\mu)/((1+2\mu)\eta) - \omega`
    decoupled decay  :math:`(1+\mu)(2/\eta - \omega)`    :math:`(1+\mu)(2/\eta - \omega)/(1+2\mu)`
    ===============  ==================================  ==========================================

    It is :math:`2/\eta` for gradient descent. At power 0 it is a true threshold: a linear map.
    At every power above 0 it falls to 0 with the gradient, so no minimum with positive curvature
    is a fixed point. Without momentum the iterate then settles where its gradient norm puts it on
    the edge (see ``bounce_amplitude``). With momentum the edge is the condition for a bounce
    between two points with this gradient norm; longer cycles exist beside it.

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        rho: Radius: the perturbation is ``rho * grad_norm**(1 - power)`` parameter units long.
            Not negative; 0 gives the base optimizer.
        grad_norm: Euclidean norm of the gradient before the perturbation. Positive; without
            effect at power 0.
        power: The normalization p, no unit. 0 is USAM, 1 is SAM.
        momentum: :math:`\mu` of ``torch.optim.SGD``, no unit. From 0 to below 1. With
            ``dampening`` d, pass ``eta * (1 - d)``, and decoupled decay divided by ``1 - d``.
        weight_decay: :math:`\omega`, in gradient units per parameter unit. Not negative. It does
            not enter the perturbation.
        nesterov: Whether the momentum is Nesterov's, as torch has it.
        decoupled: Whether decay multiplies w by :math:`1 - \eta\omega` in each step, before the
            step is subtracted (as torch's AdamW does), instead of adding :math:`\omega w` to the
            SAM gradient (as torch's SGD does).

    Returns:
        Eigenvalue of the Hessian, in gradient units per parameter unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            decay is so large that c is not positive, where no curvature is stable.

    Assumes:
        Quadratic loss, gradient along the eigenvector, one global norm; with decay, the minimum
        at the origin (or power 0). The condition compares :math:`|w|` before and after a step;
        it is not the Jacobian's condition along the gradient.

    Source:
        Power 1 without momentum and decay: Long & Bartlett, Sharpness-Aware Minimization and
        the Edge of Stability, 2023. Everything else: derived here.

    Example:
        >>> edge(eta=0.1)
        20.0
        >>> round(edge(eta=0.1, rho=0.05), 4)
        12.3607
        >>> round(edge(eta=0.1, rho=0.05, momentum=0.9), 4)
        19.3258
    """
    quantity("rho", rho, at_least=0)
    bears = base_edge(eta, momentum, weight_decay, nesterov, decoupled)
    # hypot(1, stretch), as the modulus of a complex number, is the square root of the formula; a
    # vanishing gradient at power 2 would overflow in the formula's own square.
    stretch: Any = (4.0 * rho * bears) ** 0.5 / half_power(grad_norm, power)
    return cast(Number, 2.0 * bears / (1.0 + abs(1.0 + 1j * stretch)))


def largest_stable_rho(
    eta: Number | float,
    curvature: Number | float,
    grad_norm: Number | float = 1.0,
    power: Number | float = 0.0,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Radius at which the edge is the given curvature: USAM's threshold, unless told otherwise.

    With c as in :func:`edge` (:math:`2/\eta` for gradient descent),

    .. math:: \rho^* = \lVert g\rVert^p \left(\frac{c}{\lambda} - 1\right) / \lambda

    At power 0 this is a threshold: USAM is a linear map on a quadratic, and converges from every
    start if and only if every eigenvalue is below the edge. At a power p > 0 it is a local
    statement about this gradient norm alone: with a larger radius, steps of this size grow. The
    radius is not in the divergence threshold, which is :math:`\lambda < c` whatever the radius:
    a minimum is then never left to infinity and never reached either (see ``bounce_amplitude``).

    Args:
        eta: Step size, in parameter units per gradient unit. Positive.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive, below the edge at ``rho=0``.
        grad_norm: As in :func:`edge`; without effect at power 0.
        power: As in :func:`edge`.
        momentum: As in :func:`edge`.
        weight_decay: As in :func:`edge`.
        nesterov: As in :func:`edge`.
        decoupled: As in :func:`edge`.

    Returns:
        Radius; at power 0 in parameter units per gradient unit, at power 1 in parameter units.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range; if the
            base optimizer itself leaves this minimum, where no radius is stable.

    Assumes:
        As in :func:`edge`.

    Source:
        Derived here.

    Example:
        >>> largest_stable_rho(eta=0.1, curvature=10.0)
        0.1
        >>> round(largest_stable_rho(eta=0.1, curvature=10.0, momentum=0.9), 4)
        0.28
    """
    quantity("curvature", curvature, above=0)
    bears = base_edge(eta, momentum, weight_decay, nesterov, decoupled)
    below = curvature < bears
    everywhere("curvature", curvature, below, "< the edge of this eta at rho = 0")
    half = half_power(grad_norm, power)
    return cast(Number, (bears / curvature - 1.0) / curvature * half * half)


def largest_stable_eta(
    rho: Number | float,
    curvature: Number | float,
    grad_norm: Number | float = 1.0,
    power: Number | float = 0.0,
    momentum: Number | float = 0.0,
    weight_decay: Number | float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> Number:
    r"""Step size at which the edge is the given curvature: USAM's threshold, unless told otherwise.

    The condition of :func:`largest_stable_rho`, solved for the step size. With
    :math:`\kappa = \lambda(1+\rho\lambda/\lVert g\rVert^p)` and :math:`m = 1+\mu`, divided by
    :math:`1+2\mu` for Nesterov's momentum:

    .. math:: \eta^* = \frac{2m}{\kappa + \omega} \quad\text{(coupled decay)},\qquad
        \eta^* = \frac{2m}{\kappa + m\omega} \quad\text{(decoupled)}

    At power 0 this is a threshold. At a power p > 0 it is a local statement about this gradient
    norm; the divergence threshold is this function at ``rho=0``.

    Args:
        rho: Radius, as in :func:`edge`. Not negative.
        curvature: Largest eigenvalue of the Hessian, in gradient units per parameter unit.
            Positive.
        grad_norm: As in :func:`edge`; without effect at power 0.
        power: As in :func:`edge`.
        momentum: As in :func:`edge`.
        weight_decay: As in :func:`edge`.
        nesterov: As in :func:`edge`.
        decoupled: As in :func:`edge`.

    Returns:
        Step size, in parameter units per gradient unit.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        As in :func:`edge`.

    Source:
        Derived here.

    Example:
        >>> largest_stable_eta(rho=0.1, curvature=10.0)
        0.1
        >>> round(largest_stable_eta(rho=0.1, curvature=10.0, momentum=0.9), 4)
        0.19
    """
    quantity("rho", rho, at_least=0)
    quantity("curvature", curvature, above=0)
    gain = momentum_gain(momentum, nesterov)
    half = half_power(grad_norm, power)
    uphill: Any = curvature * (1.0 + rho * curvature / half / half)
    return cast(Number, 2.0 * gain / (uphill + _decay(gain, weight_decay, decoupled)))


def base_edge(
    eta: Any, momentum: Any, weight_decay: Any, nesterov: bool = False, decoupled: bool = False
) -> Any:
    """The edge without a perturbation, c in :func:`edge`: positive, or an error."""
    quantity("eta", eta, above=0)
    gain = momentum_gain(momentum, nesterov)
    bears = 2.0 * gain / eta - _decay(gain, weight_decay, decoupled)
    limit = "2 / eta" if decoupled else "edge(eta, momentum=..., nesterov=...)"
    everywhere("weight_decay", weight_decay, bears > 0, f"< {limit}, or no curvature is stable")
    return bears


def momentum_gain(momentum: Any, nesterov: bool = False) -> Any:
    """Factor by which momentum raises the base optimizer's edge."""
    quantity("momentum", momentum, at_least=0, below=1)
    flag("nesterov", nesterov)
    return (1.0 + momentum) / (1.0 + 2.0 * momentum) if nesterov else 1.0 + momentum


def _decay(gain: Any, weight_decay: Any, decoupled: bool) -> Any:
    """What decay takes of the curvature that momentum lets the optimizer bear."""
    quantity("weight_decay", weight_decay, at_least=0)
    flag("decoupled", decoupled)
    return weight_decay * gain if decoupled else weight_decay
