# examples/accelerate_digits.py: accelerate launch examples/accelerate_digits.py
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from thalweg.integrations.accelerate import prepare


def train(rho=0.05, pieces=2, epochs=3):
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=pieces)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 32, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    sam = prepare(accelerator, model, optimizer, rho=rho)
    losses = []
    for _ in range(epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                for here in sam.passes():  # each micro-batch has its own ascent
                    loss = cross_entropy(model(inputs), targets)
                    accelerator.backward(loss)
                    losses += [loss.item()] if here.index == 0 else []
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    accelerator.end_training()
    return model, sam, losses


if __name__ == "__main__":
    print(train()[1].last)
