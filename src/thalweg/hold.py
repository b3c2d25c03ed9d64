"""The only writer of parameters and buffers: what SAM moves is put back from here, bit for bit.

Weights come back by copy, never by subtraction: w + ε - ε is not w in floating point, and the
replicas of a distributed run would drift apart.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from thalweg import layout, sharded

_FORM = operator.attrgetter("dtype", "device", "shape")
#: Entries that are multiplied before they are added, on an accelerator.
_BATCH = 2**22
#: Buffers with more entries are held only where they are seen to change.
_LARGE = 2**20
#: What every dtype can hold.
_ANY_HOLDS = torch.finfo(torch.float16).max
#: Parameters, directions of the same shapes, and the factor, for each group.
Moves = Sequence[tuple[Sequence[Tensor], Sequence[Tensor], float | Tensor]]


class Weights:
    """Moves parameters and puts them back. Its backup buffers are kept from step to step.

    Args:
        model: Is resharded before every move and after every restore, where it shards its
            parameters; ``None`` if there is none.
        keep: Whether the buffers are kept when the weights are back.

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

    def __init__(self, model: nn.Module | None = None, *, keep: bool = True) -> None:
        self._model = model
        self._keep = keep
        self._backup = WeakIdKeyDictionary()  # a parameter that is gone takes its copy along
        self._away: list[Tensor] = []
        self._known: list[Tensor] = []
        self._forms: list[Any] = []
        self._copies: list[Tensor] = []
        self._sharded = False

    @property
    def moved(self) -> bool:
        """Whether any weight is away from its place."""
        return bool(self._away)

    @torch.no_grad()
    def move(self, moves: Moves) -> None:
        """Add ``factor * direction`` to parameters, after a copy of them is safe.

        Args:
            moves: A factor given as a tensor is applied without reading it, and where it is 0 the
                parameters stay even if the direction is not finite.
        """
        self.restore()
        moving = [p for group, _, _ in moves for p in group]
        if not moving:
            return
        self._room(moving)
        if self._sharded:  # what was gathered before the move would go on being used
            sharded.reshard(self._model)
            moves = [(layout.local(p), layout.local(d), f) for p, d, f in moves]
            moving = [p for group, _, _ in moves for p in group]
        torch._foreach_copy_(self._copies, moving)
        self._away = moving
        for group, direction, factor in moves:
            if isinstance(factor, Tensor):
                for some, part in _batches(group, direction):
                    torch._foreach_add_(some, [_product(factor, d) for d in part])
            elif factor < _ANY_HOLDS or factor <= min(torch.finfo(d.dtype).max for d in direction):
                torch._foreach_add_(list(group), list(direction), alpha=factor)
            else:  # of a gradient so small that its own dtype cannot hold the factor
                torch._foreach_add_(list(group), [d.double() * factor for d in direction])
        torch.clear_autocast_cache()  # autocast would go on using its copies of the weights

    @torch.no_grad()
    def restore(self) -> None:
        """Put every moved weight back, bit for bit. Does nothing where none is moved."""
        if not self._away:
            return
        torch._foreach_copy_(self._away, self._copies)
        self._away = []
        torch.clear_autocast_cache()
        if self._sharded:
            sharded.reshard(self._model)
        if not self._keep:
            self.release()

    @property
    def before(self) -> dict[Tensor, Tensor]:
        """Of every parameter that is away, the copy taken before."""
        return {p: self._backup[p] for p in self._known} if self._away else {}

    def release(self) -> None:
        """Give the backup buffers back, after putting the weights back."""
        self.restore()
        self._backup.clear()
        self._known, self._forms, self._copies = [], [], []

    def _room(self, moving: list[Tensor]) -> None:
        """Make room for a copy of each parameter, kept from step to step."""
        # A parameter can be given another dtype, device or shape between steps.
        forms = list(map(_FORM, moving))
        if _same(moving, self._known) and forms == self._forms:
            return
        unfit = []
        for p in moving:
            if p not in self._backup or _FORM(self._backup[p]) != _FORM(p):
                unfit.append(p)
        for kind, places in layout.kinds(unfit).items() if unfit else ():
            small = []
            for p in [unfit[i] for i in places]:
                if kind.mesh or p.numel() >= layout.SMALL:
                    self._backup[p] = torch.empty_like(p)
                else:
                    small.append(p)
            # Side by side they are copied faster.
            sizes = [p.numel() for p in small]
            rooms = torch.empty(sum(sizes), dtype=kind.dtype, device=kind.device)
            for p, room in zip(small, torch.split(rooms, sizes), strict=True):
                self._backup[p] = room.view(p.shape)
        self._known, self._forms = moving, forms
        self._copies = layout.local([self._backup[p] for p in moving])
        self._sharded = any(map(layout.is_sharded, moving))


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists hold the very same tensors."""
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _batches(
    group: Sequence[Tensor], direction: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Cut two lists side by side, so that what is made of a piece takes little memory."""
    some: list[Tensor] = []
    part: list[Tensor] = []
    entries = 0
    for p, d in zip(group, direction, strict=True):
        if some and entries + p.numel() > _BATCH:
            yield some, part
            some, part, entries = [], [], 0
        some.append(p)
        part.append(d)
        entries += p.numel()
    if some:
        yield some, part


def _product(factor: Tensor, direction: Tensor) -> Tensor:
    """Return factor * direction, unread; 0 where the factor is, and never an overflowed factor."""
    factor = factor.to(direction.device)
    if direction.is_sparse:
        d = direction.coalesce()
        return torch.sparse_coo_tensor(d.indices(), _product(factor, d.values()), d.shape)
    wide = direction.float() if direction.dtype.itemsize == 2 else direction
    held = factor.clamp(max=torch.finfo(wide.dtype).max).to(wide.dtype)
    return torch.where(factor != 0, wide * held, 0.0)


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
        self._layers = [layer for layer in layout.layers(model) if layer._buffers]
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
