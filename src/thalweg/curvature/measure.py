"""Where a loss is measured: on one batch or over many, and so that nobody notices."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import layout, replay
from thalweg.curvature.graphs import back, slopes, taken
from thalweg.curvature.product import Product, averaged, hessian_vector_product
from thalweg.errors import ThalwegError

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

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with frozen(norm, training=True):
        ...     y = norm(torch.tensor([[1.0], [3.0]]))
        >>> norm.running_mean, y.detach().flatten()
        (tensor([0.]), tensor([-1.0000,  1.0000]))
    """
    modes = [(layer, layer.training) for layer in layout.layers(model)]
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


class OverBatches(Product):
    """The product with the Hessian of the mean loss over batches; see :func:`over`."""

    def __init__(
        self,
        model: nn.Module,
        loss_of: LossOf,
        batches: Iterable[Any],
        parameters: Sequence[Tensor],
        training: bool | None,
        group: Any,
        progress: Callable[[int], None],
    ) -> None:
        super().__init__(parameters, group)
        self._model, self._loss_of, self._batches = model, loss_of, batches
        self._training, self._progress = training, progress
        if isinstance(batches, Iterator):
            raise ThalwegError(
                "batches must be something to go through again for every product, got an iterator: "
                "pass a list of batches, or a loader that does not shuffle"
            )
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        gradient = [torch.zeros_like(p) for p in self.parameters]
        self.examples = 0
        for value, count in self._each():
            slope = torch.autograd.grad(value, self.parameters, materialize_grads=True)
            total = total + value.detach().double() * count
            gradient = [g + f * count for g, f in zip(gradient, slope, strict=True)]
            self.examples += count
        if not self.examples:
            raise ThalwegError("batches must hold at least one batch, got none")
        # Every rank counts alike only where every rank has as many examples.
        mean = [total / self.examples, *(g / self.examples for g in gradient)]
        found = averaged(mean, group)
        self.loss, self.gradient = float(found[0]), found[1:]

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.parameters]
        for value, count in self._each():
            parts = back(slopes(value, self.parameters), self.parameters, vector)
            total = [t + part * count for t, part in zip(total, parts, strict=True)]
        return [t / self.examples for t in total]

    def _each(self) -> Iterator[tuple[Tensor, int]]:
        """The loss of every batch, with its graph, and how many examples it is of."""
        with frozen(self._model, self._training), _unsynchronized(self._model):
            start = numbers_of(self._model.parameters())
            for done, batch in enumerate(self._batches, 1):
                if done == 1:
                    start.put_back()  # loaders draw, too
                loss = functools.partial(self._loss_of, self._model, batch)
                yield taken(loss), examples(batch)
                self._progress(done)


def over(
    model: nn.Module,
    loss_of: LossOf,
    batches: Iterable[Any],
    *,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Product:
    """Return the product with the Hessian of a model's mean loss over all examples of all batches.

    Every product goes through all the batches, each with a graph of its own that is freed. The
    model is :func:`frozen` while it does, and every product sees the same random numbers. A model
    within DistributedDataParallel is measured over the batches of all ranks, which must call alike.

    Args:
        model: The model.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: The batches, gone through once for every product: a list of them, or a loader that
            gives the same every time.
        parameters: With respect to which; all that require a gradient unless told otherwise. They
            must be whole (not DTensors).
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype, and batches turned to it, such as
            ``torch.float64``. The product is then over the copy's parameters.
        progress: Called with the number of batches done, in every product.

    Returns:
        A :class:`Product`.

    Raises:
        ThalwegError: If batches cannot be gone through again or are none, or as
            :func:`hessian_vector_product`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0]]), 0.0), (torch.tensor([[3.0]]), 0.0)]
        >>> product = over(model, lambda m, b: (m(b[0]) ** 2).mean() / 2, batches)
        >>> product(torch.ones(1))  # the mean of x²
        tensor([5.])
    """
    model = getattr(model, "_orig_mod", model)
    wanted = [p for p in model.parameters() if p.requires_grad]
    if parameters is not None:
        chosen = set(parameters)
        if not chosen <= set(wanted):
            raise ThalwegError(
                "parameters must be parameters of the model that require a gradient, got others: "
                "pass some of model.parameters()"
            )
        places = [i for i, p in enumerate(wanted) if p in chosen]
    else:
        places = list(range(len(wanted)))
    loss = loss_of
    if dtype is not None:
        model = copy.deepcopy(model).to(dtype)
        wanted = [p for p in model.parameters() if p.requires_grad]

        def loss(model: nn.Module, batch: Any) -> Tensor:
            return loss_of(model, turned(batch, dtype))

    distributed = isinstance(model, nn.parallel.DistributedDataParallel)
    return OverBatches(
        model,
        loss,
        batches,
        [wanted[i] for i in places],
        training,
        model.process_group if distributed else None,
        progress or (lambda done: None),
    )


def on_batch(
    model: nn.Module,
    loss_of: LossOf,
    batch: Any,
    *,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
) -> Product:
    """Return the product with the Hessian of a model's loss on one batch, from one graph.

    Args:
        model: The model; it is :func:`frozen` while the loss is taken.
        loss_of: As for :func:`over`.
        batch: The batch.
        parameters: As for :func:`over`.
        training: As for :func:`over`.

    Returns:
        A :class:`Product`, valid until the parameters change.

    Raises:
        ThalwegError: As :func:`hessian_vector_product`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> product = on_batch(model, lambda m, x: (m(x) ** 2).mean() / 2, torch.ones(4, 1))
        >>> product(torch.ones(1))
        tensor([1.])
    """
    model = getattr(model, "_orig_mod", model)
    wanted = list(model.parameters()) if parameters is None else parameters
    distributed = isinstance(model, nn.parallel.DistributedDataParallel)
    with frozen(model, training), _unsynchronized(model):
        return hessian_vector_product(
            lambda: loss_of(model, batch),
            wanted,
            group=model.process_group if distributed else None,
        )


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
        f"a batch must hold a tensor whose first dimension is the examples, got {batch!r:.80}: "
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


@contextlib.contextmanager
def _unsynchronized(model: nn.Module) -> Iterator[None]:
    """Keep DistributedDataParallel from waiting for a backward that reduces."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield
