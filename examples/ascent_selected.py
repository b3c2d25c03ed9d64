# examples/ascent_selected.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def most_risen(sam, model, x, y, k):  # ESAM's choice: descend on the k whose loss ε raised most
    before = 0.0  # in a step without an ascent: the k largest losses
    for here in sam.passes():
        if here.ascent:
            losses = cross_entropy(model(x), y, reduction="none")
            losses.mean().backward()
            before = losses.detach()
        else:
            with torch.no_grad():
                rise = cross_entropy(model(x), y, reduction="none") - before
            rows = rise.topk(k).indices
            cross_entropy(model(x[rows]), y[rows]).backward()


def largest(sam, model, x, y, k):  # K-SAM: both passes on the k largest losses
    with torch.no_grad():
        rows = cross_entropy(model(x), y, reduction="none").topk(k).indices
    for _ in sam.passes():
        cross_entropy(model(x[rows]), y[rows]).backward()


def train(rho=0.05, gradient=most_risen, k=32, epochs=3):
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    for _ in range(epochs):
        for inputs, targets in loader:
            gradient(sam, model, inputs, targets, k)
            optimizer.step()
            optimizer.zero_grad()
    return model, sam


if __name__ == "__main__":
    print(train()[1].last)
    print(train(gradient=largest)[1].last)
