"""The gradients of a step: those that were there before, the one here (g), the one uphill (h)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.cut import Pieces


def kept(gradient: Tensor) -> Tensor:
    """Return a gradient that outlives the next backward pass.

    Args:
        gradient: The ``.grad`` of a parameter. A view lies in somebody else's storage, such as a
            bucket of DistributedDataParallel, which the next backward pass overwrites.

    Returns:
        The gradient itself; of a view, a copy.

    Example:
        >>> bucket = torch.zeros(4)
        >>> kept(bucket) is bucket, kept(bucket[:2]).untyped_storage().nbytes()
        (True, 8)
    """
    return gradient.clone() if gradient._is_view() else gradient


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor that parts of a method can reckon with: a sparse one is made dense.

    Args:
        tensor: Any tensor.

    Example:
        >>> dense(torch.eye(2).to_sparse())
        tensor([[1., 0.],
                [0., 1.]])
    """
    return tensor.to_dense() if tensor.is_sparse else tensor


class Aside:
    """Sets gradients aside, so that the ascent gradient is taken alone, and brings them back.

    Args:
        parameters: Whose ``.grad``; it is ``None`` afterwards.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._old = [p.grad for p in parameters]
        for i, old in enumerate(self._old):
            if old is not None:
                if old._is_view():  # nearly none is
                    self._old[i] = kept(old)
                parameters[i].grad = None

    def clear(self) -> None:
        """Drop what came since."""
        for p in self._parameters:
            p.grad = None

    def put_back(self) -> None:
        """Bring the old gradients back as they were; what came since is dropped."""
        for p, old in zip(self._parameters, self._old, strict=True):
            p.grad = old
        self._parameters, self._old = [], []

    @torch.no_grad()
    def merge(self) -> None:
        """Bring the old gradients back and add what came since, as one ``backward()`` would."""
        for p, old in zip(self._parameters, self._old, strict=True):
            if old is not None:
                new = p.grad
                if new is None:
                    p.grad = old
                else:  # torch adds sparse to dense, not dense to sparse
                    p.grad = new + old if old.is_sparse else old.add_(new)
        self._parameters, self._old = [], []


class Both:
    """Tells g and h apart, for methods and telemetry that need both.

    The descent pass accumulates into the ``.grad`` that is there, as ``backward()`` does, so that
    a ``zero_grad()`` in the middle of it is honoured; h is what it added.

    Args:
        parameters: Their ``.grad`` is g now.
        here: Whether there is a g; else h alone is told apart from what was there before.
    """

    def __init__(self, parameters: Sequence[Tensor], *, here: bool = True) -> None:
        self._all = [(p, kept(p.grad) if here and p.grad is not None else None) for p in parameters]
        self._needs_here = here
        self._before: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._versions: dict[Tensor, int] = {}
        self._hooks: list[Any] = []

    def remember(self) -> None:
        """Remember what ``.grad`` holds before the descent pass adds to it.

        A ``zero_grad()`` that fills with zeros leaves the same tensor there: it is seen when the
        first gradient arrives. Call :meth:`forget` at the end of the pass.
        """
        for p, _ in self._all:
            if p.grad is not None:
                self._before[p] = (p.grad, p.grad.clone())
                self._versions[p] = p.grad._version
                arrive = functools.partial(self._arrive, p)
                self._hooks.append(p.register_hook(arrive))  # type: ignore[no-untyped-call]

    def _arrive(self, p: Tensor, gradient: Tensor) -> None:
        """Remember anew what the first gradient of the pass is added to, where that was changed."""
        there, copy = self._before[p]
        version = self._versions.pop(p, None)
        if version is not None and there is p.grad and there._version != version:
            copy.copy_(there)

    def forget(self) -> None:
        """Listen no longer for gradients that arrive."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that have both gradients."""
        needed = self._needs_here
        return [p for p, g in self._all if p.grad is not None and not (needed and g is None)]

    @property
    def here(self) -> list[Tensor]:
        """The ascent gradient g, one for each of ``parameters``; none where none was taken."""
        return [g for p, g in self._all if p.grad is not None and g is not None]

    @property
    def uphill(self) -> list[Tensor]:
        """The descent gradient h, one tensor for each of ``parameters``."""
        held = self.parameters
        if not self._before:  # nearly always
            return [p.grad for p in held if p.grad is not None]
        return [self._added(p) for p in held]

    def _added(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        old = self.old(p)
        return p.grad if old is None else p.grad - old

    def old(self, p: Tensor) -> Tensor | None:
        """What the descent pass added to; ``None`` if there was nothing, or it was cleared."""
        there, copy = self._before.get(p, (None, None))
        return copy if there is p.grad else None

    def aside(self) -> Aside:
        """Leave what a pass added alone in ``.grad``, and set aside what was there before."""
        self.forget()
        added = dict(zip(self.parameters, self.uphill, strict=True))
        for p in added:
            p.grad = self.old(p)
        held = Aside([p for p, _ in self._all])
        for p, g in added.items():
            p.grad = g
        return held

    @torch.no_grad()
    def average(self, others: dict[Tensor, Tensor], count: int) -> None:
        """Put the mean of h and of the gradients of earlier passes in the place of h.

        Args:
            others: What those add to the mean of a parameter; none where it had none.
            count: Of how many passes.
        """
        for p, _ in self._all:
            if p.grad is not None:
                h = self._added(p) / count
                self._put(p, others[p] + h if p in others else h)
            elif p in others:
                p.grad = others[p]

    @torch.no_grad()
    def write(self, combined: Sequence[Tensor]) -> None:
        """Put what a method made of g and h in the place of h.

        Args:
            combined: One tensor for each of ``parameters``.
        """
        held = self.parameters
        if type(combined) is Pieces and not any(map(self._before.__contains__, held)):
            there = [p.grad for p in held if p.grad is not None]
            if not any(g.is_sparse for g in there):
                for some, made in combined.pairs(there):
                    torch._foreach_copy_(some, made)
                return
        for p, u in zip(held, list(combined), strict=True):
            self._put(p, u)

    def _put(self, p: Tensor, u: Tensor) -> None:
        old = self.old(p)
        assert p.grad is not None
        if old is not None:
            u = u + old if old.is_sparse else old + u  # torch adds sparse to dense only
        if p.grad.is_sparse and not u.is_sparse:
            u = u.to_sparse(p.grad.sparse_dim())
        p.grad.copy_(u)
