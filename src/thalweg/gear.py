"""What all steps of a SAM object share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import checks, layout, modules, parameters
from thalweg.ascent import Context, Method, Number
from thalweg.cut import Cut, Pieces
from thalweg.hold import Weights
from thalweg.memory import Draft, Remembered
from thalweg.modules import Places
from thalweg.scaling import Scaling
from thalweg.watch import Watch


class Gear:
    """What all steps of a SAM object share.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
        scaler: The gradient scaler, or ``None``.
        telemetry: Whether the gradient at w + ε is measured, too.
        keep_backup: Whether the copy of the weights is kept from step to step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module | None,
        scaler: torch.amp.GradScaler | None,
        *,
        telemetry: bool,
        keep_backup: bool,
    ) -> None:
        self.optimizer, self.model, self.telemetry = optimizer, model, telemetry
        self._scaler = scaler
        self.weights = Weights(model, keep=keep_backup)
        self.watch = Watch(self.weights, telemetry=telemetry)
        self.places = Places(model)

    def take_up(self, method: Method) -> None:
        """Begin with a method: nothing is remembered, and a scaler is looked at as it needs.

        Raises:
            ThalwegError: If its filter leaves nothing to perturb; then nothing has changed.
        """
        checks.check_filter(self.optimizer, method, self.places.of)
        needed = self.telemetry or method.scale_matters
        self.scaling = Scaling(self.optimizer, self._scaler, needed)
        self.memory = Remembered()

    def context(
        self, held: Sequence[Tensor], step: int, draft: Draft | None = None, point: int = 0
    ) -> Context:
        """Return what the parts of a method may know of a step.

        Args:
            held: The chosen parameters, at w.
            step: How many steps went before.
            draft: What they keep goes there; ``None`` to forget it.
            point: At which of several points the gradient is taken next.
        """
        groups, states = self.optimizer.param_groups, self.optimizer.state
        costly = layout.costly_to_read(held[0].device)
        made: list[Cut | None] = []

        def cut() -> Cut | None:
            if not made:
                made.append(Cut.of(held))
            return made[0]

        def norm(tensors: Sequence[Tensor]) -> float:
            if type(tensors) is not Pieces and made and made[0] is not None:
                tensors = made[0](Tensor.detach, tensors) or tensors
            return tensors.norm() if type(tensors) is Pieces else float(parameters.norm(tensors))

        def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Number:
            knife = cut()
            found = None if knife is None else knife.dot(left, right)
            return float(parameters.dot(left, right)) if found is None else found

        def setting(name: str) -> list[Any]:
            homes = {p: group for group in groups for p in group["params"]}
            return [homes[p].get(name) for p in held]

        return Context(
            weights=held,
            step=step,
            norm=parameters.norm if costly else norm,
            dot=parameters.dot if costly else dot,
            memory=(draft or self.memory.draft()).of(held),
            state=lambda name: [states.get(p, {}).get(name) for p in held],
            setting=setting,
            agreed=self.agreed,
            layers=lambda: self.places.layers(held),
            names=lambda: self.places.names(held),
            stepped=self.scaling.stepped,
            point=point,
            cut=cut,
        )

    def agreed(self, number: Number) -> Number:
        """Return the mean of a number over the ranks that train together.

        Args:
            number: This rank's own; a tensor is not read. Ranks are asked where the model is, or
                holds, a DistributedDataParallel.
        """
        layers = modules.layers(self.model)
        wrapped = next((m for m in layers if isinstance(m, DistributedDataParallel)), None)
        if wrapped is None:
            return number
        held = torch.as_tensor(number, dtype=torch.float64, device=wrapped.device).clone()
        torch.distributed.all_reduce(held, group=wrapped.process_group)
        held = held / torch.distributed.get_world_size(wrapped.process_group)
        return held if isinstance(number, Tensor) else float(held)
