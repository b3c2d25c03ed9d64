"""Who is timed in the benchmark of trainers: each trainer through the integration and by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import transformers
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from overhead_nets import mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import thalweg
from thalweg.integrations.accelerate import prepare
from thalweg.integrations.lightning import SAMCallback
from thalweg.integrations.transformers import SAMTrainer

RHO = 0.05
#: When each step began, in seconds, and the weights at the end.
Run = tuple[list[float], list[Tensor]]


@dataclass(frozen=True)
class Task:
    """A multilayer perceptron of four layers and its batch; the loss is the cross-entropy."""

    title: str
    width: int
    batch: int

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return mlp(self.width)

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(1)
        return [
            (
                torch.randn(self.batch, self.width, generator=draw),
                torch.randint(self.width, (self.batch,), generator=draw),
            )
            for _ in range(count)
        ]

    def loader(self, count: int) -> Any:
        return torch.utils.data.DataLoader(self.batches(count), batch_size=None)


FULL = Task("MLP 4 × 512, batch 128", 512, 128)
QUICK = Task("MLP 4 × 16, batch 4", 16, 4)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def end(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# --- Lightning


class Automatic(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


class Manual(Automatic):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def on_train_start(self) -> None:
        self.sam = thalweg.SAM(self.optimizers().optimizer, self, rho=RHO)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for here in self.sam.passes():
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            if here.index == 0:
                self.log("loss", loss)
        optimizer = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()


class Stepping(Automatic):
    def on_train_start(self) -> None:
        self.sam = thalweg.SAM(self.optimizers().optimizer, self, rho=RHO)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        for _ in self.sam.passes():
            optimizer_closure()
        optimizer.step()


class Clock(pl.Callback):
    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())


def lightning(
    kind: type[Automatic], callbacks: list[pl.Callback], task: Task, steps: int, folder: str
) -> Run:
    clock = Clock()
    module = kind(task.model())
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    ).fit(module, task.loader(steps))
    return clock.starts, end(module)


def lightning_callback(task: Task, steps: int, folder: str) -> Run:
    return lightning(Automatic, [SAMCallback(rho=RHO)], task, steps, folder)


def lightning_manual(task: Task, steps: int, folder: str) -> Run:
    return lightning(Manual, [], task, steps, folder)


def lightning_stepping(task: Task, steps: int, folder: str) -> Run:
    return lightning(Stepping, [], task, steps, folder)


# --- Transformers


class Classifier(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self.net(x), labels)}


class HandWritten(Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        self.sam = thalweg.SAM(optimizer, self.model, rho=RHO)
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
        model.train()
        inputs = self._prepare_inputs(inputs)
        for here in self.sam.passes():
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
            if here.index == 0:
                first = loss.detach()
        return first


class StepClock(TrainerCallback):
    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.starts.append(time.perf_counter())


def hugging_face(
    kind: type[Trainer], options: dict[str, Any], task: Task, steps: int, folder: str
) -> Run:
    transformers.utils.logging.set_verbosity_error()
    model = Classifier(task.model())
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=1,  # an item is a whole batch
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    clock = StepClock()
    trainer = kind(
        model,
        arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in task.batches(steps)],
        data_collator=lambda items: items[0],
        optimizers=(sgd(model), None),
        callbacks=[clock],
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.starts, end(model)


def transformers_sam(task: Task, steps: int, folder: str) -> Run:
    return hugging_face(SAMTrainer, {"rho": RHO}, task, steps, folder)


def transformers_hand(task: Task, steps: int, folder: str) -> Run:
    return hugging_face(HandWritten, {}, task, steps, folder)


# --- Accelerate


def accelerate_loop(around: Callable[..., thalweg.SAM], task: Task, steps: int) -> Run:
    """Accelerate's documented loop with SAM in it, which `around` makes."""
    accelerator = Accelerator(cpu=True)
    model = task.model()
    loader = task.loader(steps)
    model, optimizer, loader = accelerator.prepare(model, sgd(model), loader)
    sam = around(accelerator, model, optimizer, rho=RHO)
    starts = [time.perf_counter()]
    for x, y in loader:
        with accelerator.accumulate(model):
            for _ in sam.passes():
                accelerator.backward(cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
        starts.append(time.perf_counter())
    return starts, end(model)


def accelerate_prepared(task: Task, steps: int, _: str) -> Run:
    return accelerate_loop(prepare, task, steps)


def accelerate_by_hand(task: Task, steps: int, _: str) -> Run:
    def around(
        _: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer, rho: float
    ) -> thalweg.SAM:
        return thalweg.SAM(optimizer.optimizer, model, rho)

    return accelerate_loop(around, task, steps)


CONTESTANTS: dict[str, tuple[Callable[[Task, int, str], Run], Callable[[Task, int, str], Run]]] = {
    "Lightning, beside manual optimization": (lightning_callback, lightning_manual),
    "Lightning, beside `optimizer_step`": (lightning_callback, lightning_stepping),
    "Transformers": (transformers_sam, transformers_hand),
    "Accelerate": (accelerate_prepared, accelerate_by_hand),
}
