"""What the parts of a method are told of a step, and remember, for all the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg import parameters
from thalweg.ascent import Context, Notebook, Number, Perturbation
from thalweg.errors import ThalwegError
from thalweg.lab.grid import column
from thalweg.lab.problems import Params


@dataclass(slots=True)
class Here:
    """Where a step starts, and what its parts are told of it.

    Attributes:
        w: The parameters.
        names: Those that are perturbed.
        v: Velocities.
        memory: What the parts remember.
        step: How many steps went before.
        inputs_first: Whether matrices have a row for each input.
    """

    w: Params
    names: Sequence[str]
    v: Params
    memory: Memory
    step: int
    inputs_first: bool = False

    def every(self, found: Params) -> list[Tensor]:
        """Return one tensor for each parameter."""
        return [found[k] for k in self.w]

    def some(self, found: Params) -> list[Tensor]:
        """Return one tensor for each parameter that is perturbed."""
        return [found[k] for k in self.names]

    def named(self, found: Sequence[Tensor]) -> Params:
        """Return the tensors of all parameters by name."""
        return dict(zip(self.w, found, strict=True))

    def moved(self, way: list[Perturbation], share: float = 1.0) -> Params:
        """Return the parameters after a way uphill, or a share of it."""
        w = self.w
        for p in way:
            factor = p.factor if share == 1 else p.factor * share
            steps = zip(self.names, p.direction, strict=True)
            w = w | {k: torch.addcmul(w[k], column(factor, d), d) for k, d in steps}
        return w

    def context(self, names: Sequence[str] | None = None, point: int = 0) -> Context:
        """Return what the parts may know, of some parameters or of all."""
        names = [*self.w] if names is None else names

        def state(name: str) -> Sequence[Tensor | None]:
            if name != "momentum_buffer" or not self.v:
                remedy = "set momentum" if name == "momentum_buffer" else "train with thalweg.SAM"
                raise ThalwegError(
                    f'the base optimizer must keep "{name}", which the method needs, and the '
                    'simulator\'s keeps nothing but a "momentum_buffer", where momentum is above '
                    f"0: {remedy}"
                )
            return [self.v[k] for k in names]

        return Context(
            weights=[self.w[k] for k in names],
            step=self.step,
            norm=parameters.cell_norms,
            norms=norms,
            dot=dot,
            memory=self.memory.of(names),
            state=state,
            layers=lambda: layers(names),
            names=lambda: names,
            point=point,
            cells=1,
            inputs_first=self.inputs_first,
        )


def norms(tensors: Sequence[Tensor]) -> list[Number]:
    """Return for every tensor the norms of the cells, (B,)."""
    return [parameters.cell_norms([t]) for t in tensors]


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists for every cell, (B,)."""
    pairs = zip(left, right, strict=True)
    each = [a * b if a.ndim == 1 else (a * b).flatten(1).sum(1) for a, b in pairs]
    return sum(each[1:], start=each[0])


def layers(names: Sequence[str]) -> list[int]:
    """Return a number for each parameter, which the parameters of a layer share.

    Args:
        names: As a model has them, "layer.weight" and "layer.bias"; without a dot in any of them
            no layer is known.

    Example:
        >>> layers(["0.weight", "0.bias", "2.weight"]), layers(["weight", "bias"])
        ([0, 0, 2], [])
    """
    homes = [name.rpartition(".")[0] for name in names]
    return [homes.index(home) for home in homes] if any(homes) else []


class Memory:
    """What the parts of a method remember of every cell; what they keep counts once it is settled.

    Args:
        known: What was settled before; a new dict is made for what is settled now.

    Example:
        >>> memory = Memory({})
        >>> page = memory.of(["w"])
        >>> page.keep("mean", [torch.ones(2, 1)])
        >>> memory.settle(torch.tensor([1.0, torch.inf]))  # the second cell's came of an overflow
        >>> page.recall("mean", [torch.ones(2, 1)])
        [tensor([[1.],
                [0.]])]
    """

    def __init__(self, known: Params) -> None:
        self.known = known
        self.kept: Params = {}

    def of(self, names: Sequence[str]) -> Notebook:
        """Return what is remembered of these parameters, as lists in their order."""
        return Notebook(self, names)

    def get(self, at: tuple[str, str | None], default: Any = None) -> Any:
        """Return what was kept, or else what is settled.

        Args:
            at: The name, and that of the parameter; ``None`` for a number.
            default: What is returned where there is nothing.
        """
        label = _label(*at)
        return self.kept.get(label, self.known.get(label, default))

    def __setitem__(self, at: tuple[str, str | None], value: Number) -> None:
        """Keep a tensor of a parameter, or a number for every cell; a float is the same for all."""
        self.kept[_label(*at)] = torch.as_tensor(value)

    def settle(self, size: Number, live: Tensor | None = None) -> None:
        """Remember what was kept, of the cells whose gradient was finite.

        Args:
            size: A number for each cell that is finite where its gradient is.
            live: The cells that took part; all if ``None``.
        """
        if not self.kept:
            return
        good = torch.isfinite(torch.as_tensor(size))
        good = good if live is None else good & live
        settled = {
            name: torch.where(column(good, new), new, self.known.get(name, 0.0))
            if new.ndim
            else new
            for name, new in self.kept.items()
        }
        self.known, self.kept = self.known | settled, {}


def _label(name: str, parameter: str | None) -> str:
    return name if parameter is None else f"{name} of {parameter}"
