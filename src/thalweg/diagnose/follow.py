"""Steps with SAM at the recommended rho, on a copy, and what its telemetry tells of each."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from thalweg.curvature.edge import edge_of
from thalweg.curvature.setting import LossOf, frozen, numbers_of, undrawn
from thalweg.errors import ThalwegError
from thalweg.sam import SAM

#: Of the steps that were followed, so many at either end are told of together.
_FEW = 10


def follow_steps(
    model: nn.Module,
    loss_of: LossOf,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    rho: float,
    steps: int,
) -> Iterator[dict[str, float]]:
    """Train a copy of a model for some steps with SAM; give what each step tells.

    Where it is left early, the generators are put back when it is closed.

    Args:
        model: Is copied, with its optimizer; stays as it is. A loss that does not use the model
            it is given, but one of its own, cannot be followed.
        loss_of: Of a model and a batch.
        loader: Gives batches; it is gone through as often as it takes.
        optimizer: The base optimizer of the model.
        rho: Radius, at power 1.
        steps: How many.

    Yields:
        For each step ``loss``, what ``sam.last`` knows, and where the formulas of the edge hold
        ``edge`` and ``ratio``, the curvature along ε over it.

    Raises:
        ThalwegError: If the loss is not one of the model that it is given.
    """
    numbers, own = numbers_of(model.parameters()), model
    model, optimizer = copy.deepcopy((model, optimizer))
    for group in optimizer.param_groups:
        group["rho"] = rho
    optimizer.zero_grad()
    if not model.training:  # else some layers may be held in evaluation mode
        model.train()
    try:
        with undrawn(loader):
            with frozen(own), frozen(model, None):  # a loss of the model itself would write to it
                _check(loss_of(model, next(iter(loader))), model)
            sam = SAM(optimizer, model, rho, telemetry=True)
            for _, batch in zip(range(steps), _endless(loader), strict=False):
                for here in sam.passes():
                    here.loss = loss = loss_of(model, batch)
                    torch.autograd.backward(loss)
                    if here.index == 0:
                        value = float(loss.detach())
                told = {"loss": value, **sam.last.known(), **_edge(optimizer, sam)}
                optimizer.step()
                optimizer.zero_grad()
                yield told
    finally:
        numbers.put_back()


def told(followed: Sequence[dict[str, float]]) -> str:
    """Return what the steps that were followed tell, at their beginning and at their end.

    Args:
        followed: What each step told; at least one.

    Example:
        >>> told([{"loss": 3.0}, {"loss": 1.0}, {"loss": 0.5}, {"loss": 0.7}])
        '4 steps with SAM, a batch each, the first 2 and the last 2: loss 2 ± 1.4, then 0.6 ± 0.14.'
    """
    few = min(_FEW, len(followed) // 2)
    if not few:
        return f"1 step with SAM: loss {followed[0]['loss']:.3g}."
    parts = []
    for name, key in (("loss", "loss"), ("λ̂", "curvature"), ("edge", "edge")):
        ends = [[one[key] for one in s if key in one] for s in (followed[:few], followed[-few:])]
        if all(ends):
            parts.append(f"{name} {_around(ends[0])}, then {_around(ends[1])}")
    which = f"the first {few} and the last {few}" if few > 1 else "the first and the last"
    return f"{len(followed)} steps with SAM, a batch each, {which}: {'; '.join(parts)}."


def _around(values: list[float]) -> str:
    """Mean and standard deviation, from batch to batch."""
    mean = f"{statistics.fmean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2g}"


def _check(loss: torch.Tensor, model: nn.Module) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    if all(g is None for g in torch.autograd.grad(loss, trained, allow_unused=True)):
        raise ThalwegError(
            "loss(model, batch) must use the model that it is given, got one that does not depend "
            "on a copy of the model: use the argument, not a global"
        )


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _edge(optimizer: torch.optim.Optimizer, sam: SAM) -> dict[str, float]:
    last = sam.last.known()
    if "curvature" not in last:
        return {}
    rho = float(optimizer.param_groups[0]["rho"])
    edge, missing = edge_of(optimizer, rho, last["grad_norm"])
    return {} if missing else {"edge": edge, "ratio": last["curvature"] / edge}
