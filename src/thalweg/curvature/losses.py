"""A model's mean loss and gradient over batches, at its weights and at moved ones."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.ascent import Context
from thalweg.curvature.given import teller
from thalweg.curvature.graphs import double_backward, taken
from thalweg.curvature.product import Product, summed
from thalweg.curvature.setting import (
    LossOf,
    Setting,
    again,
    examples,
    frozen,
    same_again,
    unsynchronized,
)
from thalweg.errors import ThalwegError
from thalweg.hold import Weights


class Losses:
    """The mean loss over all examples of all batches, wherever the weights are moved.

    The model is :func:`frozen` in every pass over the batches, and every pass sees the same random
    numbers, so that two losses differ by the move alone. ``.grad`` is not touched. The forward is
    the same whether a gradient is wanted or not: other kernels would round otherwise.

    Args:
        model: The model. Within DistributedDataParallel the mean is over the examples of all.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: Gone through once for every loss.
        parameters: Which are moved; all that require a gradient unless told otherwise.
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype.
        progress: Called with ``evaluations`` after every loss.

    Attributes:
        model: The model, or the copy of it.
        parameters: The tensors that are moved.
        evaluations: How many losses were taken, with or without a gradient.

    Raises:
        ThalwegError: As :func:`thalweg.curvature.over`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> losses = Losses(model, lambda m, x: m.weight.sum() * x.mean(), [torch.ones(2)])
        >>> with losses.at([torch.ones(1, 1)]):
        ...     above = losses.value()
        >>> round(above - losses.value(), 6)
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss_of: LossOf,
        batches: Iterable[Any],
        *,
        parameters: Sequence[Tensor] | None = None,
        training: bool | None = False,
        dtype: torch.dtype | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        setting = Setting.of(model, loss_of, batches, parameters, dtype)
        self.model, self._loss_of = setting.model, setting.loss_of
        self._batches, self._group, self._training = setting.batches, setting.group, training
        self.parameters = Product(setting.parameters).parameters
        self._progress = teller(progress)
        self._examples = 0  # of all ranks
        self.evaluations = 0
        self._weights = Weights(self.model)

    @contextlib.contextmanager
    def at(self, epsilon: Sequence[Tensor]) -> Iterator[None]:
        """Stand at w + ε for the length of the block; the weights come back bit for bit.

        Args:
            epsilon: One tensor per parameter.
        """
        try:
            self._weights.move([(self.parameters, epsilon, 1.0)])
            yield
        finally:
            self._weights.restore()

    def value(self) -> float:
        """Return the loss where the weights are now; it need not be finite.

        Raises:
            ThalwegError: If it is not one number, or there are no batches.
        """
        return self._taken(gradient=False)[0]

    def slope(self) -> tuple[float, list[Tensor]]:
        """Return the loss and its gradient; where the loss is not finite, nothing is said of it.

        Raises:
            ThalwegError: If the loss is not one number, or there are no batches.
        """
        return self._taken(gradient=True)

    def here(self) -> tuple[float, list[Tensor]]:
        """Return the loss and its gradient at the weights themselves.

        Raises:
            ThalwegError: As :meth:`slope`, and if one of them is not finite.
        """
        loss, gradient = self.slope()
        if not (math.isfinite(loss) and all(bool(g.isfinite().all()) for g in gradient)):
            raise ThalwegError(
                f"the loss and its gradient must be finite at the weights, got the loss {loss}: "
                "nothing can be measured here"
            )
        return loss, gradient

    def context(self) -> Context:
        """Return what a ball may know of the weights, their names and layers included."""
        known: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}
        names = [known[p] for p in self.parameters]
        homes = [name.rpartition(".")[0] for name in names]
        return Context(
            weights=self.parameters,
            names=lambda: names,
            layers=lambda: [homes.index(home) for home in homes],
        )

    def of(self, batch: Any) -> Losses:
        """Return the losses of one batch alone, on this rank alone.

        Args:
            batch: The batch.
        """
        alone = copy.copy(self)
        alone._batches, alone._group, alone._examples, alone.evaluations = [batch], None, 0, 0
        alone._progress = lambda done: None
        return alone

    def groups(self, m: int) -> Generator[tuple[Losses, int]]:
        """Cut every batch into groups of m examples; what is left of one is a smaller group.

        Args:
            m: Examples in a group.

        Yields:
            The losses of the group, and how many examples it holds.
        """
        with again(self._batches, self.parameters) as each:
            for batch in each:
                total = examples(batch)
                for start in range(0, total, m):
                    yield self.of(_cut(batch, start, m, total)), min(m, total - start)

    def unnoticed(self) -> contextlib.AbstractContextManager[None]:
        """Let a block leave no trace in modes, buffers and torch's random numbers."""
        return frozen(self.model, self._training)

    def told(self, evaluations: int) -> None:
        """Count losses that were taken elsewhere, and tell of the progress.

        Args:
            evaluations: How many.
        """
        self.evaluations += evaluations
        self._progress(self.evaluations)

    def over_ranks(self, values: Sequence[float]) -> list[float]:
        """Return numbers summed over the ranks, where there are some.

        Args:
            values: As many on every rank.
        """
        found = torch.tensor(values, dtype=torch.float64, device=self.parameters[0].device)
        return summed([found], self._group)[0].tolist()

    def _taken(self, *, gradient: bool) -> tuple[float, list[Tensor]]:
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        slopes = [torch.zeros_like(p) for p in self.parameters] if gradient else []
        seen = total.clone()
        with (
            self.unnoticed(),
            unsynchronized(self.model),
            again(self._batches, self.parameters) as each,
        ):
            for batch in each:
                with double_backward():
                    value = _one_number(self._loss_of(self.model, batch))
                count = examples(batch)
                if gradient and value.requires_grad:
                    parts = torch.autograd.grad(value, self.parameters, materialize_grads=True)
                    slopes = [s + part * count for s, part in zip(slopes, parts, strict=True)]
                total = total + value.detach().double().reshape(()) * count
                seen = seen + count
        seen, total, *slopes = summed([seen, total, *slopes], self._group)
        self._examples = same_again(self._examples, int(seen))
        self.told(1)
        return float(total / seen), [s / seen for s in slopes]


def _one_number(value: object) -> Tensor:
    """Return the loss; that it is not finite is an answer, far from the weights."""
    if not isinstance(value, Tensor):
        got = type(value).__name__
        raise ThalwegError(f"loss must be a tensor of one number, got {got}: leave out .item()")
    if value.numel() == 1 and not bool(value.isfinite()):
        return value
    return taken(value)


def _cut(batch: Any, start: int, m: int, total: int) -> Any:
    """Return some examples of a batch: of every tensor that has one entry for each."""

    def cut(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == total
        return leaf[start : start + m] if whole else leaf

    return torch.utils._pytree.tree_map(cut, batch)
