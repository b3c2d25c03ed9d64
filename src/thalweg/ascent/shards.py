"""Tensors that ranks share: for what must be seen as a whole."""

from __future__ import annotations

from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor as a whole; every rank gets all of a sharded one (DTensor).

    Args:
        tensor: Any tensor.

    Example:
        >>> import torch
        >>> t = torch.zeros(2)
        >>> gathered(t) is t
        True
    """
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Return what every rank has whole, sharded as another tensor is.

    Args:
        tensor: The same on every rank.
        like: A plain tensor or a sharded one.

    Example:
        >>> import torch
        >>> t = torch.zeros(2)
        >>> placed(t, torch.ones(2)) is t
        True
    """
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every rank has it: nothing is sent.
    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
