# examples/mnist_style.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, epochs=3):
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    train_loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    model.append(nn.LogSoftmax(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    losses = []
    for epoch in range(epochs):
        model.train()
        for data, target in train_loader:
            optimizer.zero_grad()
            for here in sam.passes():
                pass_loss = nn.functional.nll_loss(model(data), target)
                pass_loss.backward()
                if here.index == 0:
                    loss = pass_loss
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        print(f"epoch {epoch}: loss {losses[-1]:.3f}")
    return model, sam, losses


if __name__ == "__main__":
    train()
