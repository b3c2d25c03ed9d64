"""Those who are measured: each takes the same SAM step, and says which part of it is everyone's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_optimizer
import torch
from overhead_nets import Task
from torch import Tensor, nn

import thalweg

SETTINGS = {"lr": 1e-3, "momentum": 0.9}
RHO = 0.05


class Stopwatch:
    """Sorts the seconds of a step into everyone's, which `outside` takes, and SAM's own.

    On an accelerator every stamp waits for the device, which changes what is timed: there the
    whole step is taken once more with a watch that is not `fine`.
    """

    #: Seconds. The processor's own time, of one thread, leaves a busy neighbour out.
    clock: ClassVar[Callable[[], float]] = staticmethod(time.perf_counter)

    def __init__(self, device: torch.device, *, fine: bool = True) -> None:
        self._wait = device.type != "cpu"
        self._device = device
        self._fine = fine
        self.everyones = 0.0
        self._begun = self.now()

    def now(self) -> float:
        if self._wait:
            torch.accelerator.synchronize(self._device)
        return self.clock()

    def outside(self, work: Callable[[], Any]) -> Any:
        """Do what is not SAM's own: a forward and backward, the base step, the last zero_grad."""
        if not self._fine:
            return work()
        begun = self.now()
        value = work()
        self.everyones += self.now() - begun
        return value

    def stop(self) -> tuple[float, float]:
        """Return the seconds of the whole step and of SAM's own part in it."""
        whole = self.now() - self._begun
        return whole, whole - self.everyones


class Contestant:
    """Two gradients and a base step: what any SAM step is made of, without moving anything.

    The `zero_grad` between the gradients belongs to SAM's own work, here as in all the others:
    without SAM there is only the one after the step.
    """

    power = 1.0
    perturbs = True

    def __init__(self, task: Task, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = task.make().to(device)
        self._x, self._y = task.data(device)
        self.parameters: list[Tensor] = list(self.model.parameters())
        self.optimizer = self._optimizer()
        #: Called before each gradient; a test looks at the weights here.
        self.before_gradient: Callable[[], None] = lambda: None

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters, **SETTINGS)

    def gradient(self) -> Tensor:
        self.before_gradient()
        loss = nn.functional.cross_entropy(self.model(self._x), self._y)
        loss.backward()
        # Detached: what is left of the graph is everyone's to free, not SAM's own work.
        return loss.detach()

    def step(self, watch: Stopwatch) -> None:
        raise NotImplementedError


class TwoGradients(Contestant):
    """The zero of the scale."""

    perturbs = False

    def step(self, watch: Stopwatch) -> None:
        watch.outside(self.gradient)
        self.optimizer.zero_grad()
        watch.outside(self.gradient)
        watch.outside(self.optimizer.step)
        watch.outside(self.optimizer.zero_grad)


class ByHand(Contestant):
    """SAM as one would write it in a training script, correctly: what all are compared with."""

    def __init__(self, task: Task, device: torch.device, *, power: float = 1.0) -> None:
        super().__init__(task, device)
        self.power = power

    def step(self, watch: Stopwatch) -> None:
        watch.outside(self.gradient)
        with torch.no_grad():
            norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
            norm = torch.stack(norms).norm()
            kept = [p.clone() for p in self.parameters]
            for p in self.parameters:
                assert p.grad is not None
                p.add_(p.grad * (RHO / norm**self.power))
        self.optimizer.zero_grad()
        watch.outside(self.gradient)
        with torch.no_grad():
            for p, old in zip(self.parameters, kept, strict=True):
                p.copy_(old)
        watch.outside(self.optimizer.step)
        watch.outside(self.optimizer.zero_grad)


class Thalweg(Contestant):
    """thalweg's loop; what it does by itself happens between the bodies of the passes."""

    def __init__(self, task: Task, device: torch.device, **options: float | bool) -> None:
        super().__init__(task, device)
        self.power = options.get("power", 1.0)
        self.sam = thalweg.SAM(self.optimizer, self.model, rho=RHO, **options)

    def step(self, watch: Stopwatch) -> None:
        for here in self.sam.passes():
            loss = watch.outside(self.gradient)
            if self.sam.telemetry:
                here.loss = loss
        watch.outside(self.optimizer.step)
        watch.outside(self.optimizer.zero_grad)


class Peer(Contestant):
    """SAM of pytorch_optimizer, which steps the base optimizer inside its second step."""

    def __init__(self, task: Task, device: torch.device, **mode: bool) -> None:
        self._mode = mode
        super().__init__(task, device)
        self._base_step = self.optimizer.base_optimizer.step
        self._watch: Stopwatch | None = None
        self.optimizer.base_optimizer.step = self._watched_step

    def _optimizer(self) -> torch.optim.Optimizer:
        return pytorch_optimizer.SAM(
            self.parameters, torch.optim.SGD, rho=RHO, **SETTINGS, **self._mode
        )

    def _watched_step(self) -> None:
        assert self._watch is not None
        self._watch.outside(self._base_step)

    def step(self, watch: Stopwatch) -> None:
        self._watch = watch
        watch.outside(self.gradient)
        self.optimizer.first_step(zero_grad=True)
        watch.outside(self.gradient)
        self.optimizer.second_step(zero_grad=False)
        watch.outside(self.optimizer.zero_grad)


ZERO = "two gradients, base step"
HAND = "by hand"
OURS = "thalweg"
PEERS = ("pytorch_optimizer", "pytorch_optimizer, foreach=True")


def contestants(task: Task, device: torch.device, *, options: bool) -> dict[str, Contestant]:
    """Everyone, each with a model of its own that begins with the same weights."""
    found: dict[str, Contestant] = {
        ZERO: TwoGradients(task, device),
        HAND: ByHand(task, device),
        OURS: Thalweg(task, device),
        PEERS[0]: Peer(task, device),
        PEERS[1]: Peer(task, device, foreach=True),
    }
    if options:
        found["thalweg, power=0.5"] = Thalweg(task, device, power=0.5)
        found["thalweg, telemetry=True"] = Thalweg(task, device, telemetry=True)
    return found
