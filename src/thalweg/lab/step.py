"""One step of SAM as it stands on paper: the gradient here, ε, the gradient uphill, the base step.

``Step`` is the whole of it, for all the cells of a grid at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.ascent import Constant, Method, Perturbation, SAMGradient
from thalweg.ascent.gives import fitting, gated, judged
from thalweg.errors import ThalwegError, flag, number
from thalweg.lab.grid import Grid, State, column, minibatches
from thalweg.lab.here import Here, Memory
from thalweg.lab.problems import Params, Problem


@dataclass(frozen=True, slots=True)
class Base:
    """The base step, with the meanings that torch's SGD gives to the words.

    Attributes:
        momentum: β of v ← βv + u; below 1, so that velocities fade.
        nesterov: Whether the step is along u + βv instead of v.
        weight_decay: ω; ωw is added to the SAM gradient. ε is made without it.
        decoupled: Whether w is multiplied by 1 - ηω before the step instead, as AdamW does.

    Raises:
        ThalwegError: If a number is out of range, or nesterov stands without momentum.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        momentum = number("momentum", self.momentum, at_least=0, below=1)
        object.__setattr__(self, "momentum", momentum)
        decay = number("weight_decay", self.weight_decay, at_least=0)
        object.__setattr__(self, "weight_decay", decay)
        flag("nesterov", self.nesterov)
        flag("decoupled", self.decoupled)
        if self.nesterov and not self.momentum:
            raise ThalwegError(
                f"nesterov must come with a momentum above 0, got momentum={self.momentum}"
            )


