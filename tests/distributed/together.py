"""What the cases share: a small task split over the ranks, SAM written out, and comparisons."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import unittest.mock
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from forms import FORMS
from harness import WORLD
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from thalweg import SAM

RHO = 0.1
N = 16  # examples in a batch, of all ranks together
STEPS = 8
#: On the length of ε above power 1: it bites in some steps and not in others.
CAP = 0.3

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "still": lambda p: torch.optim.SGD(p, lr=0.0),
}


def net(
    *,
    dtype: torch.dtype = torch.float32,
    width: int = 7,
    out: int = 3,
    middle: Sequence[nn.Module] = (),
) -> nn.Sequential:
    """Return a network of odd sizes, the same on every rank; with ``out=1`` a shard is empty."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, width), *middle, nn.Tanh(), nn.Linear(width, out)]
    return nn.Sequential(*layers).to(dtype)


def batch(step: int, rows: slice, *, dtype: torch.dtype, out: int = 3) -> tuple[Tensor, Tensor]:
    """Return some rows of the batch of a step."""
    draw = torch.Generator().manual_seed(1000 + step)
    x, y = (torch.randn(N, k, generator=draw, dtype=torch.float64) for k in (5, out))
    return x[rows].to(dtype), y[rows].to(dtype)


def shard(model: nn.Module, *, nested: bool = True, **options):
    """Shard a network by FSDP2, each layer by itself unless told otherwise."""
    if nested:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                fully_shard(layer, **options)
    return fully_shard(model, **options)


def sharded(model=None, *, base="momentum", rho=RHO, nested=True, sam=None, **options):
    """Return SAM and the sharded network that it trains; ``sam`` has more options for SAM."""
    model = shard(model or net(), nested=nested, **options)
    return SAM(BASES[base](model.parameters()), model, rho, **(sam or {})), model


EVERY = slice(None)


def rows(rank: int, micro: int = 0, micros: int = 1) -> slice:
    """Return which rows of a batch are those of a rank, or of one of its micro-batches."""
    n = N // WORLD // micros
    first = (rank * micros + micro) * n
    return slice(first, first + n)


def mine(micro: int = 0, micros: int = 1) -> slice:
    """Return the rows of this rank."""
    return rows(dist.get_rank(), micro, micros)


def loss_of(model: nn.Module, step: int, which: slice, out: int = 3) -> Callable[[], Tensor]:
    """Return the loss of some rows of a batch, as a function without arguments."""
    x, y = batch(step, which, dtype=next(model.parameters()).dtype, out=out)
    return lambda: ((model(x) - y) ** 2).mean()


def train(sam, model, *, form="passes", steps=STEPS, first=0, out=3):
    """Train on this rank's rows."""
    for step in range(first, first + steps):
        FORMS[form](sam, loss_of(model, step, mine(), out))


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor]:
    """Return the gradients of a loss, zero where it does not reach."""
    found = torch.autograd.grad(loss(), list(model.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, model.parameters(), strict=True)
    ]


def length(tensors: Sequence[Tensor]) -> float:
    """Return the norm of all the tensors together, in float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def sam_gradient(model, loss, *, rhos, power=1.0, cap=math.inf) -> list[Tensor]:
    """Return the gradient at w + ε, written out; ``rhos`` has a number for every parameter."""
    w = list(model.parameters())
    g = gradients(model, loss)
    n = length([d for d, rho in zip(g, rhos, strict=True) if rho])
    epsilon = [rho * n**-power * d for d, rho in zip(g, rhos, strict=True)] if n else g
    cut = min(1.0, cap / length(epsilon)) if n else 0.0
    before = [p.detach().clone() for p in w]
    with torch.no_grad():
        for p, e in zip(w, epsilon, strict=True):
            p.add_(cut * e)
    h = gradients(model, loss)
    with torch.no_grad():
        for p, b in zip(w, before, strict=True):
            p.copy_(b)
    return h


def alone(
    model: nn.Module,
    *,
    groups: Sequence[Sequence[slice]] = ((EVERY,),),
    base: str = "momentum",
    steps: int = STEPS,
    out: int = 3,
    rhos: Sequence[float] | None = None,
    power: float = 1.0,
    cap: float = math.inf,
    clip: float = math.inf,
) -> nn.Module:
    """Train a network in this process alone, with SAM written out in plain torch.

    Args:
        model: What is trained.
        groups: Which rows share an ascent: the SAM gradients of the groups are averaged. The
            slices of a group are its equal parts.
        base: Name of the base optimizer.
        steps: How many.
        out: Of the network.
        rhos: For every parameter; all the same unless told otherwise.
        power: The power p.
        cap: On the length of ε.
        clip: On the norm of the SAM gradient.

    Returns:
        The network.
    """
    w = list(model.parameters())
    rhos = rhos or [RHO] * len(w)
    optimizer = BASES[base](w)
    for step in range(steps):
        total = [torch.zeros_like(p) for p in w]
        for parts in groups:
            losses = [loss_of(model, step, part, out) for part in parts]

            def loss(losses=losses):
                return sum(one() for one in losses) / len(losses)

            h = sam_gradient(model, loss, rhos=rhos, power=power, cap=cap)
            total = [t + u / len(groups) for t, u in zip(total, h, strict=True)]
        for p, u in zip(w, total, strict=True):
            p.grad = u
        if clip < math.inf:
            nn.utils.clip_grad_norm_(w, clip)
        optimizer.step()
    return model


def full(tensors) -> list[Tensor]:
    """Return a module's parameters, or tensors, whole and apart from what becomes of them."""
    tensors = tensors.parameters() if isinstance(tensors, nn.Module) else tensors
    with torch.no_grad():
        return [(t.full_tensor() if isinstance(t, DTensor) else t).clone() for t in tensors]


def local(tensors) -> list[Tensor]:
    """Return what this rank holds of a module's parameters, or of tensors: no copies."""
    tensors = tensors.parameters() if isinstance(tensors, nn.Module) else tensors
    return [t.detach().to_local() if isinstance(t, DTensor) else t.detach() for t in tensors]


def close(found, expected, tolerance: float) -> None:
    """Fail unless parameters are equal to a tolerance, relative and absolute."""
    for p, q in zip(full(found), full(expected), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def same_bits(found, expected) -> bool:
    """Whether parameters are equal, bit for bit."""
    pairs = zip(full(found), full(expected), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def same_on_all_ranks(tensors) -> bool:
    """Whether every rank sees the same parameters, or tensors, bit for bit."""
    everybody: list[list[Tensor]] = [[] for _ in range(WORLD)]
    dist.all_gather_object(everybody, full(tensors))
    return all(
        torch.equal(p, q) for other in everybody for p, q in zip(other, everybody[0], strict=True)
    )


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that all ranks see; it is gone afterwards."""
    names = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(names)
    try:
        yield Path(str(names[0]))
        dist.barrier()
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(str(names[0]), ignore_errors=True)


@contextlib.contextmanager
def as_if_launched() -> Iterator[None]:
    """What a launcher tells a process; the trainers' own warnings are not ours."""
    rank = str(dist.get_rank())
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "WORLD_SIZE": str(WORLD)}
    told |= {"LOCAL_WORLD_SIZE": str(WORLD), "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    with unittest.mock.patch.dict(os.environ, told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(perturb|SAM|rho).*")
        yield
