"""Whether a loss is a sum over its batch where a mean is wanted, from the halves of one batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature import frozen
from thalweg.curvature.setting import LossOf

#: Of the loss of a batch, by which that of its halves may differ from a sum; far less than by
#: which a mean does.
_ROUNDED = 1e-3


def summed(model: nn.Module, loss_of: LossOf, batch: Any) -> bool:
    """Return whether the loss of a batch is the sum of the losses of its halves.

    A mean over the examples lies between the two, however they differ. Taken in evaluation mode
    and without a graph, so that each example counts by itself.

    Args:
        model: Stays as it is, and so do torch's random numbers.
        loss_of: Of the model and a batch.
        batch: Is cut where it is a tensor, or a tuple, list or dictionary of tensors that are
            equally long.

    Returns:
        ``False`` also where the batch cannot be cut or the loss cannot be taken.

    Example:
        >>> x = torch.arange(6.0)
        >>> summed(nn.Identity(), lambda m, x: x.sum(), x)
        True
        >>> summed(nn.Identity(), lambda m, x: x.mean(), x)
        False
    """
    tensors = [batch] if isinstance(batch, Tensor) else None
    if type(batch) in (tuple, list, dict):
        tensors = list(batch.values() if isinstance(batch, dict) else batch)
    if not tensors or any(not isinstance(t, Tensor) or not t.ndim for t in tensors):
        return False
    count = len(tensors[0])
    if count < 2 or any(len(t) != count for t in tensors):
        return False
    cuts = [slice(None), slice(count // 2), slice(count // 2, None)]
    try:
        with frozen(model, False), torch.no_grad():
            whole, *halves = [float(loss_of(model, _cut(batch, cut))) for cut in cuts]
    except Exception:  # the user's own code, perhaps made for batches of one size or for training
        return False
    near = _ROUNDED * abs(whole)
    return math.isfinite(whole) and whole != 0 and abs(whole - sum(halves)) <= near


def _cut(batch: Any, part: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[part]
    if isinstance(batch, dict):
        return {name: tensor[part] for name, tensor in batch.items()}
    return type(batch)(tensor[part] for tensor in batch)
