"""What is asked of autograd: a loss with its graph, a gradient with its own, a pass back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from thalweg.errors import ThalwegError


@contextlib.contextmanager
def double_backward() -> Iterator[None]:
    """Let attention choose the kernel that can be derived twice; afterwards what was chosen before.

    Example:
        >>> q = torch.ones(1, 1, 2, 4, requires_grad=True)
        >>> with double_backward():
        ...     y = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        >>> (g,) = torch.autograd.grad((y**2).sum(), q, create_graph=True)
        >>> g.requires_grad
        True
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def taken(loss: Callable[[], Tensor] | Tensor) -> Tensor:
    """Return the loss with its graph.

    Args:
        loss: The loss, or a function that returns it.

    Raises:
        ThalwegError: If it is not one finite number with a graph.
    """
    if isinstance(loss, Tensor):
        value = loss
    else:
        with double_backward():
            value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1:
        got, remedy = type(value).__name__, "leave out .item()"
        if isinstance(value, Tensor):
            got, remedy = f"the shape {tuple(value.shape)}", "take the mean"
        raise ThalwegError(f"loss must be a tensor of one number, got {got}: {remedy}")
    if not value.requires_grad:
        raise ThalwegError(
            "loss must depend on the parameters, got one without a graph: compute it without "
            "torch.no_grad() or .item()"
        )
    if not bool(value.isfinite()):
        raise ThalwegError(f"loss must be finite, got {value.item()}: nothing can be measured here")
    with torch.enable_grad():
        return value.reshape(())


def slopes(value: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient with its own graph; zeros for parameters that the loss does not see.

    Args:
        value: The loss.
        parameters: By which it is derived.

    Raises:
        ThalwegError: If some operation in the loss has no second derivative.
    """
    with _second_derivative():
        parts = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    if all(part is None for part in parts):
        raise ThalwegError(
            "loss must depend on the parameters, got one that does not see any of them: pass "
            "the parameters of the model that the loss is of"
        )
    pairs = zip(parts, parameters, strict=True)
    found = tuple(torch.zeros_like(p) if part is None else part for part, p in pairs)
    if _has_an_end(found):
        raise ThalwegError(
            "loss must have a second derivative, but an operation in it is marked "
            "once_differentiable: write its backward in operations that can be derived"
        )
    return found


def back(values: Sequence[Tensor], by: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """Return the derivative of <values, vector>; the graph is kept.

    Args:
        values: With a graph, or constant.
        by: By what they are derived.
        vector: As many tensors as values, of their shapes.
    """
    pairs = [(v, u) for v, u in zip(values, vector, strict=True) if v.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in by]
    some, along = zip(*pairs, strict=True)
    with _second_derivative():
        found = torch.autograd.grad(some, by, along, retain_graph=True, materialize_grads=True)
    return list(found)


def _has_an_end(gradient: Sequence[Tensor]) -> bool:
    """Whether a gradient's graph ends where torch cannot go on: unseen, a product would be 0."""
    waiting = [g.grad_fn for g in gradient if g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if "Error" in node.name():
            return True
        following = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= following
        waiting += following
    return False


@contextlib.contextmanager
def _second_derivative() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "does not currently support double backward" in str(error):
            raise ThalwegError(
                "loss must be taken through the model itself, got a compiled one, which cannot be "
                "derived twice: use model._orig_mod"
            ) from error
        if "not implemented" in str(error) and "derivative" in str(error):
            raise ThalwegError(
                f"loss must have a second derivative, but an operation in it has none ({error}): "
                "pass a function that computes the loss, so that attention chooses another kernel"
            ) from error
        raise
