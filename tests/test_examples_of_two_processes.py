"""The examples for several processes run in two, and end where one process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"

#: Runs both examples for several processes, in the two that the test starts.
DRIVER = """
import runpy, sys
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from sklearn.datasets import load_digits
from torch import nn
import thalweg

torch.set_num_threads(1)
examples, folder = sys.argv[1:]
dist.init_process_group("gloo")


def full(model):
    held = [p.detach() for p in model.parameters()]
    held = [p.full_tensor() if isinstance(p, DTensor) else p for p in held]
    return torch.cat([p.flatten() for p in held])


def reference(rho, per_rank, epochs=1):
    # The same in one process: the batch loss is the mean of the ranks' losses.
    torch.manual_seed(0)
    images, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    loss = lambda rows: cross_entropy(model(images[rows].float() / 8 - 1), labels[rows]) / 2
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        for batch in torch.randperm(len(images)).split(64):
            for part in (batch[0::2], batch[1::2]) if per_rank else ((batch,),):
                for _ in sam.passes():
                    for rows in (part,) if per_rank else (batch[0::2], batch[1::2]):
                        loss(rows).backward()
            optimizer.step()
            optimizer.zero_grad()
    return full(model)


def same_on_all_ranks(w):
    others = [torch.empty_like(w) for _ in range(2)]
    dist.all_gather(others, w)
    return torch.equal(*others)


def check(name, ok):
    assert ok, name
    print("ok", name)


ddp = runpy.run_path(f"{examples}/ddp.py")["train"]
off = reference(0.0, False)
for per_rank in (False, True):
    model, sam = ddp(per_rank=per_rank, epochs=1)
    w = full(model)
    check("ddp ranks", same_on_all_ranks(w))
    check("ddp rho", abs(float(sam.last.perturbation_norm) - 0.05) < 1e-6)
    check("ddp reference", (w - reference(0.05, per_rank)).norm() < 1e-3)
    check("ddp is sam", (w - off).norm() > 0.1)
    check("ddp kind", (w - reference(0.05, not per_rank)).norm() > 0.05)

fsdp2 = runpy.run_path(f"{examples}/fsdp2.py")["train"]
whole, sam = fsdp2(f"{folder}/whole", until=2)
w = full(whole)
check("fsdp2 rho", abs(float(sam.last.perturbation_norm) - 0.05) < 1e-6)
check("fsdp2 ranks", same_on_all_ranks(w))
check("fsdp2 reference", (w - reference(0.05, False, epochs=2)).norm() < 1e-3)
fsdp2(f"{folder}/parts", until=1)
parts, _ = fsdp2(f"{folder}/parts", start=1, until=2, rho=0.5)  # the file's rho is used
check("fsdp2 resume", torch.equal(full(parts), w))
dist.destroy_process_group()
print("done")
"""


def test_examples_for_several_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = []
    for rank in range(2):  # what torchrun would set, without its own process
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        run.append(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(FOLDER), str(tmp_path)],
                env=os.environ | {k: str(v) for k, v in names.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        told = [process.communicate(timeout=240) for process in run]
    finally:
        for process in run:
            process.kill()
    for out, err in told:
        assert out.splitlines()[-1:] == ["done"], out + err
        assert out.count("ok") == 14
