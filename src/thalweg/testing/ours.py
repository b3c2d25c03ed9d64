"""thalweg's own driver; a third party's looks the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from thalweg.sam import SAM
from thalweg.testing.protocol import Backward, Driver, Setup


class ThalwegDriver(Driver):
    """thalweg's SAM in its three forms."""

    first_pass_outside = frozenset({"block"})

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The base optimizer: nothing wraps it."""
        optimizer: torch.optim.Optimizer = self.sam.optimizer
        return optimizer

    @property
    def forms(self) -> Mapping[str, Callable[[Backward], Any]]:
        """The loop over passes, the closure and the block."""
        return {"passes": self._passes, "closure": self._closure, "block": self._block}

    def gradient(self, backward: Backward) -> None:
        """Run the passes."""
        self.optimizer.zero_grad()
        for _ in self.sam.passes():
            backward()

    def step(self) -> None:
        """Step the base optimizer, through the scaler if there is one."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def closure(self, closure: Backward) -> Any:
        """Hand it on."""
        return self.sam.step(closure)

    def m_sam(self, backwards: list[Backward]) -> None:
        """Run the passes inside a loop over the parts."""
        self.optimizer.zero_grad()
        for backward in backwards:
            for _ in self.sam.passes():
                backward()
        self.step()

    def _passes(self, backward: Backward) -> None:
        self.gradient(backward)
        self.step()

    def _closure(self, backward: Backward) -> Any:
        def closure() -> Any:
            self.optimizer.zero_grad()
            return backward()

        return self.sam.step(closure)

    def _block(self, backward: Backward) -> None:
        self.optimizer.zero_grad()
        backward()
        with self.sam.perturbed():
            backward()
        self.step()


def thalweg_driver(setup: Setup) -> Driver:
    """Return thalweg's SAM as the suite wants it.

    Args:
        setup: What it is built of.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> setup = Setup(torch.optim.Adam, list(model.parameters()), model, rho=0.05)
        >>> list(thalweg_driver(setup).forms)
        ['passes', 'closure', 'block']
    """
    optimizer = setup.base(setup.params)
    sam = SAM(optimizer, setup.model, setup.rho, power=setup.power, scaler=setup.scaler)
    return ThalwegDriver(sam, setup.scaler)
