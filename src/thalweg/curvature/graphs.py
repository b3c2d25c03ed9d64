"""What is asked of autograd: a loss with its graph, a gradient with its own, a pass back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from thalweg.ascent.slots import takes
from thalweg.errors import ThalwegError, brief


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
        check_function("loss", loss)
        with double_backward():
            value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        got, remedy = type(value).__name__, "leave out .item()"
        if isinstance(value, Tensor):
            got, remedy = f"the shape {tuple(value.shape)}", "take the mean"
            if value.is_complex():
                got, remedy = str(value.dtype), "take its modulus, or a part of it"
        raise ThalwegError(f"loss must be a tensor of one number, got {got}: {remedy}")
    _with_graph("loss", value)
    if not bool(value.isfinite()):
        raise ThalwegError(f"loss must be finite, got {value.item()}: nothing can be measured here")
    with torch.enable_grad():
        return value.reshape(())


def check_function(name: str, function: object, of: str = "nothing") -> None:
    """Raise unless something can be called as it will be.

    Args:
        name: What the caller calls it.
        function: Called with nothing, or with one thing.
        of: What that is.

    Raises:
        ThalwegError: If it cannot.

    Example:
        >>> check_function("loss", 1.0)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: loss must be a function of nothing that returns a tensor, got \
1.0: write lambda: ...
    """
    if not takes(function, int(of != "nothing")):
        write = "lambda: ..." if of == "nothing" else f"lambda {of}: ..."
        raise ThalwegError(
            f"{name} must be a function of {of} that returns a tensor, got {brief(function)}: "
            f"write {write}"
        )


def computed(name: str, function: Callable[[], Tensor]) -> Tensor:
    """Return what a function makes, with a graph that can be derived twice.

    Args:
        name: What the caller calls the function.
        function: Called with nothing.

    Raises:
        ThalwegError: If it cannot be called so, or makes no tensor with a graph.
    """
    check_function(name, function)
    with double_backward():
        value = function()
    return _with_graph(name, value)


def _with_graph(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or not value.requires_grad:
        got = "one without a graph" if isinstance(value, Tensor) else type(value).__name__
        raise ThalwegError(
            f"{name} must depend on the parameters, got {got}: compute it without "
            "torch.no_grad() or .item()"
        )
    return value


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
        if "second time" in str(error):
            raise ThalwegError(
                "loss must have its graph, got one whose graph a backward() has freed: compute it "
                "anew, or pass a function that does"
            ) from error
        if "not implemented" in str(error) and "derivative" in str(error):
            raise ThalwegError(
                f"loss must have a second derivative, but an operation in it has none ({error}): "
                "pass a function that computes the loss, so that attention chooses another kernel"
            ) from error
        raise
