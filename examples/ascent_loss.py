# examples/ascent_loss.py
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def wrong_at_least(logits, y):  # a lower bound on the share of wrong answers
    rest = logits.scatter(1, y[:, None], -torch.inf)
    lead = rest.amax(1) - logits.gather(1, y[:, None])[:, 0]  # above 0: the answer is wrong
    return (1 - softplus(math.log(math.e - 1) - lead)).mean()


def gradient(sam, model, x, y):
    for here in sam.passes():
        logits = model(x)
        loss = wrong_at_least(logits, y) if here.ascent else cross_entropy(logits, y)
        loss.backward()
    return loss.item()


def train(rho=0.05, epochs=3):
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
            losses.append(gradient(sam, model, x, y))
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss at w + ε {losses[-1]:.3f}")
    return model, sam, losses


if __name__ == "__main__":
    train()
