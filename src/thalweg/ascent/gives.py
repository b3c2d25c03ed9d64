"""What the parts of a method give, looked at where they are called."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from thalweg.cut import Pieces
from thalweg.errors import ThalwegError, brief


def fitting(
    slot: str,
    part: object,
    found: object,
    like: Sequence[Tensor],
    *,
    numbers: int | None = None,
) -> Sequence[Any]:
    """Return what a part gave, if it has a tensor for every parameter.

    Args:
        slot: Where the part is.
        part: The part.
        found: What it gave.
        like: Tensors of the parameters' shapes, in their order.
        numbers: Of how many dimensions a number may be that stands for a tensor; ``None`` where
            none may.

    Raises:
        ThalwegError: If it is no list of tensors, has more or fewer of them, or other shapes.

    Example:
        >>> import torch
        >>> fitting("mask", len, [torch.ones(1)], [torch.ones(2)])
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: mask must give one tensor for each parameter, of its shape; ...
    """
    came = type(found).__name__
    if isinstance(found, list | tuple | Pieces):
        given = found.cut.like if isinstance(found, Pieces) else found
        shapes: list[Any] = [t.shape if isinstance(t, Tensor) else None for t in given]
        wanted = [t.shape for t in (like.cut.like if isinstance(like, Pieces) else like)]
        if numbers is not None and len(shapes) == len(wanted):
            pairs = zip(given, wanted, strict=True)
            shapes = [w if _is_number(t, numbers) else getattr(t, "shape", None) for t, w in pairs]
        if shapes == wanted:
            return found
        if len(shapes) != len(wanted):
            came = f"a list of {len(shapes)} for {len(wanted)}"
        elif None in shapes:
            came = "something in the list that is no tensor"
        else:
            i = [a == b for a, b in zip(shapes, wanted, strict=True)].index(False)
            came = f"{tuple(shapes[i])} at place {i}, where the parameter is {tuple(wanted[i])}"
    one = "one tensor" if numbers is None else "one number or one tensor"
    own = part.__self__ if inspect.ismethod(part) else part
    raise ThalwegError(
        f"{slot} must give {one} for each parameter, of its shape; {type(own).__name__} "
        f"gave {came}: return a list in the order of what came in"
    )


def _is_number(found: object, dimensions: int) -> bool:
    if isinstance(found, Tensor):
        return found.ndim <= dimensions
    return isinstance(found, Real)


def pair(ball: object, found: Any, dimensions: int) -> tuple[Any, Any]:
    """Return what ``sharp`` of a ball gave: s and the dual norm n.

    Args:
        ball: The ball.
        found: What it gave.
        dimensions: Of how many a number may be: 1 in the simulator, else 0.

    Raises:
        ThalwegError: If it is no pair whose second is a number.

    Example:
        >>> pair(len, ([], 5.0), 0)
        ([], 5.0)
    """
    two = isinstance(found, tuple | list) and len(found) == 2
    if not two or not _is_number(found[1], dimensions):
        came = f"(s, {brief(found[1])})" if two else brief(found)
        kind = "one for every cell" if dimensions else "a float or a zero-dimensional tensor"
        raise ThalwegError(
            f"ball must give a pair by sharp(), the tensors s and the number n, {kind}, got {came} "
            f"of {brief(ball)}: end it with return s, n"
        )
    return found[0], found[1]


@contextlib.contextmanager
def untouched(parts: Sequence[object], *given: Sequence[Tensor]) -> Iterator[None]:
    """Look whether parts write to what they are given; those of this package do not.

    Args:
        parts: Called within; ``None`` for none.
        given: Lists of tensors that they get.

    Raises:
        ThalwegError: If one of the tensors is another afterwards.
    """
    here = __name__.partition(".")[0]
    own = [p for p in parts if p is not None and type(p).__module__.partition(".")[0] != here]
    before = [t._version for some in given for t in some] if own else []
    yield
    if own and before != [t._version for some in given for t in some]:
        raise ThalwegError(
            "parts must not write to the gradients and weights that they are given, but one of "
            f"{', '.join(map(brief, own))} did: return new tensors, as 2 * g, not g.mul_(2). "
            "Weights that were written to stay so"
        )


def gated(gate: Callable[[int], object], step: int) -> bool | None:
    """Return what a gate says of a step, before there is a gradient.

    Args:
        gate: The gate.
        step: How many steps went before.

    Returns:
        Whether it is open; ``None`` where the gradient must tell.

    Raises:
        ThalwegError: If it says anything else.

    Example:
        >>> gated(lambda step: "yes", 0)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: gate must give True, False or None, got 'yes' of <function...
    """
    found = gate(step)
    return None if found is None else bool(_answer("True, False or None", found, gate))


def _answer(wanted: str, found: Any, gate: object) -> Any:
    """Return a bool, 0 or 1, or an array or tensor of bools; raise if it is something else."""
    kind = str(getattr(found, "dtype", "")).rpartition(".")[2]
    if not (isinstance(found, int) and found in (0, 1)) and kind != "bool":
        raise ThalwegError(
            f"gate must give {wanted}, got {brief(found)} of {brief(gate)}: return a comparison, "
            "such as step % 2 == 0"
        )
    return found


def judged(gate: object, gradient: Sequence[Tensor], context: object) -> Any:
    """Return what a gate says that has left it to the gradient.

    Args:
        gate: Said ``None`` of this step.
        gradient: One tensor per chosen parameter.
        context: The step.

    Raises:
        ThalwegError: If it cannot judge, or says neither True nor False.
    """
    judge = getattr(gate, "judge", None)
    if judge is None:
        raise ThalwegError(
            f"gate must be True or False for every step, or have a method judge(gradient, context) "
            f"that decides, got None of {brief(gate)}, which has none"
        )
    return _answer("True or False", judge(gradient, context), gate)
