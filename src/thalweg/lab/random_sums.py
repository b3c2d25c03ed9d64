"""Random losses whose curvatures stay within a bound, one for each seed, convex or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.lab.problems import Params, Problem


class Terms(NamedTuple):
    """The terms of random sums: M of them in D dimensions, for B cells.

    Attributes:
        along: Directions u, (B, M, D).
        at: Offsets b, (B, M).
        bend: What the argument is multiplied by, k, (B, M).
        weight: Second derivatives c of the terms at their offsets, (B, M).
    """

    along: Tensor
    at: Tensor
    bend: Tensor
    weight: Tensor


class RandomSums(Problem):
    r"""A loss that the seed draws, with curvatures of at most beta.

    .. math:: L(w) = \tfrac12\alpha\lVert w\rVert^2
        + \sum_j \frac{c_j}{k_j^2}\, \varphi\bigl(k_j (u_j \cdot w - b_j)\bigr)

    with :math:`\varphi` = log cosh, which is convex, or cos, which is not. Directions and offsets
    are normal, the k are log-normal, the c one number. The c are such that no eigenvalue of the
    Hessian is above beta; with log cosh none is below alpha. The offsets of log cosh belong to
    one point, at which the top eigenvalue *is* beta; far away in most directions the Hessian
    tends to alpha. The start is normal, with a log-normal size.

    Args:
        link: ``"log_cosh"`` or ``"cos"``.
        alpha: Curvature of the bowl, at least 0.
        beta: The largest curvature, above alpha.
        dimension: D.
        terms: How many terms.

    Raises:
        ThalwegError: If an argument is out of range.

    Example:
        >>> from thalweg.lab import simulate
        >>> run = simulate(RandomSums("cos"), eta=0.5, seed=[0, 1], steps=50)
        >>> run.observed["grad_norm"].shape
        (2,)
    """

    elementwise = False
    quantities: tuple[str, ...] = ("loss", "grad_norm")

    def __init__(
        self,
        link: Literal["log_cosh", "cos"] = "log_cosh",
        alpha: float = 0.0,
        beta: float = 1.0,
        dimension: int = 2,
        terms: int = 3,
    ) -> None:
        if link not in ("log_cosh", "cos"):
            raise ThalwegError(f'link must be "log_cosh" or "cos", got {brief(link)}')
        self.link = link
        self.alpha = number("alpha", alpha, at_least=0)
        self.beta = number("beta", beta, above=self.alpha)
        self.dimension = whole("dimension", dimension, at_least=1)
        self.count = whole("terms", terms, at_least=1)
        self._latest: tuple[Tensor, Terms] | None = None

    def terms(self, seeds: Tensor) -> Terms:
        """Return the terms of every cell's loss.

        Args:
            seeds: Seeds, (B,).

        Returns:
            The terms.
        """
        if self._latest is not None and self._latest[0] is seeds:
            return self._latest[1]
        m, d = self.count, self.dimension
        z = normal_rows(seeds, m * (d + 3) + d, key=0)
        along, size, bend, at, centre = torch.split(z, [m * d, m, m, m, d], dim=1)
        along = along.reshape(-1, m, d) * size.exp().unsqueeze(-1)
        convex = self.link == "log_cosh"
        at = _dot(along, centre) if convex else 3 * at
        bend = (2 * bend).exp() if convex else torch.ones_like(bend)
        # No combination of the terms bends more than all of them at full weight.
        top = torch.linalg.eigvalsh(along.mT @ along)[:, -1:]
        weight = ((self.beta - self.alpha) / top).expand(-1, m)
        terms = Terms(*(t.to(seeds.device, self.dtype) for t in (along, at, bend, weight)))
        self._latest = seeds, terms
        return terms

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        z = normal_rows(seeds, self.dimension + 1, key=1).to(seeds.device, self.dtype)
        return {"w": z[:, :-1] * z[:, -1:].exp()}

    def stream(self, seeds: Tensor) -> Callable[[int], Terms]:
        """Return the terms of every cell: the same at every step."""
        terms = self.terms(seeds)
        return lambda step: terms

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the loss of every cell, (B,)."""
        w, (along, at, bend, weight) = params["w"], batch
        z = bend * (_dot(along, w) - at)
        value = z.cos() if self.link == "cos" else _log_cosh(z)
        total: Tensor = (weight / bend**2 * value).sum(-1) + self.alpha * (w * w).sum(-1) / 2
        return total

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return αw + Σ (c/k) φ'(k (u·w - b)) u."""
        w, (along, at, bend, weight) = params["w"], batch
        z = bend * (_dot(along, w) - at)
        slope = -z.sin() if self.link == "cos" else z.tanh()
        slope = weight / bend * slope
        return {"w": torch.bmm(slope.unsqueeze(-2), along).squeeze(-2) + self.alpha * w}

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss, (B,)."""
        return self.loss(params, self.terms(seeds))

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss and the length of its gradient."""
        terms = self.terms(seeds)
        g = self.gradient(params, terms)["w"]
        return {
            "loss": self.loss(params, terms),
            "grad_norm": torch.linalg.vector_norm(g, dim=-1),
        }


def _log_cosh(z: Tensor) -> Tensor:
    """Log cosh to the last digits near 0, too: where k is small, 1/k² makes much of them."""
    near, size = z.clamp(-1, 1), z.abs()
    far = size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
    return torch.where(size < 1, torch.log1p(2 * torch.sinh(near / 2) ** 2), far)


def _dot(along: Tensor, w: Tensor) -> Tensor:
    """Products of every direction with the point, (B, M)."""
    return torch.bmm(along, w.unsqueeze(-1)).squeeze(-1)


def normal_rows(seeds: Tensor, columns: int, key: int) -> Tensor:
    """Return a row of normal numbers for every seed.

    Args:
        seeds: Seeds, (B,); memory goes with the largest.
        columns: How many numbers for each.
        key: Other keys give other numbers.

    Returns:
        The numbers, (B, columns), float64, on the CPU: the same for a seed whatever the others.
    """
    rows = int(seeds.max()) + 1 if len(seeds) else 1
    table = np.random.default_rng(key).standard_normal((rows, columns))
    return torch.tensor(table)[seeds.cpu()]
