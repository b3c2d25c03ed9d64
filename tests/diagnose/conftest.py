"""A user's own script, in a folder of its own."""

from __future__ import annotations

import sys

import pytest

SCRIPT = """
import torch
from torch import nn

BUILT = []


def loss(model, batch):
    return model(batch).square().mean()


def build():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    BUILT.append(model)
    loader = [torch.randn(4, 3) for _ in range(3)]
    return model, loss, loader, torch.optim.SGD(model.parameters(), lr=0.1)


def three():
    return build()[:3]


def nothing():
    pass


def needs(size):
    return build()


def swapped():
    model, loss, loader, optimizer = build()
    return model, loader, loss, optimizer


number = 3
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "own_script.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("own_script", "diagnosed_own_script"):
        sys.modules.pop(name, None)
