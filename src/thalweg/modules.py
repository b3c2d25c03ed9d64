"""A model taken apart: its modules, what is put around it, and where in it its parameters are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakIdKeyDictionary

from thalweg import layout


def layers(model: nn.Module | None) -> list[nn.Module]:
    """Return a model and every module within it.

    Args:
        model: ``None`` for none.

    Returns:
        The modules; one that is shared may come more than once.

    Example:
        >>> len(layers(nn.Sequential(nn.Linear(1, 1), nn.Sequential())))
        3
    """
    found = [] if model is None else [model]
    for layer in found:  # grows; faster than model.modules(), which makes a name for every layer
        if layer._modules:
            found += [child for child in layer._modules.values() if child is not None]
    return found


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that ``torch.compile`` made another of; of any other model, itself.

    Args:
        model: Compiled, or not.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1)
        >>> uncompiled(torch.compile(net, backend="eager")) is net
        True
    """
    return cast(nn.Module, getattr(model, "_orig_mod", model))


def distributed(model: nn.Module | None) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel that a model is, compiled or not; else ``None``.

    Args:
        model: Anything.

    Example:
        >>> distributed(nn.Linear(1, 1)) is None
        True
    """
    whole = getattr(model, "_orig_mod", model)
    return whole if isinstance(whole, DistributedDataParallel) else None


def within(model: nn.Module) -> nn.Module:
    """Return a model out of all that DistributedDataParallel and ``torch.compile`` put around it.

    Args:
        model: Within them, or not.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1)
        >>> within(torch.compile(net, backend="eager")) is net
        True
    """
    whole = distributed(model)
    inner: nn.Module = uncompiled(model) if whole is None else whole.module
    return model if inner is model else within(inner)


class Places:
    """Where in a model its parameters are: their names, the modules that hold them.

    Args:
        model: The model; ``None`` if there is none. What DistributedDataParallel and torch.compile
            put around it is not in the names.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> places = Places(net)
        >>> places.of(net[1].bias)[0], places.layers(list(net.parameters()))
        ('1.bias', [0, 0, 1, 1])
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._known: Any = WeakIdKeyDictionary()
        self._last: tuple[list[Tensor], list[str]] = [], []

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

    def names(self, parameters: Sequence[Tensor]) -> list[str]:
        """Return the name of each parameter; fast for those that were asked for last."""
        last, names = self._last
        if not layout.same(last, parameters):
            names = [self.of(p)[0] for p in parameters]
            self._last = list(parameters), names
        return names

    def _look(self) -> None:
        named = () if self._model is None else within(self._model).named_modules()
        number = 0
        for path, layer in named:
            own = [(n, p) for n, p in layer._parameters.items() if p is not None]
            for name, p in own:
                if p not in self._known:  # a tied one belongs to the first that holds it
                    self._known[p] = (f"{path}.{name}".lstrip("."), layer, number)
            number += bool(own)
