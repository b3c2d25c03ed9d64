# examples/ascent_quarter.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def gradient(sam, model, x, y, share=4):
    for here in sam.passes():
        rows = slice(len(x) // share if here.ascent else len(x))  # the batch is shuffled
        loss = cross_entropy(model(x[rows]), y[rows])
        loss.backward()
    return loss.item()


def train(rho=0.05, share=4, epochs=3):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    losses = []
    for epoch in range(epochs):
        for x, y in loader:
            losses.append(gradient(sam, model, x, y, share))
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss at w + ε {losses[-1]:.3f}")
    return model, sam, losses


if __name__ == "__main__":
    train()
