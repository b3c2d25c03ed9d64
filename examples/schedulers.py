# examples/schedulers.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.1, epochs=4):
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    losses, radii = [], []
    for epoch in range(epochs):
        for x, y in loader:
            for group in optimizer.param_groups:
                group["rho"] = rho * min(1.0, 4 * len(losses) / steps)  # warm-up, a quarter long
            for here in sam.passes():
                loss = cross_entropy(model(x), y)
                loss.backward()
                if here.index == 0:
                    losses.append(loss.item())
            radii.append(sam.last.perturbation_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        print(f"epoch {epoch}: lr {scheduler.get_last_lr()[0]:.4f}, length of ε {radii[-1]:.4f}")
    return model, sam, losses, radii


if __name__ == "__main__":
    train()
