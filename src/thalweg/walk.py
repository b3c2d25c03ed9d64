"""One step under way: from w uphill, along the points where gradients are taken, and back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import base, checks, gradients, replay
from thalweg.ascent import Context, Method, Number, SAMGradient
from thalweg.hold import Moves, Weights
from thalweg.memory import Page, Places, Remembered
from thalweg.scaling import Scaling
from thalweg.telemetry import Last
from thalweg.watch import Watch


class Gear:
    """What all steps of a SAM object share.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
        scaling: The gradient scaler.
        telemetry: Whether the gradient at w + ε is measured, too.
        keep_backup: Whether the copy of the weights is kept from step to step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module | None,
        scaling: Scaling,
        *,
        telemetry: bool,
        keep_backup: bool,
    ) -> None:
        self.optimizer, self.model, self.scaling = optimizer, model, scaling
        self.telemetry = telemetry
        self.weights = Weights(model, keep=keep_backup)
        self.watch = Watch(self.weights, telemetry=telemetry)
        self.memory = Remembered()
        self.places = Places(model)

    def agreed(self, number: Number) -> Number:
        """Return the mean of a number over the ranks that train together."""
        if not isinstance(self.model, DistributedDataParallel):
            return number
        group = self.model.process_group
        held = torch.as_tensor(number, dtype=torch.float64, device=self.model.device).clone()
        torch.distributed.all_reduce(held, group=group)
        held = held / torch.distributed.get_world_size(group)
        return held if isinstance(number, Tensor) else float(held)


