"""The books of a simulation: which cells still move, where the others are kept, what is seen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.ascent.slots import takes
from thalweg.errors import ThalwegError, brief
from thalweg.lab.grid import Grid, State, minibatches, pick
from thalweg.lab.observe import History, Observer
from thalweg.lab.problems import Params, Problem

#: The methods that a problem may have of its own.
_METHODS = ("start", "loss", "final_loss", "gradient", "observe", "stream")


class Cells:
    """The cells of a grid: those in the program, all of them moving, and those that have left it.

    Args:
        problem: The problem.
        settings: One entry per cell.
        momentum: Whether there are velocities.
        lengths: Whether the lengths of ε are kept.
        ceiling: A cell with a parameter larger than this, or NaN, has diverged.
        observe: Observers by name.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Grid,
        *,
        momentum: bool,
        lengths: bool,
        ceiling: float,
        observe: Mapping[str, Observer],
    ) -> None:
        self.problem, self.settings, self.ceiling = problem, settings, ceiling
        w = _started(problem, settings.seeds)
        self.state = State(
            w=w,
            v={k: torch.zeros_like(t) for k, t in w.items()} if momentum else {},
            length={"": torch.zeros_like(settings.eta)} if lengths else {},
            memory={},
        )
        self.index = torch.arange(len(settings.seeds), device=settings.seeds.device)
        self.step = 0
        self.kept = {k: t.clone() for k, t in w.items()}
        self.steps_run = torch.zeros_like(settings.seeds)
        self.diverged = torch.zeros_like(settings.seeds, dtype=torch.bool)
        self._observers, self._records = dict(observe), {}
        self._seen = problem.observe(w, settings.seeds) if observe else {}
        if not isinstance(self._seen, dict):
            raise ThalwegError(
                f"{type(problem).__name__}.observe() must return a dict of tensors by name, got "
                f"{brief(self._seen)}"
            )
        for name, value in self._seen.items():
            _per_cell(f"{type(problem).__name__}.observe()[{name!r}]", value, len(self.index))
        for name, observer in self._observers.items():
            if not isinstance(observer, Observer) or observer.quantity not in self._seen:
                known = ", ".join(self._seen) or "nothing"
                raise ThalwegError(
                    f"observer {name!r} must be an Observer of something that "
                    f"{type(problem).__name__} observes ({known}), got {brief(observer)}"
                )
            self._records[name] = observer.begin(self._seen[observer.quantity])

    def until_look(self) -> int:
        """Return how many steps there are until an observer wants to look."""
        waits = [o.every - self.step % o.every for o in self._observers.values()]
        return min(waits, default=1 << 62)

    def out_of_bounds(self, state: State) -> Tensor:
        """Return which cells have diverged, (cells,)."""
        return ~_everywhere(state.w, lambda t: t.abs() <= self.ceiling)  # NaN is not <=

    def at_rest(self, before: State, after: State) -> Tensor:
        """Return which cells' parameters no longer change by more than a denormal square."""
        tiny = torch.finfo(self.problem.dtype).tiny ** 0.5
        changes = {k: t - before.w[k] for k, t in after.w.items()}
        return _everywhere(changes, lambda t: t.abs() <= tiny)

    def advance(self, state: State, steps: int) -> None:
        """Take over the state after some more steps, of cells that are all within bounds."""
        self.state = state
        self.step += steps

    def leave(self, cells: Tensor, state: State, step: Tensor | int, *, diverged: bool) -> None:
        """Keep some cells, given by mask, as they are in ``state``; dropping them comes after."""
        where = self.index[cells]
        for name, value in state.w.items():
            self.kept[name][where] = value
        self.steps_run[where] = step
        self.diverged[where] = diverged
        if self._observers:
            self._see(where, state.w, self.settings.pick(cells).seeds)

    def drop(self, cells: Tensor) -> None:
        """Take cells, given by mask, out of the program."""
        self.state, self.index = pick(self.state, ~cells), self.index[~cells]
        self.settings = self.settings.pick(~cells)

    def look(self) -> None:
        """Let the observers look whose turn it is."""
        due = [n for n, o in self._observers.items() if self.step % o.every == 0]
        if due:
            self._see(self.index, self.state.w, self.settings.seeds)
            self._note(due, self.step)

    def finish(self, steps: int) -> dict[str, Tensor]:
        """Return what the observers kept, the end included; histories of cells at rest go on."""
        for name, observer in self._observers.items():
            if isinstance(observer, History):
                for step in range(self.step + 1, steps + 1):
                    if step % observer.every == 0:
                        self._note([name], step)
            else:
                self._note([name], steps)
        return {n: o.finish(self._records[n]) for n, o in self._observers.items()}

    def _see(self, where: Tensor, w: Params, seeds: Tensor) -> None:
        """Bring what was seen of some cells (indices into the grid) up to date."""
        for name, value in self.problem.observe(w, seeds).items():
            if len(where) < len(self.steps_run):
                every = self._seen[name].clone()  # records may hold the old one
                every[where] = value
                value = every
            self._seen[name] = value

    def _note(self, names: list[str], step: int) -> None:
        for name in names:
            observer = self._observers[name]
            observer.look(self._records[name], self._seen[observer.quantity], step)


