"""What a method remembers of each parameter from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from thalweg import gradients, layout
from thalweg.ascent import Notebook, Number, nothing
from thalweg.errors import ThalwegError, brief


class Remembered:
    """Tensors for each parameter, by name, and numbers; a parameter that is gone takes its along.

    Tensors are dense, lie where their parameter lies and are sharded as it is.

    Example:
        >>> w = torch.zeros(2)
        >>> remembered = Remembered()
        >>> draft = remembered.draft()
        >>> draft.of([w]).keep("mean", [torch.ones(2)])
        >>> draft.settle(1.0)
        >>> remembered.draft().of([w]).recall("mean", [w])
        [tensor([1., 1.])]
    """

    def __init__(self) -> None:
        self.tensors: Any = WeakIdKeyDictionary()
        self.numbers: dict[str, Number] = {}

    def draft(self) -> Draft:
        """Return what a step may write into."""
        return Draft(self)

    def state_dict(self, trained: Sequence[Tensor]) -> dict[str, Any]:
        """Return everything, with the places of parameters instead of themselves.

        Args:
            trained: All parameters of the base optimizer.
        """
        found = ((i, self.tensors.get(p)) for i, p in enumerate(trained))
        held = {i: dict(tensors) for i, tensors in found if tensors}
        return {"numbers": {k: float(v) for k, v in self.numbers.items()}, "tensors": held}

    def load_state_dict(self, state: Any, trained: Sequence[Tensor]) -> None:
        """Take up what :meth:`state_dict` gave.

        Args:
            state: The state; empty for nothing.
            trained: All parameters of the base optimizer.

        Raises:
            ThalwegError: If it does not fit these parameters; then nothing has changed.
        """
        found: Any = WeakIdKeyDictionary()
        try:
            numbers = {str(k): float(v) for k, v in state.get("numbers", {}).items()}
            pairs = [(int(i), dict(held)) for i, held in state.get("tensors", {}).items()]
        except (AttributeError, TypeError, ValueError):
            raise ThalwegError(
                f'the "memory" of a state must be what sam.state_dict() gave, got {brief(state)}'
            ) from None
        for i, held in pairs:
            p = trained[i] if 0 <= i < len(trained) else None
            if p is None or any(getattr(t, "shape", None) != p.shape for t in held.values()):
                came = {name: tuple(getattr(t, "shape", ())) for name, t in held.items()}
                wanted = "there is none" if p is None else f"its shape is {tuple(p.shape)}"
                raise ThalwegError(
                    f"state must fit the parameters of the optimizer, got {came} for the one at "
                    f"place {i} of {len(trained)}, but {wanted}: build the same model and "
                    "optimizer first"
                )
            found[p] = {name: _sharded_as(p, t) for name, t in held.items()}
        self.tensors, self.numbers = found, dict(numbers)


class Draft:
    """What the parts keep in one step: it is remembered when the step is known to be good.

    Args:
        remembered: What all steps remember.
    """

    def __init__(self, remembered: Remembered) -> None:
        self.remembered = remembered
        self.tensors: dict[Tensor, dict[str, Tensor]] = {}
        self.numbers: dict[str, Number] = {}
        self._known: dict[Tensor, dict[str, Tensor]] = {}

    def of(self, parameters: Sequence[Tensor]) -> Notebook:
        """Return the memory of these parameters, as lists in their order."""
        return Notebook(self, parameters)

    def get(self, at: tuple[str, Tensor | None], default: Any = None) -> Any:
        """Return what this step has kept, or else earlier ones.

        Args:
            at: The name, and the parameter; ``None`` for a number.
            default: What is returned where there is nothing.
        """
        name, p = at
        if p is None:
            return self.numbers.get(name, self.remembered.numbers.get(name, default))
        kept = self.tensors.get(p, {})
        return kept[name] if name in kept else self._earlier(p).get(name, default)

    def __setitem__(self, at: tuple[str, Tensor | None], value: Any) -> None:
        """Keep a tensor of a parameter, or a number."""
        name, p = at
        if p is None:
            self.numbers[name] = value
        else:
            self.tensors.setdefault(p, {})[name] = gradients.dense(value.detach())

    @property
    def empty(self) -> bool:
        """Whether nothing was kept."""
        return not self.tensors and not self.numbers

    def settle(self, size: Number) -> None:
        """Remember what was kept, unless it came of a gradient that is not finite.

        Args:
            size: A number that is finite where the gradients are. Of an accelerator it is not read.
        """
        good = finite(size)
        for p, kept in self.tensors.items() if good is not False else ():
            mine = self._earlier(p)
            if good is True:
                mine |= kept
                continue
            for name, new in kept.items():
                old = mine.get(name)
                [mine[name]] = chosen(size, [new], [nothing(new) if old is None else old])
        for name, value in self.numbers.items() if good is not False else ():
            if isinstance(good, Tensor):
                before = self.remembered.numbers.get(name, 0.0)
                value = torch.where(good, _wide(value, good), _wide(before, good))
            self.remembered.numbers[name] = value
        self.tensors, self.numbers = {}, {}

    def _earlier(self, p: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter: looked up once, as keys that are weak take long."""
        if p not in self._known:
            self._known[p] = self.remembered.tensors.setdefault(p, {})
        return self._known[p]


def _wide(value: Number, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=like.device)


def finite(size: Number) -> bool | Tensor:
    """Return whether a number is finite; of a tensor, as a tensor, which is not read.

    Args:
        size: The number.

    Example:
        >>> finite(math.inf), finite(torch.tensor(1.0))
        (False, tensor(True))
    """
    return torch.isfinite(size) if isinstance(size, Tensor) else math.isfinite(size)


def chosen(size: Number, new: Sequence[Tensor], old: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the new tensors if a size is finite, else the old ones.

    Args:
        size: A number. Of an accelerator it is not read.
        new: Tensors.
        old: As many, of the same shapes.

    Example:
        >>> chosen(math.inf, [torch.ones(1)], [torch.zeros(1)])
        [tensor([0.])]
    """
    good = finite(size)
    if isinstance(good, bool):
        return new if good else old
    pairs = zip(new, old, strict=True)
    return [torch.where(good.to(u.device), u, v) for u, v in pairs]


def _sharded_as(parameter: Any, tensor: Any) -> Any:
    """A tensor as its parameter lies: on the same device, sharded likewise."""
    if layout.is_sharded(tensor) and not layout.is_sharded(parameter):
        tensor = tensor.full_tensor()
    tensor = tensor.to(parameter.device)
    if not layout.is_sharded(parameter):
        return tensor
    mesh, placements = parameter.device_mesh, parameter.placements
    if layout.is_sharded(tensor):
        return tensor.redistribute(mesh, placements)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, placements)
