"""How a simulation runs: stretches of steps, and a look after each at which cells still move."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from thalweg.lab.cells import Cells
from thalweg.lab.grid import Grid, State, column, pick
from thalweg.lab.problems import Problem
from thalweg.lab.step import Step

_Advance = Callable[[State, Grid, Any], State]
#: Steps between two looks at which cells still move.
_STRETCH = 100
#: Numbers in a tensor of a block of cells: with its temporaries it stays in the second cache.
_BLOCK = 16_384
#: The same compiled, when there are no temporaries, and a call has a price.
_BLOCK_COMPILED = 65_536
#: Steps that a block has to take at once to be worth cutting out.
_FEW = 10


class Given:
    """What the cells of a program are given at each step: their settings and their minibatch.

    Args:
        problem: Has the stream of minibatches, if there is one.
        steady: Whether the step itself is the same every time; else it is told which one it is.
        settings: One entry per cell of the program.
        replay: Lengths of ε, (steps, cells of the grid); ``None`` where rho and power decide. With
            a power of 1, a length is a rho that changes with the step.
        index: Where the cells of the program are in the grid.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Grid,
        replay: Tensor | None,
        index: Tensor,
        *,
        steady: bool,
    ) -> None:
        self.settings, self.replay, self.index = settings, replay, index
        self.stream = problem.stream(settings.seeds)
        self._same = steady

    def __call__(self, t: int) -> tuple[Grid, Any]:
        """Return the settings and the minibatch of step t."""
        settings = self.settings
        if self.replay is not None:
            length = self.replay[t, self.index]
            # Where no length was kept, the cell had diverged: so does this one.
            eta = torch.where(length.isnan(), math.nan, settings.eta)
            settings = settings._replace(rho=length, eta=eta)
        if not self._same:
            settings = settings._replace(step=t)
        return settings, self.stream(t) if self.stream else None

    def block(self, block: slice) -> Given:
        """Return what is given to some of the cells, where there are no minibatches."""
        given = copy.copy(self)
        given.settings, given.index = self.settings.pick(block), self.index[block]
        return given

    @property
    def steady(self) -> bool:
        """Whether every step is given the same, so that a cell which stands still stays so."""
        return self._same and self.stream is None and self.replay is None


def run(
    cells: Cells,
    step: Step,
    steps: int,
    tell: Callable[[int], None],
    *,
    compile: bool,
    replay: Tensor | None = None,
    lengths: Tensor | None = None,
) -> None:
    """Run the cells in stretches of steps, and look after each which of them still move.

    A step is nothing but arithmetic. A cell that is found out of bounds after a stretch is run
    again from the stretch's beginning, alone, to find the step at which it left them.

    Args:
        cells: The cells.
        step: What is done to them.
        steps: How often.
        tell: Is told how many steps are done.
        compile: Whether to compile the step.
        replay: The length of ε at every step, (steps, cells of the grid), or ``None``.
        lengths: Where the lengths of ε are written, of the same shape, or ``None``.
    """

    def give() -> Given:
        return Given(cells.problem, cells.settings, replay, cells.index, steady=step.steady)

    given = give()
    # Once a large block has been freed, the C library keeps what later operations free. Until then
    # it may give every temporary back to the system, and fetch it again page by page.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    with contextlib.ExitStack() as stack:
        advance: _Advance = stack.enter_context(_compiled(step)) if compile else step
        walk = _Walk(advance, _block(cells, step, compile=compile), lengths)
        while cells.step < steps and len(cells.index):
            stretch = min(_STRETCH, steps - cells.step, cells.until_look())
            before = cells.state
            previous, after = walk(before, given, cells.step, stretch)
            left = cells.out_of_bounds(after)
            still = cells.at_rest(previous, after) if given.steady else torch.zeros_like(left)
            rest = still & ~left
            if bool(left.any()):
                _trace(cells, step, replay, left, pick(before, left), stretch)
            cells.advance(after, stretch)
            if bool(rest.any()):
                cells.leave(rest, pick(after, rest), cells.step, diverged=False)
            if bool((left | rest).any()):
                cells.drop(left | rest)
                if len(cells.index):
                    given = give()
            cells.look()
            tell(cells.step)


