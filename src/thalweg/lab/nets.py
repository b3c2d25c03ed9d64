"""Networks as ensembles: one batched program for all the cells of a grid."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from thalweg.lab.problems import Params


def mlp_start(widths: list[int], seeds: list[int]) -> Params:
    """Return an ensemble of multilayer perceptrons at initialization.

    Weights and biases are uniform on ±1/√(fan in), as torch's own linear layer has them. The
    numbers depend on the seed of the cell alone.

    Args:
        widths: Number of units, from input to output.
        seeds: One seed per cell.

    Returns:
        ``{"weight1": (B, in, out), "bias1": (B, 1, out), ...}``, float32.

    Example:
        >>> {name: tuple(p.shape) for name, p in mlp_start([64, 32, 10], [0, 1]).items()}
        {'weight1': (2, 64, 32), 'bias1': (2, 1, 32), 'weight2': (2, 32, 10), 'bias2': (2, 1, 10)}
    """
    unique, cell = np.unique(seeds, return_inverse=True)
    streams = [np.random.default_rng([int(seed), 1]) for seed in unique]
    params: Params = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
        for name, rows in (("weight", fan_in), ("bias", 1)):
            values = np.stack([s.uniform(-1, 1, (rows, fan_out)) for s in streams])
            params[f"{name}{i}"] = torch.tensor((values / fan_in**0.5)[cell], dtype=torch.float32)
    return params


def mlp(params: Params, x: Tensor) -> Tensor:
    """Return the outputs of an ensemble of rectified perceptrons.

    Args:
        params: What :func:`mlp_start` gave.
        x: Inputs, (B, N, in).

    Returns:
        Outputs, (B, N, out).
    """
    layers = len(params) // 2
    for i in range(1, layers + 1):
        x = torch.baddbmm(params[f"bias{i}"], x, params[f"weight{i}"])
        if i < layers:
            x = torch.relu(x)
    return x
