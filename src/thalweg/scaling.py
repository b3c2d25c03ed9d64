"""What SAM must know of a gradient scaler: the scale, an overflow, and a wrong use of it."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
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
        self._loop_ended = False
        #: A gradient at the end of the first loop, and its norm.
        self._first: tuple[Tensor, Tensor] | None = None
        self._stepped = False
        self._uses = Watched()
        hook = optimizer.register_step_pre_hook(weakly(self, Scaling.look))
        weakref.finalize(self, hook.remove)

    @property
    def stepped(self) -> bool:
        """Whether the base optimizer has taken a step since."""
        return self._stepped

    def scale(self, trained: Sequence[Tensor]) -> Tensor | None:
        """Return what the gradients are multiplied by, without waiting for a device.

        Args:
            trained: The parameters.

        Returns:
            ``None`` without a scaler; otherwise a zero-dimensional float64 tensor.

        Raises:
            ThalwegError: If no loss was scaled, or if the gradients were unscaled in the loop.
        """
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
                "the loss must be scaled by the scaler that SAM was given, and this one has scaled "
                "none: write scaler.scale(loss).backward() in every pass, with that scaler"
            )
        one: Tensor = scaler.scale(torch.ones((), device=trained[0].device))
        return one.double()

    def call(self, closure: Callable[[], Any]) -> Any:
        """Call a closure; at the first time, notice whether it scales the loss.

        Args:
            closure: What makes a gradient.

        Returns:
            What it returns.

        Raises:
            ThalwegError: If it uses a scaler that SAM was not given.
        """
        if self._scaler is not None or self._uses.over:
            return closure()
        with self._uses:
            value = closure()
        if self._uses.scaler is not None:
            raise ThalwegError(
                "the closure uses a gradient scaler that SAM does not know, so that the update "
                "would be larger by the whole scale: write SAM(..., scaler=scaler)"
            )
        return value

    def step(self) -> None:
        """Take the base optimizer's step, through the scaler if there is one."""
        if self._scaler is not None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step()

    def tell(self, trained: Sequence[Tensor], norm: float | Tensor) -> None:
        """Make one gradient infinite where ``norm`` is not finite, so that the scaler skips.

        Args:
            trained: Whose gradients; of a sharded one, this rank's part.
            norm: Norm of the ascent gradient; a tensor is not read.
        """
        self._loop_ended = True
        if not self._stepped and self._scaler is None:
            first = _first(trained)
            self._first = None if first is None else (first, _norm(first))
        if not self._in_charge or (isinstance(norm, float) and math.isfinite(norm)):
            return
        first = _first(trained)
        if first is not None:
            first = first._values() if first.is_sparse else first
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

    def look(self, *_: Any) -> None:
        """At a step after a loop: see whether a scaler takes it, and rightly.

        Raises:
            ThalwegError: If it is not the one that SAM was given, or the method must know the
                scale, or the gradients were unscaled in the loop.
        """
        if not self._loop_ended:
            return
        self._loop_ended, self._stepped = False, True
        first, self._first = self._first, None
        scaler = in_use()
        if self._in_charge and scaler is not self._scaler:
            raise ThalwegError(
                "the step must be taken by the scaler that SAM was given, got optimizer.step() or "
                "another scaler, and the gradients are scaled: write scaler.step(optimizer)"
            )
        if self._scaler is not None or scaler is None or not scaler.is_enabled():
            return
        if self._needed:
            raise ThalwegError(
                "this method must know the scale of the gradients, and a gradient scaler is in "
                "use that SAM was not given: write SAM(..., scaler=scaler)"
            )
        if first is not None and scaler.get_scale() > 1:
            gradient, norm = first
            # Unscaling makes it smaller. Where it is not, that was done in the loop already.
            if float(_norm(gradient)) > 0.999 * float(norm) > 0:
                check_order(scaler, self._optimizer)
        self._found = weakref.ref(scaler)


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


def in_use() -> torch.amp.GradScaler | None:
    """Return the gradient scaler that is just taking an optimizer's step, if one is.

    Returns:
        The scaler in whose ``step`` this is called, as far as ten callers tell.
    """
    frame = sys._getframe().f_back
    for _ in range(10):
        if frame is None:
            break
        # The locals of no other frame are touched: looking at them would keep them alive.
        if frame.f_code is torch.amp.GradScaler.step.__code__:
            scaler: torch.amp.GradScaler = frame.f_locals["self"]
            return scaler
        frame = frame.f_back
    return None


class Watched:
    """A block in which the use of a gradient scaler is noticed, however deep it is called.

    Attributes:
        scaler: The enabled scaler that was used in the block.
        over: Whether the block is over.

    Example:
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> with Watched() as watched:
        ...     _ = scaler.scale(torch.ones(()))
        >>> watched.scaler is scaler
        True
    """

    def __init__(self) -> None:
        self.scaler: torch.amp.GradScaler | None = None
        self.over = False

    def __enter__(self) -> Watched:
        if sys.getprofile() is None:  # else somebody profiles: leave that alone
            sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.getprofile() == self._see:
            sys.setprofile(None)
        self.over = True

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is torch.amp.GradScaler.scale.__code__:
            scaler: torch.amp.GradScaler = frame.f_locals["self"]
            if scaler.is_enabled():
                self.scaler = scaler


def _first(trained: Sequence[Tensor]) -> Tensor | None:
    """The first gradient of which this rank holds anything."""
    held = local([p.grad for p in trained if p.grad is not None])
    return next((g for g in held if g.numel()), None)


def _norm(gradient: Tensor) -> Tensor:
    values = gradient._values() if gradient.is_sparse else gradient
    total: Tensor = torch.linalg.vector_norm(values.detach(), dtype=torch.float64)
    return total
