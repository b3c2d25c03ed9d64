# examples/resume.py
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg


def train(path=Path("checkpoint.pt"), rho=0.05, until=3):
    torch.manual_seed(0)
    images, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.2), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    parts = {"model": model, "optimizer": optimizer, "sam": sam}
    start, losses = 0, []
    if path.exists():
        saved = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"])
        start = saved["epoch"]
    for epoch in range(start, until):
        for rows in torch.randperm(len(images)).split(64):
            for here in sam.passes():
                loss = cross_entropy(model(images[rows].float() / 8 - 1), labels[rows])
                loss.backward()
                losses += [loss.item()] if here.index == 0 else []
            optimizer.step()
            optimizer.zero_grad()
        saved = {name: part.state_dict() for name, part in parts.items()}
        torch.save(saved | {"random": torch.get_rng_state(), "epoch": epoch + 1}, path)
    return model, sam, losses


if __name__ == "__main__":
    print(train()[1].last)
