"""SAM with Hugging Face Accelerate: bound to the innermost optimizer, in the documented loop.

::

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    sam = thalweg.integrations.accelerate.prepare(accelerator, model, optimizer, rho=0.05)
    for x, y in loader:
        with accelerator.accumulate(model):
            for _ in sam.passes():  # each micro-batch has its own ascent
                accelerator.backward(loss_fn(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)  # clips the SAM gradient
            optimizer.step()
            optimizer.zero_grad()

``accelerator.backward`` divides by the number of micro-batches, so that the gradient of one is a
part of the step's; this matters to every power but 1, and to a cap. Over several processes,
``accumulate`` reduces gradients at the last micro-batch alone: there the ascent is of all
processes, before it each process has its own. :func:`synced_last` gives all micro-batches one.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from thalweg.errors import ThalwegError, extra
from thalweg.integrations import accumulation
from thalweg.modules import uncompiled
from thalweg.sam import SAM
from thalweg.telemetry import Pass

with extra("accelerate", by=__name__):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import DistributedType

Batch = TypeVar("Batch")
#: The file of a checkpoint that holds what the method remembers, where it remembers anything.
STATE = "sam.pt"
_REFUSED = {
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.MEGATRON_LM: "Megatron-LM",
    DistributedType.XLA: "XLA",
}
#: Optimizers that step while gradients are taken, by the names of their classes.
_STEP_IN_BACKWARD = {"Lomo", "AdaLomo", "LayerWiseDummyOptimizer"}


def check(accelerator: Accelerator) -> None:
    """Raise where the accelerator has handed gradients or weights to something SAM cannot follow.

    Args:
        accelerator: The accelerator.

    Raises:
        ThalwegError: Under DeepSpeed, Megatron-LM, XLA and FSDP1.

    Example:
        >>> check(Accelerator(cpu=True))
    """
    kind = _REFUSED.get(accelerator.distributed_type)
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        kind = "FSDP1"
    if kind:
        raise ThalwegError(
            f"the accelerator must leave gradients and weights to torch, got {kind}, under which "
            "SAM cannot work: use DistributedDataParallel, or FSDP2"
        )


def prepare(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rho: float = 0.05,
    **options: Any,
) -> SAM:
    """Return SAM around what ``accelerator.prepare()`` returned.

    ``save_state()`` and ``load_state()`` keep rho with the optimizer's state; where the method
    remembers something, that is in ``sam.pt`` beside it. Other checkpoints of the same model and
    optimizer load as they are.

    Args:
        accelerator: The accelerator; where it has a gradient scaler, SAM is told.
        model: The prepared model.
        optimizer: The prepared optimizer; SAM takes the innermost one.
        rho: Radius, for the param groups that have none of their own.
        options: What :class:`thalweg.SAM` takes beside: ``power``, ``method``, ``telemetry``.

    Returns:
        The SAM object.

    Raises:
        ThalwegError: Under DeepSpeed, Megatron-LM, XLA and FSDP1, or if an argument is not what
            it should be.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> accelerator = Accelerator(cpu=True)
        >>> model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
        >>> type(prepare(accelerator, model, optimizer, rho=0.1).optimizer).__name__
        'SGD'
    """
    check(accelerator)
    inner = innermost(optimizer)
    sam = AcceleratedSAM(inner, model, rho, scaler=accelerator.scaler, **options)
    sam._accelerator = accelerator
    prepared = [innermost(each) for each in accelerator._optimizers]
    place = prepared.index(inner) if inner in prepared else 0
    _keep_state(accelerator, sam, f"sam_{place}.pt" if place else STATE)
    return sam


class AcceleratedSAM(SAM):
    """SAM that sees where its loop stands: see :func:`prepare`, which makes it."""

    _accelerator: Accelerator | None = None  # copies have none

    def _passes(self) -> Iterator[Pass]:
        accelerator = self._accelerator
        begun = None if accelerator is None else accelerator.step
        with contextlib.closing(super()._passes()) as passes:  # type: ignore[type-var]
            for here in passes:
                yield here
                if accelerator is not None and accelerator.step != begun:
                    raise ThalwegError(
                        "accelerator.accumulate(model) must stand around the loop over passes(), "
                        "and it stands inside, where it counts each pass as a micro-batch: write "
                        "`with accelerator.accumulate(model):` before `for _ in sam.passes():`"
                    )


def _keep_state(accelerator: Accelerator, sam: SAM, name: str) -> None:
    """Save and load what the method remembers with the accelerator's state, where there is any."""
    held = weakref.ref(sam)

    def save(models: object, weights: object, folder: str) -> None:
        alive = held()
        state = {} if alive is None else alive.state_dict()
        if state and accelerator.is_main_process:
            torch.save(state, Path(folder, name))

    def load(models: object, folder: str) -> None:
        alive, file = held(), Path(folder, name)
        if alive is not None and file.exists():
            alive.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    for handle in (
        accelerator.register_save_state_pre_hook(save),
        accelerator.register_load_state_pre_hook(load),
    ):
        weakref.finalize(sam, handle.remove)


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the torch optimizer inside Accelerate's wrappers.

    Args:
        optimizer: A prepared optimizer, or a plain one.

    Raises:
        ThalwegError: If it steps inside the backward, as LOMO does.

    Example:
        >>> plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        >>> innermost(plain) is plain
        True
    """
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    if type(optimizer).__name__ in _STEP_IN_BACKWARD:
        raise ThalwegError(
            f"optimizer must step after the backward, got {type(optimizer).__name__}, which steps "
            "inside it, where SAM's weights are moved: choose another optimizer"
        )
    return optimizer


def synced_last(
    accelerator: Accelerator, model: nn.Module, batches: Sequence[Batch]
) -> Iterator[Batch]:
    """Go through the micro-batches of one step; gradients are reduced over ranks at the last alone.

    For one ascent of all the micro-batches together::

        for _ in sam.passes():
            for x, y in synced_last(accelerator, model, batches):
                accelerator.backward(loss_fn(model(x), y) / len(batches))

    Args:
        accelerator: The accelerator, with ``gradient_accumulation_steps=1``.
        model: The prepared model.
        batches: The micro-batches.

    Yields:
        Each of them.

    Example:
        >>> list(synced_last(Accelerator(cpu=True), nn.Linear(1, 1), ["a", "b"]))
        ['a', 'b']
    """
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            yield batch


@contextlib.contextmanager
def reducing(model: nn.Module, wanted: bool, *, ascent: bool = False) -> Iterator[None]:
    """Let the gradients of the block be reduced over processes, or not, whatever holds around it.

    Args:
        model: The prepared model.
        wanted: Whether they are; where they wait, they are part of the next reduction.
        ascent: Whether the block takes an ascent gradient.

    Example:
        >>> with reducing(nn.Linear(1, 1), False):  # in one process, nothing
        ...     pass
    """
    if reduces_shards(model):
        inner: Any = uncompiled(model)
        inner.set_requires_gradient_sync(wanted)
        try:
            yield
        finally:
            inner.set_requires_gradient_sync(True)
    else:
        with accumulation.reducing(model, wanted, ascent=ascent):
            yield


def reduces_shards(model: nn.Module) -> bool:
    """Return whether a model is sharded by FSDP2.

    Args:
        model: The prepared model.

    Example:
        >>> reduces_shards(nn.Linear(1, 1))
        False
    """
    return hasattr(uncompiled(model), "set_requires_gradient_sync")
