"""The only writer of parameters and buffers: what SAM moves is put back from here, bit for bit.

Weights come back by copy, never by subtraction: w + ε - ε is not w in floating point, and the
replicas of a distributed run would drift apart.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

_RUNNING = {"running_mean", "running_var", "num_batches_tracked"}


class Weights:
    """Moves parameters and puts them back. Its backup buffers are kept from step to step.

    Example:
        >>> w = torch.tensor([1.0, 2.0])
        >>> weights = Weights()
        >>> weights.move([([w], [torch.ones(2)], 0.5)])
        >>> w
        tensor([1.5000, 2.5000])
        >>> weights.restore()
        >>> w
        tensor([1., 2.])
    """

    def __init__(self) -> None:
        self._backup: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] = []
        self._ids: set[int] = set()
        self._known: list[Tensor] = []
        self._copies: list[Tensor] = []

    @property
    def moved(self) -> bool:
        """Whether any weight is away from its place."""
        return bool(self._moved)

    @torch.no_grad()
    def move(
        self, moves: Sequence[tuple[Sequence[Tensor], Sequence[Tensor], float | Tensor]]
    ) -> None:
        """Add ``factor * direction`` to parameters, after a copy of them is safe.

        Args:
            moves: Parameters, directions of the same shapes, and the factor, for each group. A
                factor given as a tensor is applied without reading it, and where it is 0 the
                parameters stay even if the direction is not finite.
        """
        self.restore()
        parameters = [p for group, _, _ in moves for p in group]
        if not parameters:
            return
        self._copies = self._buffers(parameters)
        torch._foreach_copy_(self._copies, parameters)
        self._moved = parameters
        self._ids = {id(p) for p in parameters}
        for group, direction, factor in moves:
            if isinstance(factor, Tensor):
                torch._foreach_add_(list(group), [_product(factor, d) for d in direction])
            elif factor <= min(torch.finfo(t).max for t in {d.dtype for d in direction}):
                torch._foreach_add_(list(group), list(direction), alpha=factor)
            else:  # of a gradient so small that its own dtype cannot hold the factor
                torch._foreach_add_(list(group), [d.double() * factor for d in direction])

    @torch.no_grad()
    def restore(self) -> None:
        """Put every moved weight back, bit for bit. Does nothing where none is moved."""
        if self._moved:
            torch._foreach_copy_(self._moved, self._copies)
            self._moved, self._ids = [], set()

    def __contains__(self, parameter: Tensor) -> bool:
        return id(parameter) in self._ids

    @torch.no_grad()
    def realized(self, parameter: Tensor) -> Tensor:
        """Return the ε that rounding let through to a moved parameter."""
        return parameter - self._backup[parameter]

    def release(self) -> None:
        """Give the backup buffers back, after putting the weights back."""
        self.restore()
        self._backup.clear()
        self._known, self._copies = [], []

    def _buffers(self, parameters: list[Tensor]) -> list[Tensor]:
        """Room for a copy of each parameter, kept from step to step."""
        if not _same(parameters, self._known):
            for p in parameters:
                if p not in self._backup:
                    self._backup[p] = torch.empty_like(p)
            self._known, self._copies = parameters, [self._backup[p] for p in parameters]
        # A parameter can be given another dtype, shape or device between steps.
        for i, (p, b) in enumerate(zip(parameters, self._copies, strict=True)):
            if p.dtype is not b.dtype or not p.is_same_size(b) or p.device != b.device:
                self._backup[p] = self._copies[i] = torch.empty_like(p)
        return self._copies


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists hold the very same tensors."""
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _product(factor: Tensor, direction: Tensor) -> Tensor:
    """Return factor * direction, unread; 0 where the factor is, and never an overflowed factor."""
    factor = factor.to(direction.device)
    wide = direction.float() if direction.dtype.itemsize == 2 else direction
    held = factor.clamp(max=torch.finfo(wide.dtype).max).to(wide.dtype)
    return torch.where(factor != 0, wide * held, 0.0)


@contextlib.contextmanager
def running_statistics(model: nn.Module | None) -> Iterator[None]:
    """Put the buffers of normalization layers back at the end of the block.

    A layer is known by its running statistics, so that custom and synchronized ones count too. It
    is held by saving and copying back: switching flags on the layer would make a compiled model
    compile twice, and would change what InstanceNorm computes.

    Args:
        model: Whose layers; ``None`` for none.
    """
    buffers = []
    waiting = [model]  # faster than model.modules(), which makes a name for every layer
    while waiting:
        layer = waiting.pop()
        if layer is not None:
            waiting += layer._modules.values()
            if layer.training and not _RUNNING.isdisjoint(layer._buffers):
                buffers += [buffer for buffer in layer._buffers.values() if buffer is not None]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


class RandomState:
    """The state of torch's generators, on the CPU and on the devices of some tensors.

    Args:
        tensors: Whose devices.

    Example:
        >>> before = RandomState([])
        >>> x = torch.rand(1)
        >>> before.put_back()
        >>> bool(torch.rand(1) == x)
        True
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        self._others = {
            device: torch.get_device_module(device).get_rng_state(device)
            for device in {t.device for t in tensors}
            if device.type not in ("cpu", "meta")
        }

    def put_back(self) -> None:
        """Set every generator to the state it had."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others.items():
            torch.get_device_module(device).set_rng_state(state, device)
