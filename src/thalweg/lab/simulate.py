"""SAM as it stands on paper, for all the cells of a grid at once, as one batched program."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.ascent import AllParameters, Constant, Method, check_method
from thalweg.errors import ThalwegError, brief, flag, number, whole
from thalweg.lab.cells import Cells, check_problem
from thalweg.lab.grid import broadcast, lengths_of
from thalweg.lab.observe import Final, Observer
from thalweg.lab.problems import Problem
from thalweg.lab.progress import progress as bar
from thalweg.lab.run import after_the_end, run, threads
from thalweg.lab.statistics import Array
from thalweg.lab.step import Base, Step

#: Compiling takes five to thirty seconds; a map of fewer cell-steps than this is done before.
_PAYS = 1_000_000_000
#: Cells from which on a compiled step is worth waking a second thread for.
_WAKES = 32_768


@dataclass(frozen=True)
class Simulation:
    """What a simulation found; arrays have the shape of the grid, then that of the quantity.

    Attributes:
        final: The parameters at the end; for a diverged cell, the last ones within bounds.
        loss: The loss there, over all the data.
        diverged: Whether a cell left every bound.
        steps_run: How many steps a cell took until it diverged, converged, or the end came.
        observed: What the observers kept.
        lengths: The length of ε at every step in the norm of the method's ball, shape
            (grid..., steps): of several ascents their sum, on several points or minibatches the
            mean, 0 where the gate was closed; NaN from the step on at which a cell diverged; of a
            cell at rest the latest. ``None`` unless asked for.
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
    lengths: Array | None = None


