"""SAM as it stands on paper, for all the cells of a grid at once.

``Step`` is the whole of it: the gradient here, ε, the gradient uphill, the base step.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg import parameters
from thalweg.ascent import Method, check_method
from thalweg.errors import ThalwegError, number, whole
from thalweg.lab.grid import Cells, Grid, State, broadcast, pick
from thalweg.lab.observe import Final, Observer
from thalweg.lab.problems import Params, Problem
from thalweg.lab.progress import progress as bar

#: Steps between two looks at which cells still move.
_STRETCH = 100
#: Compiling takes five to thirty seconds; a map of fewer cell-steps than this is done before.
_PAYS = 1_000_000_000

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Simulation:
    """What a simulation found; arrays have the shape of the grid, then that of the quantity.

    Attributes:
        final: The parameters at the end; for a diverged cell, the last ones within bounds.
        loss: The loss there, over all the data.
        diverged: Whether a cell left every bound.
        steps_run: How many steps a cell took until it diverged, converged, or the end came.
        observed: What the observers kept.
        compiled: Whether the step was compiled.
        seconds: Wall time.

    Example:
        >>> from thalweg.lab import Quadratic
        >>> simulate(Quadratic([1.0]), eta=[0.5, 2.5], steps=1000).diverged.tolist()
        [False, True]
    """

    final: dict[str, Array]
    loss: Array
    diverged: Array
    steps_run: Array
    observed: dict[str, Array]
    compiled: bool
    seconds: float


class Step:
    """One step of SAM for every cell.

    Args:
        problem: Gives the gradients.
        method: Its parts make ε and combine the gradients.
        momentum: As in torch's SGD.
        perturb: Whether any rho is above 0.
    """

    def __init__(self, problem: Problem, method: Method, momentum: float, *, perturb: bool) -> None:
        self.problem, self.method = problem, method
        self.momentum, self.perturb = momentum, perturb

    def __call__(self, state: State, settings: Grid, batch: Any) -> State:
        """Return the state one step later."""
        w, v = state
        u = self.problem.gradient(w, batch)
        if self.perturb:
            uphill = {k: w[k] + e for k, e in self.epsilon(u, settings).items()}
            h = self.problem.gradient(uphill, batch)
            u = dict(zip(w, self.method.combine([*u.values()], [*h.values()]), strict=True))
        if self.momentum:
            u = v = {k: u[k] + self.momentum * v[k] for k in w}
        w = {k: torch.addcmul(w[k], _column(settings.eta, w[k]), u[k], value=-1) for k in w}
        return State(w, v)

    def epsilon(self, gradient: Params, settings: Grid) -> Params:
        """Return ε of every cell, made by the same parts that the production form uses."""
        g = [*gradient.values()]
        p = self.method.perturbation(g, settings.rho, settings.power, norm=parameters.cell_norms)
        return {k: _column(p.factor, d) * d for k, d in zip(gradient, p.direction, strict=True)}


def simulate(
    problem: Problem,
    *,
    eta: Any = None,
    rho: Any = 0.0,
    power: Any = None,
    method: Method | None = None,
    steps: int,
    seed: Any = 0,
    momentum: float | None = None,
    observe: Mapping[str, Observer] | None = None,
    device: str | torch.device | None = None,
    compile: bool | None = None,
    ceiling: float | None = None,
    progress: str | None = None,
) -> Simulation:
    """Run SAM on a problem for every cell of a grid, as one batched program.

    ``eta``, ``rho``, ``power`` and ``seed`` broadcast against each other; the result has their
    common shape. A cell that diverges or converges is frozen, and costs nothing soon after.

    Args:
        problem: The loss with its start.
        eta: Step size, in parameter units per gradient unit; the problem's own if ``None``.
        rho: Radius, in the units of ``power``; 0 is gradient descent.
        power: The normalization p, 1 if ``None``; without a cap, as on paper.
        method: Parts other than the default ones; its power and its cap are used.
        steps: How many steps, the same for every cell.
        seed: Seeds, for problems that draw something.
        momentum: As in torch's SGD; the problem's own if ``None``.
        observe: Observers by the name under which the result lists them; the final value of every
            quantity of the problem if ``None``.
        device: Where; the CPU if ``None``.
        compile: Whether one step is compiled; where it pays and there is a compiler if ``None``.
        ceiling: A cell has diverged when a parameter exceeds this in size, or is NaN, at a look
            that is taken at least every 100 steps. The fourth root of the largest number if
            ``None``, so that squares of squares are finite.
        progress: Label of the progress bar, which a terminal shows after two seconds; the name of
            the problem if ``None``, no bar if empty.

    Returns:
        What was found, as numpy arrays.

    Raises:
        ThalwegError: If an argument is out of range or the shapes do not broadcast.

    Example:
        >>> from thalweg.lab import Quadratic
        >>> result = simulate(Quadratic([1.0]), eta=0.5, rho=[0.0, 0.3], steps=200)
        >>> abs(result.final["w"]).round(6).tolist()  # gradient descent stops, SAM bounces
        [[0.0], [0.1]]
    """
    clock = time.perf_counter()
    whole("steps", steps)
    if not isinstance(problem, Problem):
        raise ThalwegError(
            f"problem must be an instance of a Problem such as Quadratic([1.0]), got {problem!r}"
        )
    if observe is not None and not isinstance(observe, Mapping):
        raise ThalwegError(
            f'observe must map names to observers, as {{"largest": Maximum("distance")}}, got '
            f"{observe!r}"
        )
    check_method(method, power)
    if eta is None and problem.eta is None:
        raise ThalwegError(f"eta must be given: {type(problem).__name__} has none of its own")
    if method is None:  # as on paper: no cap, and the power may vary over the grid
        method, power = Method(max_norm=math.inf), 1.0 if power is None else power
    else:
        power = method.power
    for slot in ("filter", "gate", "schedule"):
        if getattr(method, slot) != getattr(Method(), slot):
            raise ThalwegError(
                f"method must have its usual {slot} in the simulator, got {getattr(method, slot)!r}"
            )
    try:
        where = torch.device(device or "cpu")
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as cause:
        raise ThalwegError(
            f"device must be one that torch can use, got {device!r}: {cause}"
        ) from None
    shape, settings = broadcast(
        problem, problem.eta if eta is None else eta, rho, power, seed, where
    )
    beta = number("momentum", problem.momentum if momentum is None else momentum, at_least=0)
    bound = torch.finfo(problem.dtype).max ** 0.25
    bound = number("ceiling", bound if ceiling is None else ceiling, above=0)
    step = Step(problem, method, beta, perturb=bool((settings.rho > 0).any()))
    if compile is None:
        compile = problem.elementwise and len(settings.eta) * steps >= _PAYS and has_compiler()
    label = type(problem).__name__ if progress is None else progress
    with torch.no_grad():
        if observe is None:
            observe = {q: Final(q, every=max(steps, 1)) for q in problem.quantities}
        cells = Cells(problem, settings, momentum=beta > 0, ceiling=bound, observe=observe)
        one = problem.elementwise and _threads_sleep()
        with bar(label, steps) as tell, _threads(1 if one else torch.get_num_threads()):
            _run(cells, step, steps, tell, compile=compile)
        everything = torch.ones_like(cells.index, dtype=torch.bool)
        cells.leave(everything, cells.state, cells.step, diverged=False)
        observed = cells.finish(steps)
        loss = problem.final_loss(cells.kept, settings.seeds)

    def shaped(value: Tensor) -> Array:
        return value.cpu().numpy().reshape(shape + tuple(value.shape[1:]))

    return Simulation(
        final={k: shaped(t) for k, t in cells.kept.items()},
        loss=shaped(loss),
        diverged=shaped(cells.diverged),
        steps_run=shaped(cells.steps_run),
        observed={k: shaped(t) for k, t in observed.items()},
        compiled=compile,
        seconds=time.perf_counter() - clock,
    )


def _run(
    cells: Cells, step: Step, steps: int, tell: Callable[[int], None], *, compile: bool
) -> None:
    """Run the cells in stretches of steps, and look after each which of them still move.

    A step is nothing but arithmetic. A cell that is found out of bounds after a stretch is run
    again from the stretch's beginning, alone, to find the step at which it left them.
    """
    advance: Callable[[State, Grid, Any], State] = step
    if compile:
        advance = torch.compile(step, dynamic=True)
    stream = cells.problem.stream(cells.settings.seeds)
    # Once a large block has been freed, the C library keeps what later operations free. Until then
    # it may give every temporary back to the system, and fetch it again page by page.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    while cells.step < steps and len(cells.index):
        stretch = min(_STRETCH, steps - cells.step, cells.until_look())
        before = previous = after = cells.state
        for t in range(cells.step, cells.step + stretch):
            previous, after = after, advance(after, cells.settings, stream(t) if stream else None)
        left = cells.out_of_bounds(after)
        rest = torch.zeros_like(left) if stream else cells.at_rest(previous, after) & ~left
        if bool(left.any()):
            _trace(cells, step, left, pick(before, left), stretch)
        cells.advance(after, stretch)
        if bool(rest.any()):
            cells.leave(rest, pick(after, rest), cells.step, diverged=False)
        if bool((left | rest).any()):
            cells.drop(left | rest)
            if stream and len(cells.index):
                stream = cells.problem.stream(cells.settings.seeds)
        cells.look()
        tell(cells.step)


def _trace(cells: Cells, step: Step, left: Tensor, state: State, stretch: int) -> None:
    """Follow cells that leave their bounds within a stretch; keep the last state within."""
    settings = cells.settings.pick(left)
    stream = cells.problem.stream(settings.seeds)
    inside = torch.ones_like(settings.seeds, dtype=torch.bool)
    taken = torch.full_like(settings.seeds, cells.step)
    for t in range(cells.step, cells.step + stretch):
        after = step(state, settings, stream(t) if stream else None)
        inside = inside & ~cells.out_of_bounds(after)
        taken += inside
        state = State(
            *(
                {k: torch.where(_column(inside, t), t, old[k]) for k, t in new.items()}
                for new, old in zip(after, state, strict=True)
            )
        )
    cells.leave(left, state, taken, diverged=True)


def has_compiler() -> bool:
    """Return whether torch.compile finds what it needs to compile for the CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """One number per cell, shaped so that it multiplies every entry of its cell."""
    return torch.as_tensor(value).reshape(-1, *[1] * (like.ndim - 1))


def _threads_sleep() -> bool:
    """Whether torch's threads sleep between operations: waking one outlasts short arithmetic."""
    passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    return passive and os.environ.get("GOMP_SPINCOUNT", "0") == "0"


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
