"""The slots of a method: what kind of part each takes."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from torch import nn

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
    if lacks or of_tensors(act) or not takes(act, len(arguments.split(", "))):
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


def of_tensors(act: object) -> bool:
    """Return whether something is a layer or a loss of torch's own, which takes tensors alone.

    Args:
        act: Anything.

    Example:
        >>> of_tensors(nn.MSELoss()), of_tensors(nn.functional.mse_loss), of_tensors(len)
        (True, True, False)
    """
    called = getattr(act, "func", act)  # of a partial
    return str(getattr(called, "__module__", "")).startswith("torch.nn.")
