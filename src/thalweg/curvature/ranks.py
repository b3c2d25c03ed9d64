"""The ranks of DistributedDataParallel in a sample: all of them take it, or none does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg.curvature.product import Product, flat
from thalweg.errors import ThalwegError
from thalweg.modules import distributed, uncompiled


class ElsewhereError(ThalwegError):
    """What this rank does went well; on another rank it did not."""


class Ranks:
    """What the ranks of a model ask each other; one that is alone has nobody to ask.

    Within :meth:`together` every exchange begins with one number: whether all are still well. A
    rank on which something fails gives that number in the place of its next exchange, whichever it
    is, and no other rank waits for it in vain.

    Args:
        model: Within DistributedDataParallel, or not.

    Attributes:
        alone: Whether there are no other ranks.
        writes: Whether this rank is the first one.

    Example:
        >>> ranks = Ranks(nn.Linear(1, 1))
        >>> ranks.alone, ranks.writes, ranks.some(True)
        (True, True, True)
    """

    def __init__(self, model: nn.Module) -> None:
        whole = distributed(model)
        self.alone = whole is None
        self._group: Any = None if whole is None else whole.process_group
        self.writes = self.alone or torch.distributed.get_rank(self._group) == 0
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let the block fail on all ranks where it fails on one; the exchanges are within it.

        Raises:
            ElsewhereError: Where it failed on another rank: at the next exchange, or at the end of
                the block. Where it failed on this one, its own error.
        """
        try:
            yield
            self._agree()
        except ElsewhereError:
            raise
        except Exception:
            self._sum(1.0)
            raise

    def some(self, here: bool) -> bool:
        """Return whether something is so on some rank.

        Args:
            here: Whether it is on this one.
        """
        self._agree()
        return self._sum(float(here)) > 0

    def mean(self, vector: Tensor) -> Tensor:
        """Return the mean over the ranks, the same bits on each.

        Args:
            vector: Of the same shape on every rank.
        """
        if self.alone:
            return vector
        total = vector.detach().clone()
        self._agree()
        torch.distributed.all_reduce(total, group=self._group)
        return total / torch.distributed.get_world_size(self._group)

    def shared(self, own: Product) -> Product:
        """Return the product with the mean of the ranks' matrices.

        Args:
            own: That of this rank, which must not exchange anything by itself.
        """
        return own if self.alone else _Shared(own, self)

    def _agree(self) -> None:
        if failed := self._sum(0.0):
            ranks = torch.distributed.get_world_size(self._group)
            raise ElsewhereError(
                f"a sample must be taken on all {ranks} ranks alike, and on {failed:g} of them it "
                "could not be: see what they tell"
            )

    def _sum(self, value: float) -> float:
        if self.alone:
            return value
        total = torch.tensor(value, device=self._device)
        torch.distributed.all_reduce(total, group=self._group)
        return float(total)


class _Shared(Product):
    """A product that is averaged over ranks; its loss and gradient likewise."""

    def __init__(self, own: Product, ranks: Ranks) -> None:
        super().__init__(own.parameters)
        self._own, self._ranks = own, ranks
        loss = torch.tensor(own.loss, dtype=torch.float64, device=own.gradient[0].device)
        self.loss = float(ranks.mean(loss))
        self.gradient = self._mean(own.gradient)

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        return self._mean(self._own(vector))

    def _mean(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return self.like(self._ranks.mean(flat(parts)))


class _Bare(nn.Module):
    """DistributedDataParallel without its exchanges, of which a forward may hold some."""

    def __init__(self, wrapped: DistributedDataParallel) -> None:
        super().__init__()
        self.module = uncompiled(wrapped.module)
        self.training = wrapped.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named)


def bare(model: nn.Module) -> nn.Module:
    """Return a model whose forward exchanges nothing with other ranks.

    Args:
        model: Anything. Of DistributedDataParallel, the model within comes back, with the same
            parameters, in a wrapper that has it as its ``module``, as a loss may ask for.
    """
    whole = distributed(model)
    return model if whole is None else _Bare(whole)
