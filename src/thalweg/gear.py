"""What all steps of a SAM object share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thalweg import base
from thalweg.ascent import Context
from thalweg.hold import Weights
from thalweg.memory import Draft, Places, Remembered
from thalweg.scaling import Scaling
from thalweg.watch import Watch


class Gear:
    """What all steps of a SAM object share.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
        scaling: The gradient scaler.
        telemetry: Whether the gradient at w + ε is measured, too.
        keep_backup: Whether the copy of the weights is kept from step to step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module | None,
        scaling: Scaling,
        *,
        telemetry: bool,
        keep_backup: bool,
    ) -> None:
        self.optimizer, self.model, self.scaling = optimizer, model, scaling
        self.telemetry = telemetry
        self.weights = Weights(model, keep=keep_backup)
        self.watch = Watch(self.weights, telemetry=telemetry)
        self.memory = Remembered()
        self.places = Places(model)
        self.agreed = functools.partial(base.agreed, model=model)

    def context(
        self, held: Sequence[Tensor], step: int, draft: Draft | None = None, point: int = 0
    ) -> Context:
        """Return what parts may know of a step; without a draft, what they keep is forgotten."""
        page = (draft or self.memory.draft()).of(held)
        known = (self.optimizer, held, step, page, self.places, self.agreed, point)
        return base.context(*known, stepped=self.scaling.stepped)
