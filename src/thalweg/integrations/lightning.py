"""SAM in Lightning: a callback, for any LightningModule with automatic optimization.

Lightning makes a closure of every micro-batch: training step, ``zero_grad`` where a step of the
optimizer begins, backward. The callback runs SAM's passes over it. Clipping, the step itself,
schedulers and checkpoints come after it, and stay Lightning's.

With manual optimization no callback is needed; the loop is written where the step is::

    class Manual(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.Linear(64, 10)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_train_start(self):
            self.sam = thalweg.SAM(self.optimizers().optimizer, self, rho=0.05)

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.optimizers().zero_grad()
            for _ in self.sam.passes():
                self.manual_backward(nn.functional.cross_entropy(self.net(x), y))
            self.optimizers().step()
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from thalweg.ascent import Method, check_method
from thalweg.errors import ThalwegError, extra, number
from thalweg.integrations.accumulation import Accumulated, Batch, check, reducing
from thalweg.sam import SAM
from thalweg.telemetry import Pass

with extra("lightning", by=__name__):
    import lightning.pytorch as pl
    from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
    from torchmetrics import Metric

#: Strategies under which torch has neither whole gradients nor shards of them, by class name.
_REFUSED = {
    "DeepSpeedStrategy": "DeepSpeed",
    "FSDPStrategy": "FSDP1",
    "XLAStrategy": "XLA",
    "XLAFSDPStrategy": "XLA",
    "SingleDeviceXLAStrategy": "XLA",
}


class SAMCallback(pl.Callback):
    """Trains any LightningModule with SAM: ``Trainer(callbacks=[SAMCallback(rho=0.05)])``.

    The training step runs in every pass. Only the first one is logged and counted by the
    torchmetrics in the module; hooks around the backward run in each. Gradients are cleared before
    the first pass. Under DistributedDataParallel an ascent is that of all ranks together.

    Args:
        rho: Radius, for the param groups that have none of their own.
        power: The normalization p, short for ``method=Method(power=p)``.
        method: What a step does; see :class:`thalweg.Method`.
        accumulation: ``"micro"``: each micro-batch has its own ascent (m-SAM). ``"batch"``: the
            micro-batches are kept, and all have one ascent when the last has come; the training
            steps of all run then, and ``on_train_batch_end`` of those kept has no outputs.
        telemetry: Whether more is measured. What is known is logged as ``sam/...``, through the
            module, at the steps that Lightning logs.

    Attributes:
        sam: The :class:`thalweg.SAM` at work, from ``on_train_start`` on.

    Raises:
        ThalwegError: If an argument is not what it should be; where a fit starts, if the module
            optimizes by itself or fetches its own batches, or under DeepSpeed, FSDP1 or XLA.

    Example:
        >>> callback = SAMCallback(rho=0.1, accumulation="batch")
        >>> callback.rho, callback.sam
        (0.1, None)
    """

    def __init__(
        self,
        rho: float = 0.05,
        *,
        power: float | None = None,
        method: Method | None = None,
        accumulation: str = "micro",
        telemetry: bool = False,
    ) -> None:
        check_method(method, power)
        self.rho = number("rho", rho, at_least=0)
        self.method = method or Method(power=1.0 if power is None else power)
        self.accumulation = check(accumulation)
        self.telemetry = telemetry
        self.sam: SAM | None = None
        self._state: dict[str, Any] = {}
        self._logged: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and forget an earlier fit."""
        if stage != "fit":
            return
        self.sam, self._state, self._logged = None, {}, {}
        for kind in type(trainer.strategy).__mro__:
            if kind.__name__ in _REFUSED:
                raise ThalwegError(
                    "strategy must leave gradients and weights to torch, got "
                    f"{_REFUSED[kind.__name__]}, under which SAM cannot work: use DDPStrategy, or "
                    "ModelParallelStrategy (FSDP2)"
                )
        if not pl_module.automatic_optimization:
            raise ThalwegError(
                "automatic_optimization must be True for SAMCallback, got False: take the callback "
                "away and write `for _ in sam.passes():` around manual_backward"
            )
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            raise ThalwegError(
                "training_step must take a batch, since it runs in every pass, got one that takes "
                "dataloader_iter: write training_step(self, batch, batch_idx)"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bind to the optimizer, whose state is restored by now, and to where closures are made."""
        self.sam = SAM(
            trainer.optimizers[0],
            pl_module,
            self.rho,
            method=self.method,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            telemetry=self.telemetry,
        )
        if self._state:
            self.sam.load_state_dict(self._state)
        loop = trainer.fit_loop.epoch_loop.automatic_optimization
        usual = functools.partial(type(loop)._make_closure, loop)
        step = Accumulated(self.sam, self.accumulation, _total)
        loop._make_closure = lambda kwargs, *rest: _Passes(  # type: ignore[method-assign]
            usual(kwargs, *rest), kwargs, trainer, step
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Log what the latest perturbation did, in the steps that Lightning logs."""
        logs = trainer._logger_connector.should_update_logs
        if self.sam is not None and logs and not trainer.fit_loop._should_accumulate():
            # Lightning would repeat the old value of what is not known this time.
            self._logged = dict.fromkeys(self._logged, math.nan) | self.sam.log_dict()
            pl_module.log_dict(self._logged, on_step=True, on_epoch=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the loop, and of the copy of the weights."""
        self._let_go(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Do the same: Lightning calls no teardown then."""
        self._let_go(trainer)

    def _let_go(self, trainer: pl.Trainer) -> None:
        vars(trainer.fit_loop.epoch_loop.automatic_optimization).pop("_make_closure", None)
        if self.sam is not None:
            self.sam.release()

    def state_dict(self) -> dict[str, Any]:
        """Return what the method must remember; Lightning writes it into its checkpoints."""
        return self._state if self.sam is None else self.sam.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint holds; it comes before the optimizer is ready."""
        self._state = state_dict


class _Passes(Closure):
    """The closure of one micro-batch; it runs what is due, in every pass.

    Args:
        usual: Lightning's closure.
        kwargs: What it calls the training step with.
        trainer: The trainer.
        step: What runs the passes.
    """

    def __init__(
        self,
        usual: Closure,
        kwargs: dict[str, Any],
        trainer: pl.Trainer,
        step: Accumulated[ClosureResult],
    ) -> None:
        super().__init__(usual._step_fn, usual._backward_fn)
        self._clear = usual._zero_grad_fn
        self._trainer, self._step = trainer, step
        self._last = not trainer.fit_loop._should_accumulate()
        self._kwargs, self._seen = kwargs, Batch(kwargs["batch"])
        self._batch = trainer._results.batch  # type: ignore[union-attr]

    @torch.enable_grad()
    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        """Run what is due; return the result of this micro-batch in the first pass."""
        if self._backward_fn is None:  # weight averaging, which updates statistics of layers
            return super().closure()
        if self._clear is not None:  # a step begins; one that was broken off may have left some
            self._step.forget()
            self._clear()
        found = self._step(self._run, last=self._last)
        return found[-1] if found else ClosureResult(closure_loss=None)

    def _run(self, here: Pass) -> ClosureResult:
        """Run the training step and the backward of this micro-batch once."""
        results: Any = self._trainer._results
        results.batch, results.batch_size = self._batch, None  # by which means are weighted
        self._kwargs["batch"] = self._seen.fresh()
        reduce = self._last or (here.ascent and self._step.accumulation == "micro")
        seen = contextlib.nullcontext() if here.index == 0 else _unseen(self._trainer)
        # Lightning lets ranks wait where gradients accumulate; an ascent needs those of all.
        with reducing(self._trainer.strategy.model, reduce, ascent=here.ascent), seen:
            return super().closure()


def _total(results: list[ClosureResult]) -> Tensor | None:
    """Return the loss of a step; none where each training step returned None, to be skipped."""
    losses = [r.loss.sum() for r in results if r.loss is not None]
    if len(losses) == 1:  # as a rule; a step is short
        return losses[0]
    return torch.stack(losses).sum() if losses else None


@contextlib.contextmanager
def _unseen(trainer: pl.Trainer) -> Iterator[None]:
    """Let a pass leave no trace in the logs, nor in the metrics of the module."""
    module, results = trainer.lightning_module, vars(trainer._results)
    metrics = [vars(m) for m in module.modules() if isinstance(m, Metric)]
    before = [dict(values) for values in metrics]
    for values in metrics:  # which metrics add to in place
        copies = {k: v.clone() for k, v in values.items() if isinstance(v, Tensor)}
        values.update(copies, **{k: [*v] for k, v in values.items() if type(v) is list})
    silent = dict.fromkeys(("log", "reset"), lambda *_, **__: None)
    # Callbacks have the module's method: for them the results are silent, too. In the first batch
    # a hook that logs would have what is logged reset.
    own = vars(module).get("log")
    results.update(silent)
    vars(module)["log"] = silent["log"]  # which takes its time before it comes to the results
    try:
        yield
    finally:
        for name in silent:
            results.pop(name)
        vars(module).pop("log")
        if own is not None:
            vars(module)["log"] = own
        for values, old in zip(metrics, before, strict=True):
            values.clear()
            values.update(old)
