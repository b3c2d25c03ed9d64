"""What is read from the user's model and base optimizer."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import layout
from thalweg.curvature.setting import LossOf, turned
from thalweg.errors import ThalwegError, number


def perturbed(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that SAM would move: the optimizer's, where they take a gradient.

    Args:
        model: Must have all of them, and whole.
        optimizer: The base optimizer.

    Raises:
        ThalwegError: If there are none, or some are not the model's, are sharded, or lie on
            several devices.
    """
    own = set(model.parameters())
    found = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if not found or not own.issuperset(found):
        got = f"{sum(p not in own for p in found)} others" if found else "none"
        raise ThalwegError(
            f"optimizer must train parameters of the model, got {got}: build it from "
            "model.parameters() of the same model"
        )
    if any(map(layout.is_sharded, found)):
        raise ThalwegError(
            "optimizer must train whole parameters, got sharded ones (DTensor), through which "
            "nothing can be derived twice: gather the model on one rank (get_model_state_dict "
            "with full_state_dict=True), load it into an unsharded copy, and diagnose that"
        )
    if len({p.device for p in found}) > 1:
        raise ThalwegError(
            "optimizer must train parameters on one device, got "
            f"{', '.join(sorted({str(p.device) for p in found}))}: diagnose a copy of the model "
            "on one device"
        )
    order: dict[Tensor, int] = {p: i for i, p in enumerate(model.parameters())}
    return sorted(found, key=order.__getitem__)


def names(model: nn.Module, some: list[Tensor]) -> list[str]:
    """Return the names of parameters in their model.

    Args:
        model: The model.
        some: Of its parameters.
    """
    known: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return [known[p] for p in some]


def precise(
    model: nn.Module, loss_of: LossOf, moved: list[Tensor]
) -> tuple[nn.Module, LossOf, list[Tensor], str]:
    """Return what can be measured: a copy in float32 or wider where the parameters are coarser.

    Below float32, a step along ε and a Hessian product are mostly rounding.

    Args:
        model: The model.
        loss_of: Of the model and a batch.
        moved: Some of its parameters.

    Returns:
        The model, its loss, these parameters, and the dtypes that were left for wider ones; the
        same things and an empty string where all parameters have one dtype that is wide enough.
    """
    dtypes = {p.dtype for p in model.parameters()}
    wide = functools.reduce(torch.promote_types, dtypes, torch.float32)
    if dtypes == {wide}:
        return model, loss_of, moved, ""
    order: dict[Tensor, int] = {p: i for i, p in enumerate(model.parameters())}
    twin = copy.deepcopy(model).to(wide)
    own = list(twin.parameters())

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return loss_of(model, turned(batch, wide))

    coarse = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return twin, loss, [own[order[p]] for p in moved], coarse


def common_rho(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the ``"rho"`` that all groups of an optimizer have in common, if they have.

    Args:
        optimizer: The base optimizer.

    Raises:
        ThalwegError: If it is no number.
    """
    held: set[Any] = {group.get("rho") for group in optimizer.param_groups}
    (rho,) = held if len(held) == 1 else (None,)
    if rho is None:
        return None
    return number('the "rho" of the param groups', rho, at_least=0) or None
