"""Which parameters are perturbed, and which entries of them; norms are taken over these alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from thalweg.ascent.context import Context
from thalweg.ascent.shards import gathered, placed
from thalweg.errors import ThalwegError, brief, flag, number, whole


class Filter(Protocol):
    """Chooses the parameters that are perturbed."""

    def __call__(self, parameter: Tensor, name: str, layer: nn.Module | None) -> bool:
        """Return whether a parameter is perturbed.

        Args:
            parameter: A parameter of the base optimizer.
            name: Its name in the model; "" where there is no model.
            layer: The module that holds it; ``None`` where there is no model.
        """
        ...


@dataclass(frozen=True, slots=True)
class AllParameters:
    """Every parameter that has a gradient.

    Example:
        >>> AllParameters()(torch.zeros(3), "weight", None)
        True
    """

    def __call__(self, parameter: Tensor, name: str, layer: nn.Module | None) -> bool:
        """Choose every parameter."""
        return True


@dataclass(frozen=True, slots=True)
class Named:
    """Parameters whose name in the model fits.

    Attributes:
        pattern: A regular expression that is found anywhere in the name.
        invert: Whether those that do not fit are chosen instead.

    Example:
        >>> Named("head|bias$")(torch.zeros(3), "body.0.bias", None)
        True
    """

    pattern: str
    invert: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern).search("")
        except (re.error, TypeError) as cause:
            raise ThalwegError(
                f"pattern must be a regular expression, got {brief(self.pattern)} ({cause})"
            ) from None
        flag("invert", self.invert)

    def __call__(self, parameter: Tensor, name: str, layer: nn.Module | None) -> bool:
        """Choose by name."""
        return bool(re.search(self.pattern, name)) is not self.invert


@dataclass(frozen=True, slots=True)
class Within:
    """Parameters that modules of certain kinds hold.

    Attributes:
        kinds: The classes of modules.

    Example:
        >>> Within(nn.Linear)(torch.zeros(3), "0.bias", nn.Linear(1, 3))
        True
    """

    kinds: tuple[type[nn.Module], ...]

    def __init__(self, *kinds: type[nn.Module]) -> None:
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
                raise ThalwegError(
                    f"kinds must be classes of modules, got {brief(kind)}: write "
                    "Within(nn.Linear, nn.Conv2d)"
                )
        if not kinds:
            raise ThalwegError("kinds must name a class of modules such as nn.Linear, got none")
        object.__setattr__(self, "kinds", kinds)

    def __call__(self, parameter: Tensor, name: str, layer: nn.Module | None) -> bool:
        """Choose by the module."""
        return isinstance(layer, self.kinds)


@dataclass(frozen=True, slots=True)
class Normalization:
    """The gains and biases of normalization layers alone (SAM-ON); other rhos fit than elsewhere.

    A layer is one if the name of its class, or of one that this comes from, ends in "Norm", with a
    number of dimensions or without.

    Source:
        Mueller et al., Normalization Layers Are All That Sharpness-Aware Minimization Needs,
        NeurIPS 2023.

    Example:
        >>> Normalization()(torch.zeros(3), "1.weight", nn.BatchNorm1d(3))
        True
    """

    def __call__(self, parameter: Tensor, name: str, layer: nn.Module | None) -> bool:
        """Choose by the module."""
        return any(re.search(r"Norm(\dd)?$", kind.__name__) for kind in type(layer).__mro__)


class Mask(Protocol):
    """Chooses entries: sets the others of a direction to 0."""

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the direction with 0 where nothing moves.

        Args:
            direction: One tensor per parameter.
            context: The step.
        """
        ...


@dataclass(frozen=True, slots=True)
class LargestEntries:
    """The entries of each tensor in which the direction is largest.

    Attributes:
        share: Of the entries of a tensor, how many move; at least one does, and all that are as
            large as the least of them, which in 16 bits may be many more.

    Source:
        Mi et al., Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach,
        NeurIPS 2022 (there by g² averaged over some batches, and over all tensors together).

    Example:
        >>> LargestEntries(0.5)([torch.tensor([3.0, -4.0])], Context())
        [tensor([ 0., -4.])]
    """

    share: float = 0.5
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        share = number("share", self.share, above=0, at_most=1)
        object.__setattr__(self, "share", share)

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the direction with 0 in the other entries."""
        return [self._kept(d, context.cells) for d in direction]

    def _kept(self, tensor: Tensor, cells: int) -> Tensor:
        if tensor.ndim <= cells or not tensor.numel():  # a number, or nothing
            return tensor
        entries = gathered(tensor).flatten(cells)
        sizes = entries.abs()
        count = max(1, round(self.share * sizes.shape[-1]))
        # To sort them would take five times as long.
        least = torch.topk(sizes, count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        return placed(torch.where(sizes >= least, entries, 0.0).view(tensor.shape), tensor)


@dataclass(frozen=True, slots=True)
class LargestTensors:
    """The tensors in which the direction is longest, for their number of entries.

    Attributes:
        count: How many tensors move; more where others are as long as the last of them.

    Example:
        >>> LargestTensors(1)([torch.ones(4), 1.5 * torch.ones(1)], Context())
        [tensor([0., 0., 0., 0.]), tensor([1.5000])]
    """

    count: int
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("count", self.count, at_least=1))

    def __call__(self, direction: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return the direction with 0 in the other tensors."""
        if self.count >= len(direction):
            return direction
        home = direction[0].device
        norms = [torch.as_tensor(n, device=home).double() for n in context.norms(direction)]
        each = torch.stack(
            [
                n / math.prod(d.shape[context.cells :]) ** 0.5
                for n, d in zip(norms, direction, strict=True)
            ]
        )
        least = torch.topk(each, self.count, dim=0).values[-1]
        chosen = (each >= least).to(each.dtype)
        return [context.times(c, d) for c, d in zip(chosen, direction, strict=True)]
