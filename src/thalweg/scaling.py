"""What SAM must know of a gradient scaler: the scale, an overflow, and a wrong use of it."""

from __future__ import annotations

import inspect
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import ThalwegError
from thalweg.layout import is_sharded, local
from thalweg.loop import weakly


class Scaling:
    """The gradient scaler of a training loop: the one that SAM was given, or one that it finds.

    Args:
        optimizer: The base optimizer.
        scaler: The scaler, or ``None``.
        needed: Whether the method must know the scale.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, needed: bool
    ) -> None:
        self._optimizer = optimizer
        self._scaler = scaler
        self._needed = needed
        self._found: Callable[[], torch.amp.GradScaler | None] = lambda: None
        self._looked = scaler is not None
        if scaler is None:
            self._hook = optimizer.register_step_pre_hook(weakly(self, Scaling.look))
            weakref.finalize(self, self._hook.remove)

    def scale(self, trained: Sequence[Tensor]) -> Tensor | None:
        """Return what the gradients are multiplied by, without waiting for a device.

        Args:
            trained: The parameters.

        Returns:
            ``None`` without a scaler; otherwise a zero-dimensional float64 tensor.

        Raises:
            ThalwegError: If no loss was scaled, or if the gradients were unscaled in the loop.
        """
        if self._looked and self._scaler is None:
            self._hook.remove()  # not in the hook itself: the optimizer is going through its hooks
        scaler = self._scaler or self._found()
        if scaler is None or not scaler.is_enabled() or not trained:
            return None
        check_order(scaler, self._optimizer)
        if self._scaler is None:
            return None
        if getattr(scaler, "_scale", 1.0) is None:  # it comes into being with the first loss
            if all(p.grad is None for p in trained):
                return None
            raise ThalwegError(
                "the loss must be scaled where scaler= is given, and none has been: write "
                "scaler.scale(loss).backward() in every pass"
            )
        one: Tensor = scaler.scale(torch.ones((), device=trained[0].device))
        return one.double()

    def step(self, closure: Callable[..., Any]) -> None:
        """Take the base optimizer's step, through the scaler if there is one.

        Args:
            closure: What made the gradients.

        Raises:
            ThalwegError: If it names a scaler that SAM was not given.
        """
        if self._scaler is not None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
            return
        if not self._looked and named_in(closure):
            raise ThalwegError(
                "the closure uses a gradient scaler that SAM does not know, so that the update "
                "would be larger by the whole scale: write SAM(..., scaler=scaler)"
            )
        self._optimizer.step()

    def tell(self, trained: Sequence[Tensor], norm: float | Tensor) -> None:
        """Make one gradient infinite where ``norm`` is not finite, so that the scaler skips.

        Args:
            trained: Whose gradients; of a sharded one, this rank's part.
            norm: Norm of the ascent gradient; a tensor is not read.
        """
        if not self._in_charge or (isinstance(norm, float) and math.isfinite(norm)):
            return
        held = local([p.grad for p in trained if p.grad is not None])
        first = next((g for g in held if g.numel()), None)
        if first is not None:
            wrong = ~torch.isfinite(torch.as_tensor(norm))
            with torch.no_grad():
                first.add_(torch.where(wrong, math.inf, 0.0).to(first))

    def tell_others(self, trained: Sequence[Tensor], norm: float | Tensor) -> Callable[[], None]:
        """Do the same to a gradient of the coming pass, before the ranks share it.

        Under DistributedDataParallel each rank may have an ascent of its own: one of them alone
        may then meet an overflow, and all must skip the step.

        Args:
            trained: The parameters, with the gradients of the ascent.
            norm: Norm of the ascent gradient; a tensor is not read.

        Returns:
            What ends it.
        """
        finite = isinstance(norm, float) and math.isfinite(norm)
        plain = [] if finite or not self._in_charge else [p for p in trained if not is_sharded(p)]
        first = next((p for p in plain if p.grad is not None and not p.grad.is_sparse), None)
        if first is None:
            return lambda: None

        def poisoned(gradient: Tensor) -> Tensor:
            wrong = ~torch.isfinite(torch.as_tensor(norm)).to(gradient.device)
            return torch.where(wrong, math.inf, gradient)

        hook = first.register_hook(poisoned)  # type: ignore[no-untyped-call]
        return hook.remove  # type: ignore[no-any-return]

    @property
    def _in_charge(self) -> bool:
        """Whether SAM was given a scaler that works."""
        return self._scaler is not None and self._scaler.is_enabled()

    def look(self) -> None:
        """At the first step: see whether a scaler takes it.

        Raises:
            ThalwegError: If one does, and the method must know the scale.
        """
        if self._looked:
            return
        scaler = in_use()
        if scaler is not None and scaler.is_enabled():
            if self._needed:
                raise ThalwegError(
                    "this method must know the scale of the gradients, and a gradient scaler is "
                    "in use that SAM was not given: write SAM(..., scaler=scaler)"
                )
            self._found = weakref.ref(scaler)
        self._looked = True


def check_order(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """Raise where the gradients were unscaled too early.

    The scaler unscales once a step: the passes that come later would stay scaled, and the update
    would be larger by the whole scale.

    Args:
        scaler: The scaler.
        optimizer: Whose gradients.

    Raises:
        ThalwegError: If ``scaler.unscale_`` was called before the last pass was over.
    """
    states = getattr(scaler, "_per_optimizer_states", {})
    stage = states[id(optimizer)]["stage"] if id(optimizer) in states else None
    if getattr(stage, "name", "") == "UNSCALED":
        raise ThalwegError(
            "scaler.unscale_(optimizer) must come after the last pass, and came before: the "
            "gradients of the later pass would stay scaled; move it below the loop"
        )


def in_use(depth: int = 10) -> torch.amp.GradScaler | None:
    """Return the gradient scaler that is just taking an optimizer's step, if one is.

    Args:
        depth: How many callers to look at.

    Returns:
        The scaler in whose ``step`` this is called.
    """
    frame = sys._getframe().f_back
    for _ in range(depth):
        if frame is None:
            break
        # The locals of no other frame are touched: looking at them would keep them alive.
        if frame.f_code is torch.amp.GradScaler.step.__code__:
            scaler: torch.amp.GradScaler = frame.f_locals["self"]
            return scaler
        frame = frame.f_back
    return None


def named_in(function: Callable[..., Any]) -> torch.amp.GradScaler | None:
    """Return an enabled gradient scaler that a function refers to, if it does.

    Args:
        function: Its closure, globals and, of a method, the attributes of its object are looked
            at.

    Returns:
        The scaler.

    Example:
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> named_in(lambda: scaler.scale(1.0)) is scaler, named_in(lambda: 0)
        (True, None)
    """
    try:
        names = inspect.getclosurevars(function)
    except TypeError:  # of an object that is no function
        return None
    owner = getattr(function, "__self__", None)
    known = [*names.nonlocals.values(), *names.globals.values()]
    known += [getattr(owner, name, None) for name in names.unbound]
    scalers = [s for s in known if isinstance(s, torch.amp.GradScaler) and s.is_enabled()]
    return scalers[0] if scalers else None
