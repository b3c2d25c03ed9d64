"""What SAM asks of the base optimizer: its parameters, the radius of each group, word of a step."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import parameters
from thalweg.ascent import Method, check_method
from thalweg.errors import ThalwegError, number
from thalweg.telemetry import Last, told

#: Rho and chosen parameters of every param group that is perturbed.
Rhos = list[tuple[float, list[Tensor]]]


def check(optimizer: object, model: object, method: object, scaler: object, power: object) -> None:
    """Raise unless the arguments of SAM are of the right kinds.

    Args:
        optimizer: Must be an instance of a torch optimizer that has no ``rho`` of its own.
        model: Must be a module or ``None``.
        method: Must be a Method or ``None``.
        scaler: Must be a gradient scaler or ``None``.
        power: Must be ``None`` if there is a method.

    Raises:
        ThalwegError: If one is not.
    """
    if isinstance(optimizer, type):
        raise ThalwegError(
            f"optimizer must be an instance, got the class {optimizer.__name__}: write "
            f"SAM({optimizer.__name__}(model.parameters(), lr=...), model)"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ThalwegError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: pass the "
            "innermost torch optimizer"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ThalwegError(
            "optimizer must take one gradient a step, but LBFGS takes many in a search of its own: "
            "choose another base optimizer"
        )
    if "rho" in optimizer.defaults:
        raise ThalwegError(
            f'optimizer must leave the key "rho" of its param groups to SAM, but '
            f"{type(optimizer).__name__} has a rho of its own (rho={optimizer.defaults['rho']}): "
            "choose another base optimizer"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise ThalwegError(
            f"model must be a torch.nn.Module or None, got {type(model).__name__}: write "
            "SAM(optimizer, model, rho=...)"
        )
    check_method(method, power)
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise ThalwegError(
            f"scaler must be a torch.amp.GradScaler or None, got {type(scaler).__name__}"
        )
    for p in trained(optimizer):
        if p.is_complex():
            raise ThalwegError(
                f"parameters must be real, got one of dtype {p.dtype} and shape {tuple(p.shape)}: "
                "train torch.view_as_real of it"
            )


def warn_of_left_over(optimizer: torch.optim.Optimizer, rho: float) -> None:
    """Warn where all groups hold another common rho, left by a checkpoint or an earlier SAM.

    Args:
        optimizer: The base optimizer.
        rho: The radius asked for now.
    """
    held = {group.get("rho") for group in optimizer.param_groups}
    if len(held) == 1 and not held <= {rho, None}:
        warnings.warn(
            f"the optimizer's param groups already hold rho={held.pop()}, which is used; the "
            f'rho={rho} given now is not: set group["rho"] to change it',
            stacklevel=3,
        )


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return every parameter of the optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def rhos(optimizer: torch.optim.Optimizer, default: float, method: Method, step: int) -> Rhos:
    """Return rho and chosen parameters of every group that is perturbed at this step.

    Args:
        optimizer: The base optimizer; groups without a ``"rho"`` get the default one.
        default: The radius for those.
        method: Its schedule and filter are applied.
        step: How many steps went before.

    Returns:
        One pair for every group whose rho is not 0.

    Raises:
        ThalwegError: If the ``"rho"`` of a group is not a number >= 0.
    """
    found = []
    for group in optimizer.param_groups:
        rho = number('the "rho" of a param group', group.setdefault("rho", default), at_least=0)
        now = method.schedule(rho, step)
        if now > 0:
            found.append((now, [p for p in group["params"] if method.filter(p)]))
    return found


def moves(
    method: Method, rhos: Rhos, scale: Tensor | None
) -> tuple[Last, list[tuple[list[Tensor], list[Tensor], float | Tensor]]]:
    """Return ε for every group, from the gradients there are.

    Args:
        method: What makes ε of a gradient.
        rhos: What :func:`rhos` gave.
        scale: What the gradients are multiplied by, if by anything.

    Returns:
        The record of the perturbation; and parameters, direction and factor for each group. On
        the CPU the factor is a float and there are no moves where it is 0; on an accelerator it
        is a tensor there, so that nothing is read back and nothing waits.
    """
    groups = [(rho, [p for p in chosen if p.grad is not None]) for rho, chosen in rhos]
    gradients = [p.grad for _, chosen in groups for p in chosen if p.grad is not None]
    if not gradients:
        if any(chosen for _, chosen in rhos):
            warnings.warn(
                "no parameter of the optimizer got a gradient in the first pass, so nothing is "
                "perturbed: call backward() in every pass, on a loss of the parameters that the "
                "optimizer was given",
                stacklevel=2,
            )
        return Last(grad_norm=0.0 if rhos else math.nan), []
    # The factor is linear in rho: it is taken once, for the largest, and shared out.
    top = max(rho for rho, chosen in groups if chosen)
    epsilon = method.perturbation(gradients, top, scale=scale)
    rest = iter(epsilon.direction)
    parts = [(chosen, [next(rest) for _ in chosen], rho / top) for rho, chosen in groups if chosen]
    length = epsilon.length
    if len(parts) > 1:
        norms = [epsilon.factor * share * parameters.norm(d) for _, d, share in parts]
        length = torch.linalg.vector_norm(torch.stack(norms))
    last = told(epsilon, length, method.cap)
    if epsilon.factor.device.type != "cpu":
        return last, [(w, d, epsilon.factor * share) for w, d, share in parts]
    factor = float(epsilon.factor)
    return last, [(w, d, factor * share) for w, d, share in parts if last.moved]


def scale(scaler: torch.amp.GradScaler | None, trained: list[Tensor]) -> Tensor | None:
    """Return what a gradient scaler multiplies the gradients by, without waiting for a device.

    Args:
        scaler: The scaler, or ``None``.
        trained: The parameters.

    Returns:
        ``None`` without a scaler; otherwise a zero-dimensional float64 tensor.
    """
    if scaler is None or not scaler.is_enabled():
        return None
    one: Tensor = scaler.scale(torch.ones((), device=trained[0].device))
    return one.double()


def on_step(optimizer: torch.optim.Optimizer, owner: Any, act: Callable[[Any], None]) -> Any:
    """Call ``act(owner)`` before every step of the optimizer, as long as the owner lives.

    Args:
        optimizer: The base optimizer.
        owner: Held weakly, so that a forgotten SAM object can go.
        act: What to do.

    Returns:
        The hook's handle; ``remove()`` takes it away.
    """
    reference = weakref.ref(owner)

    def hook(*_: Any) -> None:
        alive = reference()
        if alive is not None:
            act(alive)

    return optimizer.register_step_pre_hook(hook)
