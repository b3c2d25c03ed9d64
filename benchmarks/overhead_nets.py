"""What is trained: the networks of the overhead benchmark, and copies small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """A network and the form of its batch; the loss is the cross-entropy."""

    title: str
    make: Callable[[], nn.Module]
    batch: tuple[int, ...]
    classes: int
    rounds: int
    #: Steps that nobody times before each timed one, so that a contestant finds its own tensors
    #: in the caches, as in training, and not those of the one before it.
    unseen: int = 1

    def data(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(self.batch, device=device),
            torch.randint(self.classes, self.batch[:1], device=device),
        )


def mlp(width: int, depth: int = 4) -> nn.Module:
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Small(nn.Module):
    """Many small layers of two tensors each."""

    def __init__(self, layers: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.01 * torch.tanh(layer(x))
        return x


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(width: int) -> nn.Module:
    """ResNet-18 as used on CIFAR: a 3 x 3 stem, no pooling before the first stage."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inside = width
    for stage in range(4):
        out = width * 2**stage
        layers += [Block(inside, out, 1 if stage == 0 else 2), Block(out, out, 1)]
        inside = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


FULL = {
    "mlp": Task("(i) MLP 4 × 1024, batch 64", lambda: mlp(1024), (64, 1024), 1024, 60),
    "small": Task("(ii) 200 small tensors, batch 64", lambda: Small(100), (64, 32), 32, 200),
    "resnet": Task(
        "(iii) ResNet-18 for CIFAR, batch 128", lambda: resnet18(64), (128, 3, 32, 32), 10, 5, 0
    ),
}

#: The same forms, for a test; their numbers mean nothing.
QUICK = {
    "mlp": Task("(i) MLP 4 × 32, batch 8", lambda: mlp(32), (8, 32), 32, 3),
    "small": Task("(ii) 20 small tensors, batch 8", lambda: Small(10), (8, 32), 32, 3),
    "resnet": Task("(iii) thin ResNet-18, batch 4", lambda: resnet18(4), (4, 3, 32, 32), 10, 3, 0),
}

#: For memory: no tensor is a large part of the whole, and parameters outweigh activations.
DEEP = Task("24 layers of 256 × 256", lambda: mlp(256, 24), (4, 256), 256, 0)
