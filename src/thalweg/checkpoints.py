"""Checkpoints that other SAMs wrote, turned into the base optimizer's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from thalweg.errors import ThalwegError, brief

_LOST = (
    "holds nothing of the base optimizer's state (davda54/sam saves none): momentum and running "
    "averages, where it has them, start at zero, so the first steps differ from the saved run's"
)
_AMID = "was saved between first_step and second_step, when the model's weights are w + ε, not w"
#: What a warning says of one whose rho is of another scale.
ADAPTIVE = (
    "has adaptive=True (ASAM), whose rho is of another scale: load it into a compat.SAM with "
    "adaptive=True, or into a SAM with method=presets.asam_all(offset=0.0)"
)


def convert_checkpoint(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Turn an optimizer checkpoint of davda54/sam or pytorch_optimizer's SAM into the base's.

    ``rho`` stays in the param groups. A checkpoint without their keys comes back as it is.

    Args:
        state_dict: What their ``state_dict()`` gave. It is not changed.

    Returns:
        A new dict; its tensors are the same.

    Raises:
        ThalwegError: If it is not an optimizer's state_dict.

    Warns:
        UserWarning: If the base optimizer's state is missing, if it was saved in the middle of a
            step, or if it comes from an adaptive SAM (ASAM).

    Example:
        >>> import torch
        >>> group = {"lr": 0.1, "rho": 0.05, "adaptive": False, "params": [0]}
        >>> saved = {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": [group]}
        >>> convert_checkpoint(saved)["param_groups"]
        [{'lr': 0.1, 'rho': 0.05, 'params': [0]}]
    """
    keys = list(state_dict) if isinstance(state_dict, Mapping) else brief(state_dict)
    if not {"state", "param_groups"} <= set(keys):
        raise ThalwegError(
            f'state_dict must have the keys "state" and "param_groups", got {keys}: '
            "pass what the optimizer's state_dict() gave, not the whole checkpoint"
        )
    theirs, groups = state_dict["state"], state_dict["param_groups"]
    state = {k: {n: v for n, v in held.items() if n != "old_p"} for k, held in theirs.items()}
    if any("old_p" in held for held in theirs.values()):
        warnings.warn(f"the checkpoint {_AMID if any(state.values()) else _LOST}", stacklevel=2)
    if any(group.get("adaptive") for group in groups):
        warnings.warn(f"the checkpoint {ADAPTIVE}", stacklevel=2)
    groups = [{k: v for k, v in group.items() if k != "adaptive"} for group in groups]
    return {**state_dict, "state": {k: s for k, s in state.items() if s}, "param_groups": groups}
