# examples/imagenet_style.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, epochs=3):
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    losses = []
    for epoch in range(epochs):
        model.train()
        right = 0
        for images, target in loader:
            optimizer.zero_grad()
            for here in sam.passes():
                pass_output = model(images)
                pass_loss = criterion(pass_output, target)
                pass_loss.backward()
                if here.index == 0:
                    output, loss = pass_output, pass_loss
            losses.append(loss.item())
            right += (output.argmax(1) == target).sum().item()
            optimizer.step()
        scheduler.step()
        print(f"epoch {epoch}: loss {losses[-1]:.3f}, top-1 {right / len(y):.3f}")
    return model, sam, losses


if __name__ == "__main__":
    train()
