"""m-SAM: every micro-batch of a step looks uphill for itself. Two problems to measure it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import number, whole
from thalweg.lab import data
from thalweg.lab.digits import Digits
from thalweg.lab.problems import Params, Problem


class MicroDigits(Digits):
    r"""The digits, with every minibatch cut into micro-batches that look uphill for themselves.

    Also observed is the noise scale :math:`B = \mathrm{tr}\,\Sigma / \lVert\bar g\rVert^2` of the
    training set, in images: :math:`\bar g` is the mean and :math:`\Sigma` the covariance of one
    image's gradient.

    Args:
        micro: Images per micro-batch; divides the batch size for equal weights.
        **task: The arguments of :class:`Digits`.

    Raises:
        ThalwegError: If a number is out of range, or micro is none.

    Example:
        >>> task = MicroDigits(micro=16, n_train=200, batch_size=64, width=8)
        >>> len(task.stream(torch.tensor([0]))(0))
        4
    """

    quantities: tuple[str, ...] = (*Digits.quantities, "noise_scale")

    def __init__(self, micro: int, **task: Any) -> None:
        super().__init__(**task)
        self.micro = whole("micro", micro, at_least=1)

    def stream(self, seeds: Tensor) -> Callable[[int], Any]:
        """Return the function from step to its list of micro-batches."""
        whole_batch = super().stream(seeds)

        def batch(step: int) -> list[tuple[Tensor, Tensor]]:
            images, labels = whole_batch(step)
            parts = (torch.split(all_of_it, self.micro, 1) for all_of_it in (images, labels))
            return [*zip(*parts, strict=True)]

        return batch

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the accuracies, and the noise scale on the training set, each (B,)."""
        scale = self._per_seed(params, seeds, self._noise_scale)
        return {**super().observe(params, seeds), "noise_scale": scale}

    def _noise_scale(self, params: Params, split: data.Split) -> Tensor:
        x, labels = self._images(params, split.train), self._labels(params, split)
        mean = self.gradient(params, (x, labels))
        hidden = torch.relu(torch.baddbmm(params["bias1"], x, params["weight1"]))
        logits = torch.baddbmm(params["bias2"], hidden, params["weight2"])
        true = torch.zeros_like(logits).scatter(-1, labels.unsqueeze(-1), 1.0)
        error = self.loss_scale * (torch.softmax(logits, -1) - true)
        below = torch.bmm(error, params["weight2"].mT) * (hidden > 0)
        # One image's gradient of a matrix is an outer product; a bias is a weight of an input 1.
        squares = _square(below) * (1 + _square(x)) + _square(error) * (1 + _square(hidden))
        return squares.mean(-1) / sum(_square(g.flatten(1)) for g in mean.values()) - 1


class NoisyLogistic(Problem):
    r"""Logistic regression, of whose micro-batches the mean force on the weights is known.

    Inputs are Gaussian in ``dimension`` dimensions, labels follow a hidden direction with noise.
    The start is where gradient descent from 0 first finds a noise scale of at least
    ``noise_scale``. Every seed draws its own micro-batch of ``micro`` examples, with replacement.

    Args:
        micro: Examples per micro-batch.
        examples: Examples altogether.
        dimension: Numbers per example.
        noise_scale: The noise scale B at the start, in examples, that is not fallen short of.

    Raises:
        ThalwegError: If a number is out of range.

    Example:
        >>> round(NoisyLogistic(micro=4).noise_scale)
        624
    """

    elementwise = False

    def __init__(
        self,
        micro: int,
        examples: int = 1000,
        dimension: int = 40,
        noise_scale: float = 618.0,
    ) -> None:
        self.micro = whole("micro", micro, at_least=1)
        self.examples = whole("examples", examples, at_least=2)
        dimension = whole("dimension", dimension, at_least=1)
        number("noise_scale", noise_scale, above=0)
        rng = np.random.default_rng(1)
        x = rng.normal(size=(self.examples, dimension))
        y = np.sign(x @ rng.normal(size=dimension) + 4 * rng.normal(size=self.examples))
        self.x, self.y = torch.tensor(x), torch.tensor(y)
        self.w = torch.zeros(dimension, dtype=self.dtype)
        while self.noise_scale < noise_scale:
            self.w = self.w - 0.1 * self.mean

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``, the same for every cell."""
        return {"w": self.w.repeat(len(seeds), 1)}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean of ln(1 + exp(-y ⟨x, w⟩)), (B,)."""
        x, y = (self.x.expand(len(params["w"]), -1, -1), self.y) if batch is None else batch
        margin = y * torch.bmm(x, params["w"].unsqueeze(-1)).squeeze(-1)
        return torch.nn.functional.softplus(-margin).mean(-1)

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the gradient, written out."""
        x, y = (self.x.expand(len(params["w"]), -1, -1), self.y) if batch is None else batch
        margin = y * torch.bmm(x, params["w"].unsqueeze(-1)).squeeze(-1)
        slope = -y * torch.sigmoid(-margin) / margin.shape[-1]
        return {"w": torch.bmm(slope.unsqueeze(1), x).squeeze(1)}

    def stream(self, seeds: Tensor) -> Callable[[int], Any]:
        """Return the function from step to micro-batches: examples (B, m, D), labels (B, m)."""

        def batch(step: int) -> tuple[Tensor, Tensor]:
            rng = np.random.default_rng([step, self.micro])
            drawn = rng.integers(0, self.examples, (int(seeds.max()) + 1, self.micro))
            rows = torch.from_numpy(drawn)[seeds]
            return self.x[rows], self.y[rows]

        return batch

    @property
    def mean(self) -> Tensor:
        """The gradient over all the examples at the start, (D,)."""
        return self.gradient({"w": self.w[None]})["w"][0]

    @property
    def variance(self) -> float:
        """The trace of the covariance of one example's gradient at the start."""
        slopes = torch.sigmoid(-self.y * (self.x @ self.w))
        squares = slopes.square() * self.x.square().sum(1)
        return float(squares.mean() - self.mean.square().sum())

    @property
    def noise_scale(self) -> float:
        """The noise scale B at the start, in examples."""
        return self.variance / float(self.mean.square().sum())

    @property
    def forces(self) -> tuple[Tensor, Tensor]:
        """H ḡ, and the gradient of the trace of the covariance, at the start, each (D,)."""
        slopes = torch.sigmoid(-self.y * (self.x @ self.w))
        bends, sizes = slopes * (1 - slopes), self.x.square().sum(1)
        own = (bends * (self.x @ self.mean)) @ self.x / self.examples
        squares = -2 * (self.y * slopes * bends * sizes) @ self.x / self.examples
        return own, squares - 2 * own


def _square(x: Tensor) -> Tensor:
    """Squared length along the last axis."""
    return x.square().sum(-1)
