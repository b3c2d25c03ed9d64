# examples/ddp.py: torchrun --nproc-per-node=2 --standalone examples/ddp.py
import contextlib

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg


def train(rho=0.05, per_rank=False, epochs=3):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    images, labels = (torch.tensor(a).to(device) for a in load_digits(return_X_y=True))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    for epoch in range(epochs):
        torch.manual_seed(epoch)  # the same order on every rank
        for batch in torch.randperm(len(images)).split(64):
            rows = batch[rank::ranks]  # every rank has its share
            for here in sam.passes():
                alone = per_rank and here.ascent  # ε from this rank's examples alone
                with model.no_sync() if alone else contextlib.nullcontext():
                    cross_entropy(model(images[rows].float() / 8 - 1), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model, sam


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    for per_rank in (False, True):
        print(f"rank {dist.get_rank()}: {train(per_rank=per_rank)[1].last}")
    dist.barrier()  # gloo aborts where one rank leaves while another still speaks
    dist.destroy_process_group()
