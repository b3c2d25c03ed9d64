"""SAM: the gradient is taken uphill, at w + ε; everything else is the base optimizer's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Never

import torch
from torch import Tensor, nn

from thalweg import base, beside, checks, gradients
from thalweg.ascent import Method
from thalweg.ascent.gives import gated
from thalweg.gear import Gear
from thalweg.loop import Loops, block
from thalweg.telemetry import CLOSED, NO_RADIUS, NO_STEP, NOT_OVER, Last, Pass
from thalweg.walk import Walk


class SAM:
    r"""Sharpness-aware minimization around any torch optimizer, which stays the only optimizer.

    .. math:: \varepsilon = \rho\, g / \lVert g\rVert^{p}, \qquad
              \text{the base optimizer gets } \nabla L(w + \varepsilon)

    ::

        for _ in sam.passes():  # the one line that a training loop gets
            loss_fn(model(x), y).backward()
        optimizer.step(); optimizer.zero_grad()

    Args:
        optimizer: The base optimizer: an instance. Its parameters are perturbed. Each of its param
            groups has a key ``"rho"``, which a scheduler may move; 0 turns a group off.
        model: The module that is trained. Without it BatchNorm statistics advance in both passes.
        rho: Radius, for the groups that have none yet. Units: parameter units at power 1.
        power: The normalization p, short for ``method=Method(power=p)``. 1 unless told otherwise.
        method: What a step does; see :class:`thalweg.Method`.
        scaler: The ``torch.amp.GradScaler`` in use; needed for every power but 1.
        telemetry: Whether ``last`` also tells of the gradient at w + ε; keeps one gradient more.
        keep_backup: Whether the copy of the perturbed parameters is kept from step to step.

    Attributes:
        last: What the latest perturbation did: ‖g‖, ‖ε‖, whether it moved, and more.

    Raises:
        ThalwegError: If an argument is not what it should be.

    Source:
        Foret et al., Sharpness-Aware Minimization, ICLR 2021; p: Dai, Ahn and Sra, NeurIPS 2023.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([w], lr=1.0)
        >>> sam = SAM(optimizer, None, rho=0.5)
        >>> for _ in sam.passes():
        ...     (w**2).sum().backward()
        >>> w.grad, w.tolist()  # twice w + ε, where ε = 0.5 · (3, 4) / 5; and w is back
        (tensor([6.6000, 8.8000]), [3.0, 4.0])
        >>> round(sam.last.perturbation_norm, 6)
        0.5
    """

    rho, telemetry, keep_backup = base.Default(), base.Flag(), base.Flag()

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
        keep_backup: bool = True,
        **unknown: Never,
    ) -> None:
        checks.check(optimizer, model, method, scaler, power, unknown)
        self.optimizer, self.model = optimizer, model
        self.rho = rho
        self._method = method or Method(power=1.0 if power is None else power)
        self.scaler, self.telemetry, self.keep_backup = scaler, telemetry, keep_backup
        self.last, self._step = Last(reason=NO_STEP), 0
        self._start()
        held = {group.get("rho") for group in optimizer.param_groups}
        self._rhos()
        checks.warn_of_likely_mistakes(optimizer, model, self.rho, held)

    def _start(self) -> None:  # what does not go into a copy or a pickle
        optimizer, model, keep = self.optimizer, self.model, self.keep_backup
        self._loops = Loops(optimizer, model)
        self._gear = Gear(optimizer, model, self.scaler, telemetry=self.telemetry, keep_backup=keep)
        self._gear.take_up(self._method)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({base.described(self.optimizer, self.rho, self.method)})"

    @property
    def method(self) -> Method:
        """What a step does. Another one, put here between loops, begins with nothing remembered."""
        return self._method

    @method.setter
    def method(self, method: Method) -> None:
        checks.check_another(method, busy=self._loops.busy)
        self._gear.take_up(method)
        self._method = method

    def passes(self) -> Iterator[Pass]:
        """Yield once for every gradient that this step needs; call ``backward()`` in each pass.

        A whole loop acts like one ``backward()``: it adds the method's gradient to whatever
        ``.grad`` held on entry. Every pass sees the same random numbers, and normalization layers
        advance once. Micro-batches inside the loop accumulate one SAM gradient; the loop inside a
        loop over micro-batches makes each its own ascent (m-SAM). Call ``zero_grad()`` outside the
        loop, or in every pass of it.

        To gates, schedules and memories every loop is a step, also where several make up one step
        of the base optimizer. Where the gradient must tell whether the gate is open, the first pass
        is ``last`` and no ``ascent``; if it opens, more follow. Methods that tell the gradients of
        several passes apart (combine, reuse, points, a previous gradient), and telemetry, need them
        reduced in every pass, not only with a later micro-batch.

        Leaving the loop early, by an exception, ``break`` or ``return``, puts the weights back, and
        normalization layers and random state to where the first pass left them; ``.grad`` holds the
        old gradients plus what the open pass has added. What parts remember is as before; so it is
        where a gradient of the loop is not finite.

        Raises:
            ThalwegError: If a group's ``rho`` is no number >= 0; if ``optimizer.step()`` or another
                loop came inside, or instead of the loop; if a scaler is used wrongly.
        """
        self._loops.made()
        return self._passes()

    def _passes(self) -> Iterator[Pass]:
        self._loops.close()
        beside.begin(self.optimizer)
        method, rhos, self.last = self.method, self._rhos(), Last(reason=NOT_OVER)
        opened = gated(method.gate, self._step) if rhos else False  # None: the gradient will tell
        if opened is False and not (rhos and method.reuse):
            yield Pass(0, ascent=False, last=True)
            self.last = Last(reason=CLOSED if rhos else NO_RADIUS)
            self._end_of_step(perturbed=False)
            return
        with self._loops.open() as loop:
            walk = Walk(self._gear, method, rhos, self._step, loop)
            for here in walk.passes(opened):
                self.last = walk.last
                yield here
                self._loops.check(loop)
            self.last = walk.last
        self._end_of_step(*walk.losses, perturbed=walk.opened)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the base optimizer with the method's gradient.

        Args:
            closure: As torch has it: clears the gradients, computes the loss, calls ``backward()``
                (scaled, where there is a scaler) and returns the loss. Called in each pass.

        Returns:
            What the first call returned: the loss at the weights.

        Raises:
            ThalwegError: If there is no closure, or it uses a scaler that SAM does not know.

        Example:
            >>> w = torch.tensor([1.0], requires_grad=True)
            >>> optimizer = torch.optim.SGD([w], lr=0.5)
            >>> sam = SAM(optimizer, None, rho=0.1)
            >>> def closure():
            ...     optimizer.zero_grad()
            ...     (loss := (w**2 / 2).sum()).backward()
            ...     return loss
            >>> sam.step(closure).item(), round(w.item(), 4)
            (0.5, 0.45)
        """
        closure = checks.check_closure(closure)
        loss = None
        for here in self.passes():
            with torch.enable_grad():
                value = self._gear.scaling.call(closure)
            loss = value if here.index == 0 else loss
            if isinstance(value, float) or (isinstance(value, Tensor) and value.numel() == 1):
                here.loss = value
        self._gear.scaling.step()
        return loss

    @block
    def perturbed(self) -> Iterator[None]:
        """Stand at w + ε for the length of the block, ε taken from the gradients there are.

        The gradients are cleared on entry, so that ``.grad`` holds the SAM gradient afterwards;
        where every ``rho`` is 0, the first one stays. Random numbers cannot be replayed, the first
        pass being over: with dropout use :meth:`passes`. If the block raises, weights,
        normalization layers and gradients are what they were.

        Raises:
            ThalwegError: If there is no gradient yet, or if the method may skip passes.
        """
        self._loops.close()
        trained = base.trained(self.optimizer)
        checks.check_block(self.method, trained)
        rhos = self._rhos()
        with self._loops.open() as loop:
            walk = Walk(self._gear, self.method, rhos, self._step, loop)
            walk.climb()
            walk.move(0)
            self.last = walk.last
            with contextlib.ExitStack() as undo:
                undo.callback(gradients.Aside(trained).put_back)
                yield
                self._loops.check(loop)
                if rhos:
                    undo.pop_all()
                    walk.finish()
                    self.last = walk.last
        self._end_of_step(perturbed=bool(rhos))

    def log_dict(self) -> dict[str, float]:
        """Return the latest step in plain floats, for any logger; an accelerator is waited for.

        Returns:
            What ``last`` knows; how many ``steps`` there were, and in how many of them ε, not the
            step, was ``skipped``, ‖g‖ being 0 or not finite. Every name has ``sam/`` before.

        Example:
            >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
            >>> sam = SAM(torch.optim.SGD([w], lr=1.0), None, rho=0.5)
            >>> sam.step(lambda: (w**2).sum().backward())
            >>> sorted(sam.log_dict())[:3]
            ['sam/capped', 'sam/grad_norm', 'sam/perturbation_norm']
        """
        return self._gear.watch.log(self.last)

    def fidelity(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Return how much of ε is left when the weights are rounded, as autocast does to them.

        Args:
            dtype: To which they are rounded, such as ``torch.bfloat16``.

        Returns:
            The share of entries that move; the cosine of the ε meant and the one left; and how far
            the latter leads along the former, over its length: near 1 where rounding is only noise.

        Raises:
            ThalwegError: Outside the last pass, or without telemetry.
        """
        return self._gear.watch.fidelity(dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return what the method must remember; empty for methods without state, as plain SAM."""
        if self.method.stateless:
            return {}
        memory = self._gear.memory.state_dict(base.trained(self.optimizer))
        held = {"method": self.method.keeps, "memory": memory} if any(memory.values()) else {}
        return {"step": self._step} | held

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` of a SAM with the same method gave.

        Args:
            state: The state.

        Raises:
            ThalwegError: If it was saved by a method that remembers other things, or for other
                parameters; then nothing has changed.
        """
        self._loops.close("sam.load_state_dict()")
        step = checks.check_state(state, self.state_dict(), self.method.keeps)
        self._gear.memory.load_state_dict(state.get("memory", {}), base.trained(self.optimizer))
        self._step = self._step if step is None else step

    def release(self) -> None:
        """Give the backup buffer back: one copy of the perturbed parameters."""
        self._loops.close("sam.release()")
        self._gear.weights.release()

    def __getstate__(self) -> dict[str, Any]:
        self._loops.close("copying or pickling SAM")
        memory = self._gear.memory.state_dict(base.trained(self.optimizer))
        public = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        return public | {"_method": self._method, "_step": self._step, "memory": memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        memory = state.pop("memory")
        vars(self).update(state)
        self._start()
        self._gear.memory.load_state_dict(memory, base.trained(self.optimizer))

    def _rhos(self) -> base.Rhos:
        return base.rhos(self.optimizer, self.rho, self.method, self._step, self._gear.places)

    def _end_of_step(self, *losses: Tensor | None, perturbed: bool) -> None:
        self._step += 1
        self.last = self._gear.watch.count(self.last, losses, perturbed=perturbed)