class _Observed(dict[str, Array]):
    """What was observed, by name; it tells of a name that was not."""

    def __missing__(self, name: object) -> Array:
        known = ", ".join(self) or "nothing"
        raise KeyError(
            f"{name!r} must have been observed, got {known}: list it in the problem's quantities, "
            "or in observe= where that is given"
        )


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
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    lengths: bool = False,
    replay: Any = None,
    observe: Mapping[str, Observer] | None = None,
    device: str | torch.device | None = None,
    compile: bool | None = None,
    ceiling: float | None = None,
    progress: str | None = None,
) -> Simulation:
    """Run SAM on a problem for every cell of a grid, as one batched program.

    ``eta``, ``rho``, ``power`` and ``seed`` broadcast against each other; the result has their
    common shape. A cell that diverges or converges is frozen, and costs nothing soon after.
    Where the problem's stream gives a list of minibatches for a step, each takes its own ascent
    and the SAM gradients are averaged: m-SAM. Every part of a method does here what it does in
    :class:`thalweg.SAM`; filters choose by the names of the problem's parameters, and of the base
    optimizer's state there is ``"momentum_buffer"``. A step with several minibatches counts as so
    many steps for gates, schedules and memory.

    Args:
        problem: The loss with its start.
        eta: Step size, in parameter units per gradient unit; the problem's own if ``None``.
        rho: Radius, in the units of ``power``; 0 is gradient descent.
        power: The normalization p, 1 if ``None``; without a cap, as on paper.
        method: Parts other than the default ones; its power and its cap are used. A part of your
            own may depend on the step unless it has an attribute ``stateless``, which is True.
        steps: How many steps, the same for every cell.
        seed: Seeds, for problems that draw something.
        momentum: As in torch's SGD, but below 1; the problem's own if ``None``.
        nesterov: As in torch's SGD.
        weight_decay: As in torch's SGD: added to the SAM gradient. ε is made without it.
        decoupled: Multiply w by 1 - eta·weight_decay before the step instead, as AdamW does.
        lengths: Whether to keep the length of every ε, in the norm of the method's ball.
        replay: The lengths of ε, instead of those that ``rho`` and ``power`` would give: an array
            whose last axis is the steps, such as ``lengths`` of another run. The rest of its
            shape broadcasts with the grid. NaN ends a cell as diverged; cap and gate of ``method``
            stay in force.
        observe: Observers by the name under which the result lists them; the final value of every
            quantity of the problem if ``None``.
        device: Where; the CPU if ``None``.
        compile: Whether one step is compiled; where it pays and there is a compiler if ``None``.
            A method that depends on the step or on earlier ones (gates, schedules, memory) is not.
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
    check_problem(problem)
    flag("lengths", lengths)
    flag("compile", compile, empty=True)
    if not isinstance(progress, str | None):
        raise ThalwegError(f"progress must be a label or None, got {brief(progress)}")
    if observe is not None and not isinstance(observe, Mapping):
        raise ThalwegError(
            f'observe must map names to observers, as {{"largest": Maximum("distance")}}, got '
            f"{brief(observe)}"
        )
    check_method(method, power)
    if eta is None and problem.eta is None:
        raise ThalwegError(f"eta must be given: {type(problem).__name__} has none of its own")
    if method is None:  # as on paper: no cap, and the power may vary over the grid
        method, power = Method(max_norm=math.inf), 1.0 if power is None else power
    else:
        power = method.power
    try:
        where = torch.device("cpu" if device is None else device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, TypeError) as cause:
        why = str(cause).partition("\n")[0]
        raise ThalwegError(
            f"device must be one that torch can use, got {brief(device)}: {why}"
        ) from None
    kept = None if replay is None else lengths_of(replay, steps, problem.dtype, where)
    shape, settings = broadcast(
        problem, problem.eta if eta is None else eta, rho, power, seed, where, kept
    )
    if kept is not None:  # a length is a rho at power 1
        settings = settings._replace(power=1.0)
        method = dataclasses.replace(
            method, power=1.0, size=None, max_norm=method.cap, schedule=Constant()
        )
        kept = kept.expand(*shape, steps).reshape(-1, steps).T.contiguous()
    beta = problem.momentum if momentum is None else momentum
    base = Base(beta, nesterov, weight_decay, decoupled)
    bound = torch.finfo(problem.dtype).max ** 0.25
    bound = number("ceiling", bound if ceiling is None else ceiling, above=0)
    changing = not isinstance(method.schedule, Constant)
    perturb = kept is not None or changing or bool((settings.rho > 0).any())
    chosen = _chosen(problem, method, settings.seeds)
    step = Step(problem, method, base, perturb=perturb, lengths=lengths, chosen=chosen)
    if compile and not step.steady:
        raise ThalwegError(
            "compile must be left out, or False, for a method that depends on the step or on "
            f"earlier ones, got {brief(method)}"
        )
    if compile is None:
        pays = problem.elementwise and len(settings.eta) * steps >= _PAYS
        compile = step.steady and pays and has_compiler()
    label = type(problem).__name__ if progress is None else progress
    with torch.no_grad():
        if observe is None:
            observe = {q: Final(q, every=max(steps, 1)) for q in problem.quantities}
        cells = Cells(
            problem,
            settings,
            momentum=base.momentum > 0,
            lengths=lengths,
            ceiling=bound,
            observe=observe,
        )
        noted = settings.eta.new_zeros(steps, len(settings.eta)) if lengths else None
        many = torch.get_num_threads()
        # An operation on single numbers is for one thread: waking another outlasts it.
        one = problem.elementwise and not (compile and len(settings.eta) >= _WAKES)
        with bar(label, steps) as tell, threads(1 if one else many):
            run(
                cells,
                step,
                steps,
                tell,
                compile=compile,
                replay=kept,
                lengths=noted,
            )
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
        observed=_Observed({k: shaped(t) for k, t in observed.items()}),
        compiled=compile,
        seconds=time.perf_counter() - clock,
        lengths=None if noted is None else shaped(after_the_end(noted, cells).T),
    )


def _chosen(problem: Problem, method: Method, seeds: Tensor) -> list[str] | None:
    """The names of the parameters that are perturbed; ``None`` for all of them."""
    if isinstance(method.filter, AllParameters) or not len(seeds):
        return None
    w = problem.start(seeds[:1])
    chosen = [name for name, t in w.items() if method.filter(t[0], name, None)]
    if not chosen:
        raise ThalwegError(
            f"filter must choose among {', '.join(w)} by name or by shape, got "
            f"{brief(method.filter)}, which chooses none: the simulator knows of no modules"
        )
    return chosen


def has_compiler() -> bool:
    """Return whether torch.compile finds what it needs to compile for the CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
