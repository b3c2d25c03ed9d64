"""The product with a model's Hessian: on one batch, or over many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature.given import check_loss_of, module_of, teller
from thalweg.curvature.graphs import back, slopes, taken
from thalweg.curvature.product import Product, hessian_vector_product, summed
from thalweg.curvature.setting import (
    LossOf,
    Setting,
    again,
    examples,
    frozen,
    group_of,
    same_again,
    unsynchronized,
)


class OverBatches(Product):
    """The product with the Hessian of the mean loss over batches; see :func:`over`."""

    def __init__(
        self, setting: Setting, training: bool | None, progress: Callable[[int], None]
    ) -> None:
        super().__init__(setting.parameters, setting.group)
        self._setting, self._training, self._progress = setting, training, progress
        self.examples = 0  # of all ranks

        def of(value: Tensor) -> list[Tensor]:
            slope = torch.autograd.grad(value, self.parameters, materialize_grads=True)
            return [value.detach().double(), *slope]

        loss = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        loss, *self.gradient = self._joined(self._sums(of, [loss]))
        self.loss = float(loss)

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        return self._sums(
            lambda value: back(slopes(value, self.parameters), self.parameters, vector)
        )

    def _joined(self, parts: list[Tensor]) -> list[Tensor]:
        """The means over all examples of all ranks; the last part is how many this rank has."""
        *sums, seen = summed(parts, self._group)
        self.examples = same_again(self.examples, int(seen))
        return [total / self.examples for total in sums]

    def _sums(
        self, of: Callable[[Tensor], list[Tensor]], first: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Sum what is made of each batch's loss, each example counting; their number comes last."""
        model, seen = self._setting.model, 0
        total = [*first, *(torch.zeros_like(p) for p in self.parameters)]
        with (
            frozen(model, self._training),
            unsynchronized(model),
            again(self._setting.batches, model.parameters()) as each,
        ):
            for done, batch in enumerate(each, 1):
                parts = of(taken(functools.partial(self._setting.loss_of, model, batch)))
                count = examples(batch)
                total = [t + part * count for t, part in zip(total, parts, strict=True)]
                seen += count
                self._progress(done)
        return [*total, torch.tensor(seen, dtype=torch.int64, device=total[0].device)]


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
    model is :func:`frozen` while it does, and every product sees the same random numbers; those of
    a loader come from its generator or torch's, and are drawn alike. A model within
    DistributedDataParallel is measured over the examples of all ranks, which must call alike.

    Args:
        model: The model.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: The batches, gone through once for every product: a list of them, or a loader that
            gives the same every time. That they are as many is checked.
        parameters: With respect to which; all that require a gradient unless told otherwise.
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype, and batches turned to it, such as
            ``torch.float64``. The product is then over the copy's parameters.
        progress: Called with the number of batches done, in every product.

    Returns:
        A :class:`Product`.

    Raises:
        ThalwegError: If batches cannot be gone through again, are none or not as many the next
            time, or as :func:`hessian_vector_product`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0]]), 0.0), (torch.tensor([[3.0]]), 0.0)]
        >>> product = over(model, lambda m, b: (m(b[0]) ** 2).mean() / 2, batches)
        >>> product(torch.ones(1))  # the mean of x²
        tensor([5.])
    """
    setting = Setting.of(model, loss_of, batches, parameters, dtype)
    return OverBatches(setting, training, teller(progress))


def on_batch(
    model: nn.Module,
    loss_of: LossOf,
    batch: Any,
    *,
    parameters: Sequence[Tensor] | None = None,
    training: bool | None = False,
    dtype: torch.dtype | None = None,
) -> Product:
    """Return the product with the Hessian of a model's loss on one batch, from one graph.

    Args:
        model: The model; it is :func:`frozen` while the loss is taken.
        loss_of: As for :func:`over`.
        batch: The batch.
        parameters: With respect to which; all that require a gradient unless told otherwise.
        training: As for :func:`over`.
        dtype: As for :func:`over`.

    Returns:
        A :class:`Product`, valid until the parameters change. Under DistributedDataParallel it is
        that of the mean of the ranks' losses, as in training: ranks count alike, whatever the
        sizes of their batches.

    Raises:
        ThalwegError: As :func:`hessian_vector_product`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> product = on_batch(model, lambda m, x: (m(x) ** 2).mean() / 2, torch.ones(4, 1))
        >>> product(torch.ones(1))
        tensor([1.])
    """
    wanted = parameters
    if dtype is not None:
        copied = Setting.of(model, loss_of, [batch], parameters, dtype)
        model, loss_of, wanted = copied.model, copied.loss_of, copied.parameters
    model = module_of(model)
    check_loss_of(loss_of)
    with frozen(model, training), unsynchronized(model):
        return hessian_vector_product(
            lambda: loss_of(model, batch),
            list(model.parameters()) if wanted is None else wanted,
            group=group_of(model),
        )
