"""SAM in Hugging Face Transformers: a Trainer, and the mixin that makes one of any Trainer.

The Trainer's ``training_step`` is the forward and the backward of one micro-batch. SAM's passes run
over it; clipping, the step of the optimizer, schedules and checkpoints come after it, and stay the
Trainer's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import extra

with extra("transformers", by=__name__):  # before the room below asks for accelerate alone
    from transformers import Trainer

from thalweg.ascent import Method, check_method
from thalweg.errors import ThalwegError, number, warn
from thalweg.integrations.accelerate import STATE, innermost, reduces_shards, reducing
from thalweg.integrations.accelerate import check as check_accelerator
from thalweg.integrations.accumulation import Accumulated, Batch, check
from thalweg.sam import SAM
from thalweg.telemetry import Pass


class SAMMixin:
    """Gives any subclass of Trainer SAM: ``class Mine(SAMMixin, MyTrainer)``.

    Its ``training_step`` and ``compute_loss`` run once in every pass, in the later ones with
    ``log()`` silent; what they count themselves is counted in every pass.

    Where the Trainer divides the losses of micro-batches by the items of the whole step
    (``num_items_in_batch``) or by their number, the gradient of each is a part of the step's: with
    ``"micro"`` this matters to every power but 1, and to a cap. Over several processes an ascent is
    that of all of them together. ``rho`` is kept in the optimizer's param groups, so that resuming
    brings back the one that was saved.

    Args:
        args: What the Trainer takes.
        rho: Radius, for the param groups that have none of their own.
        power: The normalization p, short for ``method=Method(power=p)``.
        method: What a step does; see :class:`thalweg.Method`.
        accumulation: ``"micro"``: each micro-batch has its own ascent (m-SAM). ``"batch"``: the
            micro-batches are kept, and all have one ascent when the last has come.
        telemetry: Whether more is measured; what is known is logged with the loss either way.
        kwargs: What the Trainer takes.

    Attributes:
        sam: The :class:`thalweg.SAM` at work, as soon as there is an optimizer.

    Raises:
        ThalwegError: If an argument is not what it should be; where training starts, under
            DeepSpeed, FSDP1 or XLA, or if the optimizer steps inside the backward, as LOMO does.
    """

    def __init__(
        self,
        *args: Any,
        rho: float = 0.05,
        power: float | None = None,
        method: Method | None = None,
        accumulation: str = "micro",
        telemetry: bool = False,
        **kwargs: Any,
    ) -> None:
        check_method(method, power)
        if power is not None:
            Method(power=power)  # which refuses what is no power
        number("rho", rho, at_least=0)
        self._sam_accumulation = check(accumulation)
        self._sam_options: dict[str, Any] = {"rho": rho, "power": power, "method": method}
        self._sam_options["telemetry"] = telemetry
        self._sam_unseen = False
        self.sam: SAM | None = None
        super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class in which the Trainer would come first, and SAM never."""
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(SAMMixin):
            raise ThalwegError(
                f"SAMMixin must stand before the Trainer, got it after it in {cls.__name__}: write "
                f"class {cls.__name__}(SAMMixin, ...)"
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Let the Trainer train; let go afterwards of what is kept, also after an exception."""
        trainer: Any = self
        begun, self._sam_ran = trainer.state.global_step, False
        try:
            found = super().train(*args, **kwargs)  # type: ignore[misc]
            if trainer.state.global_step > begun and not self._sam_ran:
                warn(
                    f"{type(self).__name__} has trained without SAM, as its training_step does not "
                    "call super().training_step: call it, or write the passes there"
                )
            return found
        finally:
            if self.sam is not None:
                self._sam_passes.forget()
                self.sam.release()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Let the Trainer make its optimizer, and bind to it."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        self._sam_bind()
        return optimizer  # type: ignore[no-any-return]

    def _sam_bind(self) -> None:
        """Bind to the optimizer there is, which a subclass may have made in its own way."""
        trainer: Any = self
        if self.sam is not None and self.sam.optimizer is innermost(trainer.optimizer):
            return
        check_accelerator(trainer.accelerator)
        optimizer, scaler = innermost(trainer.optimizer), trainer.accelerator.scaler
        self.sam = SAM(optimizer, trainer.model, scaler=scaler, **self._sam_options)
        self._sam_passes = Accumulated(self.sam, self._sam_accumulation, _total)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run SAM's passes over the Trainer's own training step.

        Returns:
            The loss of the first pass, where the weights are; of all micro-batches that were run.
        """
        trainer: Any = self
        self._sam_bind()
        self._sam_ran, seen = True, Batch(inputs)
        usual, state = super().training_step, trainer.accelerator.gradient_state  # type: ignore[misc]
        last, alone = state.sync_gradients, self._sam_accumulation == "micro"
        # Sharded gradients that wait for their reduction would come into the next ascent.
        each = state.plugin_kwargs.get("sync_each_batch") or (alone and reduces_shards(model))

        def micro(here: Pass) -> Tensor:
            self._sam_unseen = here.index > 0
            try:
                wanted = bool(last or each or (alone and here.ascent))
                with reducing(model, wanted, ascent=here.ascent):
                    loss: Tensor = usual(model, seen.fresh(), *args, **kwargs)
                    return loss
            finally:
                self._sam_unseen = False

        found = self._sam_passes(micro, last=last)
        return _total(found) if found else torch.zeros((), device=trainer.args.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what the latest perturbation did beside the loss; nothing in a later pass."""
        if self._sam_unseen:
            return
        if self.sam is not None and "loss" in logs:
            told = self.sam.log_dict().items()
            logs = {**logs, **{k: v for k, v in told if not math.isnan(v)}}  # JSON has no NaN
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        state = self.sam.state_dict() if self.sam is not None else {}
        if state and self.args.should_save:  # type: ignore[attr-defined]
            torch.save(state, Path(output_dir, STATE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None and Path(checkpoint, STATE).exists():
            self._sam_bind()
            assert self.sam is not None
            file = torch.load(Path(checkpoint, STATE), map_location="cpu", weights_only=True)
            self.sam.load_state_dict(file)


def _total(losses: list[Tensor]) -> Tensor:
    """Return the loss of a step out of those of its micro-batches."""
    return torch.stack(losses).sum()


class SAMTrainer(SAMMixin, Trainer):
    """A Trainer with SAM: ``SAMTrainer(model, args, train_dataset=..., rho=0.05)``.

    See :class:`SAMMixin` for what it takes beside what a Trainer takes.
    """
