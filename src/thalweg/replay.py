"""What a pass leaves behind beside gradients: buffers that it advances, random numbers it draws.

Every pass is made to see the same random numbers, and normalization layers advance once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg import layout, modules

#: Buffers with more entries are held only where they are seen to change.
_LARGE = 2**20


class Buffers:
    """The buffers that a forward pass advances, such as running means; held from the first pass on.

    They are held by saving and copying back: switching flags on a layer would make a compiled
    model compile twice, and would change what InstanceNorm computes. Held are all buffers of layers
    in training mode, except masks and large ones; and every other that changed since this object
    was made.

    Args:
        model: Whose layers; ``None`` for none.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> buffers = Buffers(norm)
        >>> buffers.save()
        >>> norm(torch.tensor([[1.0], [3.0]])).shape
        torch.Size([2, 1])
        >>> buffers.put_back()
        >>> norm.running_mean
        tensor([0.])
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._layers = [layer for layer in modules.layers(model) if layer._buffers]
        self._before = {
            (layer, name): (buffer, _version(buffer)) for layer, name, buffer in self._now()
        }
        self._saved: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def _now(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        for layer in self._layers:
            for name, buffer in layer._buffers.items():
                if buffer is not None and not is_lazy(buffer):
                    yield layer, name, buffer

    def save(self) -> None:
        """Save what must be put back."""
        for layer, name, buffer in self._now():
            before, version = self._before.get((layer, name), (None, 0))
            held = layer.training and buffer.dtype is not torch.bool and buffer.numel() <= _LARGE
            if held or before is not buffer or _version(buffer) != version:
                self._saved.append((layer, name, buffer, buffer.clone()))

    @torch.no_grad()
    def put_back(self) -> None:
        """Put back what was saved, in place; where a layer has replaced a buffer, the old one."""
        for layer, name, buffer, value in self._saved:
            if buffer.shape != value.shape or buffer.is_inference():
                layer._buffers[name] = value
                continue
            buffer.copy_(value)
            if layer._buffers.get(name) is not buffer:
                layer._buffers[name] = buffer
        self._saved = []


def _version(buffer: Tensor) -> int:
    """How often a buffer was written to."""
    return 0 if buffer.is_inference() else buffer._version


class RandomState:
    """The state of torch's generators, on the CPU and on some accelerators.

    Args:
        devices: The accelerators.

    Example:
        >>> before = RandomState()
        >>> x = torch.rand(1)
        >>> before.put_back()
        >>> bool(torch.rand(1) == x)
        True
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cpu = torch.get_rng_state()
        self._others = {d: torch.get_device_module(d).get_rng_state(d) for d in devices}

    def put_back(self) -> None:
        """Set every generator to the state it had."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others.items():
            torch.get_device_module(device).set_rng_state(state, device)


class Replay:
    """Makes every pass see the same random numbers, and normalization layers advance once.

    Args:
        model: Whose buffers are held; ``None`` for none.
        trained: On whose devices random numbers are drawn.
    """

    def __init__(self, model: nn.Module | None, trained: Sequence[Tensor]) -> None:
        found = layout.devices(trained)
        self._devices = [device for device in found if device.type not in ("cpu", "meta")]
        self._start = RandomState(self._devices)
        self._end = self._start
        self._buffers = Buffers(model)

    def first_pass_is_over(self) -> None:
        """Remember where the first pass left random numbers and buffers: there they will end."""
        self._end = RandomState(self._devices)
        self._buffers.save()

    def rewind(self) -> None:
        """Let the next pass draw what the first one drew."""
        self._start.put_back()

    def end(self) -> None:
        """Put random numbers and buffers where the first pass left them."""
        self._end.put_back()
        self._buffers.put_back()
