"""The grid of a simulation: the settings of every cell, and the state that a step changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.ascent import Constant, Schedule
from thalweg.errors import ThalwegError, brief, number, quantity
from thalweg.lab.problems import Params, Problem


class State(NamedTuple):
    """What a step changes, and what it notes; every tensor has the cells first.

    Attributes:
        w: Parameters.
        v: Velocities; no entries without momentum.
        length: The length of the latest ε under the name ``""``; no entry where it is not kept.
        memory: What the parts of the method remember; a number of no dimension is that of every
            cell.
    """

    w: Params
    v: Params
    length: Params
    memory: Params


class Grid(NamedTuple):
    """The settings of a grid, which a step reads: one entry per cell.

    Attributes:
        eta: Step size.
        rho: Radius.
        power: The normalization; one float where it is the same for all cells.
        seeds: Seeds.
        step: How many steps went before; 0 throughout where the method does not ask.
    """

    eta: Tensor
    rho: Tensor
    power: Tensor | float
    seeds: Tensor
    step: int = 0

    def pick(self, cells: Tensor | slice) -> Grid:
        """Return the settings of some cells, by index, mask or slice."""
        power = self.power if isinstance(self.power, float) else self.power[cells]
        return Grid(self.eta[cells], self.rho[cells], power, self.seeds[cells], self.step)

    def radius(self, schedule: Schedule, step: int) -> Tensor:
        """Return the radius of every cell at a step, by its own rho and eta."""
        if isinstance(schedule, Constant):
            return self.rho
        both = torch.stack([self.rho, self.eta], 1)
        kinds, which = torch.unique(both, dim=0, return_inverse=True)
        name = f"what the schedule {brief(schedule)} gives"
        each = [schedule(rho, step, eta) for rho, eta in kinds.tolist()]
        found = [number(name, radius, at_least=0) for radius in each]
        return self.rho.new_tensor(found)[which]


def pick(state: State, cells: Tensor | slice) -> State:
    """Return the state of some cells, by index, mask or slice."""
    return State(*({k: t[cells] if t.ndim else t for k, t in part.items()} for part in state))


def column(value: float | Tensor, like: Tensor) -> Tensor:
    """One number per cell, shaped so that it multiplies every entry of its cell."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value)
    return value if like.ndim == 1 else value.reshape(-1, *[1] * (like.ndim - 1))


def minibatches(problem: Problem, batch: Any) -> list[Any]:
    """Return the minibatches of a step, each of which takes its own ascent.

    Args:
        problem: Whose stream they come from.
        batch: A minibatch, ``None`` where there are none, or a list of minibatches.

    Returns:
        A list of at least one.

    Raises:
        ThalwegError: If the list is empty.
    """
    if isinstance(batch, list):
        if not batch:
            raise ThalwegError(
                f"{type(problem).__name__}.stream() must give at least one minibatch a step, got []"
            )
        return batch
    return [batch]


def broadcast(
    problem: Problem,
    eta: Any,
    rho: Any,
    power: Any,
    seed: Any,
    device: torch.device,
    replay: Tensor | None = None,
) -> tuple[tuple[int, ...], Grid]:
    """Return the shape of a grid and its settings, cells in a row.

    Args:
        problem: Decides the dtype.
        eta: Step sizes, > 0.
        rho: Radii, >= 0.
        power: Powers, >= 0.
        seed: Whole numbers >= 0.
        device: Where.
        replay: Lengths, whose shape but for the last axis joins in.

    Returns:
        The shape, and the settings.

    Raises:
        ThalwegError: If a value is out of range or the shapes do not broadcast.
    """
    arrays = {}
    for name, value in {"eta": eta, "rho": rho, "power": power, "seed": seed}.items():
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            raise ThalwegError(
                f"{name} must be a number or an array of numbers, got {brief(value)}"
            )
        arrays[name] = array
    quantity("eta", arrays["eta"], above=0)
    for name in ("rho", "power", "seed"):
        quantity(name, arrays[name], at_least=0)
    if arrays["seed"].dtype.kind == "f":
        raise ThalwegError(f"seed must be a whole number or an array of them, got {brief(seed)}")
    every = {name: a.shape for name, a in arrays.items()}
    if replay is not None:
        every["replay without its steps"] = tuple(replay.shape[:-1])
    try:
        shape = np.broadcast_shapes(*every.values())
    except ValueError:
        shapes = ", ".join(f"{name} {form}" for name, form in every.items())
        raise ThalwegError(
            f"shapes must broadcast against each other, got {shapes}: give one of them an axis "
            "more, as in rho=[[0.0], [0.1]] beside seed=[0, 1, 2], for every pair"
        ) from None
    row = {name: np.broadcast_to(a, shape).reshape(-1) for name, a in arrays.items()}
    cells = {
        name: torch.tensor(row[name], dtype=problem.dtype, device=device)
        for name in ("eta", "rho", "power")
    }
    # One power for all cells stays a number: x**-1 is then a division, not a power.
    one = float(arrays["power"].reshape(-1)[0]) if arrays["power"].size == 1 else None
    return shape, Grid(
        eta=cells["eta"],
        rho=cells["rho"],
        power=cells["power"] if one is None else one,
        seeds=torch.tensor(row["seed"], dtype=torch.int64, device=device),
    )


def lengths_of(replay: Any, steps: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the lengths to be replayed, (..., steps).

    Args:
        replay: Numbers >= 0, one for each step along the last axis; NaN where a cell had diverged.
        steps: How many steps there are.
        dtype: Of the problem.
        device: Where.

    Returns:
        A tensor of the same shape.

    Raises:
        ThalwegError: If there are other things in it than lengths, or not one for each step.
    """
    try:
        array = np.asarray(replay)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise ThalwegError(f"replay must be an array of numbers, got {brief(replay)}")
    if array.ndim == 0 or array.shape[-1] != steps:
        raise ThalwegError(
            f"replay must have one length for each of the {steps} steps along its last axis, got "
            f"shape {array.shape}: pass the lengths of a run of as many steps"
        )
    if not (np.isnan(array) | ((array >= 0) & (array < np.inf))).all():
        raise ThalwegError(
            "replay must be >= 0 and finite everywhere, or NaN where a cell had diverged, got "
            f"{np.nanmin(array):g} to {np.nanmax(array):g}"
        )
    return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device)
