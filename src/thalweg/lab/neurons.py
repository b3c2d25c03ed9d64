"""Threshold neurons: one bias, learned or not, decides what a small network hears."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import number, whole
from thalweg.lab.groups import Groups
from thalweg.lab.problems import Params, Problem


@dataclass(frozen=True)
class Examples:
    """The examples of all the cells of a grid: S seeds, n examples, d coordinates each.

    The two sums over coordinates are piecewise linear in the bias. With the coordinates sorted,
    how many of them count is found by bisection, and their sum is a difference of partial sums.

    Attributes:
        groups: Which cells have which seed.
        x: The coordinates of every example, rising, (S, n, d).
        partial: The sums of the first 0 to d of them, (S, n, d + 1).
        labels: −1 or 1, (S, n, 1).
    """

    groups: Groups
    x: Tensor
    partial: Tensor
    labels: Tensor

    def sums(self, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Σ relu(−x+b), Σ relu(x+b) and how many terms of each are not 0, (S, n, K)."""
        d = self.x.shape[2]
        b = bias[self.groups.cells][:, None, :]
        each = b.detach().expand(-1, self.x.shape[1], -1).contiguous()
        below = torch.searchsorted(self.x, each)
        upto = torch.searchsorted(self.x, -each, right=True)
        minus = below * b - self.partial.gather(2, below)
        plus = self.partial[:, :, d:] - self.partial.gather(2, upto) + (d - upto) * b
        return minus, plus, below, d - upto


class ThresholdNeurons(Problem):
    r"""Two threshold neurons on sparse data, their outputs a⁻ and a⁺, one bias b for both.

    .. math:: f(x) = a^- \sum_i \mathrm{relu}(-x_i + b) + a^+ \sum_i \mathrm{relu}(x_i + b)

    with the logistic loss. An example is its label, times ``signal``, in one of d coordinates, and
    Gaussian noise of variance 1 in all of them. A negative bias silences the noise.

    The seed of a cell decides the examples and the start: a± of variance 1/(2d), b = 0.

    Args:
        d: Coordinates.
        examples: How many, n.
        signal: Size of the signal.

    Raises:
        ThalwegError: If a number is out of range.

    Example:
        >>> neurons = ThresholdNeurons(d=10, examples=50)
        >>> params = neurons.start(torch.tensor([0, 1]))
        >>> {name: tuple(value.shape) for name, value in params.items()}
        {'a': (2, 2), 'b': (2,)}
    """

    elementwise = False
    quantities: tuple[str, ...] = ("bias", "sum")

    def __init__(self, d: int = 100, examples: int = 200, signal: float = 3.0) -> None:
        self.d = whole("d", d, at_least=1)
        self.n = whole("examples", examples, at_least=1)
        self.signal = number("signal", signal)

    def drawn(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the examples (n, d) and the labels (n,) of a seed."""
        return _drawn(self.d, self.n, self.signal, seed)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"a": (B, 2), "b": (B,)}``, a⁻ before a⁺."""
        a = [np.random.default_rng([s, 1]).standard_normal(2) for s in seeds.tolist()]
        scaled = torch.tensor(np.array(a).reshape(-1, 2) / (2 * self.d) ** 0.5)
        b = torch.zeros(len(seeds), dtype=self.dtype)
        return {"a": scaled.to(seeds.device), "b": b.to(seeds.device)}

    def stream(self, seeds: Tensor) -> Callable[[int], Examples]:
        """Return a function from the step to the examples, all of them at every step."""
        batch = self.examples(seeds)
        return lambda step: batch

    def examples(self, seeds: Tensor) -> Examples:
        """Return the examples of the cells of these seeds, (B,)."""
        groups = Groups.of(seeds)
        drawn = [self.drawn(s) for s in groups.seeds.tolist()]
        x = torch.stack([x for x, _ in drawn]).sort(dim=-1).values.to(seeds.device)
        labels = torch.stack([y for _, y in drawn])[..., None].to(seeds.device)
        partial = torch.nn.functional.pad(x.cumsum(-1), (1, 0))
        return Examples(groups, x, partial, labels)

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean logistic loss, (B,), for a batch that :meth:`examples` gave."""
        minus, plus, _, _ = batch.sums(params["b"])
        a = params["a"][batch.groups.cells][:, None]
        margin = batch.labels * (a[..., 0] * minus + a[..., 1] * plus)
        each = torch.nn.functional.softplus(-margin, threshold=700).mean(1)
        return each.flatten()[batch.groups.slots]

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the means of −yσ(−yf) times the sums, and times a⁻ and a⁺ by their counts."""
        minus, plus, fewer, more = batch.sums(params["b"])
        a = params["a"][batch.groups.cells][:, None]
        y = batch.labels
        slope = torch.sigmoid(-y * (a[..., 0] * minus + a[..., 1] * plus)) * -y
        terms = (slope * minus, slope * plus, slope * (a[..., 0] * fewer + a[..., 1] * more))
        means = torch.stack([t.mean(1) for t in terms], dim=-1).flatten(0, 1)[batch.groups.slots]
        return {"a": means[:, :2], "b": means[:, 2]}

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss, (B,)."""
        return self.loss(params, self.examples(seeds))

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the bias b, and a⁻ + a⁺, which swings above the threshold."""
        return {"bias": params["b"], "sum": params["a"].sum(1)}

    def threshold(self, seed: int) -> float:
        """Return 2/λ of the Hessian at a = 0, b = 0 for a seed's own examples."""
        x, _ = self.drawn(seed)
        each = torch.stack([torch.relu(-x).sum(1), torch.relu(x).sum(1)], dim=1)
        return 2 / float(torch.linalg.eigvalsh(each.T @ each / (4 * self.n))[-1])


@functools.lru_cache(maxsize=64)
def _drawn(d: int, n: int, signal: float, seed: int) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng([seed, 0])
    y = draw.choice([-1.0, 1.0], n)
    x = draw.standard_normal((n, d))
    x[np.arange(n), draw.integers(d, size=n)] += signal * y
    return torch.tensor(x), torch.tensor(y)
