"""The loss of a model before training, from a copy whose layers begin anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from thalweg.curvature import frozen
from thalweg.curvature.measure import LossOf, numbers_of


def untrained_loss(
    model: nn.Module, loss_of: LossOf, batches: Sequence[Any], training: bool | None, seed: int
) -> float:
    """Return the mean loss of a copy whose layers begin anew, as ``reset_parameters()`` has it.

    Args:
        model: Stays as it is, and so do torch's random numbers.
        loss_of: Of a model and a batch.
        batches: Over which the mean is taken.
        training: The mode; see :func:`thalweg.curvature.frozen`.
        seed: Of the beginning.

    Returns:
        The loss; NaN where some layer cannot begin anew, or the model cannot be copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> _ = nn.init.zeros_(model.weight)
        >>> untrained_loss(model, lambda m, x: (m(x) ** 2).mean(), [torch.ones(4, 1)], None, 0) > 0
        True
    """
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError, AttributeError):  # of tensors with a graph, locks, handles
        return math.nan
    numbers = numbers_of(model.parameters())
    try:
        torch.manual_seed(seed)
        for layer in twin.modules():
            # nn.MultiheadAttention's bears the second name.
            begin = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
            if callable(begin):
                begin()
            elif any(p is not None for p in layer._parameters.values()):
                return math.nan
        with frozen(twin, training), torch.no_grad():
            return sum(float(loss_of(twin, batch)) for batch in batches) / len(batches)
    finally:
        numbers.put_back()
