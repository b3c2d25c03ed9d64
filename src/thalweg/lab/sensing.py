"""Matrix sensing: a low-rank matrix is recovered from a few of its inner products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, number, whole
from thalweg.lab.groups import Groups
from thalweg.lab.problems import Params, Problem


class Instance(NamedTuple):
    """What a seed draws: the measurements A (m, d, d), symmetric, and the truth X (d, d)."""

    a: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Measurements:
    """What all the cells of a grid are measured with: S seeds, K cells each at most.

    A symmetric matrix has h = d(d+1)/2 entries of its own. They alone enter the products.

    Attributes:
        groups: Which cells have which seed.
        down: The upper triangles of the A, entries off the diagonal doubled, (S, h, m).
        up: The upper triangles of the A, over m, (S, m, h).
        b: The inner products of the A and the truth, (S, 1, m).
        trace: The traces of the A, over m, (S, m, 1).
        square: The mean of A², (S, d, d).
        truth: X, (S, d, d).
        pick: Where the upper triangles of the cells lie in the flattened (B, d, d).
        put: Where the entries of (B, d, d) lie in the flattened (S, K, h).
    """

    groups: Groups
    down: Tensor
    up: Tensor
    b: Tensor
    trace: Tensor
    square: Tensor
    truth: Tensor
    pick: Tensor
    put: Tensor

    def residual(self, product: Tensor) -> Tensor:
        """Return ⟨A_i, M⟩ − b_i of M = UUᵀ, (B, d, d); (S, K, m), with copies where K is less."""
        upper = product.reshape(-1).index_select(0, self.pick)
        upper = upper.view(len(self.b), -1, self.down.shape[1])
        return torch.baddbmm(self.b, upper, self.down, beta=-1)

    def pull(self, residual: Tensor) -> Tensor:
        """Return the entries of G = Σ r_i A_i / m, (B d d)."""
        return (residual @ self.up).view(-1).index_select(0, self.put)

    def by_cell(self, value: Tensor) -> Tensor:
        """Return by cell, (B, ...), what is (S, K, ...)."""
        return value.flatten(0, 1)[self.groups.slots]

    def shared(self, value: Tensor) -> Tensor:
        """Return by cell, (B, ...), what is (S, ...)."""
        return value[self.groups.slots // self.groups.cells.shape[1]]


class MatrixSensing(Problem):
    r"""Matrix sensing: :math:`L(U) = \frac{1}{4m} \sum_i (\langle A_i, UU^\top\rangle - b_i)^2`.

    U is d × d, so many more matrices fit the measurements than the low-rank truth X that made
    them, :math:`b_i = \langle A_i, X\rangle`: the minima form a manifold, with the truth on it.
    The loss is of fourth degree: no number bounds its curvature everywhere.

    The seed of a cell decides the measurements (symmetrized Gaussian matrices, variance 1 on the
    diagonal and ½ off it), the truth (VVᵀ, V d × rank of variance 1/d) and the start (U of
    variance 1/d).

    Args:
        d: Rows of U.
        rank: Rank of the truth.
        measurements: How many, m.
        starts: Where seed k starts, (seeds, d, d), if not where it draws.
        noise: Standard deviation of the noise that is added to ``starts``, entry by entry.

    Raises:
        ThalwegError: If a number is out of range, or the starts are not numbers of that shape; in
            ``start``, if a seed has none.

    Example:
        >>> from thalweg.lab import simulate
        >>> problem = MatrixSensing(d=6, rank=1, measurements=12)
        >>> run = simulate(problem, eta=0.05, rho=[0.0, 0.1], steps=2000)
        >>> bool(run.observed["trace"][1] < run.observed["trace"][0])  # SAM ends flatter
        True
    """

    elementwise = False
    quantities: tuple[str, ...] = ("trace", "test_error", "moved")

    def __init__(
        self,
        d: int = 20,
        rank: int = 2,
        measurements: int = 100,
        starts: Any = None,
        noise: float = 0.0,
    ) -> None:
        self.d = whole("d", d, at_least=1)
        self.rank = whole("rank", rank, at_least=1)
        self.m = whole("measurements", measurements, at_least=1)
        self.noise = number("noise", noise, at_least=0)
        if self.rank > self.d:
            raise ThalwegError(
                f"rank must be at most d={d}, got {rank}: no matrix has a larger one"
            )
        self.starts = None
        if starts is not None:
            try:
                self.starts = np.array(starts, dtype=float)
            except (TypeError, ValueError):
                self.starts = np.array(np.nan)
            if self.starts.shape[1:] != (d, d) or not np.isfinite(self.starts).all():
                raise ThalwegError(
                    f"starts must be finite numbers of shape (seeds, {d}, {d}), got "
                    f"{np.shape(starts)}: one start for every seed"
                )

    def instance(self, seed: int) -> Instance:
        """Return the measurements and the truth that a seed draws."""
        return _instance(self.d, self.rank, self.m, seed)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"U": (B, d, d)}``."""
        drawn = {s: self._start(s) for s in set(seeds.tolist())}
        empty = torch.empty(0, self.d, self.d, dtype=self.dtype)
        u = torch.stack([drawn[s] for s in seeds.tolist()]) if len(seeds) else empty
        return {"U": u.to(seeds.device)}

    def _start(self, seed: int) -> Tensor:
        draw = np.random.default_rng([seed, 1]).standard_normal((self.d, self.d))
        if self.starts is None:
            return torch.tensor(draw / self.d**0.5)
        if seed >= len(self.starts):
            raise ThalwegError(
                f"seed must be the number of a start, from 0 to {len(self.starts) - 1}, got "
                f"{seed}: give MatrixSensing more starts"
            )
        return torch.tensor(self.starts[seed] + self.noise * draw)

    def stream(self, seeds: Tensor) -> Callable[[int], Measurements]:
        """Return a function from the step to the measurements, the same at every step."""
        batch = self.measure(seeds)
        return lambda step: batch

    def measure(self, seeds: Tensor) -> Measurements:
        """Return the measurements of the cells of these seeds, (B,)."""
        return _measure(self.d, self.rank, self.m, tuple(seeds.tolist()), str(seeds.device))

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the loss, (B,), for a batch that :meth:`measure` gave."""
        residual = batch.residual(params["U"] @ params["U"].mT)
        total: Tensor = batch.by_cell(residual.square().sum(-1))
        return total / (4 * self.m)

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return GU with G = Σ r_i A_i / m, r_i = ⟨A_i, UUᵀ⟩ − b_i."""
        u = params["U"]
        return {"U": batch.pull(batch.residual(u @ u.mT)).view_as(u) @ u}

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss, (B,)."""
        return self.loss(params, self.measure(seeds))

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the Hessian's trace, ‖UUᵀ − X‖², and how far U is from its start."""
        u, batch = params["U"], self.measure(seeds)
        product = u @ u.mT
        curved = batch.by_cell(batch.residual(product) @ batch.trace)[:, 0]
        return {
            "trace": 2 * (batch.shared(batch.square) * product).sum((1, 2)) + self.d * curved,
            "test_error": (product - batch.shared(batch.truth)).square().sum((1, 2)),
            "moved": (u - self.start(seeds)["U"]).square().sum((1, 2)).sqrt(),
        }

    def hessian(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the Hessian of every cell, rows of U in a row, (B, d², d²)."""
        found = []
        for u, seed in zip(params["U"], seeds.tolist(), strict=True):
            a, truth = (t.to(u.device) for t in self.instance(seed))
            pull = torch.einsum("i,ijk->jk", (a * (u @ u.T - truth)).sum((1, 2)), a) / self.m
            slopes = (a @ u).flatten(1)
            curved = torch.kron(pull, torch.eye(self.d, dtype=u.dtype, device=u.device))
            found.append(2 / self.m * slopes.T @ slopes + curved)
        return torch.stack(found)


@functools.lru_cache(maxsize=64)
def _instance(d: int, rank: int, m: int, seed: int) -> Instance:
    draw = np.random.default_rng([seed, 0])
    a = torch.tensor(draw.standard_normal((m, d, d)))
    v = torch.tensor(draw.standard_normal((d, rank)) / d**0.5)
    return Instance((a + a.mT) / 2, v @ v.T)


@functools.lru_cache(maxsize=4)
def _measure(d: int, rank: int, m: int, seeds: tuple[int, ...], device: str) -> Measurements:
    groups = Groups.of(torch.tensor(seeds, device=device))
    own = torch.triu_indices(d, d, device=device)
    column = torch.empty(d, d, dtype=torch.long, device=device)
    column[own[0], own[1]] = column[own[1], own[0]] = torch.arange(own.shape[1], device=device)
    drawn = [_instance(d, rank, m, s) for s in groups.seeds.tolist()]
    a, truth = (torch.stack(parts).to(device) for parts in zip(*drawn, strict=True))
    upper = a[:, :, own[0], own[1]]
    return Measurements(
        groups,
        down=(upper * torch.where(own[0] == own[1], 1.0, 2.0)).mT.contiguous(),
        up=upper / m,
        b=(a * truth[:, None]).sum((2, 3))[:, None, :],
        trace=a.diagonal(dim1=2, dim2=3).sum(-1, keepdim=True) / m,
        square=(a @ a).mean(1),
        truth=truth,
        pick=groups.entries(own[0] * d + own[1], d * d),
        put=groups.back(column.flatten(), own.shape[1]),
    )
