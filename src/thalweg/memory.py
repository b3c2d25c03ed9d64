"""What a method remembers of each parameter from step to step, and where parameters belong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from thalweg.ascent import Number, nothing
from thalweg.errors import ThalwegError


class Remembered:
    """Tensors for each parameter, by name, and numbers; a parameter that is gone takes its along.

    Example:
        >>> w = torch.zeros(2)
        >>> remembered = Remembered()
        >>> page = remembered.of([w])
        >>> page.keep("mean", [torch.ones(2)])
        >>> page.settle(1.0)
        >>> remembered.of([w]).recall("mean", [w])
        [tensor([1., 1.])]
    """

    def __init__(self) -> None:
        self.tensors: Any = WeakIdKeyDictionary()
        self.numbers: dict[str, Number] = {}

    def of(self, parameters: Sequence[Tensor]) -> Page:
        """Return what is remembered of these parameters, as lists in their order."""
        return Page(self, parameters)

    def state_dict(self, trained: Sequence[Tensor]) -> dict[str, Any]:
        """Return everything, with the places of parameters instead of themselves.

        Args:
            trained: All parameters of the base optimizer.
        """
        held = {i: dict(self.tensors[p]) for i, p in enumerate(trained) if p in self.tensors}
        return {"numbers": {k: float(v) for k, v in self.numbers.items()}, "tensors": held}

    def load_state_dict(self, state: dict[str, Any], trained: Sequence[Tensor]) -> None:
        """Take up what :meth:`state_dict` gave.

        Args:
            state: The state; empty for nothing.
            trained: All parameters of the base optimizer.

        Raises:
            ThalwegError: If it does not fit these parameters.
        """
        found: Any = WeakIdKeyDictionary()
        for i, held in state.get("tensors", {}).items():
            fits = 0 <= i < len(trained) and all(t.shape == trained[i].shape for t in held.values())
            if not fits:
                came = {name: tuple(t.shape) for name, t in held.items()}
                raise ThalwegError(
                    f"state must fit the parameters of the optimizer, got {came} for the one at "
                    f"place {i} of {len(trained)}: build the same model and optimizer first"
                )
            found[trained[i]] = {name: t.to(trained[i].device) for name, t in held.items()}
        self.tensors, self.numbers = found, dict(state.get("numbers", {}))


class Page:
    """A memory for the parts of one step: what they keep is settled when the step is known good.

    Args:
        remembered: What all steps remember.
        parameters: In whose order lists are.
    """

    def __init__(self, remembered: Remembered, parameters: Sequence[Tensor]) -> None:
        self._remembered, self._parameters = remembered, parameters
        self._tensors: dict[str, Sequence[Tensor]] = {}
        self._numbers: dict[str, Number] = {}

    def recall(self, name: str, like: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors kept under a name; zeros of the shapes of ``like`` before that."""
        if name in self._tensors:
            return self._tensors[name]
        held = [self._remembered.tensors.get(p, {}).get(name) for p in self._parameters]
        pairs = zip(held, like, strict=True)
        return [nothing(t) if old is None else old for old, t in pairs]

    def keep(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep one tensor per parameter."""
        self._tensors[name] = [t.detach() for t in tensors]

    def number(self, name: str, default: float) -> Number:
        """Return the number kept under a name."""
        return self._numbers.get(name, self._remembered.numbers.get(name, default))

    def note(self, name: str, value: Number) -> None:
        """Keep a number."""
        self._numbers[name] = value

    def settle(self, size: Number) -> None:
        """Remember what was kept, unless it came of a gradient that is not finite.

        Args:
            size: A number that is finite where the gradient is. Of an accelerator it is not read.
        """
        if not self._tensors and not self._numbers:
            return
        good = torch.isfinite(size) if isinstance(size, Tensor) else math.isfinite(size)
        if good is not False:
            for name, tensors in self._tensors.items():
                for p, new in zip(self._parameters, tensors, strict=True):
                    mine = self._remembered.tensors.setdefault(p, {})
                    old = mine.get(name)
                    mine[name] = _if(good, new, nothing(new) if old is None else old)
            for name, value in self._numbers.items():
                before = self._remembered.numbers.get(name, 0.0)
                self._remembered.numbers[name] = (
                    torch.where(good, value, before) if isinstance(good, Tensor) else value
                )
        self._tensors, self._numbers = {}, {}


def _if(good: bool | Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(good.to(new.device), new, old) if isinstance(good, Tensor) else new


class Places:
    """Where in a model its parameters are: their names, the modules that hold them.

    Args:
        model: The model; ``None`` if there is none.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> places = Places(net)
        >>> places.of(net[1].bias)[0], places.layers(list(net.parameters()))
        ('1.bias', [0, 0, 1, 1])
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._known: Any = WeakIdKeyDictionary()

    def of(self, parameter: Tensor) -> tuple[str, nn.Module | None]:
        """Return the name of a parameter, and the module that holds it."""
        if parameter not in self._known:
            self._look()
        name, layer, _ = self._known.get(parameter, ("", None, 0))
        return name, layer

    def layers(self, parameters: Sequence[Tensor]) -> Sequence[int]:
        """Return a number for each parameter, which the parameters of a module share."""
        if any(p not in self._known for p in parameters):
            self._look()
        held = [self._known.get(p) for p in parameters]
        return [-1 - i if found is None else found[2] for i, found in enumerate(held)]

    def _look(self) -> None:
        modules = [] if self._model is None else list(self._model.named_modules())
        number = 0
        for path, layer in modules:
            own = [(n, p) for n, p in layer._parameters.items() if p is not None]
            for name, p in own:
                if p not in self._known:  # a tied one belongs to the first that holds it
                    self._known[p] = (f"{path}.{name}".lstrip("."), layer, number)
            number += bool(own)
