"""The edge of the present moment: what the formulas ask of a base optimizer, read from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from thalweg import theory
from thalweg.errors import ThalwegError

#: What must be the same in all groups, so that one step size is that of all parameters. The decay
#: is not among them: often it is left out for biases, and the largest one gives the lowest edge.
_ALIKE = ("lr", "momentum", "dampening", "nesterov", "maximize")


@dataclass(frozen=True, slots=True)
class BaseStep:
    """The step of a base optimizer, as the formulas of the edge want it.

    Attributes:
        name: The class of the optimizer.
        lr: Its learning rate; the largest, where param groups differ.
        eta: The step size of the formulas: ``lr``, less the dampening.
        momentum: Of ``torch.optim.SGD``.
        weight_decay: Of ``torch.optim.SGD``, coupled; the largest, where param groups differ.
        nesterov: Whether the momentum is Nesterov's.
        missing: Why the formulas do not hold, in half a sentence; empty where they do. Then the
            numbers above are for reading alone.
    """

    name: str
    lr: float
    eta: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    missing: str = ""

    @property
    def given(self) -> dict[str, Any]:
        """What :func:`thalweg.theory.edge` and its kin take by name, beside eta."""
        names = ("momentum", "weight_decay", "nesterov")
        return {name: getattr(self, name) for name in names}

    def edge(self, rho: float, grad_norm: float, power: float = 1.0) -> tuple[float, str]:
        """Return the curvature at which this step is marginally stable; see :func:`edge_of`.

        Args:
            rho: Radius, at ``power``; 0 for the base optimizer alone.
            grad_norm: ‖g‖.
            power: The normalization p.

        Returns:
            The edge and an empty string, or NaN and the reason why there is none.
        """
        if self.missing:
            return math.nan, self.missing
        if rho and not 0 < grad_norm < math.inf:
            return math.nan, f"the edge needs a gradient, and its norm is {grad_norm:g}"
        size = grad_norm if rho else 1.0  # where it has no effect it may be anything
        try:
            return float(theory.edge(self.eta, rho, size, power, **self.given)), ""
        except ThalwegError as error:
            return math.nan, str(error)


def base_step(optimizer: torch.optim.Optimizer) -> BaseStep:
    """Return what the formulas of the edge want to know of a base optimizer.

    Param groups that train nothing are not looked at.

    Args:
        optimizer: Of any class; the formulas hold for ``torch.optim.SGD``.

    Returns:
        The step; its ``missing`` says why, where the formulas do not hold.

    Example:
        >>> w = torch.zeros(1, requires_grad=True)
        >>> base_step(torch.optim.SGD([w], lr=0.1, momentum=0.9, dampening=0.5)).eta
        0.05
        >>> base_step(torch.optim.SGD([w], lr=0.1, maximize=True)).missing
        'the edge is that of a descent, and maximize is set'
    """
    every = optimizer.param_groups
    groups = [g for g in every if any(p.requires_grad for p in g["params"])] or every
    name = type(optimizer).__name__
    lr = max(float(group.get("lr", math.nan)) for group in groups)
    if not isinstance(optimizer, torch.optim.SGD):
        reason = (
            f"the edge of the loss's own Hessian is known for torch.optim.SGD; {name} scales the "
            "entries of the gradient, and its edge is one of the Hessian scaled alike, which is "
            "not measured"
        )
        return BaseStep(name, lr, lr, missing=reason)
    first = groups[0]
    momentum, nesterov = float(first["momentum"]), bool(first["nesterov"])
    eta = lr * (1 - float(first["dampening"])) if momentum else lr
    decay = max(float(group["weight_decay"]) for group in groups)
    differ = [key for key in _ALIKE if len({float(group[key]) for group in groups}) > 1]
    if differ:
        reason = f"the edge is that of one step size: param groups differ in {differ[0]}"
    elif first["maximize"]:
        reason = "the edge is that of a descent, and maximize is set"
    else:  # a step size of 0, a momentum of 1, a decay that alone overshoots
        reason = BaseStep(name, lr, eta, momentum, decay, nesterov).edge(0.0, 1.0)[1]
    return BaseStep(name, lr, eta, momentum, decay, nesterov, reason)


def edge_of(
    optimizer: torch.optim.Optimizer,
    rho: float = 0.0,
    grad_norm: float = 1.0,
    power: float = 1.0,
) -> tuple[float, str]:
    """Return the curvature at which a step of a base optimizer with SAM is marginally stable.

    It is :func:`thalweg.theory.edge` with the settings of the optimizer as they are now, for an ε
    of one rho over all parameters. Where param groups differ in their weight decay, it is that of
    the largest: the lowest of their edges.

    Args:
        optimizer: The base optimizer.
        rho: Radius; 0 for the base optimizer alone.
        grad_norm: ‖g‖; without effect where rho is 0.
        power: The normalization p.

    Returns:
        The edge, in the units of an eigenvalue, and an empty string; or NaN and the reason why
        there is none, in half a sentence.

    Example:
        >>> w = torch.zeros(1, requires_grad=True)
        >>> edge_of(torch.optim.SGD([w], lr=0.1))
        (20.0, '')
        >>> edge_of(torch.optim.AdamW([w]))[0]
        nan
    """
    return base_step(optimizer).edge(rho, grad_norm, power)
