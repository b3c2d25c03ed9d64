"""What a step of every preset takes, in plain steps, on an ordinary perceptron."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch
from page_head import middle_ratio
from race_tasks import IN_TORCH, MICRO, method_of
from torch import nn
from torch.nn import functional

import thalweg
from thalweg import Method, presets
from thalweg.ascent import Adaptive, Window

#: Of the perceptron, its batch and its layers.
WIDTH, BATCH, DEPTH = 512, 128, 4
RHO = 0.05
PLAIN = "plain step"
#: Any number of steps: gates that are opened or shut for good do not count them.
STEPS = 1000
NEVER = 1 << 40


class Runner:
    """A network that is trained, with a method or without."""

    def __init__(self, method: Method | None, width: int, batch: int, parts: int = 1) -> None:
        torch.manual_seed(0)
        layers = [m for _ in range(DEPTH) for m in (nn.Linear(width, width), nn.ReLU())]
        self.model = nn.Sequential(*layers[:-1])
        self.batch = torch.randn(batch, width), torch.randint(width, (batch,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.parts, self.sam = parts, None
        if method is not None:
            self.sam = thalweg.SAM(self.optimizer, self.model, RHO, method=method)

    def step(self) -> None:
        """Take one step; the micro-batches of m-SAM take their own ascents."""
        whole = zip(*(torch.chunk(t, self.parts) for t in self.batch), strict=True)
        for x, y in whole:
            for _ in [None] if self.sam is None else self.sam.passes():
                (functional.cross_entropy(self.model(x), y) / self.parts).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def gated(method: Method, *, opened: bool) -> Method:
    """Return the method with its gate open for good, or shut; one that judges goes on judging."""
    if isinstance(method.gate, Adaptive):
        bound = -1e30 if opened else 1e30
        gate: Any = dataclasses.replace(method.gate, early=bound, late=bound)
    else:
        gate = Window() if opened else Window(NEVER)
    return dataclasses.replace(method, gate=gate)


def contestants(width: int, batch: int) -> dict[str, Runner]:
    """Return everyone who is timed; of a gated method its open and its closed steps."""
    who = {PLAIN: Runner(None, width, batch)}
    for card in presets.cards():
        if card.name in IN_TORCH:
            continue
        method = method_of(card.name, STEPS)
        if method.gate == Method().gate:
            parts = MICRO if card.name == "micro_batch" else 1
            who[card.name] = Runner(method, width, batch, parts)
            continue
        who[f"{card.name} open"] = Runner(gated(method, opened=True), width, batch)
        who[f"{card.name} closed"] = Runner(gated(method, opened=False), width, batch)
    return who


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Time everyone in turn; return [low, median, high] of the ratio to a plain step.

    Each takes a step that nobody times before the one that counts.
    """
    torch.set_num_threads(1)
    width, batch = (16, 8) if quick else (WIDTH, BATCH)
    who = contestants(width, batch)
    for one in who.values():  # what adapts to its first steps has seen some
        one.step()
    seconds: dict[str, list[float]] = {name: [] for name in who}
    for turn in range(rounds):
        names = list(who)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for name in names[:: -1 if turn % 2 else 1]:
            who[name].step()
            begun = time.perf_counter()
            who[name].step()
            seconds[name].append(time.perf_counter() - begun)
    plain = np.array(seconds.pop(PLAIN))
    return {
        "network": f"perceptron {DEPTH} × {width}, batch {batch}",
        "rounds": rounds,
        "seconds of a plain step": float(np.median(plain)),
        "times": {name: middle_ratio(np.array(each), plain) for name, each in seconds.items()},
    }


def factor(costs: dict[str, Any], name: str, share: float) -> float | None:
    """Return how long a step takes, in plain steps, if this share of the steps is perturbed."""
    times = costs.get("times", {})
    if name in times:
        return float(times[name][1])
    if f"{name} open" not in times:
        return None
    opened, closed = (float(times[f"{name} {state}"][1]) for state in ("open", "closed"))
    return share * opened + (1 - share) * closed