class Walk:
    """One step under way.

    Args:
        gear: What all steps share.
        method: What this one does.
        rhos: Rho and chosen parameters of every group; none where the gate is closed.
        step: How many steps went before.
        loop: Its end undoes what must be undone.
    """

    def __init__(
        self,
        gear: Gear,
        method: Method,
        rhos: base.Rhos,
        step: int,
        loop: contextlib.ExitStack,
    ) -> None:
        self._gear, self._method, self._rhos = gear, method, rhos
        self._step, self._loop = step, loop
        self._trained = base.trained(gear.optimizer)
        self._replayed = replay.Replay(gear.model, self._trained)
        self._held: gradients.Aside | None = None
        self._both: gradients.Both | None = None
        self._moves: Moves = []
        self._sums: list[Tensor] = []
        self._page: Page | None = None
        self._way: list[Tensor] = []
        self.last = Last()
        self.seen = 0

    # --- the ascent

    def look(self) -> None:
        """Before an ascent pass: let it be taken alone."""
        if self._held is None:
            self._held = gradients.Aside(self._trained)  # so that the ascent gradient is alone
            self._loop.callback(self._held.merge)
        elif self.seen:
            for p in self._trained:
                p.grad = None
            self._stand(self._moves)
            self._replayed.rewind()

    def look_and_keep(self) -> None:
        """Before a pass whose gradient the base optimizer may get as it is."""
        self._both = gradients.Both(self._trained, here=False)
        self._loop.callback(self._both.forget)
        self._both.remember()

    def climb(self) -> None:
        """After an ascent pass: one move more on the way."""
        if not self.seen:
            self.over()
            self._both = gradients.Both(self._trained if self._needs_both else [])
            self._loop.callback(self._both.forget)
        self.seen += 1
        share = 1 / self._method.ascents
        self.last, more = self._epsilon([(rho * share, held) for rho, held in self._rhos])
        self._moves = base.together(self._moves, more) if self.seen > 1 else more

    def judge(self) -> bool:
        """After the first pass: let the gate decide by its gradient; where open, take it alone."""
        assert self._both is not None
        groups = base.climbing(self._rhos, looks=True)
        held = [p for _, some in groups for p in some]
        if not held:
            return False
        added = dict(zip(self._both.parameters, self._both.uphill, strict=True))
        scale = self._gear.scaling.scale(self._trained)
        context = self._context(held)
        gradient = [added[p] if scale is None else added[p] / scale for p in held]
        opened = bool(self._method.gate.judge(gradient, context))  # type: ignore[attr-defined]
        self._settle(context.norm(gradient))
        if opened:
            self._held = self._both.aside()
            self._loop.callback(self._held.merge)
        return opened

    def reuse(self) -> None:
        """After the only pass of a step whose gate is closed: make of its gradient what is due."""
        if self._method.reuse is None or self._both is None:
            return
        held, gradient = self._both.parameters, self._both.uphill
        if held:
            self._both.write(self._method.reuse(gradient, self._context(held)))

    def over(self) -> None:
        """Remember where the first pass left random numbers and buffers: there they will end."""
        self._replayed.first_pass_is_over()
        self._loop.callback(self._replayed.end)

    # --- the points uphill

    def stand(self, point: int) -> None:
        """Before a pass at a point uphill: move there, and let the pass see what the first saw."""
        self.move(point)
        if self._held is not None and point == 0:
            self._held.put_back()
        if self._both is not None:
            self._both.remember()
        if self.seen or point:
            self._replayed.rewind()

    def move(self, point: int) -> None:
        """Move the weights to a point uphill."""
        if not self._method.looks:
            if point == 0:
                self._both = gradients.Both(self._trained if self._needs_both else [], here=False)
                self._loop.callback(self._both.forget)
            self.last, self._moves = self._epsilon(self._rhos, point)
        share = self._method.points[point]
        moves = self._moves if share == 1 else [(w, d, f * share) for w, d, f in self._moves]
        self._stand(moves)
        self.last = self._gear.watch.moved(self.last, moves)

    def leave(self, point: int) -> None:
        """After a pass at a point uphill: keep its gradient, where it is one of several."""
        last = len(self._method.points) - 1
        if point == 0 and last and not self.seen:
            self.over()
        if not last:
            return
        assert self._both is not None
        found = [gradients.kept(h) for h in self._both.uphill]
        self._sums = [s + h for s, h in zip(self._sums, found, strict=True)] if point else found
        if point < last:
            self._both.rewind()

    def finish(self) -> Last:
        """Give the base optimizer its gradient, while the weights are still uphill."""
        gear, method, both = self._gear, self._method, self._both
        checks.check_descent(self._trained)
        if both is not None:
            if self._sums:
                both.write([s / len(method.points) for s in self._sums])
            if method.looks:
                scale = gear.scaling.scale(self._trained)
                self.last = gear.watch.measure(self.last, both, scale)
            self._learn(both)
            if method.looks and not isinstance(method.combine, SAMGradient):
                held = self._context(both.parameters)
                both.write(method.combine(both.here, both.uphill, held))
        # An ascent that was not finite moved nothing; a gradient scaler must still hear of it.
        gear.scaling.tell(self._trained, self.last.grad_norm if method.looks else 0.0)
        return self.last

    # --- what these are made of

    @property
    def _needs_both(self) -> bool:
        method = self._method
        learns = getattr(method.direction, "learn", None) is not None or method.reuse is not None
        mixes = not isinstance(method.combine, SAMGradient)
        return self._gear.telemetry or mixes or learns or len(method.points) > 1

    def _epsilon(self, rhos: base.Rhos, point: int = 0) -> tuple[Last, Moves]:
        method, gear = self._method, self._gear
        groups = base.climbing(rhos, looks=method.looks)
        if not groups:
            return Last(grad_norm=0.0 if rhos else math.nan), []
        found = base.gradients_of(groups) if method.looks else []
        scale = gear.scaling.scale(self._trained) if method.looks else None
        held = [p for _, some in groups for p in some]
        last, moves = base.moves(method, groups, found, scale, self._context(held, point))
        self._settle(last.grad_norm)
        if method.looks:
            self._loop.callback(gear.scaling.tell_others(self._trained, last.grad_norm))
        return last, moves

    def _stand(self, moves: Moves) -> None:
        if not self._way:
            self._way = self._trained
            self._loop.callback(self._gear.weights.restore)
        self._gear.weights.move(moves)

    def _context(self, held: list[Tensor], point: int = 0) -> Context:
        gear = self._gear
        self._page = gear.memory.of(held)
        return base.context(
            gear.optimizer, held, self._step, self._page, gear.places, gear.agreed, point
        )

    def _settle(self, size: Number) -> None:
        if self._page is not None:
            self._page.settle(size)

    def _learn(self, both: gradients.Both) -> None:
        """Tell the parts that want to know the gradient at w + ε."""
        method = self._method
        learn = getattr(method.direction, "learn", None)
        if learn is None and method.reuse is None:
            return
        held = both.parameters
        scale = self._gear.scaling.scale(self._trained)
        uphill = _over(both.uphill, scale)
        context = self._context(held)
        if learn is not None:
            learn(uphill, context)
        if method.reuse is not None and method.looks:
            method.reuse.learn(_over(both.here, scale), uphill, context)
        self._settle(context.norm(uphill))


def _over(gradient: Sequence[Tensor], scale: Number | None) -> Sequence[Tensor]:
    return gradient if scale is None else [g / scale for g in gradient]
