"""Rules for the radius: what it must become when the loss, the micro-batch or the width changes."""

from __future__ import annotations

from typing import Any, cast

from thalweg.errors import everywhere, quantity
from thalweg.theory._numbers import Number, log, raised


def rho_for_loss_scale(rho: Number | float, scale: Number | float, power: Number | float) -> Number:
    r"""Radius that keeps the trajectory when the loss is multiplied by ``scale``.

    With :math:`L \to cL` and :math:`\eta \to \eta/c`, the same trajectory needs

    .. math:: \rho \to \rho\, c^{p-1}

    Only at power 1 is it the same radius. An exact symmetry, for every loss.

    Args:
        rho: Radius for the loss as it was. Not negative.
        scale: The factor c on the loss, no unit. Positive.
        power: The normalization p, no unit. Not negative.

    Returns:
        Radius for the scaled loss.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        The step size is divided by ``scale``; the base optimizer is gradient descent, with or
        without momentum, without weight decay.

    Source:
        Derived here.

    Example:
        >>> rho_for_loss_scale(rho=0.05, scale=4.0, power=0.5)
        0.025
    """
    quantity("rho", rho, at_least=0)
    quantity("scale", scale, above=0)
    quantity("power", power, at_least=0)
    return cast(Number, rho * scale ** (power - 1.0))


def rho_for_microbatch(
    rho: Number | float,
    m_ref: Number | float,
    m: Number | float,
    power: Number | float,
    noise_scale: Number | float = float("inf"),
) -> Number:
    r"""Radius at which micro-batches of m examples give the noise penalty of ``m_ref``.

    To first order in the radius, SAM on micro-batches of m examples adds on average the force
    :math:`\rho\,(\lVert\bar g\rVert^2 + \mathrm{tr}\,\Sigma/m)^{-p/2}
    (H\bar g + \tfrac12\nabla \mathrm{tr}\,\Sigma/m)`, where :math:`\Sigma` is the covariance of
    one example's gradient. What stands before :math:`\nabla\mathrm{tr}\,\Sigma` is kept by

    .. math:: \rho = \rho_{ref}\, \frac{m}{m_{ref}}
        \left(\frac{1 + B/m}{1 + B/m_{ref}}\right)^{p/2},
        \qquad B = \mathrm{tr}\,\Sigma / \lVert\bar g\rVert^2

    Far below the noise scale B this is :math:`(m/m_{ref})^{1 - p/2}`: the square root of the
    ratio at power 1, no change at power 2. Far above it is :math:`m/m_{ref}` at every power.
    The other force, of :math:`H\bar g`, is not kept: both are kept by no radius.

    Args:
        rho: Radius at ``m_ref``. Not negative.
        m_ref: Examples per independent ascent that ``rho`` was chosen for. Positive.
        m: Examples per independent ascent it is wanted for. Positive.
        power: The normalization p, no unit. Not negative.
        noise_scale: The noise scale B, in examples. Positive; infinite where noise rules.

    Returns:
        Radius at ``m``, in the unit of ``rho``.

    Raises:
        ThalwegError: If an argument is no number, is out of its range, or is not finite (the
            noise scale may be infinite).

    Assumes:
        First order in the radius; both passes see the same micro-batch, drawn independently of
        the others; the norm of its gradient fluctuates little about its root mean square (at
        power 0 this is not needed). With another batch for the second pass the force of the
        noise vanishes.

    Source:
        Derived here.

    Example:
        >>> rho_for_microbatch(rho=0.05, m_ref=64, m=16, power=1.0)
        0.025
        >>> round(rho_for_microbatch(0.05, 64, 16, power=1.0, noise_scale=64), 4)
        0.0198
    """
    quantity("rho", rho, at_least=0)
    quantity("m_ref", m_ref, above=0)
    quantity("m", m, above=0)
    quantity("power", power, at_least=0)
    _positive_or_infinite("noise_scale", noise_scale)
    # Divided by B above and below, the ratio has a value where B is infinite.
    no_noise: Any = 1.0 / noise_scale
    ratio: Any = (no_noise + 1.0 / m) / (no_noise + 1.0 / m_ref)
    return cast(Number, rho * (m / m_ref) * ratio ** (0.5 * power))


