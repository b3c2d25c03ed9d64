"""A loop over ``passes()`` that is open, and what must be undone at its end, whoever ends it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from thalweg import sharded
from thalweg.errors import ThalwegError, warn

_Sam = TypeVar("_Sam")
_Block = contextlib.AbstractContextManager[None]

_NO_LOOP = (
    "passes() must be looped over, and it was called alone, so that the step would be one without "
    "SAM: write `for _ in sam.passes():`, with the backward() inside"
)
_NO_BLOCK = (
    "perturbed() must be entered, and it was called alone, so that the step would be one without "
    "SAM: write `with sam.perturbed():`, with the second backward() inside"
)


class Loops:
    """The one loop that may be open at a time.

    While it is open, a step of the optimizer, and saving or loading the state of the model, close
    it first: they would else take, save or lose weights that are moved.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module | None) -> None:
        self._optimizer = optimizer
        self._model = model
        self._open: contextlib.ExitStack | None = None
        self._guards: list[Any] = []
        self._waits, self._closed_by = "", ""
        self._due, self._warned = False, False
        self._closers = [
            weakly(self, functools.partial(Loops._undo, by=by))
            for by in ("optimizer.step()", "model.state_dict()", "model.load_state_dict()")
        ]
        hook = optimizer.register_step_pre_hook(weakly(self, Loops._before_step))
        weakref.finalize(self, hook.remove)

    @property
    def busy(self) -> bool:
        """Whether a loop is open."""
        return self._open is not None

    def made(self, forgotten: str = _NO_LOOP) -> None:
        """Note a loop or block that is made and not begun; it begins by :meth:`close`.

        Args:
            forgotten: What to say if it never begins.

        Raises:
            ThalwegError: If the one before has never begun.
        """
        self.check_begun()
        self._waits = forgotten

    def check_begun(self) -> None:
        """Raise, once, if the latest loop was made and never begun.

        Raises:
            ThalwegError: If it was.
        """
        waits, self._waits = self._waits, ""
        if waits:
            raise ThalwegError(waits)

    def _before_step(self, _: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Look whether a step of the base optimizer has what the latest loop made for it.

        Args:
            given: The optimizer, and what its step is called with: a closure, if there is one,
                makes gradients of its own.
            named: Likewise, by name.
        """
        self.check_begun()
        closure = [*given[1:], named.get("closure")][0]
        due, self._due = self._due and not self._warned, False
        if due and closure is None and self._without_gradients:
            self._warned = True
            warn(
                "the gradients were cleared between the loop over passes() and optimizer.step(), "
                "so that this step does nothing: call zero_grad() after the step, or before the "
                "loop"
            )

    @property
    def _without_gradients(self) -> bool:
        groups = self._optimizer.param_groups
        return all(p.grad is None for group in groups for p in group["params"])

    @contextlib.contextmanager
    def open(self) -> Iterator[contextlib.ExitStack]:
        """Open a loop; its end calls back everything that must be undone, last things first."""
        step, save, load = self._closers
        guards: list[Any] = [self._optimizer.register_step_pre_hook(step)]
        for model in _wrapped(self._model):
            guards.append(model.register_state_dict_pre_hook(save))  # type: ignore[no-untyped-call]
            guards.append(model.register_load_state_dict_pre_hook(load))  # type: ignore[no-untyped-call]
        self._guards = guards
        try:
            with contextlib.ExitStack() as loop:
                self._open = loop
                yield loop
            self._due = not self._without_gradients
        except BaseException:
            if self._open in (loop, None):
                sharded.start_over(self._model)
            raise
        finally:
            for guard in guards:
                guard.remove()
            if self._open is loop:  # a stale loop may end while a newer one is open
                self._open = None

    def close(self, by: str = "another loop or block") -> None:
        """Undo a loop that was left open, such as one bound to a name and abandoned.

        Args:
            by: The call that does so, for the error that this loop raises if it goes on.
        """
        self._waits = ""
        self._undo(by=by)
        for guard in self._guards:
            guard.remove()

    def _undo(self, *_: Any, by: str) -> None:
        """Undo the loop that is open; its guards stay, one of them may be calling this."""
        if self._open is not None:
            loop, self._open, self._closed_by = self._open, None, by
            loop.close()

    def check(self, loop: contextlib.ExitStack) -> None:
        """Raise if this loop has been closed by somebody else.

        Args:
            loop: What :meth:`open` gave.

        Raises:
            ThalwegError: If it has.
        """
        if self._open is not loop:
            raise ThalwegError(
                f"{self._closed_by} must come after the loop over passes() or the block, and came "
                "inside; the weights were put back before it, and what it did stays: move that "
                "call after the loop"
            )


def block(make: Callable[[_Sam], Iterator[None]]) -> Callable[[_Sam], _Block]:
    """Make a context manager of a method; one called without ``with`` is told of at the step.

    Args:
        make: A method of an object with ``_loops``, which it closes first.
    """
    begin = contextlib.contextmanager(make)

    @functools.wraps(make)
    def call(sam: _Sam) -> _Block:
        loops: Loops = vars(sam)["_loops"]
        loops.made(_NO_BLOCK)
        return begin(sam)

    return call


def weakly(owner: Any, act: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that calls ``act(owner, ...)`` as long as the owner lives.

    Args:
        owner: Held weakly, so that a forgotten SAM object can go.
        act: What to do; gets what the hook is called with, too.

    Returns:
        A function of any arguments.
    """
    reference = weakref.ref(owner)

    def hook(*given: Any) -> None:
        alive = reference()
        if alive is not None:
            act(alive, *given)

    return hook


def _wrapped(model: nn.Module | None) -> Iterator[nn.Module]:
    """A model, and the one that it wraps, as DistributedDataParallel and torch.compile do."""
    while model is not None:
        yield model
        children = list(model._modules.values())
        model = children[0] if len(children) == 1 and not model._parameters else None
