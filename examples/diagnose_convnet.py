# examples/diagnose_convnet.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def loss(model, batch):
    x, y = batch
    return cross_entropy(model(x), y)


def build(epochs=2):
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1).float().unsqueeze(1)
    data = TensorDataset(images, torch.tensor(digits.target))
    loader = DataLoader(data, batch_size=64, shuffle=True)
    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):  # at the initialization there is little to see
        for batch in loader:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return model, loss, loader, optimizer


if __name__ == "__main__":
    print(thalweg.diagnose(*build()))
