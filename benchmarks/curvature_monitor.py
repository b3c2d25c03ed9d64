"""What a Monitor at its default adds to training, on the ResNet and on a transformer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from curvature_contestants import Task, digits, loss_of
from torch import Tensor, nn

import thalweg
from thalweg.curvature import Monitor, read_records

SHARE = 0.05
LENGTH = 64


@dataclass(frozen=True)
class Watched:
    """A training with a monitor.

    Attributes:
        what: What was trained.
        steps: Steps of training.
        samples: Samples after the start.
        training: Seconds of training alone.
        start: Seconds that attaching the monitor took, its first sample and its sinks included.
        own: Seconds that the monitor took after the start: whatever it did after every step.
    """

    what: str
    steps: int
    samples: int
    training: float
    start: float
    own: float

    @property
    def share(self) -> float:
        """What the monitor took after the start, relative to training alone."""
        return self.own / self.training

    @property
    def whole(self) -> float:
        """The same with the start, which weighs the less the longer a training is."""
        return (self.start + self.own) / self.training


class Timed(Monitor):
    """A monitor, and the seconds that it has taken after steps."""

    own = 0.0

    def _stepped(self) -> None:
        began = time.perf_counter()
        super()._stepped()
        self.own += time.perf_counter() - began


class Reader(nn.Module):
    """A causal transformer over letters."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(128, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 128)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.letters(x) + self.places.weight
        found: Tensor = self.head(self.body(seen, mask=self.causal, is_causal=True))
        return found


def text_loss(model: nn.Module, rows: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def some(data: list[Tensor], size: int) -> Iterator[Any]:
    """Batches without end."""
    draw = torch.Generator().manual_seed(0)
    while True:
        pick = torch.randint(len(data[0]), (size,), generator=draw)
        yield tuple(each[pick] for each in data) if len(data) > 1 else data[0][pick]


def resnet(task: Task) -> tuple[nn.Module, Callable[..., Tensor], Iterator[Any]]:
    return task.net(), loss_of, some(list(digits(task.side)), task.examples)


def transformer(task: Task) -> tuple[nn.Module, Callable[..., Tensor], Iterator[Any]]:
    torch.manual_seed(0)
    text = "".join(topics[name] for name in sorted(topics))[: 2000 * (LENGTH + 1)]
    letters = torch.tensor([min(ord(letter), 127) for letter in text]).view(-1, LENGTH + 1)
    return Reader(4 * task.width, 2), text_loss, some([letters], task.examples // 2)


def watched(what: str, made: Any, seconds: float) -> Watched:
    """Train with SAM and a Monitor as it comes, which writes to a file."""
    model, loss, batches = made
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sam = thalweg.SAM(optimizer, model, rho=0.05)
    probe = next(batches)
    steps = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.jsonl"
        begun = time.perf_counter()
        monitor = Timed(sam, loss, probe, to=file)
        start = time.perf_counter() - begun
        while time.perf_counter() - begun < seconds:
            batch = next(batches)
            for _ in sam.passes():
                loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        whole = time.perf_counter() - begun
        monitor.close()
        samples = len(read_records(file)) - 1
    return Watched(what, steps, samples, whole - start - monitor.own, start, monitor.own)


def both(task: Task, seconds: float) -> list[Watched]:
    return [
        watched("the ResNet, batch 64", resnet(task), seconds),
        watched("a causal transformer, batch 32 × 64 letters", transformer(task), seconds),
    ]
