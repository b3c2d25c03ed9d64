"""The loss of a model before training, from a copy whose layers begin anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from thalweg.curvature import frozen
from thalweg.curvature.setting import LossOf, examples, numbers_of


def untrained_loss(
    model: nn.Module, loss_of: LossOf, batches: Sequence[Any], training: bool | None, seed: int
) -> tuple[float, str]:
    """Return the mean loss of a copy whose layers begin anew, as ``reset_parameters()`` has it.

    Args:
        model: Stays as it is, and so do torch's random numbers.
        loss_of: Of a model and a batch.
        batches: Over whose examples the mean is taken.
        training: The mode; see :func:`thalweg.curvature.frozen`.
        seed: Of the beginning.

    Returns:
        The loss, and what it is of; or NaN, and why there is none: a layer that cannot begin anew,
        a model that cannot be copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> _ = nn.init.zeros_(model.weight)
        >>> data = [torch.ones(4, 1)]
        >>> loss, origin = untrained_loss(model, lambda m, x: (m(x) ** 2).mean(), data, None, 0)
        >>> loss > 0, origin
        (True, 'of a copy begun anew by reset_parameters()')
    """
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError, AttributeError):  # of tensors with a graph, locks, handles
        return math.nan, "the model cannot be copied"
    numbers = numbers_of(model.parameters())
    try:
        torch.manual_seed(seed)
        for layer in twin.modules():
            # nn.MultiheadAttention's bears the second name.
            begin = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
            name = type(layer).__name__
            if callable(begin):
                try:
                    begin()
                except Exception as error:  # the user's own code, perhaps with arguments of its own
                    return math.nan, f"{name}.reset_parameters() raised {type(error).__name__}"
            elif any(p is not None for p in layer._parameters.values()):
                return math.nan, f"{name} has parameters of its own and no reset_parameters()"
        with frozen(twin, training), torch.no_grad():
            sizes = list(map(examples, batches))
            losses = [float(loss_of(twin, batch)) for batch in batches]
    finally:
        numbers.put_back()
    loss = sum(n * one for n, one in zip(sizes, losses, strict=True)) / sum(sizes)
    if not math.isfinite(loss):
        return math.nan, f"that of a copy that begins anew is {loss:g}"
    return loss, "of a copy begun anew by reset_parameters()"
