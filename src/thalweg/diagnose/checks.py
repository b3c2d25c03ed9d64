"""Whether what a user hands in is what can be diagnosed; each error names what it should be."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from thalweg.ascent.slots import of_tensors, takes
from thalweg.curvature import frozen
from thalweg.diagnose.measure import first
from thalweg.errors import ThalwegError

LOSS = "a function loss(model, batch) that returns the mean loss of a batch"


def check(model: object, loss_of: object, loader: object, optimizer: object) -> None:
    """Raise unless the four are a model, its loss, its batches and its optimizer.

    Args:
        model: A ``torch.nn.Module``.
        loss_of: A function of a model and a batch.
        loader: Something to loop over.
        optimizer: A ``torch.optim.Optimizer``.

    Raises:
        ThalwegError: If one is something else.

    Example:
        >>> check(nn.Linear(1, 1), nn.MSELoss(), [], None)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: loss must be a function loss(model, batch) that returns the \
mean loss of a batch, got MSELoss, a module: write lambda model, batch: MSELoss()(model(batch[0]), \
batch[1])
    """
    if not isinstance(model, nn.Module):
        raise ThalwegError(f"model must be a torch.nn.Module, got {_kind(model)}")
    if isinstance(loss_of, nn.Module) and (of_tensors(loss_of) or not takes(loss_of, 2)):
        name = type(loss_of).__name__
        raise ThalwegError(
            f"loss must be {LOSS}, got {name}, a module: write "
            f"lambda model, batch: {name}()(model(batch[0]), batch[1])"
        )
    if isinstance(loss_of, type) or not callable(loss_of):
        raise ThalwegError(f"loss must be {LOSS}, got {_kind(loss_of)}")
    if of_tensors(loss_of):
        raise _of_outputs(loss_of)
    if not takes(loss_of, 2):
        signature = inspect.signature(loss_of)
        raise ThalwegError(
            f"loss must be {LOSS}, got one that takes {signature}: take the model and the batch "
            "as the loader gives it"
        )
    if not hasattr(loader, "__iter__") or isinstance(loader, str | dict | torch.Tensor):
        raise ThalwegError(
            f"loader must be something to loop over that gives batches, got {_kind(loader)}"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        inner = getattr(optimizer, "optimizer", None)
        remedy = ": pass its .optimizer" if isinstance(inner, torch.optim.Optimizer) else ""
        raise ThalwegError(
            f"optimizer must be a torch.optim.Optimizer, got {_kind(optimizer)}{remedy}"
        )


def check_outputs(model: nn.Module, loss_of: Any, loader: Any) -> None:
    """Raise if a loss that could not be called is one of outputs and targets.

    Args:
        model: The model, which is left as it was.
        loss_of: Could not be called with the model and a batch.
        loader: Gives the batches.

    Raises:
        ThalwegError: If it can be called with what the model makes of a batch's first half, and the
            second one.

    Example:
        >>> model, loader = nn.Linear(1, 1), [(torch.ones(2, 1), torch.ones(2, 1))]
        >>> check_outputs(model, nn.functional.mse_loss, loader)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: loss must be a function loss(model, batch) that returns the \
mean loss of a batch, got mse_loss, which takes outputs and targets: write lambda model, batch: \
mse_loss(model(batch[0]), batch[1])
    """
    try:
        x, y = first(loader, 1)[0]
        with frozen(model, None), torch.no_grad():
            found = loss_of(model(x), y)
    except Exception:  # it is something else that is wrong
        return
    if isinstance(found, torch.Tensor):
        raise _of_outputs(loss_of)


def _of_outputs(loss: object) -> ThalwegError:
    name = getattr(loss, "__name__", "loss").replace("<lambda>", "loss")
    return ThalwegError(
        f"loss must be {LOSS}, got {name}, which takes outputs and targets: write "
        f"lambda model, batch: {name}(model(batch[0]), batch[1])"
    )


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else type(value).__name__
