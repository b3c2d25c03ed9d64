"""What a loss is measured over, checked, and gone through so that nobody notices."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import modules, replay
from thalweg.curvature.given import check_batches, check_dtype, check_loss_of, module_of
from thalweg.errors import ThalwegError, brief, flag

#: The mean loss of a model over a batch, zero-dimensional.
LossOf = Callable[[nn.Module, Any], Tensor]


@contextlib.contextmanager
def frozen(model: nn.Module, training: bool | None = False) -> Iterator[None]:
    """Let the forwards of the block leave no trace in a model, nor in torch's random numbers.

    Afterwards running statistics and other buffers of normalization layers, the mode of every layer
    and the state of the generators are what they were.

    Args:
        model: The model.
        training: The mode within the block: ``False`` has running statistics used and dropout off,
            ``True`` is what training sees, ``None`` leaves each layer in its own.

    Raises:
        ThalwegError: If the model is no module, or the mode something else.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with frozen(norm, training=True):
        ...     y = norm(torch.tensor([[1.0], [3.0]]))
        >>> norm.running_mean, y.detach().flatten()
        (tensor([0.]), tensor([-1.0000,  1.0000]))
    """
    flag("training", training, empty=True)
    module_of(model)  # raises where it is none
    modes = [(layer, layer.training) for layer in modules.layers(model)]
    numbers = numbers_of(model.parameters())
    # Copies are advanced, not the buffers: a graph that is kept must find what it has saved.
    held = [(layer, dict(layer._buffers)) for layer, _ in modes if layer._buffers]
    try:
        for layer, mode in modes:
            layer.training = mode if training is None else training
        for layer, buffers in held:
            if layer.training:
                copies = {name: b if b is None else b.clone() for name, b in buffers.items()}
                layer._buffers.update(copies)
        yield
    finally:
        for layer, buffers in held:
            layer._buffers.clear()
            layer._buffers.update(buffers)
        numbers.put_back()
        for layer, mode in modes:
            layer.training = mode


def numbers_of(tensors: Iterable[Tensor]) -> replay.RandomState:
    """Return the state of the generators that draw on the CPU and where tensors lie.

    Args:
        tensors: The parameters of a model.
    """
    devices = {t.device for t in tensors}
    return replay.RandomState(d for d in devices if d.type not in ("cpu", "meta"))


@contextlib.contextmanager
def again(batches: Iterable[Any], tensors: Iterable[Tensor]) -> Iterator[Iterator[Any]]:
    """Go through batches within the block, every time as the first time.

    What a loader draws changes nothing of what a model draws, and its own generator is put back.

    Args:
        batches: A list of batches, or a loader.
        tensors: The parameters of the model.
    """
    numbers = numbers_of(tensors)

    def each() -> Iterator[Any]:
        for done, batch in enumerate(batches):
            if not done:
                numbers.put_back()
            yield batch

    with undrawn(batches):
        yield each()


@contextlib.contextmanager
def undrawn(batches: object) -> Iterator[None]:
    """Put the generators that a loader shuffles by back to where they stood before the block.

    Args:
        batches: A loader, or something that has no generator.
    """
    sampler = getattr(getattr(batches, "batch_sampler", None), "sampler", None)
    holders = (batches, getattr(batches, "sampler", None), sampler)
    own = [getattr(one, "generator", None) for one in holders]
    states = [(one, one.get_state()) for one in own if isinstance(one, torch.Generator)]
    try:
        yield
    finally:
        for one, state in states:
            one.set_state(state)


def same_again(before: int, now: int) -> int:
    """Return how many examples a pass over batches has seen, or raise where it is not as before.

    Args:
        before: Those of the first pass; 0 where this is it.
        now: Those of this one.

    Raises:
        ThalwegError: If they are none, or not as many.
    """
    if not now:
        raise ThalwegError("batches must hold at least one batch, got none")
    if before not in (0, now):
        raise ThalwegError(
            f"batches must give as many examples every time, got {before} and then {now}: pass a "
            "list of batches"
        )
    return now


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured over batches, checked.

    Attributes:
        model: The model, or a copy of it in another dtype.
        loss_of: Of this model and a batch.
        batches: Can be gone through again.
        parameters: Those of this model that are meant, in its order.
        group: The ranks of DistributedDataParallel, or ``None``.
    """

    model: nn.Module
    loss_of: LossOf
    batches: Iterable[Any]
    parameters: list[Tensor]
    group: Any

    @classmethod
    def of(
        cls,
        model: nn.Module,
        loss_of: LossOf,
        batches: Iterable[Any],
        parameters: Sequence[Tensor] | None,
        dtype: torch.dtype | None,
    ) -> Setting:
        """Check what a caller gave; the arguments are those of :func:`over`.

        Raises:
            ThalwegError: As :func:`over`.
        """
        model = module_of(model)
        check_loss_of(loss_of)
        check_batches(batches)
        check_dtype(dtype)
        wanted = [p for p in model.parameters() if p.requires_grad]
        places = list(range(len(wanted)))
        if parameters is not None:
            chosen = set(parameters) if isinstance(parameters, Iterable) else {parameters}
            if not chosen <= set(wanted):
                raise ThalwegError(
                    "parameters must be parameters of the model that require a gradient, got "
                    "others: pass some of model.parameters()"
                )
            places = [i for i in places if wanted[i] in chosen]
        loss = loss_of
        if dtype is not None:
            model = copy.deepcopy(model).to(dtype)
            wanted = [p for p in model.parameters() if p.requires_grad]

            def loss(model: nn.Module, batch: Any) -> Tensor:
                return loss_of(model, turned(batch, dtype))

        return cls(model, loss, batches, [wanted[i] for i in places], group_of(model))


def examples(batch: Any) -> int:
    """Return how many examples a batch holds: the length of its first tensor.

    Args:
        batch: A tensor, or a list, tuple or mapping that holds one.

    Raises:
        ThalwegError: If there is no tensor in it.

    Example:
        >>> examples({"x": torch.zeros(5, 2), "y": torch.zeros(5)})
        5
    """
    for leaf in torch.utils._pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise ThalwegError(
        f"a batch must hold a tensor whose first dimension is the examples, got {brief(batch)}: "
        "return tensors from the loader"
    )


def turned(batch: Any, dtype: torch.dtype) -> Any:
    """Return a batch with its floating-point tensors in a dtype.

    Args:
        batch: The batch.
        dtype: The dtype.

    Example:
        >>> turned([torch.zeros(1), torch.zeros(1, dtype=torch.long)], torch.float64)
        [tensor([0.], dtype=torch.float64), tensor([0])]
    """

    def turn(leaf: Any) -> Any:
        floats = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floats else leaf

    return torch.utils._pytree.tree_map(turn, batch)


def unsynchronized(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep DistributedDataParallel from waiting for a backward that reduces.

    Args:
        model: Anything.
    """
    whole = modules.distributed(model)
    return contextlib.nullcontext() if whole is None else whole.no_sync()


def group_of(model: nn.Module) -> Any:
    """Return the ranks of DistributedDataParallel, or ``None``.

    Args:
        model: Anything.
    """
    whole = modules.distributed(model)
    return None if whole is None else whole.process_group
