# examples/fsdp2.py: torchrun --nproc-per-node=2 --standalone examples/fsdp2.py
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint import state_dict as sd
from torch.distributed.fsdp import fully_shard

import thalweg


def train(folder="checkpoint", rho=0.05, start=0, until=3):
    device = f"cuda:{dist.get_rank()}" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    x, y = (torch.tensor(a).to(device) for a in load_digits(return_X_y=True))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    fully_shard(model)  # of a deep model, each block first
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    if start:
        weights, state = sd.get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{start}")
        sd.set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    for epoch in range(start, until):
        torch.manual_seed(epoch)  # the same order on every rank, resumed or not
        for batch in torch.randperm(len(x)).split(64):
            rows = batch[dist.get_rank() :: dist.get_world_size()]
            for _ in sam.passes():
                nn.functional.cross_entropy(model(x[rows].float() / 8 - 1), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights, state = sd.get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{epoch + 1}")
    return model, sam


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    print(f"rank {dist.get_rank()}: {train()[1].last}")
    dist.barrier()
    dist.destroy_process_group()
