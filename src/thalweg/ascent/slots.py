"""The slots of a method: what kind of part each takes, and what the parts must give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.cut import Pieces
from thalweg.errors import ThalwegError, brief


class Slot(NamedTuple):
    """What a slot takes.

    Attributes:
        example: A part that fits.
        arguments: What the part is called with.
        empty: Whether the slot may be empty.
        does: What of the part is called, if not the part itself.
        beside: A method that it may have beside, and what that is called with.
        must: Whether it must have it.
    """

    example: str
    arguments: str
    empty: bool = False
    does: str = ""
    beside: tuple[str, str] | None = None
    must: bool = False


SLOTS = {
    "size": Slot("Monge()", "norm, step", empty=True),
    "direction": Slot("Gradient()", "gradient, context", beside=("learn", "uphill, context")),
    "filter": Slot("AllParameters()", "parameter, name, layer"),
    "mask": Slot("LargestEntries(0.5)", "direction, context", empty=True),
    "ball": Slot("L2()", "direction, context", does="sharp"),
    "schedule": Slot("Constant()", "rho, step, lr"),
    "gate": Slot("Always()", "step", beside=("judge", "gradient, context")),
    "reuse": Slot(
        "Across()",
        "gradient, context",
        empty=True,
        beside=("learn", "here, uphill, context"),
        must=True,
    ),
    "combine": Slot(
        "SAMGradient()", "here, uphill, context", beside=("beside", "here, uphill, context")
    ),
}


def check_part(slot: str, part: object) -> None:
    """Raise unless a part can be called as its slot calls it.

    Args:
        slot: Name of the slot.
        part: What is to fill it.

    Raises:
        ThalwegError: If it is no part, or one of another slot that is called otherwise; or if a
            method that it has beside is.

    Example:
        >>> check_part("gate", lambda step: step > 100)
        >>> check_part("gate", lambda rho, step, lr: rho)
        Traceback (most recent call last):
        ...
        thalweg.errors.ThalwegError: gate must be called with (step), and <function <lambda>...
    """
    example, arguments, empty, does, beside, must = SLOTS[slot]
    if part is None and empty:
        return
    act = getattr(part, does, None) if does else part
    if not isinstance(part, type) and all(hasattr(part, name) for name in SLOTS):
        raise ThalwegError(f"{slot} must be a part, got a whole method: pass its .{slot}")
    if isinstance(part, type) or not callable(act):
        raise ThalwegError(
            f"{slot} must be a part such as {example}{' or None' * empty}, got {brief(part)}: "
            "pass an object, not a class or a string"
        )
    name, wanted = beside or ("", "")
    other = getattr(part, name, None) if name else None
    lacks = must and not callable(other)
    if lacks or not _takes(act, len(arguments.split(", "))):
        which = f".{does}" if does else ""
        needed = f"{slot} must be called with ({arguments})"
        needed = f"{needed} and have a method {name}()" if lacks else needed
        raise ThalwegError(
            f"{needed}, and {part!r}{which} does not fit: is it a part of another slot? One that "
            f"fits is {example}"
        )
    if other is not None and not _takes(other, len(wanted.split(", "))):
        came = str(inspect.signature(other)) if callable(other) else brief(other)
        raise ThalwegError(
            f"{slot}.{name} must be called with ({wanted}), got {came} of {brief(part)}: write "
            f"def {name}(self, {wanted})"
        )


def _takes(act: object, count: int) -> bool:
    try:
        inspect.signature(act).bind(*range(count))  # type: ignore[arg-type]
    except ValueError:  # what is built in may not tell
        return True
    except TypeError:
        return False
    return True


def fitting(slot: str, part: object, found: object, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what a part gave, if it has a tensor for every parameter.

    Args:
        slot: Where the part is.
        part: The part.
        found: What it gave.
        like: Tensors of the parameters' shapes, in their order.

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
        wanted = [t.shape for t in like]
        if shapes == wanted:
            return found
        if None in shapes:
            came = "something in the list that is no tensor"
        elif len(shapes) != len(wanted):
            came = f"a list of {len(shapes)} for {len(wanted)}"
        else:
            i = [a == b for a, b in zip(shapes, wanted, strict=True)].index(False)
            came = f"{tuple(shapes[i])} at place {i}, where the parameter is {tuple(wanted[i])}"
    raise ThalwegError(
        f"{slot} must give one tensor for each parameter, of its shape; {type(part).__name__} "
        f"gave {came}: return a list in the order of what came in"
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
            f"that decides, got None of {gate!r}, which has none"
        )
    return _answer("True or False", judge(gradient, context), gate)
