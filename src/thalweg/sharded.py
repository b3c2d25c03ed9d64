"""FSDP2: parameters that are gathered for a pass, and gradients that are reduced after it.

Its modules are known by their methods, so that nothing distributed is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from thalweg import layout, modules
from thalweg.errors import ThalwegError


def check_reduced(trained: Sequence[Tensor]) -> None:
    """Raise where a pass has left sharded parameters without any gradient.

    Args:
        trained: The parameters.

    Raises:
        ThalwegError: If some are sharded, and none of those has a gradient.

    Example:
        >>> import torch
        >>> check_reduced([torch.zeros(1)])
    """
    if layout.all_plain(trained):
        return
    shards = [p for p in trained if layout.is_sharded(p)]
    if shards and all(p.grad is None for p in shards):
        raise ThalwegError(
            "sharded parameters must get their gradients in every pass, got none in this one: an "
            "ascent of each rank by itself, and a reduction put off to a later pass, are not "
            "possible under FSDP2, where no rank holds a whole gradient; keep "
            "set_requires_gradient_sync(True) for the last backward() of every pass"
        )


def reshard(model: nn.Module | None) -> None:
    """Free every parameter that FSDP2 has gathered, so that the next forward gathers it anew.

    Args:
        model: The module that was given to ``fully_shard``, or one that holds it.
    """
    for layer in modules.layers(model):
        if _gathers(layer):
            layer.reshard()  # type: ignore[operator]


def start_over(model: nn.Module | None) -> None:
    """Let FSDP2 forget a pass that was broken off, with all that it had gathered by then.

    Args:
        model: The module that was given to ``fully_shard``, or one that holds it.
    """
    found = [] if model is None else [model]
    for layer in found:
        if not _gathers(layer):
            found += [child for child in layer._modules.values() if child is not None]
        elif hasattr(layer, "reset_iter_state"):  # torch has it since 2.12
            with contextlib.suppress(RuntimeError):  # of a model that is part of a larger one
                layer.reset_iter_state()  # type: ignore[operator]
    for layer in modules.layers(model):
        for held in _parameters(layer):
            # reset_iter_state() leaves these behind, and they would be added to later gradients.
            held.unsharded_accumulated_grad = None
            if hasattr(held, "_unsharded_param"):
                held._unsharded_param.grad = None


def _parameters(layer: Any) -> list[Any]:
    """What FSDP2 keeps of the parameters of a module; torch shows it nowhere."""
    if not _gathers(layer) or not hasattr(layer, "_get_fsdp_state"):
        return []
    groups = getattr(layer._get_fsdp_state(), "_fsdp_param_groups", [])
    return [held for group in groups for held in group.fsdp_params]


def _gathers(layer: nn.Module) -> bool:
    """Whether this is a module of FSDP2, told without importing it."""
    return hasattr(type(layer), "reshard") and hasattr(type(layer), "unshard")
