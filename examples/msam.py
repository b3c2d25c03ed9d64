# examples/msam.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, m=16, epochs=3):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    losses = []
    for epoch in range(epochs):
        for x, y in loader:
            total = 0.0
            for part, target in zip(x.split(m), y.split(m), strict=True):
                for here in sam.passes():  # every m examples have an ascent of their own
                    loss = cross_entropy(model(part), target) * len(part) / len(x)
                    loss.backward()
                    total += loss.item() if here.index == 0 else 0.0
            losses.append(total)
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {losses[-1]:.3f}, {sam.last}")
    return model, sam, losses


if __name__ == "__main__":
    train()
