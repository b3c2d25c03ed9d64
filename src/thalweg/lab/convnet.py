"""A small convolutional network on the real digits, as a problem."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lab import data
from thalweg.lab.digits import Digits
from thalweg.lab.problems import Params


class DigitsConv(Digits):
    """A convolutional network on the handwritten digits, cross-entropy.

    ``width`` filters of 4×4 pixels at every second place of the 8×8 image, rectified, and a linear
    layer: 107·width + 10 parameters. Everything else is as in :class:`Digits`.

    Example:
        >>> task = DigitsConv(n_train=200, width=8)
        >>> {name: tuple(p.shape) for name, p in task.start(torch.tensor([0, 1])).items()}
        {'weight1': (2, 8, 16), 'bias1': (2, 8, 1), 'weight2': (2, 10, 72), 'bias2': (2, 10, 1)}
    """

    inputs_first = False

    def start(self, seeds: Tensor) -> Params:
        """Return the networks at initialization: uniform on ±1/√(fan in), as torch's layers."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        streams = [np.random.default_rng([int(seed), 1]) for seed in unique]
        shapes = {
            "weight1": (self.width, 16, 16),  # rows, columns, fan in
            "bias1": (self.width, 1, 16),
            "weight2": (10, 9 * self.width, 9 * self.width),
            "bias2": (10, 1, 9 * self.width),
        }
        params = {}
        for name, (rows, columns, fan_in) in shapes.items():
            drawn = np.stack([s.uniform(-1, 1, (rows, columns)) for s in streams]) / fan_in**0.5
            params[name] = torch.tensor(drawn[cell], dtype=self.dtype, device=seeds.device)
        return params

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean cross-entropy of every cell on its batch, (B,).

        Args:
            params: The networks.
            batch: Patches (B, m, 144) and labels (B, m).

        Returns:
            The loss, (B,).
        """
        log_p = torch.log_softmax(self.outputs(params, batch[0]), dim=1)
        return -self.loss_scale * log_p.gather(1, batch[1].unsqueeze(1)).mean((1, 2))

    def outputs(self, params: Params, patches: Tensor) -> Tensor:
        """Return the outputs for images given by their patches (B, N, 144): (B, 10, N)."""
        return torch.baddbmm(params["bias2"], params["weight2"], _features(params, patches)[1])

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the gradient of the loss, written out: a third of the time of autograd."""
        patches, labels = batch
        seen, features = _features(params, patches)
        logits = torch.baddbmm(params["bias2"], params["weight2"], features)
        true = torch.zeros_like(logits).scatter(1, labels.unsqueeze(1), 1.0)
        error = (torch.softmax(logits, 1) - true) * (self.loss_scale / labels.shape[-1])
        back = torch.bmm(params["weight2"].mT, error)
        back = torch.ops.aten.threshold_backward(back, features, 0.0)  # where the filter is on
        back = back.view(len(seen), self.width, -1)
        return {
            "weight1": torch.bmm(back, seen.mT),
            "bias1": back.sum(-1, keepdim=True),
            "weight2": torch.bmm(error, features.mT),
            "bias2": error.sum(-1, keepdim=True),
        }

    def stream(self, seeds: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return the function from step to minibatch: patches (B, m, 144), labels (B, m)."""
        return self._stream(seeds, _patches())

    def _right(self, params: Params, rows: Tensor, targets: Tensor) -> Tensor:
        outputs = self.outputs(params, self._images(params, rows))
        return (outputs.argmax(1) == targets[rows].to(outputs.device)).to(self.dtype).mean(-1)

    def _images(self, params: Params, rows: Tensor) -> Tensor:
        """The same patches for every cell, (B, N, 144)."""
        first = params["weight1"]
        x = _patches().to(first.device)[rows.to(first.device)]
        return x.expand(len(first), *x.shape).contiguous()


def _features(params: Params, patches: Tensor) -> tuple[Tensor, Tensor]:
    """What the filters see, (B, 16, 9 places · N), and what they make of it, (B, 9·width, N)."""
    cells, images = patches.shape[:2]
    seen = patches.view(cells, images, 16, 9).permute(0, 2, 3, 1).reshape(cells, 16, -1)
    mapped = torch.relu(torch.baddbmm(params["bias1"], params["weight1"], seen))
    return seen, mapped.view(cells, -1, images)


@functools.cache
def _patches() -> Tensor:
    """Every image as what the filters see of it: 16 pixels × 9 places, (1797, 144)."""
    images = data.digits()[0].view(-1, 8, 8)
    seen = images.unfold(1, 4, 2).unfold(2, 4, 2)  # (N, 3, 3, 4, 4)
    return seen.permute(0, 3, 4, 1, 2).reshape(len(images), 144)
