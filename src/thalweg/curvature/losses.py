"""A model's mean loss and gradient over batches, at its weights and at moved ones."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import replay
from thalweg.curvature.graphs import double_backward, taken
from thalweg.curvature.measure import LossOf, examples, frozen, numbers_of, turned
from thalweg.curvature.product import Product, averaged
from thalweg.errors import ThalwegError
from thalweg.hold import Weights


class Losses:
    """The mean loss over all examples of all batches, wherever the weights are moved.

    The model is :func:`frozen` in every pass over the batches, and every pass sees the same random
    numbers, so that two losses differ by the move alone. ``.grad`` is not touched. The forward is
    the same whether a gradient is wanted or not: other kernels would round otherwise.

    Args:
        model: The model. Within DistributedDataParallel the mean is over all ranks.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batches: Gone through once for every loss.
        parameters: Which are moved; all that require a gradient unless told otherwise.
        training: The mode; see :func:`frozen`.
        dtype: Measure a copy of the model in this dtype.

    Attributes:
        model: The model, or the copy of it.
        parameters: The tensors that are moved.
        evaluations: How many losses were taken, with or without a gradient.

    Raises:
        ThalwegError: If batches cannot be gone through again, or parameters do not fit.

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
    ) -> None:
        model = getattr(model, "_orig_mod", model)
        if not isinstance(model, nn.Module) or not callable(loss_of):
            raise ThalwegError(
                f"model and loss_of must be a module and a function of a model and a batch, got "
                f"{type(model).__name__} and {type(loss_of).__name__}"
            )
        if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
            raise ThalwegError(
                "batches must be something to go through again for every loss, got "
                f"{type(batches).__name__}: pass a list of batches, or a loader that does not "
                "shuffle"
            )
        own = list(model.parameters())
        chosen = set(own if parameters is None else parameters)
        places = [i for i, p in enumerate(own) if p in chosen and p.requires_grad]
        if not chosen <= set(own):
            raise ThalwegError(
                "parameters must be parameters of the model, got others: pass some of "
                "model.parameters()"
            )
        self._loss_of = loss_of
        if dtype is not None:
            model = copy.deepcopy(model).to(dtype)
            own = list(model.parameters())
            self._loss_of = lambda model, batch: loss_of(model, turned(batch, dtype))
        distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        self._group: Any = model.process_group if distributed else None
        self._quiet: Callable[[], Any] = contextlib.nullcontext
        if isinstance(model, nn.parallel.DistributedDataParallel):
            self._quiet = model.no_sync
        self.model, self._batches, self._training = model, batches, training
        self.parameters = Product([own[i] for i in places]).parameters
        self.evaluations = 0
        self._weights = Weights(model)

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

    def of(self, batch: Any) -> Losses:
        """Return the losses of one batch alone, on this rank alone.

        Args:
            batch: The batch.
        """
        alone = copy.copy(self)
        alone._batches, alone._group, alone.evaluations = [batch], None, 0
        return alone

    def groups(self, m: int) -> Iterator[tuple[Losses, int]]:
        """Cut every batch into groups of m examples; what is left of one is a smaller group.

        Args:
            m: Examples in a group.

        Yields:
            The losses of the group, and how many examples it holds.
        """
        before = self._numbers()
        for done, batch in enumerate(self._batches):
            if not done:
                before.put_back()  # loaders draw, too
            total = examples(batch)
            for start in range(0, total, m):
                yield self.of(_cut(batch, start, m, total)), min(m, total - start)

    def unnoticed(self) -> contextlib.AbstractContextManager[None]:
        """Let a block leave no trace in modes, buffers and torch's random numbers."""
        return frozen(self.model, self._training)

    def over_ranks(self, values: Sequence[float]) -> list[float]:
        """Return numbers averaged over the ranks, where there are some.

        Args:
            values: As many on every rank.
        """
        like = self.parameters[0].device
        found = torch.tensor(values, dtype=torch.float64, device=like)
        mean: list[float] = averaged([found], self._group)[0].tolist()
        return mean

    def _taken(self, *, gradient: bool) -> tuple[float, list[Tensor]]:
        self.evaluations += 1
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        slopes = [torch.zeros_like(p) for p in self.parameters] if gradient else []
        before, seen = self._numbers(), 0
        with self.unnoticed(), self._quiet():
            for batch in self._batches:
                if not seen:
                    before.put_back()  # as for groups
                with double_backward():
                    value = _one_number(self._loss_of(self.model, batch))
                count = examples(batch)
                if gradient and value.requires_grad:
                    parts = torch.autograd.grad(value, self.parameters, materialize_grads=True)
                    slopes = [s + part * count for s, part in zip(slopes, parts, strict=True)]
                total = total + value.detach().double().reshape(()) * count
                seen += count
        if not seen:
            raise ThalwegError("batches must hold at least one batch, got none")
        total, *slopes = averaged([total / seen, *(s / seen for s in slopes)], self._group)
        return float(total), slopes

    def _numbers(self) -> replay.RandomState:
        return numbers_of(self.parameters)


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
