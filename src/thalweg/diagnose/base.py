"""What is read from the user's model and base optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thalweg import layout
from thalweg.diagnose.record import Base
from thalweg.errors import ThalwegError


def perturbed(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that SAM would move: the optimizer's, where they take a gradient.

    Args:
        model: Must have all of them, and whole.
        optimizer: The base optimizer.

    Raises:
        ThalwegError: If there are none, or some are not the model's, or are sharded.
    """
    own = set(model.parameters())
    found = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if not found or not own.issuperset(found):
        got = f"{sum(p not in own for p in found)} others" if found else "none"
        raise ThalwegError(
            f"optimizer must train parameters of the model, got {got}: build it from "
            "model.parameters() of the same model"
        )
    if any(map(layout.is_sharded, found)):
        raise ThalwegError(
            "optimizer must train whole parameters, got sharded ones (DTensor), through which "
            "nothing can be derived twice: gather the model on one rank (get_model_state_dict "
            "with full_state_dict=True), load it into an unsharded copy, and diagnose that"
        )
    order: dict[Tensor, int] = {p: i for i, p in enumerate(model.parameters())}
    return sorted(found, key=order.__getitem__)


def names(model: nn.Module, some: list[Tensor]) -> list[str]:
    """Return the names of parameters in their model.

    Args:
        model: The model.
        some: Of its parameters.
    """
    known: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return [known[p] for p in some]


def base_of(optimizer: torch.optim.Optimizer) -> Base:
    """Return what the theory of the edge must know of a base optimizer.

    Args:
        optimizer: Of any class; of one that is not ``torch.optim.SGD`` only what it is.

    Example:
        >>> w = torch.zeros(1, requires_grad=True)
        >>> base_of(torch.optim.SGD([w], lr=0.1, momentum=0.9)).momentum
        0.9
    """
    group = max(optimizer.param_groups, key=lambda group: float(group.get("lr", 0.0)))
    name, lr = type(optimizer).__name__, float(group.get("lr", 0.0))
    notes = []
    if len({float(g.get("lr", 0.0)) for g in optimizer.param_groups}) > 1:
        notes.append(f"Its groups differ in lr; the largest, {lr:g}, is looked at.")
    if not isinstance(optimizer, torch.optim.SGD):
        notes.append(
            f"{name} scales every entry of the gradient by itself. Its edge is one of the Hessian "
            "scaled in the same way, which is not measured here: no edge is given."
        )
        return Base(name, lr, lr, plain=False, notes=tuple(notes))
    momentum = float(group["momentum"])
    eta = lr * (1 - float(group["dampening"])) if momentum else lr
    plain = eta > 0 and 0 <= momentum < 1 and not group.get("maximize")
    if not plain:
        notes.append(
            "The formulas of the edge want lr > 0, momentum below 1 and a loss that is minimized: "
            "no edge is given."
        )
    decay, nesterov = float(group["weight_decay"]), bool(group["nesterov"])
    return Base(name, lr, eta, momentum, decay, nesterov, plain, tuple(notes))


def common_rho(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the ``"rho"`` that all groups of an optimizer have in common, if they have.

    Args:
        optimizer: The base optimizer.
    """
    held: set[Any] = {group.get("rho") for group in optimizer.param_groups}
    (rho,) = held if len(held) == 1 else (None,)
    return None if rho is None or not float(rho) > 0 else float(rho)
