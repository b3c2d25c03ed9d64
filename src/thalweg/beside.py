"""What a method takes off the weights beside the base optimizer's step, by the learning rate alone.

It waits at the optimizer, as one of its hooks, until the next step: so every SAM of one optimizer
finds the same, none is kept alive by it, and copies of the optimizer begin without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.ascent import Number
from thalweg.errors import ThalwegError
from thalweg.hold import shift
from thalweg.memory import finite
from thalweg.scaling import in_use
from thalweg.telemetry import read


class Beside:
    """Tensors that wait for the next step of an optimizer; then lr times them leaves the weights.

    They belong to the gradients there are: what several loops leave before one step adds up, and
    goes with the gradients when those are cleared, or turn out not to be finite.

    Example:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([w], lr=0.5)
        >>> w.grad = torch.ones(1)
        >>> at(optimizer).add([w], [torch.ones(1)], size=1.0)
        >>> optimizer.step()
        >>> w
        tensor([0.], requires_grad=True)
    """

    def __init__(self) -> None:
        self._held: dict[Tensor, Tensor] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._held

    def add(self, trained: Sequence[Tensor], tensors: Sequence[Tensor], size: Number) -> None:
        """Let more wait.

        Args:
            trained: Parameters.
            tensors: One for each, multiplied by whatever its gradient is.
            size: A number that is finite where all of them may wait. Of an accelerator it is not
                read.
        """
        good = finite(size)
        for p, new in zip(trained, tensors, strict=True) if good is not False else ():
            if isinstance(good, Tensor):
                new = torch.where(good.to(new.device), new, 0.0)
            self._held[p] = self._held[p] + new.detach() if p in self._held else new.detach()

    def follow(self, gradients: Sequence[Tensor]) -> None:
        """Forget what waits, if the gradients that it came with are gone.

        Args:
            gradients: What is left of them.
        """
        there = _there(gradients)
        if isinstance(there, Tensor):
            pairs = self._held.items()
            self._held = {p: torch.where(there.to(d.device), d, 0.0) for p, d in pairs}
        elif not there:
            self._held = {}

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Take off what waits, after a step; a fused one may have been skipped by a scaler."""
        held, self._held = self._held, {}
        if not held:
            return
        there = _there(_gradients(optimizer))
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None:
            there = there & (read(overflow) == 0)
        scale = _scale(next(iter(held)).device)
        moves: Any = []
        for group in optimizer.param_groups:
            some = [p for p in group["params"] if p in held and p.grad is not None]
            factor = read(group["lr"]) / scale * (1 if group.get("maximize") else -1)
            if isinstance(there, Tensor) or isinstance(factor, Tensor):
                good, wide = torch.as_tensor(there), torch.as_tensor(factor, dtype=torch.float64)
                factor = torch.where(good, wide.to(good.device), 0.0)
            if some and there is not False:
                moves.append((some, [held[p] for p in some], factor))
        shift(moves)


def at(optimizer: torch.optim.Optimizer) -> Beside:
    """Return what waits at an optimizer; where nothing does yet, let it listen for its steps.

    Args:
        optimizer: The base optimizer.

    Raises:
        ThalwegError: If one of its groups has no learning rate.
    """
    for i, group in enumerate(optimizer.param_groups):
        if group.get("lr") is None:
            raise ThalwegError(
                f'the "lr" of param group {i} must be a number, got {group.get("lr")!r}: this '
                "method takes a step of its own by it; choose a base optimizer that has one"
            )
    found = _found(optimizer)
    if found is None:
        found = Beside()
        optimizer.register_step_post_hook(found)
    return found


def begin(optimizer: torch.optim.Optimizer) -> None:
    """At the start of a loop: forget what waits, if the gradients are gone.

    A scaler has skipped the step, or the user never took it.

    Args:
        optimizer: The base optimizer.
    """
    waiting = _found(optimizer)
    if waiting is not None and not waiting.empty:
        waiting.follow(_gradients(optimizer))


def _found(optimizer: torch.optim.Optimizer) -> Beside | None:
    hooks: Iterable[Any] = optimizer._optimizer_step_post_hooks.values()
    for hook in hooks:
        if isinstance(hook, Beside):
            return hook
    return None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    found = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return [g for g in found if g is not None]


def _there(gradients: Sequence[Tensor]) -> bool | Tensor:
    """Whether there is any gradient but 0, and none that is not finite."""
    size = read(parameters.norm(gradients))
    return (size > 0) & (size < math.inf)


def _scale(device: torch.device) -> Number:
    """What a scaler that is just taking the step has multiplied the gradients by."""
    scaler = in_use()
    if scaler is None or not scaler.is_enabled():
        return 1.0
    one: Tensor = scaler.scale(torch.ones((), device=device))
    return read(one.double())
