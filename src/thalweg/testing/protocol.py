"""What a candidate must bring: a function of a Setup that returns a Driver."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Runs forward and backward of one pass and returns the loss; it adds to ``.grad``.
Backward = Callable[[], Tensor]
#: Builds a base optimizer from a list of parameters or of param groups.
BaseFactory = Callable[[Any], torch.optim.Optimizer]


class Failed(AssertionError):  # noqa: N818 (a verdict)
    """Raised inside a check: the candidate does not do what the check's title says."""


class NotOffered(Exception):  # noqa: N818 (a verdict)
    """Raised by a driver: the candidate has no such thing and does not claim it."""


@dataclass(frozen=True)
class Setup:
    """What a check wants a SAM to be built of.

    Attributes:
        base: Builds the base optimizer: ``base(params)``. Where the suite chose it, it is a
            ``functools.partial`` of a class, for a SAM that wants class and keywords.
        params: Parameters, or param groups of which some may have a key ``"rho"``.
        model: The module they belong to.
        rho: Radius of the groups that have none.
        power: The normalization p in ε = ρ g/‖g‖^p. Above 1 the checks keep ‖ε‖ below 0.9, so
            that a cap of 1 does not bite.
        scaler: The gradient scaler with which losses are scaled, if any.
    """

    base: BaseFactory
    params: list[Any]
    model: nn.Module
    rho: float
    power: float = 1.0
    scaler: torch.amp.GradScaler | None = None


class Driver:
    """One SAM in the hands of a check. Subclass it; what is not overridden is "not offered".

    Args:
        sam: What a user would hold, copy and pickle.
        scaler: The scaler of the setup; forms must then step through it, and update it.

    Attributes:
        first_pass_outside: Names of the forms whose first pass is over before SAM is asked, so
            that SAM cannot replay its random numbers.
    """

    first_pass_outside: frozenset[str] = frozenset()

    def __init__(self, sam: Any, scaler: torch.amp.GradScaler | None = None) -> None:
        self.sam = sam
        self.scaler = scaler

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What the user calls the optimizer: param groups, checkpoints, ``zero_grad()``."""
        raise NotOffered("an optimizer")

    @property
    def scheduled(self) -> torch.optim.Optimizer:
        """What a learning rate scheduler is given."""
        return self.optimizer

    @property
    def forms(self) -> Mapping[str, Callable[[Backward], Any]]:
        """Every documented way to take a whole step: clear the gradients, two passes, step.

        Each is a function of ``backward``, which it calls once for every pass; two unless
        ``passes`` tells otherwise.
        """
        raise NotOffered("a training step")

    @property
    def passes(self) -> frozenset[int]:
        """How many gradients a step may take: others than two for other methods than SAM."""
        return frozenset({2})

    @property
    def plain(self) -> bool:
        """Whether a step is SAM itself, with a power; else nothing is compared with its formula."""
        return True

    def gradient(self, backward: Backward) -> None:
        """Take a step up to the point where users clip: ``.grad`` holds the SAM gradient."""
        raise NotOffered("a place between the SAM gradient and the step")

    def step(self) -> None:
        """Take the rest of the step that :meth:`gradient` began."""
        raise NotOffered("a place between the SAM gradient and the step")

    def closure(self, closure: Backward) -> Any:
        """Take a step by torch's closure contract, and return the loss.

        Args:
            closure: Clears the gradients, then does what ``backward`` does.
        """
        raise NotOffered("torch's closure contract")

    def m_sam(self, backwards: list[Backward]) -> None:
        """Take one step with the sum of SAM gradients, each with an ascent of its own."""
        raise NotOffered("m-SAM")

    def state_dict(self) -> Any:
        """Return what a checkpoint must hold beside the states of the model and the optimizer."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Take it up."""

    def around(self, sam: Any) -> Driver:
        """Return this driver with a copy of ``sam`` in its hands."""
        other = copy.copy(self)
        other.sam = sam
        return other


#: Builds a driver of the candidate; may raise :class:`NotOffered`.
SAMFactory = Callable[[Setup], Driver]
