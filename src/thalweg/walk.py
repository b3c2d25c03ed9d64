"""One step under way: from w uphill, along the points where gradients are taken, and back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from thalweg import base, beside, gradients, parameters, replay, sharded, watch
from thalweg.ascent import Context, Method, Number, SAMGradient
from thalweg.ascent.gives import fitting, judged, untouched
from thalweg.gear import Gear
from thalweg.hold import Moves
from thalweg.memory import chosen
from thalweg.telemetry import CLOSED, NO_GRADIENT, NO_RADIUS, NOT_OVER, Last, Pass, read


class Walk:
    """One step under way.

    Args:
        gear: What all steps share.
        method: What this one does.
        rhos: Rho and chosen parameters of every group.
        step: How many steps went before.
        loop: Its end undoes what must be undone.
    """

    def __init__(
        self, gear: Gear, method: Method, rhos: base.Rhos, step: int, loop: contextlib.ExitStack
    ) -> None:
        self._gear, self._method, self._rhos = gear, method, rhos
        self._step, self._loop = step, loop
        self._trained = base.trained(gear.optimizer)
        self._replayed = replay.Replay(gear.model, self._trained)
        self._draft = gear.memory.draft()
        self._held: gradients.Aside | None = None
        self._both: gradients.Both | None = None
        self._moves: Moves = []
        self._sums: dict[Tensor, Tensor] = {}
        self._size: Number = 0.0  # finite where all ascent gradients so far are
        self._ascents, self._moved = 0, False
        self._passes: list[Pass] = []
        self.last, self.opened = Last(reason=NOT_OVER), True

    def passes(self, opened: bool | None) -> Iterator[Pass]:
        """Yield the passes of a step, and do what is due before and after each.

        Args:
            opened: Whether the gate is open; ``None`` where the gradient must tell.
        """
        method = self._method
        if not opened:
            self._tell_apart(self._trained, here=False).remember()
            yield self._pass(last=True)  # the base optimizer may get this gradient as it is
            self.opened = opened is None and self._judge()
            if not self.opened:
                self.last = Last(reason=CLOSED)
                self._reuse()
                return
            self.climb()
        while self._ascents < method.looks * method.ascents:
            self._look()
            yield self._pass(ascent=True)
            self.climb()
        for point in range(len(method.points)):
            self._stand(point)
            yield self._pass(last=point == len(method.points) - 1)
            self._leave(point)
        self.finish()

    @property
    def losses(self) -> list[Tensor | None]:
        """The losses at w and at w + ε, where the first pass was at w."""
        looked = self._method.looks and self.opened
        return [self._passes[i].loss for i in (0, -1)] if looked else []

    def _pass(self, *, ascent: bool = False, last: bool = False) -> Pass:
        self._passes.append(Pass(len(self._passes), ascent=ascent, last=last))
        return self._passes[-1]

    def _judge(self) -> bool:
        """After the first pass: let the gate decide; where it opens, take the gradient alone."""
        assert self._both is not None
        added = dict(zip(self._both.parameters, self._both.uphill, strict=True))
        scale = self._gear.scaling.scale(self._trained)
        held = [p for _, chosen in self._rhos for p in chosen]
        if not held:
            return False
        # All ranks must come here: one without a gradient takes part with zeros.
        found = [added[p] if p in added else torch.zeros_like(p) for p in held]
        gradient = _over(base.aligned(held, found), scale)
        context = dataclasses.replace(self._context(held), norm=base.norm)
        with untouched([self._method.gate], gradient, held):
            opened = bool(judged(self._method.gate, gradient, context))
        if opened:
            self._held = self._both.aside()
            self._loop.callback(self._held.merge)
        return opened

    def _reuse(self) -> None:
        """After the only pass of a step whose gate is closed: make of its gradient what is due."""
        reuse, both = self._method.reuse, self._both
        if reuse is not None and both is not None and both.parameters:
            scale, held = self._gear.scaling.scale(self._trained), both.parameters
            uphill = _over(both.uphill, scale)
            found = reuse(uphill, self._context(held))
            both.write(_times(fitting("reuse", reuse, found, uphill), scale))
        self._settle()

    def _look(self) -> None:
        """Before an ascent pass: let it be taken alone, where the ones before have led."""
        self._take_alone()
        if self._ascents:
            self._move(self._moves)
            self._replayed.rewind()

    def climb(self) -> None:
        """After an ascent pass: one move more on the way."""
        before = self.last
        if not self._ascents:
            self._first_is_over()
            self._tell_apart(self._trained if self._needs_both else [], here=True)
        self._ascents += 1
        self.last, moves = self._epsilon()
        if self._ascents > 1:
            moves, length = base.together(self._moves, moves)
            capped = before.capped + self.last.capped - before.capped * self.last.capped
            self.last = Last(before.grad_norm, perturbation_norm=length, capped=capped)
        self._moves = moves

    def _stand(self, point: int) -> None:
        """Before a pass at a point uphill: move there, and let the pass see what the first saw."""
        self.move(point)
        if point < len(self._method.points) - 1:
            self._take_alone()
        else:
            if self._held is not None:
                self._held.put_back()
            if self._both is not None:
                self._both.remember()
        if self._ascents or point:
            self._replayed.rewind()

    def move(self, point: int) -> None:
        """Move the weights to a point uphill."""
        if not self._method.looks:
            if point == 0:
                self._tell_apart(self._trained if self._needs_both else [], here=False)
            self.last, self._moves = self._epsilon(point)
        share, way = self._method.points[point], self._moves
        moves = way if share == 1 else [(w, d, f * share) for w, d, f in way]
        if point == len(self._method.points) - 1:
            self._moves = []  # so that the pass does not keep the ascent gradient
        self._move(moves)
        self.last = self._gear.watch.moved(base.measured(self.last, way), moves)

    def _leave(self, point: int) -> None:
        """After a pass at a point uphill: keep its gradient, if it is not the last."""
        if point == len(self._method.points) - 1:
            return
        if point == 0 and not self._ascents:
            self._first_is_over()
        for p in self._trained:
            if p.grad is not None:
                h = p.grad / len(self._method.points)
                self._sums[p] = self._sums[p] + h if p in self._sums else h

    def finish(self) -> None:
        """After the last pass, while the weights are uphill: give the base optimizer its due."""
        gear, method, both = self._gear, self._method, self._both
        sharded.check_reduced(self._trained)
        told = self._ascents and self.last.reason == NO_GRADIENT
        if self._trained and not told and all(p.grad is None for p in self._trained):
            gear.watch.say("no gradient uphill", watch.NOTHING_TO_DESCEND)
        if both is not None:
            if len(method.points) > 1:
                both.average(self._sums, len(method.points))
            if method.looks:
                scale = gear.scaling.scale(self._trained)
                self.last = gear.watch.measure(self.last, both, scale)
            gear.weights.restore()
            self._learn(both)
            if method.looks and not isinstance(method.combine, SAMGradient) and both.parameters:
                part, context = method.combine, self._context(both.parameters)
                context.cut()  # so that norms, too, are those of pieces
                here, uphill = _over(both.here, scale), _over(both.uphill, scale)
                with untouched([part], here, uphill, both.parameters):
                    found = fitting("combine", part, part(here, uphill, context), uphill)
                self._beside(both, scale, context)
                both.write(_times(chosen(self._size, found, uphill), scale))
        # An ascent that was not finite moved nothing; a gradient scaler must still hear of it.
        gear.scaling.tell(self._trained, self._size)
        self._settle()

    # --- what these are made of

    @property
    def _needs_both(self) -> bool:
        method = self._method
        learns = hasattr(method.direction, "learn") or method.reuse is not None
        mixes = not isinstance(method.combine, SAMGradient) or len(method.points) > 1
        return self._gear.telemetry or mixes or learns

    def _take_alone(self) -> None:
        if self._held is not None:
            self._held.clear()
        else:
            self._held = gradients.Aside(self._trained)
            self._loop.callback(self._held.merge)

    def _first_is_over(self) -> None:
        # Where the first pass left random numbers and buffers, there they will end.
        self._replayed.first_pass_is_over()
        self._loop.callback(self._replayed.end)

    def _tell_apart(self, trained: list[Tensor], *, here: bool) -> gradients.Both:
        self._both = gradients.Both(trained, here=here)
        self._loop.callback(self._both.forget)
        return self._both

    def _epsilon(self, point: int = 0) -> tuple[Last, Moves]:
        method, gear = self._method, self._gear
        groups, found = base.climbing(self._rhos, method)
        if not groups:
            if method.looks and any(chosen for _, chosen in self._rhos):
                gear.watch.say("no gradient", watch.NOTHING_TO_CLIMB)
            return Last(reason=NO_GRADIENT if self._rhos else NO_RADIUS), []
        scale = gear.scaling.scale(self._trained) if method.looks else None
        gear.weights.restore()  # parts see w, wherever the gradient was taken
        held = [p for _, some in groups for p in some]
        parts = method.direction, method.mask, method.ball, getattr(method.ball, "scale", None)
        with untouched(parts, found, held):
            last, moves = base.moves(method, groups, found, scale, self._context(held, point))
        if gear.telemetry:  # looks at ε again when the weights, of which it may be made, have moved
            whole = [(some, list(direction), factor) for some, direction, factor in moves]
            last, moves = base.measured(last, moves), whole
        if method.looks:
            self._size = self._size + last.grad_norm
            self._loop.callback(gear.scaling.tell_others(self._trained, last.grad_norm))
        return last, moves

    def _move(self, moves: Moves) -> None:
        if not self._moved:
            self._moved = True
            self._loop.callback(self._gear.weights.restore)
        self._gear.weights.move(moves)

    def _context(self, held: Sequence[Tensor], point: int = 0) -> Context:
        return self._gear.context(held, self._step, self._draft, point)

    def _learn(self, both: gradients.Both) -> None:
        """Tell the parts that want to know the gradient at w + ε."""
        method, held = self._method, both.parameters
        learn = getattr(method.direction, "learn", None)
        if not held or (learn is None and method.reuse is None):
            return
        scale = self._gear.scaling.scale(self._trained)
        uphill = _over(both.uphill, scale)
        if learn is not None:
            learn(uphill, self._context(held))
        if method.reuse is not None and method.looks:
            method.reuse.learn(_over(both.here, scale), uphill, self._context(held))

    def _beside(self, both: gradients.Both, scale: Number | None, context: Context) -> None:
        """Let what is due beside the base optimizer's step wait for that step."""
        part = getattr(self._method.combine, "beside", None)
        if part is None:
            return
        waiting = beside.at(self._gear.optimizer)
        if not waiting.empty:  # a zero_grad() in the last pass clears what earlier loops left, too
            waiting.follow([g for g in map(both.old, self._trained) if g is not None])
        each = (map(parameters.wide, held) for held in (both.here, both.uphill))
        here, uphill = (_over(held, scale) for held in each)
        found = _times(fitting("beside", part, part(here, uphill, context), uphill), scale)
        waiting.add(both.parameters, found, self._size + read(parameters.norm(found)))

    def _settle(self) -> None:
        """Let the memory have what the parts have kept, if every gradient of the step is finite."""
        if self._draft.empty:
            return
        left = [p.grad for p in self._trained if p.grad is not None]
        size = self._size + read(parameters.norm(left))
        # Gates decide by numbers: all ranks must remember the same.
        self._draft.settle(self._gear.agreed(size) if self._draft.numbers else size)


def _times(tensors: Sequence[Tensor], scale: Number | None) -> Sequence[Tensor]:
    """Return what parts gave with the factor that gradients have."""
    return tensors if scale is None else [t * scale for t in tensors]


def _over(gradient: Iterable[Tensor], scale: Number | None) -> Sequence[Tensor]:
    """Return a gradient as parts want it: dense, and without a factor."""
    found = map(gradients.dense, gradient)
    return list(found) if scale is None else [g / scale for g in found]
