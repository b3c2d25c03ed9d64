"""The memory that a method of the family must read and write beside its gradients."""

from __future__ import annotations

import thalweg
from thalweg.ascent import (
    L2,
    AdamMetric,
    Decoupled,
    LInf,
    Magnitude,
    Mix,
    Rescaled,
    Spherical,
    SurrogateGap,
    Trust,
    WithMean,
)

#: Lists of the size of the model that plain SAM reads or writes: g for its norm; w, g and w + ε.
LISTS = 4
#: What others do besides: to find the norm, to move, to combine.
MORE = {
    Magnitude: 1,  # w
    AdamMetric: 2,  # the second moment, twice
    Trust: 1,  # w
    Mix: 3,  # g, h and what is made of them
    Rescaled: 3,  # h, twice, and what is made of it
    SurrogateGap: 5,  # g and h, twice, and what is made of them
    Spherical: 5,
    Decoupled: 7,  # g, h, u and what waits; that, and the weights twice
}


def least(method: thalweg.Method) -> float:
    """What a method must read and write, as a multiple of plain SAM's; NaN where nobody counted."""
    direction = method.direction
    if method.passes != 2 or not isinstance(method.ball, L2 | LInf):
        return float("nan")
    lists = LISTS + sum(MORE.get(type(part), 0) for part in (method.ball.scale, method.combine))
    lists += method.mask is not None  # to know which entries it keeps
    if isinstance(direction, WithMean):  # the old mean, the new one, and this beside g
        lists += 2 + (direction.gradient != 0)
    return lists / LISTS