def _block(cells: Cells, step: Step, *, compile: bool) -> int | None:
    """How many numbers to a block; accelerators and matrix products want all at once.

    So do methods that change with the step: what they remember may be there in some cells alone.
    """
    if not cells.problem.elementwise or cells.index.device.type != "cpu" or not step.steady:
        return None
    return _BLOCK_COMPILED if compile else _BLOCK


class _Walk:
    """A stretch of steps, by blocks of cells that stay in the cache: cells never interact.

    Args:
        advance: The step.
        size: Numbers in a tensor of a block; ``None`` where all cells are one block.
        lengths: Where the lengths of ε are written, or ``None``.
    """

    def __init__(self, advance: _Advance, size: int | None, lengths: Tensor | None) -> None:
        self.advance, self.size, self.lengths = advance, size, lengths

    def __call__(self, state: State, given: Given, start: int, stretch: int) -> tuple[State, State]:
        """Return the states before the last step and after it."""
        numbers = max(t.numel() for t in state.w.values())
        count = -(-numbers // self.size) if self.size else 1
        if count == 1 or stretch < _FEW or given.stream is not None:
            return self._alone(state, given, start, stretch)
        cells = len(given.index)
        each = -(-cells // count)
        blocks = [slice(i, i + each) for i in range(0, cells, each)]

        parts = [
            self._alone(pick(state, block), given.block(block), start, stretch) for block in blocks
        ]
        previous, after = zip(*parts, strict=True)
        return _joined(previous), _joined(after)

    def _alone(self, state: State, given: Given, start: int, stretch: int) -> tuple[State, State]:
        previous = after = state
        for t in range(start, start + stretch):
            previous, after = after, self.advance(after, *given(t))
            if self.lengths is not None:
                self.lengths[t, given.index] = after.length[""]
        return previous, after


def _joined(states: tuple[State, ...]) -> State:
    """Put the cells of several states in a row."""
    parts = zip(*states, strict=True)
    return State(*({k: torch.cat([p[k] for p in part]) for k in part[0]} for part in parts))


@contextlib.contextmanager
def _compiled(step: Step) -> Iterator[_Advance]:
    """Compile a step for any number of cells."""
    from torch._dynamo import config

    # By default, after eight problems or methods in one process no more are compiled.
    with config.patch(recompile_limit=256):
        yield torch.compile(step, dynamic=True)


def _trace(
    cells: Cells, step: Step, replay: Tensor | None, left: Tensor, state: State, stretch: int
) -> None:
    """Follow cells that leave their bounds within a stretch; keep the last state within."""
    settings = cells.settings.pick(left)
    given = Given(cells.problem, settings, replay, cells.index[left], steady=step.steady)
    inside = torch.ones_like(settings.seeds, dtype=torch.bool)
    taken = torch.full_like(settings.seeds, cells.step)
    for t in range(cells.step, cells.step + stretch):
        after = step(state, *given(t))
        inside = inside & ~cells.out_of_bounds(after)
        taken += inside
        kept = {k: torch.where(column(inside, t), t, state.w[k]) for k, t in after.w.items()}
        state = after._replace(w=kept)
    cells.leave(left, state, taken, diverged=True)


def after_the_end(lengths: Tensor, cells: Cells) -> Tensor:
    """Return the lengths with those of frozen cells: NaN once diverged, else the latest one."""
    if not len(lengths):
        return lengths
    row = torch.arange(len(lengths), device=lengths.device).unsqueeze(1)
    last = lengths.gather(0, (cells.steps_run - 1).clamp(min=0).unsqueeze(0))
    last = torch.where(cells.diverged, math.nan, last)
    return torch.where(row < cells.steps_run, lengths, last)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
