"""Small models with all that a measurement could disturb, and a quadratic with known answers."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


def digits(batch=32, count=4, shuffle=False, **settings):
    data = load_digits()
    x = torch.tensor(data.images / 8 - 1).float().unsqueeze(1)[: batch * count]
    rows = torch.utils.data.TensorDataset(x, torch.tensor(data.target)[: batch * count])
    return torch.utils.data.DataLoader(rows, batch_size=batch, shuffle=shuffle, **settings)


def loss_of(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def convnet(dropout=0.2, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(36, 10),
    ).to(dtype)


def four():
    """Return what a diagnosis is given: model, loss, loader, optimizer."""
    model = convnet()
    return [model, loss_of, digits(), torch.optim.SGD(model.parameters(), lr=0.1)]


def train(model, loader, optimizer, epochs):
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()


class Point(nn.Module):
    """A vector w, its Hessian diagonal and a force: L = ½ Σ λ_i w_i² + <batch, w>."""

    def __init__(self, eigenvalues, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.register_buffer("eigenvalues", torch.tensor(eigenvalues, dtype=torch.float64))


def quadratic(model, batch):
    """The mean over the rows of a batch; a row is a force."""
    return (model.eigenvalues * model.w**2).sum() / 2 + (batch @ model.w).mean()
