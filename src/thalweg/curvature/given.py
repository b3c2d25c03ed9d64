"""What a caller hands in to be measured, looked at before anything is: each error has a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from thalweg import modules
from thalweg.ascent.slots import of_tensors, takes
from thalweg.curvature.product import Product
from thalweg.errors import ThalwegError, brief


def module_of(model: object) -> nn.Module:
    """Return a model, of a compiled one the one within.

    Args:
        model: The model.

    Raises:
        ThalwegError: If it is something else.
    """
    if not isinstance(model, nn.Module):
        raise ThalwegError(f"model must be a torch.nn.Module, got {brief(model)}")
    return modules.uncompiled(model)


def check_loss_of(loss_of: object) -> None:
    """Raise unless something can be called with a model and a batch.

    Args:
        loss_of: A function; a loss of outputs and targets would be called with the wrong things.

    Raises:
        ThalwegError: If it is no function, or takes other arguments.

    Example:
        >>> check_loss_of(nn.MSELoss())
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: loss_of must be a function of a model and a batch that returns\
 the mean loss, got MSELoss(): write lambda model, batch: loss(model(batch[0]), batch[1])
    """
    if of_tensors(loss_of) or not takes(loss_of, 2):
        raise ThalwegError(
            "loss_of must be a function of a model and a batch that returns the mean loss, got "
            f"{brief(loss_of)}: write lambda model, batch: loss(model(batch[0]), batch[1])"
        )


def check_batches(batches: object) -> None:
    """Raise unless batches can be gone through more than once.

    Args:
        batches: A list, or a loader. A tensor or a dict is one batch.

    Raises:
        ThalwegError: If they are something else.
    """
    one = isinstance(batches, Tensor | Mapping | str)
    if one or not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise ThalwegError(
            "batches must be something to go through again for every product or loss, got "
            f"{type(batches).__name__}: pass a list of batches, as [batch], or a loader"
        )


def check_dtype(dtype: object) -> None:
    """Raise unless a copy of the model can be measured in a dtype.

    Args:
        dtype: Of floating point, or ``None``.

    Raises:
        ThalwegError: If it is something else.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ThalwegError(
            "dtype must be a floating-point type such as torch.float64, or None, got "
            f"{brief(dtype)}"
        )


def teller(progress: Callable[[int], None] | None) -> Callable[[int], None]:
    """Return what is told of the progress; nothing is done where nobody asks.

    Args:
        progress: A function of a number, or ``None``.

    Raises:
        ThalwegError: If it is something else.
    """
    if progress is not None and not takes(progress, 1):
        raise ThalwegError(
            f"progress must be a function of the number done, or None, got {brief(progress)}: "
            "pass one such as print"
        )
    return progress or (lambda done: None)


def product_of(product: object) -> Product:
    """Return a product with vectors.

    Args:
        product: As ``hessian_vector_product`` gives it, or one that can be used like it.

    Raises:
        ThalwegError: If it is something else, such as a loss.
    """
    size = getattr(product, "size", None)  # of a tensor it is a method
    if not (isinstance(size, int) and hasattr(product, "parameters") and callable(product)):
        raise ThalwegError(
            f"product must be what hessian_vector_product() gives, got {brief(product)}: write "
            "hessian_vector_product(loss, parameters), or over(model, loss_of, batches)"
        )
    return cast(Product, product)
