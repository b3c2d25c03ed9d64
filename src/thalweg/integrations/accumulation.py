"""What SAM means under gradient accumulation, in two ways, for trainers that call step by step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.errors import ThalwegError, warn
from thalweg.modules import distributed
from thalweg.sam import SAM
from thalweg.telemetry import Pass

Result = TypeVar("Result")
#: ``"micro"``: each micro-batch has its own ascent (m-SAM). ``"batch"``: all have one, together.
Accumulation = Literal["micro", "batch"]


def check(accumulation: str) -> Accumulation:
    """Return the accumulation asked for.

    Args:
        accumulation: ``"micro"`` or ``"batch"``.

    Raises:
        ThalwegError: If it is another word.

    Example:
        >>> check("micro")
        'micro'
    """
    for known in get_args(Accumulation):
        if accumulation == known:
            return known  # type: ignore[no-any-return]
    raise ThalwegError(f'accumulation must be "micro" or "batch", got {accumulation!r}')


@contextlib.contextmanager
def reducing(model: nn.Module | None, wanted: bool, *, ascent: bool = False) -> Iterator[None]:
    """Let DistributedDataParallel reduce the gradients of the block over the ranks, or not.

    Args:
        model: The model; where it is another, nothing is done.
        wanted: Whether they are reduced, whatever holds around the block; where they wait, they are
            part of the next reduction.
        ascent: Whether the block takes an ascent gradient, those that wait being set aside.

    Example:
        >>> with reducing(nn.Linear(1, 1), False):  # in one process, nothing
        ...     pass
    """
    whole = distributed(model)
    if whole is None:
        yield
        return
    before, whole.require_backward_grad_sync = whole.require_backward_grad_sync, wanted
    try:
        if wanted and whole.find_unused_parameters:
            _use(whole, every=ascent)
        yield
    finally:
        whole.require_backward_grad_sync = before


def _use(model: nn.Module, *, every: bool) -> None:
    """Count parameters as used, by a backward of zeros.

    Which ones micro-batches have used DistributedDataParallel remembers until it reduces. What it
    reduces then must have a gradient, which an ascent has set aside; and what an ascent has made
    it forget must be reduced all the same where a gradient waits.
    """
    used = [p for p in model.parameters() if p.requires_grad and (every or p.grad is not None)]
    if used:
        torch.autograd.backward(used, [torch.zeros_like(p) for p in used])


class Batch:
    """A batch that every pass sees as the first one did.

    Containers are made anew each time, so that what a training step takes out of them is there
    again; the tensors are the same. One that is changed in place is told of, once.

    Args:
        batch: What the trainer brought.

    Example:
        >>> batch = Batch({"x": 1, "y": 2})
        >>> batch.fresh().pop("y"), batch.fresh()
        (2, {'x': 1, 'y': 2})
    """

    def __init__(self, batch: Any) -> None:
        self._batch = anew(batch)
        self._tensors = [t for t in tree_leaves(self._batch) if isinstance(t, Tensor)]
        self._versions = [_version(t) for t in self._tensors]

    def fresh(self) -> Any:
        """Return the batch for another pass."""
        if self._versions != [_version(t) for t in self._tensors]:
            self._versions = [_version(t) for t in self._tensors]
            warn(
                "training_step must leave the tensors of its batch as they are, and it changes one "
                "in place, so that SAM's second pass sees other data than the first: write "
                "`x = x + noise`, not `x += noise`"
            )
        return anew(self._batch)


def anew(batch: Any) -> Any:
    """Return a batch whose containers are copies and whose tensors are the same.

    Args:
        batch: Tensors in lists, tuples and mappings.

    Example:
        >>> batch = [{"x": 1}]
        >>> anew(batch) == batch, anew(batch)[0] is batch[0]
        (True, False)
    """
    if isinstance(batch, MutableMapping):
        copied = copy.copy(batch)
        for key, value in batch.items():
            copied[key] = anew(value)
        return copied
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(anew, batch))
    if type(batch) in (list, tuple):
        return type(batch)(map(anew, batch))
    return batch


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class Accumulated(Generic[Result]):
    """Takes the micro-batches of a step as a trainer brings them, and runs SAM's passes over them.

    Gates and schedules of a method count loops over ``passes()``: with ``"micro"`` these are the
    micro-batches, with ``"batch"`` the steps of the optimizer.

    Args:
        sam: The SAM object.
        accumulation: ``"micro"`` runs the passes over each micro-batch as it comes. ``"batch"``
            keeps them until the last has come and runs the passes over all: equal to a loop over
            the micro-batches inside ``passes()``.
        total: Makes one loss out of what the micro-batches of a pass returned; from it comes
            ``sam.last.loss_rise``. Where it makes ``None`` there is nothing to step by: no more
            passes are run.

    Example:
        >>> import torch
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> sam = SAM(torch.optim.SGD([w], lr=1.0), None, rho=0.5)
        >>> step = Accumulated(sam, "batch")
        >>> step(lambda here: (w**2).sum().backward(), last=False)
        []
        >>> len(step(lambda here: (w**2).sum().backward(), last=True)), w.grad
        (2, tensor([6.]))
    """

    def __init__(
        self,
        sam: SAM,
        accumulation: Accumulation,
        total: Callable[[list[Result]], Tensor | None] | None = None,
    ) -> None:
        self.sam = sam
        self.accumulation = accumulation
        self._total = total
        self._kept: list[Callable[[Pass], Result]] = []

    def __call__(self, micro: Callable[[Pass], Result], *, last: bool) -> list[Result]:
        """Run what is due now that this micro-batch has come.

        Args:
            micro: Computes the loss of the micro-batch and its backward; is told which pass it is.
            last: Whether the step of the optimizer comes next.

        Returns:
            What each micro-batch that was run returned in the first pass; none while they are kept.
        """
        self._kept.append(micro)
        if self.accumulation == "batch" and not last:
            return []
        due, self._kept = self._kept, []
        found: list[Result] = []
        for here in self.sam.passes():
            results = [run(here) for run in due]
            if here.index == 0:
                found = results
            if self._total is not None:
                loss = self._total(results)
                if loss is None:
                    break
                here.loss = loss
        return found

    def forget(self) -> None:
        """Forget micro-batches that are kept for a step which will not come."""
        self._kept = []
