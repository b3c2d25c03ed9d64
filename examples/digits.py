"""Train a small network on real handwritten digits, with SGD and with SAM.

    python examples/digits.py

Needs scikit-learn, for the digits. A third of the training labels are drawn anew, at random.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg


def train(rho: float, epochs: int = 60) -> float:
    """Return the accuracy on the test images; rho=0 is plain SGD."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data / 8 - 1, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, test = order[:600], order[600:]
    noisy = labels[train].clone()
    noisy[:200] = torch.randint(0, 10, (200,))

    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sam = thalweg.SAM(optimizer, model, rho=rho)

    for _ in range(epochs):
        for rows in torch.randperm(600).split(60):
            for _ in sam.passes():
                cross_entropy(model(images[train[rows]]), noisy[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        right = model(images[test]).argmax(1) == labels[test]
    return right.float().mean().item()


if __name__ == "__main__":
    for rho in (0.0, 0.1, 0.3):
        print(f"rho = {rho}: test accuracy {train(rho):.3f}")