class Step:
    """One step of SAM for every cell.

    It takes as many gradients as a step of training, but where a gate decides by the gradient: then
    all cells climb, and those whose gate is closed do not use it.

    Args:
        problem: Gives the gradients.
        method: Its parts make ε and combine the gradients.
        base: What is done with the SAM gradient.
        perturb: Whether any ε may differ from 0.
        lengths: Whether the state notes how long ε was.
        chosen: The names of the parameters that are perturbed; all if ``None``.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        base: Base,
        *,
        perturb: bool,
        lengths: bool = False,
        chosen: Sequence[str] | None = None,
    ) -> None:
        self.problem, self.method, self.base = problem, method, base
        self.perturb, self.lengths, self.chosen = perturb, lengths, chosen
        #: Whether every step does the same; only then may it be compiled.
        self.steady = method.stateless and isinstance(method.schedule, Constant)
        # Where ε is 0, the gradient uphill is the one here, and no other needs to be put there.
        self._same = method.stateless and isinstance(method.combine, SAMGradient)

    def __call__(self, state: State, settings: Grid, batch: Any) -> State:
        """Return the state one step later."""
        w, v, memory = state.w, state.v, Memory(state.memory)
        # m-SAM: each minibatch takes its own ascent, and counts as a step of the method
        parts = minibatches(self.problem, batch)
        first = settings.step * len(parts)
        beside: list[Params] = []
        each = [
            self.sam_gradient(w, settings, part, v, memory, first + i, beside)
            for i, part in enumerate(parts)
        ]
        u, length = each[0] if len(each) == 1 else map(_mean, zip(*each, strict=True))
        base = self.base
        if base.weight_decay and not base.decoupled:
            u = {k: torch.add(u[k], w[k], alpha=base.weight_decay) for k in w}
        if base.momentum:
            v = {k: torch.add(u[k], v[k], alpha=base.momentum) for k in w}
            u = {k: torch.add(u[k], v[k], alpha=base.momentum) for k in w} if base.nesterov else v
        if base.weight_decay and base.decoupled:
            keep = 1 - settings.eta * base.weight_decay
            w = {k: column(keep, t) * t for k, t in w.items()}
        w = {k: torch.addcmul(w[k], column(settings.eta, w[k]), u[k], value=-1) for k in w}
        for more in beside:
            eta = settings.eta / len(parts)
            w = {k: torch.addcmul(w[k], column(eta, w[k]), more[k], value=-1) for k in w}
        return State(w, v, length, memory.known)

    def sam_gradient(
        self,
        w: Params,
        settings: Grid,
        batch: Any,
        v: Params | None = None,
        memory: Memory | None = None,
        step: int = 0,
        beside: list[Params] | None = None,
    ) -> tuple[Params, Params]:
        """Return the SAM gradient on one minibatch, and the length of its ε where it is kept.

        Args:
            w: The parameters.
            settings: Of every cell.
            batch: The minibatch.
            v: Velocities, for directions that are made of them.
            memory: What the parts remember; it learns of this step.
            step: How many steps went before.
            beside: Gets what goes past the base step, where the method has such a part.
        """
        method, memory = self.method, Memory({}) if memory is None else memory
        here = Here(w, self.chosen or [*w], v or {}, memory, step, self.problem.inputs_first)
        rho = settings.radius(method.schedule, step)
        opened = self.perturb and gated(method.gate, step)  # None: the gradient will tell
        resting = not isinstance(method.schedule, Constant) and not bool((rho > 0).any())
        if opened is False or resting:
            only = self.problem.gradient(w, batch)
            return self._reused(only, here, closed=opened is False), self._length(rho, [], None)

        live = None if self._same else rho > 0
        g: Params = {}
        way: list[Perturbation] = []
        for i in range(method.looks * method.ascents):
            found = self.problem.gradient(here.moved(way), batch)
            if i == 0:
                g = found
                live = self._judged(g, here, live) if opened is None else live
            way.append(self._perturbation(here.some(found), rho, settings, here, live))
        ways, uphill = [], []
        for point, share in enumerate(method.points):
            if not method.looks:
                way = [self._perturbation([], rho, settings, here, live, point)]
            ways.append(way)
            uphill.append(self.problem.gradient(here.moved(way, share), batch))
        h = uphill[0] if len(uphill) == 1 else _mean(tuple(uphill))
        self._learn(g, h, here, live)
        u = h
        if method.looks and not isinstance(method.combine, SAMGradient):
            both = here.every(g), here.every(h), here.context()
            u = here.named(fitting("combine", method.combine, method.combine(*both), both[1]))
            past = getattr(method.combine, "beside", None)
            if beside is not None and past is not None:
                more = here.named(fitting("beside", method.combine, past(*both), both[1]))
                zeros = {k: torch.zeros_like(t) for k, t in more.items()}
                beside.append(more if live is None else _chosen(live, more, zeros))
        if method.looks and live is not None:
            closed = self._reused(g, here, closed=opened is None)
            u = _chosen(live, u, _chosen(rho > 0, closed, g))
        return u, self._length(rho, ways, live)

    def _judged(self, g: Params, here: Here, live: Tensor | None) -> Tensor:
        """Which of the cells that may climb do, now that the gate knows the gradient."""
        gradient, context = here.some(g), here.context(here.names)
        assert live is not None
        opened: Tensor = judged(self.method.gate, gradient, context)
        here.memory.settle(context.norm(gradient), live)
        return live & opened

    def _perturbation(
        self,
        gradient: Sequence[Tensor],
        rho: Tensor,
        settings: Grid,
        here: Here,
        live: Tensor | None,
        point: int = 0,
    ) -> Perturbation:
        context, cap, k = here.context(here.names, point), self.method.cap, self.method.ascents
        if k != 1:  # a quotient, even by 1, is no constant to the compiler, and breaks its graph
            rho, cap = rho / k, cap / k
        p = self.method.perturbation(gradient, rho, settings.power, context=context, cap=cap)
        here.memory.settle(p.norm, live)
        return p

    def _learn(self, g: Params, h: Params, here: Here, live: Tensor | None) -> None:
        """Tell the parts that want to know the gradient at w + ε."""
        method, learn = self.method, getattr(self.method.direction, "learn", None)
        if learn is None and method.reuse is None:
            return
        uphill, context = here.every(h), here.context()
        if learn is not None:
            learn(uphill, context)
        if method.reuse is not None and method.looks:
            method.reuse.learn(here.every(g), uphill, context)
        here.memory.settle(context.norm(uphill), live)

    def _reused(self, g: Params, here: Here, *, closed: bool) -> Params:
        """What a step gets that does not climb."""
        reuse = self.method.reuse
        if reuse is None or not closed or not self.perturb:
            return g
        gradient = here.every(g)
        return here.named(fitting("reuse", reuse, reuse(gradient, here.context()), gradient))

    def _length(self, rho: Tensor, ways: list[list[Perturbation]], live: Tensor | None) -> Params:
        """How long the way uphill was, where that is kept; the mean over the points."""
        if not self.lengths:
            return {}
        if not ways:
            return {"": torch.zeros_like(rho)}
        # In the norm of the ball, as rho is.
        each = [torch.as_tensor(p.factor).abs() * p.norm for way in ways for p in way]
        length = each[0] if len(each) == 1 else torch.stack(each).sum(0) / len(ways)
        return {"": length if live is None else torch.where(live, length, 0.0)}


def _chosen(cells: Tensor, yes: Params, no: Params) -> Params:
    if yes is no:
        return no
    return {k: torch.where(column(cells, t), t, no[k]) for k, t in yes.items()}


def _mean(parts: tuple[Params, ...]) -> Params:
    """The mean of what the points, or the minibatches, of a step gave."""
    first, *others = parts
    return {k: sum((p[k] for p in others), start=t) / len(parts) for k, t in first.items()}
