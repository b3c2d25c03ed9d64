"""The slots of a method: what kind of part each takes, and what the parts must give."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

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
    if isinstance(part, type | nn.Module) or not callable(act):
        remedy = "pass an object, not a class or a string"
        if isinstance(part, nn.Module):
            remedy = f"it is a layer; write a function of ({arguments})"
        raise ThalwegError(
            f"{slot} must be a part such as {example}{' or None' * empty}, got {brief(part)}: "
            f"{remedy}"
        )
    name, wanted = beside or ("", "")
    other = getattr(part, name, None) if name else None
    lacks = must and not callable(other)
    if lacks or not takes(act, len(arguments.split(", "))):
        which = f".{does}" if does else ""
        needed = f"{slot} must be called with ({arguments})"
        needed = f"{needed} and have a method {name}()" if lacks else needed
        raise ThalwegError(
            f"{needed}, and {brief(part)}{which} does not fit: is it a part of another slot? One "
            f"that fits is {example}"
        )
    if other is not None and not takes(other, len(wanted.split(", "))):
        came = str(inspect.signature(other)) if callable(other) else brief(other)
        raise ThalwegError(
            f"{slot}.{name} must be called with ({wanted}), got {came} of {brief(part)}: write "
            f"def {name}(self, {wanted})"
        )


def takes(act: object, count: int) -> bool:
    """Return whether something that is no class can be called with so many arguments.

    Args:
        act: Anything; of a module, which is called with anything, its ``forward`` counts.
        count: How many.

    Example:
        >>> takes(lambda model, batch: 0.0, 2), takes(nn.MSELoss(), 1), takes(1.0, 0)
        (True, False, False)
    """
    if isinstance(act, type):
        return False
    act = act.forward if isinstance(act, nn.Module) else act
    try:
        inspect.signature(act).bind(*range(count))  # type: ignore[arg-type]
    except ValueError:  # what is built in may not tell
        return True
    except TypeError:
        return False
    return True


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
    return isinstance(found, float | int)


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
        raise ThalwegError(
            f"ball must give a pair by sharp(), the tensors s and the number n, got {came} of "
            f"{brief(ball)}: end it with return s, n"
        )
    return found[0], found[1]


@contextlib.contextmanager
def untouched(parts: Sequence[object], given: Sequence[Tensor]) -> Iterator[None]:
    """Look whether parts write to what they are given; those of this package are known not to.

    Args:
        parts: Called within.
        given: To them.

    Raises:
        ThalwegError: If one of the tensors is another afterwards.
    """
    here = __name__.partition(".")[0]
    own = [part for part in parts if type(part).__module__.partition(".")[0] != here]
    before = [t._version for t in given] if own else []
    yield
    if own and before != [t._version for t in given]:
        raise ThalwegError(
            "parts must not write to the gradients and weights that they are given, but one of "
            f"{', '.join(map(brief, own))} did: return new tensors, as 2 * g, not g.mul_(2)"
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
