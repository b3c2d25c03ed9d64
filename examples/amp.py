# examples/amp.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, dtype=torch.float16, epochs=3):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)  # bfloat16 needs none
    sam = thalweg.SAM(optimizer, model, rho=rho, scaler=scaler)
    losses = []
    for epoch in range(epochs):
        for x, y in loader:
            for here in sam.passes():
                with torch.autocast(device, dtype):
                    loss = cross_entropy(model(x.to(device)), y.to(device))
                scaler.scale(loss).backward()
                if here.index == 0:
                    losses.append(loss.item())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {losses[-1]:.3f}, scale {scaler.get_scale():g}")
    return model, sam, losses


if __name__ == "__main__":
    train()
    train(dtype=torch.bfloat16)