def check_problem(problem: object) -> None:
    """Raise unless something is a problem whose parts can be used as a simulation does.

    Args:
        problem: What the caller gave.

    Raises:
        ThalwegError: If it is none, or if a method, its dtype or its quantities do not fit.
    """
    if not isinstance(problem, Problem):
        raise ThalwegError(
            f"problem must be an instance of a Problem such as Quadratic([1.0]), got "
            f"{brief(problem)}"
        )
    name, dtype, watched = type(problem).__name__, problem.dtype, problem.quantities
    for method in _METHODS:
        self_, *given = inspect.signature(getattr(Problem, method)).parameters.values()
        if not takes(getattr(problem, method), len(given)):
            wanted = [p.name + f"={p.default}" * (p.default is not p.empty) for p in given]
            raise ThalwegError(
                f"{name}.{method} must be called with ({', '.join(wanted)}), got one that takes "
                f"other arguments: write def {method}({', '.join([self_.name, *wanted])})"
            )
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ThalwegError(
            f"{name}.dtype must be a floating-point type such as torch.float64, got {brief(dtype)}"
        )
    if not isinstance(watched, tuple | list):
        raise ThalwegError(
            f'{name}.quantities must be a tuple of names such as ("distance",), got '
            f"{brief(watched)}"
        )


def _started(problem: Problem, seeds: Tensor) -> Params:
    """The parameters at the start, once they and the loss are found to have the right forms."""
    name, cells = type(problem).__name__, len(seeds)
    w = problem.start(seeds)
    if not isinstance(w, dict) or not w:
        raise ThalwegError(
            f"{name}.start() must return a dict of tensors by name, got "
            f"{'an empty one' if isinstance(w, dict) else type(w).__name__}"
        )
    for key, value in w.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (cells,):
            raise ThalwegError(
                f"{name}.start()[{key!r}] must be a tensor with the {cells} cells first, got "
                f"{getattr(value, 'shape', value)!r}"
            )
        if value.dtype != problem.dtype:
            raise ThalwegError(
                f"{name}.start()[{key!r}] must be of dtype {problem.dtype}, got {value.dtype}: "
                "make it so, or set the problem's dtype"
            )
    if cells:
        stream = problem.stream(seeds)
        if stream is not None and not takes(stream, 1):
            raise ThalwegError(
                f"{name}.stream() must return a function from the step to its minibatch, or None, "
                f"got {brief(stream)}"
            )
        batch = minibatches(problem, stream(0) if stream else None)[0]
        _per_cell(f"{name}.loss()", problem.loss(w, batch), cells)
        _per_cell(f"{name}.final_loss()", problem.final_loss(w, seeds), cells)
        _like(f"{name}.gradient()", problem.gradient(w, batch), w)
    return w


def _like(what: str, found: Any, w: Params) -> None:
    """Raise unless there is a tensor of its form for every parameter."""
    for name, t in w.items():
        got = found.get(name) if isinstance(found, dict) else None
        if not isinstance(got, Tensor) or (got.shape, got.dtype) != (t.shape, t.dtype):
            came = brief(found)
            if isinstance(got, Tensor):
                came = f"{tuple(got.shape)} of {got.dtype}"
            raise ThalwegError(
                f"{what}[{name!r}] must be a tensor like the parameter, {tuple(t.shape)} of "
                f"{t.dtype}, got {came}"
            )


def _per_cell(what: str, value: Any, cells: int) -> None:
    if not isinstance(value, Tensor) or value.shape != (cells,):
        raise ThalwegError(
            f"{what} must be one number per cell, a tensor of shape ({cells},), got "
            f"{getattr(value, 'shape', value)!r}"
        )


def _everywhere(tensors: Params, condition: Any) -> Tensor:
    """Whether a condition holds for every entry of a cell, (cells,)."""
    result: Tensor | None = None
    for t in tensors.values():
        verdict = condition(t)
        cell = verdict if verdict.ndim == 1 else verdict.flatten(1).all(1)
        result = cell if result is None else result & cell
    assert result is not None
    return result
