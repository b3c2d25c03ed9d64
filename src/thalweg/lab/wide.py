"""Digits with a network whose training looks the same at every width."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lab import data
from thalweg.lab.digits import Digits
from thalweg.lab.problems import Params


class WideDigits(Digits):
    r"""A perceptron of two hidden layers on the digits, parametrized so that width is no matter.

    Without biases, :math:`f(x) = W_3^T \mathrm{relu}(W_2^T \mathrm{relu}(W_1^T x))`. At
    initialization the outputs of hidden layers are of order 1 and those of the last are
    :math:`O(1/\sqrt{\mathrm{width}})`. A matrix learns at :math:`\eta\,\mathrm{fan}_{out} /
    \mathrm{fan}_{in}`, so that one step changes what each layer puts out by an amount that does
    not depend on the width (this is called μP). The simulator has one step size; the parameters
    are therefore :math:`w_i = W_i / s_i` with :math:`s_i = \sqrt{\mathrm{fan}_{out} /
    \mathrm{fan}_{in}}`, of which gradient descent at η is the same thing.

    Split, noise and batches are those of :class:`Digits`, and so are the arguments.

    Example:
        >>> task = WideDigits(n_train=200, width=16)
        >>> {name: tuple(w.shape) for name, w in task.start(torch.tensor([0])).items()}
        {'weight1': (1, 64, 16), 'weight2': (1, 16, 16), 'weight3': (1, 16, 10)}
        >>> task.scales
        (0.5, 1.0, 0.7905694150420949)
    """

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of every matrix."""
        return tuple(itertools.pairwise((64, self.width, self.width, 10)))

    @property
    def scales(self) -> tuple[float, ...]:
        """The factors s between the parameters and the matrices."""
        return tuple((fan_out / fan_in) ** 0.5 for fan_in, fan_out in self.shapes)

    def start(self, seeds: Tensor) -> Params:
        """Return the networks at initialization, ``{"weight1": (B, 64, width), ...}``."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        streams = [np.random.default_rng([int(seed), 1]) for seed in unique]
        # Variance of the matrices' entries: 2/fan_in keeps the size of what a rectifier lets by.
        sizes = ((2 / 64) ** 0.5, (2 / self.width) ** 0.5, 10**0.5 / self.width)
        params: Params = {}
        for i, (shape, scale, size) in enumerate(zip(self.shapes, self.scales, sizes, strict=True)):
            drawn = [s.standard_normal(shape, dtype=np.float32) for s in streams]
            values = torch.from_numpy(np.stack(drawn)) * (size / scale)
            params[f"weight{i + 1}"] = values[torch.tensor(cell)].to(seeds.device)
        return params

    def inputs(self, params: Params, x: Tensor) -> list[Tensor]:
        """Return what goes into every layer, and what comes out of the last, for images x.

        Args:
            params: The networks.
            x: Images, (B, N, 64).

        Returns:
            Images, outputs of the two hidden layers, logits (B, N, 10).
        """
        found = [x]
        for i, scale in enumerate(self.scales, start=1):
            x = scale * torch.bmm(x, params[f"weight{i}"])
            x = torch.relu(x) if i < len(self.scales) else x
            found.append(x)
        return found

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean cross-entropy of every cell on its batch, (B,)."""
        x, labels = batch
        log_p = torch.log_softmax(self.inputs(params, x)[-1], dim=-1)
        return -self.loss_scale * log_p.gather(-1, labels.unsqueeze(-1)).mean((-2, -1))

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the gradient of the loss, written out."""
        x, labels = batch
        *inputs, logits = self.inputs(params, x)
        true = torch.zeros_like(logits).scatter(-1, labels.unsqueeze(-1), 1.0)
        error = (torch.softmax(logits, -1) - true) * (self.loss_scale / labels.shape[-1])
        gradient: Params = {}
        for i, scale in reversed([*enumerate(self.scales, start=1)]):
            error = scale * error
            gradient[f"weight{i}"] = torch.bmm(inputs[i - 1].mT, error)
            if i > 1:
                back = torch.bmm(error, params[f"weight{i}"].mT)
                error = torch.ops.aten.threshold_backward(back, inputs[i - 1], 0.0)
        return {name: gradient[name] for name in params}

    def _right(self, params: Params, rows: Tensor, targets: Tensor) -> Tensor:
        outputs = self.inputs(params, self._images(params, rows))[-1]
        return (outputs.argmax(-1) == targets[rows].to(outputs.device)).to(self.dtype).mean(-1)


def training_set(task: Digits, seed: int) -> tuple[Tensor, Tensor]:
    """Return the images (1, N, 64) and labels (1, N) that a cell of this seed trains on.

    Args:
        task: The task.
        seed: The seed.

    Returns:
        Images and labels, noisy ones included.

    Example:
        >>> [tuple(part.shape) for part in training_set(Digits(n_train=200), seed=0)]
        [(1, 200, 64), (1, 200)]
    """
    split = data.split(seed, task.n_train, task.label_noise)
    return data.digits()[0][split.train][None], split.labels[None]
