"""What a user of thalweg writes: run, it trains; read by mypy, each line marked wrong must be one.

The check of the package installs the wheel beside torch alone, and runs this file there.
"""

from __future__ import annotations

from typing import assert_type

import torch
from torch import Tensor, nn

import thalweg
from thalweg import curvature, presets, theory

Batch = tuple[Tensor, Tensor]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(method: thalweg.Method | None) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    inputs = torch.randn(64, 4)
    batch = inputs, (inputs[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    sam = thalweg.SAM(optimizer, model, rho=0.05, method=method)
    for _ in range(20):
        for here in sam.passes():
            assert_type(here.ascent, bool)
            loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert sam.last.moved
    assert_type(sam.log_dict(), dict[str, float])
    product = curvature.on_batch(model, loss_of, batch)
    assert curvature.lambda_max(product).value > 0
    return loss_of(model, batch).item()


def wrong(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    thalweg.SAM(model.parameters(), model)  # type: ignore[arg-type]
    thalweg.SAM(optimizer, model, radius=0.05)  # type: ignore[arg-type]
    thalweg.Method(power="1")  # type: ignore[arg-type]
    thalweg.SAM(optimizer, model).pases()  # type: ignore[attr-defined]
    theory.edge(None)  # type: ignore[type-var]
    presets.asm()  # type: ignore[attr-defined]
    thalweg.SMA()  # type: ignore[attr-defined]


if __name__ == "__main__":
    assert_type(theory.edge(eta=0.1, rho=0.05), float)
    for method in (None, thalweg.Method(power=0.0), presets.asam()):
        assert train(method) < 0.2, method
    rooms = set(thalweg.__all__) - {"lab"}  # which needs numpy
    assert all(getattr(thalweg, name) for name in rooms)
