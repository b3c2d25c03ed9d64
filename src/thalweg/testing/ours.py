"""thalweg's own driver; a third party's looks the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from thalweg.ascent import Always, Method
from thalweg.sam import SAM
from thalweg.testing.protocol import Backward, Driver, NotOffered, Setup


class ThalwegDriver(Driver):
    """thalweg's SAM in its three forms; in two of them where the block refuses the method."""

    first_pass_outside = frozenset({"block"})

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The base optimizer: nothing wraps it."""
        optimizer: torch.optim.Optimizer = self.sam.optimizer
        return optimizer

    @property
    def forms(self) -> Mapping[str, Callable[[Backward], Any]]:
        """The loop over passes, the closure and the block."""
        forms = {"passes": self._passes, "closure": self._closure}
        fits = self.sam.method.looks and self.passes == {2}
        return forms | ({"block": self._block} if fits else {})

    @property
    def passes(self) -> frozenset[int]:
        """As many as the method takes; one where its gate is closed."""
        method = self.sam.method
        return frozenset({method.passes} | (set() if isinstance(method.gate, Always) else {1}))

    @property
    def plain(self) -> bool:
        """Whether no other part than the power is chosen."""
        method: Method = self.sam.method
        return method == Method(power=method.power, max_norm=method.max_norm)

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

    def state_dict(self) -> Any:
        """Return what the method remembers."""
        return self.sam.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Hand it on."""
        self.sam.load_state_dict(state)

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


def thalweg_driver(setup: Setup, method: Method | None = None) -> Driver:
    """Return thalweg's SAM as the suite wants it; of a partial, with another method.

    Args:
        setup: What it is built of.
        method: What a step does; ``None`` for SAM with the power of the setup.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> setup = Setup(torch.optim.Adam, list(model.parameters()), model, rho=0.05)
        >>> list(thalweg_driver(setup).forms)
        ['passes', 'closure', 'block']
    """
    optimizer = setup.base(setup.params)
    if method is not None and setup.power != 1:
        raise NotOffered("other powers of this method")
    method = method or Method(power=setup.power)
    sam = SAM(optimizer, setup.model, setup.rho, method=method, scaler=setup.scaler)
    return ThalwegDriver(sam, setup.scaler)
