"""One step of SAM as it stands on paper: the gradient here, ε, the gradient uphill, the base step.

``Step`` is the whole of it, for all the cells of a grid at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from thalweg import parameters
from thalweg.ascent import Context, Method
from thalweg.errors import ThalwegError, number
from thalweg.lab.grid import Grid, State, column, minibatches
from thalweg.lab.problems import Params, Problem


@dataclass(frozen=True, slots=True)
class Base:
    """The base step, with the meanings that torch's SGD gives to the words.

    Attributes:
        momentum: β of v ← βv + u.
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
        for name in ("momentum", "weight_decay"):
            object.__setattr__(self, name, number(name, getattr(self, name), at_least=0))
        if self.nesterov and not self.momentum:
            raise ThalwegError(
                f"nesterov must come with a momentum above 0, got momentum={self.momentum}"
            )


class Step:
    """One step of SAM for every cell.

    Args:
        problem: Gives the gradients.
        method: Its parts make ε and combine the gradients.
        base: What is done with the SAM gradient.
        perturb: Whether any ε may differ from 0.
        lengths: Whether the state notes how long ε was.
    """

    def __init__(
        self, problem: Problem, method: Method, base: Base, *, perturb: bool, lengths: bool = False
    ) -> None:
        self.problem, self.method, self.base = problem, method, base
        self.perturb, self.lengths = perturb, lengths

    def __call__(self, state: State, settings: Grid, batch: Any) -> State:
        """Return the state one step later."""
        w, v, _ = state
        # m-SAM: each minibatch takes its own ascent
        each = [self.sam_gradient(w, settings, part) for part in minibatches(self.problem, batch)]
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
        return State(w, v, length)

    def sam_gradient(self, w: Params, settings: Grid, batch: Any) -> tuple[Params, Params]:
        """Return the SAM gradient on one minibatch, and the length of its ε where it is kept."""
        g = self.problem.gradient(w, batch)
        if not self.perturb:
            return g, {"": torch.zeros_like(settings.eta)} if self.lengths else {}
        context = Context(norm=parameters.cell_norms, cells=1)
        p = self.method.perturbation([*g.values()], settings.rho, settings.power, context=context)
        epsilon = zip(g, p.direction, strict=True)
        uphill = {k: torch.addcmul(w[k], column(p.factor, d), d) for k, d in epsilon}
        h = self.problem.gradient(uphill, batch)
        u = dict(zip(w, self.method.combine([*g.values()], [*h.values()], context), strict=True))
        return u, {"": torch.as_tensor(p.length)} if self.lengths else {}


def _mean(parts: tuple[Params, ...]) -> Params:
    """The mean of what the minibatches of a step gave."""
    first, *others = parts
    return {k: sum((p[k] for p in others), start=t) / len(parts) for k, t in first.items()}
