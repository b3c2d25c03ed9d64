"""The loop of Accelerate's documentation with SAM in it, and the plain one that it must equal."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg import SAM
from thalweg.integrations.accelerate import prepare

RHO, CLIP = 0.1, 0.5


def digits(n=7 * 16):
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    return TensorDataset(x[:n].float() / 8 - 1, y[:n])


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


def prepared(rho=RHO, k=1, mixed="no", **options):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=k, mixed_precision=mixed)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    loader = DataLoader(digits(), 16)
    found = accelerator.prepare(model, optimizer, loader, schedule)
    sam = prepare(accelerator, found[0], found[1], rho, **options)
    return accelerator, sam, *found


def train(accelerator, sam, model, optimizer, loader, schedule, epochs=2):
    """The loop of Accelerate's own documentation, with the passes around the backward."""
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                for _ in sam.passes():
                    accelerator.backward(nn.functional.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


def plain(k=1, epochs=2, together=False, loss_of=None, rho=RHO, **options):
    """Train by a plain loop, the micro-batches outside the passes, or inside."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    sam = SAM(optimizer, model, rho, **options)
    torch.manual_seed(1)
    loss_of = loss_of or (lambda model, x, y: nn.functional.cross_entropy(model(x), y))
    loader = DataLoader(digits(), 16)
    for _ in range(epochs):
        batches = list(iter(loader))
        for group in [batches[i : i + k] for i in range(0, len(batches), k)]:
            if together:
                for _ in sam.passes():
                    for x, y in group:
                        (loss_of(model, x, y) / len(group)).backward()
            else:
                for x, y in group:
                    for _ in sam.passes():
                        (loss_of(model, x, y) / k).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model
