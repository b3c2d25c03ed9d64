# examples/telemetry.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, epochs=3):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho, telemetry=True)
    losses, history = [], []
    for epoch in range(epochs):
        for x, y in loader:
            for here in sam.passes():
                loss = here.loss = cross_entropy(model(x), y)  # kept without its graph
                loss.backward()
                if here.index == 0:
                    losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        history.append(sam.log_dict())  # plain floats, for any logger
        print(f"epoch {epoch}: " + ", ".join(f"{k}={v:.4g}" for k, v in history[-1].items()))
    return model, sam, losses, history


if __name__ == "__main__":
    train()
