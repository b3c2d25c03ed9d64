# examples/timm_style.py
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import thalweg


def train(rho=0.05, clip_grad=1.0, grad_accum_steps=3, dtype=torch.float16, epochs=3):
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 32, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    model_ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    sam = thalweg.SAM(optimizer, model, rho=rho, scaler=scaler)
    losses = []
    for _ in range(epochs):
        for batch_idx, (input, target) in enumerate(loader):
            need_update = batch_idx == len(loader) - 1 or (batch_idx + 1) % grad_accum_steps == 0
            rest = len(loader) % grad_accum_steps  # the last update of an epoch may have fewer
            accum_steps = rest if batch_idx >= len(loader) - rest else grad_accum_steps
            for here in sam.passes():  # each micro-batch has its own ascent
                with torch.autocast("cpu", dtype):
                    _loss = nn.functional.cross_entropy(model(input), target) / accum_steps
                scaler.scale(_loss).backward()
                losses += [_loss.item() * accum_steps] if here.index == 0 else []
            if not need_update:
                continue
            if clip_grad is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            model_ema.update_parameters(model)
    return model, sam, losses, model_ema


if __name__ == "__main__":
    print(train()[1].last)
