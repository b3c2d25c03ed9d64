"""SAM: the gradient is taken uphill, at w + ε; everything else is the base optimizer's.

One engine, :meth:`SAM.passes`, and two more ways to drive it. Nothing wraps the optimizer: its
scheduler, its GradScaler, its param groups and its state go on working.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import base, gradients, hold
from thalweg.ascent import Always, Constant, Method, SAMGradient
from thalweg.errors import ThalwegError, number
from thalweg.telemetry import Last, Pass, measured


class SAM:
    r"""Sharpness-aware minimization around any torch optimizer, which stays the only optimizer.

    .. math:: \varepsilon = \rho\, g / \lVert g\rVert^{p}, \qquad
              \text{the base optimizer gets } \nabla L(w + \varepsilon)

    One added line makes an ordinary training loop a SAM loop::

        for x, y in loader:
            for _ in sam.passes():
                loss_fn(model(x), y).backward()
            optimizer.step(); optimizer.zero_grad()

    Args:
        optimizer: The base optimizer: an instance. Its parameters are perturbed. Each of its param
            groups has a key ``"rho"``, which a scheduler may move; 0 turns a group off.
        model: The module that is trained, for its normalization layers; ``None`` if there is none.
        rho: Radius, for the groups that have none yet. Units: parameter units at power 1.
        power: The normalization p, short for ``method=Method(power=p)``. 1 unless told otherwise.
        method: What a step does; see :class:`thalweg.Method`.
        scaler: The ``torch.amp.GradScaler`` in use. Needed where the size of the gradient matters,
            which it does for every power but 1.
        telemetry: Whether ``last`` also tells of the gradient at w + ε; keeps one more gradient.

    Attributes:
        last: What the latest perturbation did: ‖g‖, ‖ε‖, whether it moved, and more.

    Raises:
        ThalwegError: If an argument is not what it should be.

    Source:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR
        2021. p = 0 beside p = 1: Dai, Ahn and Sra, NeurIPS 2023.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([w], lr=1.0)
        >>> sam = SAM(optimizer, None, rho=0.5)
        >>> for _ in sam.passes():
        ...     (w**2).sum().backward()
        >>> w.grad  # twice w + ε, where ε = 0.5 · (3, 4) / 5
        tensor([6.6000, 8.8000])
        >>> w  # back, bit for bit
        tensor([3., 4.], requires_grad=True)
        >>> round(sam.last.perturbation_norm, 6)
        0.5
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module | None,
        rho: float = 0.05,
        *,
        power: float | None = None,
        method: Method | None = None,
        scaler: torch.amp.GradScaler | None = None,
        telemetry: bool = False,
    ) -> None:
        base.check(optimizer, model, method, scaler, power)
        self.optimizer = optimizer
        self.model = model
        self.rho = number("rho", rho, at_least=0)
        self.method = method or Method(power=1.0 if power is None else power)
        self.scaler = scaler
        self.telemetry = telemetry
        self.last = Last()
        self._step = 0
        self._weights = hold.Weights()
        self._loop: contextlib.ExitStack | None = None
        base.warn_of_left_over(optimizer, self.rho)
        base.rhos(optimizer, self.rho, self.method, 0)

    def passes(self) -> Iterator[Pass]:
        """Yield once for every gradient that this step needs; call ``backward()`` in each pass.

        A whole loop acts like one ``backward()``: it adds the method's gradient to whatever
        ``.grad`` held on entry. Every pass sees the same random numbers, and normalization layers
        advance once. Micro-batches inside the loop accumulate one SAM gradient; the loop inside a
        loop over micro-batches makes each its own ascent (m-SAM). Call ``zero_grad()`` outside the
        loop, or in every pass of it.

        Leaving the loop early, by an exception, ``break`` or ``return``, puts the weights back, and
        normalization layers and random state to where the first pass left them; ``.grad`` holds the
        old gradients plus what the open pass has added, as after an interrupted ``backward()``.

        Yields:
            Where the loop stands.

        Raises:
            ThalwegError: If ``rho`` of a group is not a number >= 0; if ``optimizer.step()`` or
                another loop came while this one was open.
        """
        self._close()
        perturb = self.method.gate(self._step)
        rhos = base.rhos(self.optimizer, self.rho, self.method, self._step) if perturb else []
        self.last = Last()
        if not rhos:
            yield Pass(0, ascent=False, last=True)
            self._step += 1
            return
        trained = base.trained(self.optimizer)
        with self._open() as loop:
            held = gradients.Aside(trained)  # so that the ascent gradient is taken alone
            loop.callback(held.merge)
            start = hold.RandomState(trained)
            yield Pass(0, ascent=True, last=False)

            self._check(loop)
            loop.callback(hold.RandomState(trained).put_back)
            loop.enter_context(hold.running_statistics(self.model))
            both = self._move(trained, rhos, loop)
            held.put_back()
            both.remember()
            start.put_back()
            yield Pass(1, ascent=False, last=True)

            self._check(loop)
            self._finish(trained, both)
        self._step += 1

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the base optimizer with the method's gradient, torch's closure way.

        Args:
            closure: Clears the gradients, computes the loss, calls ``backward()`` (on the scaled
                loss where there is a scaler) and returns the loss. Called once for each pass.

        Returns:
            What the first call of the closure returned: the loss at the weights.

        Raises:
            ThalwegError: If there is no closure.

        Example:
            >>> w = torch.tensor([1.0], requires_grad=True)
            >>> optimizer = torch.optim.SGD([w], lr=0.5)
            >>> sam = SAM(optimizer, None, rho=0.1)
            >>> def closure():
            ...     optimizer.zero_grad()
            ...     loss = (w**2 / 2).sum()
            ...     loss.backward()
            ...     return loss
            >>> sam.step(closure).item(), round(w.item(), 4)
            (0.5, 0.45)
        """
        if not callable(closure):
            raise ThalwegError(
                f"step() needs a closure that clears the gradients, calls backward() and returns "
                f"the loss, got {closure!r}: pass one, or use `for _ in sam.passes():`"
            )
        loss = None
        for here in self.passes():
            with torch.enable_grad():
                value = closure()
            if here.index == 0:
                loss = value
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss

    @contextlib.contextmanager
    def perturbed(self) -> Iterator[None]:
        """Stand at w + ε for the length of the block, ε taken from the gradients there are.

        For code that already has a gradient. The gradients are cleared on entry, so that ``.grad``
        holds the SAM gradient afterwards; where every ``rho`` is 0, the first one stays. Random
        numbers cannot be replayed here, the first pass being over: with dropout use :meth:`passes`.
        If the block raises, weights, normalization layers and gradients are what they were.

        Raises:
            ThalwegError: If there is no gradient yet, or if the method may skip passes.
        """
        if not isinstance(self.method.gate, Always):
            raise ThalwegError(
                f"perturbed() always takes two gradients, but the gate {self.method.gate!r} may "
                "skip one: use `for _ in sam.passes():` or sam.step(closure)"
            )
        self._close()
        trained = base.trained(self.optimizer)
        if all(p.grad is None for p in trained):
            raise ThalwegError(
                "perturbed() needs gradients, got none: call loss.backward() before the block"
            )
        rhos = base.rhos(self.optimizer, self.rho, self.method, self._step)
        with self._open() as loop:
            loop.callback(hold.RandomState(trained).put_back)
            loop.enter_context(hold.running_statistics(self.model))
            both = self._move(trained, rhos, loop)
            held = gradients.Aside(trained)
            with contextlib.ExitStack() as undo:
                undo.callback(held.put_back)
                yield
                self._check(loop)
                if rhos:
                    undo.pop_all()
                    self._finish(trained, both)
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what the method must remember; empty for methods without state, as plain SAM."""
        plain = isinstance(self.method.gate, Always) and isinstance(self.method.schedule, Constant)
        return {} if plain else {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave.

        Args:
            state: The state of a SAM with the same method.

        Raises:
            ThalwegError: If the state belongs to another kind of method.
        """
        if set(state) != set(self.state_dict()):
            raise ThalwegError(
                f"state must have the keys {sorted(self.state_dict())}, got {sorted(state)}: it "
                "was saved with another method; build SAM with that one"
            )
        self._step = state.get("step", self._step)

    def release(self) -> None:
        """Give the backup buffer back: one copy of the perturbed parameters."""
        self._close()
        self._weights.release()

    def _move(
        self, trained: list[Tensor], rhos: base.Rhos, loop: contextlib.ExitStack
    ) -> gradients.Both:
        """Move the weights by ε, from the gradients there are; the loop's end brings them back."""
        both = gradients.Both(trained if self._keeps_both else [])
        loop.callback(both.forget)
        self.last, moves = base.moves(self.method, rhos, base.scale(self.scaler, trained))
        loop.callback(self._weights.restore)
        self._weights.move(moves)
        return both

    @property
    def _keeps_both(self) -> bool:
        """Whether g and h are both needed at the end of a step."""
        return self.telemetry or not isinstance(self.method.combine, SAMGradient)

    def _finish(self, trained: list[Tensor], both: gradients.Both) -> None:
        """Give the base optimizer its gradient, while the weights are still uphill."""
        scale = base.scale(self.scaler, trained)
        if self.telemetry:
            self.last = measured(self.last, both, self._weights, scale)
        if not isinstance(self.method.combine, SAMGradient):
            both.write(self.method.combine(both.here, both.uphill))
        if scale is not None:
            # An ascent that was not finite moved nothing; the scaler must still hear of it.
            gradients.poison(trained, self.last.grad_norm)

    @contextlib.contextmanager
    def _open(self) -> Iterator[contextlib.ExitStack]:
        """An open loop: everything that must be undone at its end, whoever ends it."""
        with contextlib.ExitStack() as loop:
            loop.callback(base.on_step(self.optimizer, self, SAM._close).remove)
            self._loop = loop
            try:
                yield loop
            finally:
                if self._loop is loop:  # a stale loop may end while a newer one is open
                    self._loop = None

    def _close(self) -> None:
        """Undo a loop that was left open, such as one bound to a name and abandoned."""
        if self._loop is not None:
            loop, self._loop = self._loop, None
            loop.close()

    def _check(self, loop: contextlib.ExitStack) -> None:
        if self._loop is not loop:
            raise ThalwegError(
                "optimizer.step() or another loop must come after the loop over passes(), and one "
                "came inside it; the weights have been put back: move that call after the loop"
            )