def rho_for_width(rho: Number | float, fan_in: Number | float, fan_out: Number | float) -> Number:
    r"""Radius of one weight matrix whose perturbation counts the same at every width.

    .. math:: \rho\, \sqrt{\mathrm{fan}_{out} / \mathrm{fan}_{in}}

    A perturbation of Frobenius norm r along the gradient is nearly of rank one and lies along
    the layer's own input, so it moves the layer's output by r times the input's norm. With
    activations of order 1 these norms are the square roots of the fans. Under one ball for all
    tensors, instead, the last layer's share of the perturbation tends to 1 as the network widens.

    Args:
        rho: Radius of a square matrix. Not negative.
        fan_in: Inputs of the layer. Positive.
        fan_out: Outputs of the layer. Positive.

    Returns:
        Norm of this tensor's own perturbation, in the unit of ``rho``.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        Every weight matrix has a ball of its own, at power 1; activations of order 1; gradients
        of order 1/fan_out for every output of a hidden layer; a matrix of gradients of a rank
        that does not grow with the width.

    Source:
        Derived here. The subject of Haas et al., 2024.

    Example:
        >>> rho_for_width(rho=0.1, fan_in=100, fan_out=400)
        0.2
    """
    quantity("rho", rho, at_least=0)
    quantity("fan_in", fan_in, above=0)
    quantity("fan_out", fan_out, above=0)
    return cast(Number, rho * (fan_out / fan_in) ** 0.5)


def implied_penalty(
    rho: Number | float, grad_norm: Number | float, power: Number | float = 1.0
) -> Number:
    r"""What SAM adds to the loss, to first order in the radius.

    The SAM gradient is :math:`g + H\varepsilon` with
    :math:`H\varepsilon = \rho\lVert g\rVert^{-p} Hg`, the gradient of

    .. math:: \rho\,\frac{\lVert g\rVert^{2-p}}{2-p}, \qquad \rho\,\ln\lVert g\rVert
        \text{ at } p = 2

    It is least where the gradient vanishes; from power 2 on it has no least value there.

    Args:
        rho: Radius. Not negative.
        grad_norm: Euclidean norm of the gradient. Positive.
        power: The normalization p, no unit. Not negative.

    Returns:
        The penalty, in units of the loss. An additive constant has no meaning: values at
        different powers do not compare.

    Raises:
        ThalwegError: If an argument is no number, is not finite, or is out of its range.

    Assumes:
        A perturbation short enough for the gradient to be linear along it; both passes see the
        same batch. Not on the bounce, where the gradient is as short as the perturbation.

    Source:
        Derived here.

    Example:
        >>> implied_penalty(rho=0.1, grad_norm=0.5, power=1.0)
        0.05
        >>> implied_penalty(rho=0.1, grad_norm=1.0, power=2.0)
        0.0
    """
    quantity("rho", rho, at_least=0)
    quantity("grad_norm", grad_norm, above=0)
    quantity("power", power, at_least=0)
    exponent: Any = 2.0 - power
    is_log = exponent == 0
    # A product with a condition is a choice that floats and arrays share.
    algebraic = raised(1.0 * grad_norm, exponent) / (exponent + is_log) * (exponent != 0)
    return cast(Number, rho * (algebraic + log(grad_norm) * is_log))


def _positive_or_infinite(name: str, value: Any) -> None:
    """Raise unless ``value`` is positive everywhere; infinity is allowed, NaN is not."""
    try:
        positive = value > 0
    except (TypeError, ValueError, RuntimeError):
        positive = None
    if positive is None or isinstance(value, bool):
        quantity(name, value)
    everywhere(name, value, positive, "> 0")
