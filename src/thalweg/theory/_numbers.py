"""What a number is in this room: a float, or an array that broadcasts with the others.

No array library is imported before an array has come, so the room loads in milliseconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from thalweg.errors import everywhere, extra, quantity

if TYPE_CHECKING:
    from numpy.typing import NDArray

# In a signature, `Number | float` for every argument and `Number` for the result says: floats give
# a float, and one array among the arguments gives an array.
Number = TypeVar("Number", float, "NDArray[Any]")


def raised(base: Any, exponent: Any) -> Any:
    """``base ** exponent``, infinite where Python would refuse because it is too large."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def half_power(grad_norm: Any, power: Any) -> Any:
    """``grad_norm ** (power / 2)``, whose square may be too large or too small for a computer."""
    quantity("grad_norm", grad_norm, above=0)
    quantity("power", power, at_least=0)
    half = raised(grad_norm, 0.5 * power)
    held = (half > 0) & (half < math.inf)
    everywhere("grad_norm", grad_norm, held, "such that a float holds its power")
    return half


def log(value: Any) -> Any:
    """Natural logarithm of a positive float or array."""
    if isinstance(value, (int, float)):
        return math.log(value)
    with extra("lab", by="thalweg.theory"):
        import numpy as np

    return np.log(value)


def largest(value: Any) -> float:
    """The number itself, or the largest element of an array."""
    return float(value.max() if hasattr(value, "max") else value)
