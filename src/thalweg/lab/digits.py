"""Real handwritten digits and a small network, as a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, number, whole
from thalweg.lab import data, nets
from thalweg.lab.problems import Params, Problem


class Digits(Problem):
    """A one-hidden-layer perceptron on scikit-learn's 1797 handwritten digits, cross-entropy.

    The seed of a cell decides the split, the noise mask, the initialization and the order of the
    batches; cells of the same seed share all four, so that methods are compared in pairs.

    Args:
        n_train: How many images to train on; the rest is halved into validation and test.
        label_noise: The share of training labels drawn anew, from 0 to 1. Validation and test
            labels are the true ones.
        batch_size: Images per minibatch, drawn without replacement in each epoch.
        eta: The learning rate that the task is set up for.
        momentum: The momentum that the task is set up for.
        width: Hidden units.
        loss_scale: The loss is multiplied by this.

    Raises:
        ThalwegError: If a number is out of range.

    Example:
        >>> task = Digits(n_train=200, width=8)
        >>> params = task.start(torch.tensor([0, 1]))
        >>> tuple(task.loss(params, task.stream(torch.tensor([0, 1]))(0)).shape)
        (2,)
    """

    dtype = torch.float32
    elementwise = False
    inputs_first = True
    quantities: tuple[str, ...] = ("validation_accuracy", "test_accuracy")

    def __init__(
        self,
        n_train: int = 600,
        label_noise: float = 0.0,
        batch_size: int = 64,
        eta: float = 0.05,
        momentum: float = 0.9,
        width: int = 32,
        loss_scale: float = 1.0,
    ) -> None:
        self.n_train = whole("n_train", n_train, at_least=1)
        self.label_noise = number("label_noise", label_noise, at_least=0, at_most=1)
        self.batch_size = whole("batch_size", batch_size, at_least=1)
        self.eta = number("eta", eta, above=0)
        self.momentum = number("momentum", momentum, at_least=0, below=1)
        self.width = whole("width", width, at_least=1)
        self.loss_scale = number("loss_scale", loss_scale, above=0)
        if self.n_train > data.TOTAL - 2:
            raise ThalwegError(
                f"n_train must leave images for validation and test (at most {data.TOTAL - 2} of "
                f"{data.TOTAL}), got {n_train}"
            )
        if self.batch_size > self.n_train:
            raise ThalwegError(f"batch_size must be at most n_train={n_train}, got {batch_size}")

    def start(self, seeds: Tensor) -> Params:
        """Return the networks at initialization; see :func:`thalweg.lab.nets.mlp_start`."""
        params = nets.mlp_start([64, self.width, 10], seeds.tolist())
        return {name: value.to(seeds.device) for name, value in params.items()}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean cross-entropy of every cell on its batch, (B,).

        Args:
            params: The networks.
            batch: Images (B, m, 64) and labels (B, m).

        Returns:
            The loss, (B,).
        """
        x, labels = batch
        log_p = torch.log_softmax(nets.mlp(params, x), dim=-1)
        return -self.loss_scale * log_p.gather(-1, labels.unsqueeze(-1)).mean((-2, -1))

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the gradient of the loss, written out: half the time that autograd takes.

        Half of that time is a softmax over ten numbers in a row; over columns it costs next to
        nothing, so the outputs are made as (B, 10, m).
        """
        if type(self).loss is not Digits.loss or len(params) != 4:  # another loss, another network
            return super().gradient(params, batch)
        x, labels = batch
        hidden = torch.relu(torch.baddbmm(params["bias1"], x, params["weight1"]))
        logits = torch.baddbmm(params["bias2"].mT, params["weight2"].mT, hidden.mT)
        true = torch.zeros_like(logits).scatter(1, labels.unsqueeze(1), 1.0)
        error = (torch.softmax(logits, 1) - true) * (self.loss_scale / labels.shape[-1])
        back = torch.bmm(error.mT, params["weight2"].mT)
        back = torch.ops.aten.threshold_backward(back, hidden, 0.0)  # where the unit is on
        return {
            "weight1": torch.bmm(x.mT, back),
            "bias1": back.sum(-2, keepdim=True),
            "weight2": torch.bmm(error, hidden).mT.contiguous(),
            "bias2": error.sum(-1).unsqueeze(1),
        }

    def stream(self, seeds: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return the function from step to minibatch: images (B, m, 64), labels (B, m)."""
        return self._stream(seeds, data.digits()[0])

    def _stream(self, seeds: Tensor, images: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """The minibatches, of the digits in whatever form they are given, (1797, ...)."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        splits = [self._split(int(seed)) for seed in unique]
        images = images.to(seeds.device)
        rows = torch.stack([s.train for s in splits]).to(seeds.device)
        labels = torch.stack([s.labels for s in splits]).to(seeds.device)
        member = torch.tensor(cell, device=seeds.device)
        per_epoch = self.n_train // self.batch_size
        orders: dict[int, Tensor] = {}

        def batch(step: int) -> tuple[Tensor, Tensor]:
            epoch, turn = divmod(step, per_epoch)
            if epoch not in orders:
                orders.clear()
                drawn = [
                    np.random.default_rng([int(seed), 2, epoch]).permutation(self.n_train)
                    for seed in unique
                ]
                orders[epoch] = torch.tensor(np.stack(drawn), device=seeds.device)
            chosen = orders[epoch][:, turn * self.batch_size : (turn + 1) * self.batch_size]
            x = images[rows.gather(1, chosen)]
            return x[member], labels.gather(1, chosen)[member]

        return batch

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the mean cross-entropy on all the training data, noisy labels included, (B,)."""
        return self._per_seed(
            params,
            seeds,
            lambda net, s: self.loss(net, (self._images(net, s.train), self._labels(net, s))),
        )

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the accuracy (share of images) on validation and test, each (B,)."""
        targets = data.digits()[1]
        return {
            "validation_accuracy": self._per_seed(
                params, seeds, lambda net, s: self._right(net, s.validation, targets)
            ),
            "test_accuracy": self._per_seed(
                params, seeds, lambda net, s: self._right(net, s.test, targets)
            ),
        }

    def _split(self, seed: int) -> data.Split:
        return data.split(seed, self.n_train, self.label_noise)

    def _per_seed(
        self, params: Params, seeds: Tensor, measure: Callable[[Params, data.Split], Tensor]
    ) -> Tensor:
        """Measure the cells of each seed together: they share their data."""
        result = torch.empty(len(seeds), dtype=self.dtype, device=seeds.device)
        for seed in sorted(set(seeds.tolist())):
            cells = (seeds == seed).nonzero().squeeze(1)
            result[cells] = measure({k: v[cells] for k, v in params.items()}, self._split(seed))
        return result

    def _images(self, params: Params, rows: Tensor) -> Tensor:
        """The same images for every cell, (B, N, 64)."""
        first = params["weight1"]
        x = data.digits()[0].to(first.device)[rows.to(first.device)]
        return x.expand(len(first), *x.shape)

    def _labels(self, params: Params, split: data.Split) -> Tensor:
        """The same training labels for every cell, (B, N)."""
        first = params["weight1"]
        return split.labels.to(first.device).expand(len(first), -1)

    def _right(self, params: Params, rows: Tensor, targets: Tensor) -> Tensor:
        outputs = nets.mlp(params, self._images(params, rows))
        return (outputs.argmax(-1) == targets[rows].to(outputs.device)).to(self.dtype).mean(-1)
