"""How much memory a SAM step takes at its peak, and how much stays until the next one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from overhead_contestants import (
    HAND,
    OURS,
    PEERS,
    ByHand,
    Contestant,
    Peer,
    Stopwatch,
    Thalweg,
    TwoGradients,
)
from overhead_nets import DEEP, Task

Make = Callable[[Task, torch.device], Contestant]

CONTESTANTS: dict[str, Make] = {
    HAND: ByHand,
    OURS: Thalweg,
    "thalweg, keep_backup=False": lambda *at: Thalweg(*at, keep_backup=False),
    "thalweg, release() after the step": Thalweg,
    "thalweg, telemetry=True": lambda *at: Thalweg(*at, telemetry=True),
    PEERS[0]: Peer,
    PEERS[1]: lambda *at: Peer(*at, foreach=True),
}


class Ledger:
    """Every allocation and release of torch's allocator: bytes live now, and their peak.

    On the CPU the profiler hands out each of them, temporaries inside an operation too, so that
    the count is exact and the same on every run; on an accelerator torch keeps the books itself.
    What is released must have been allocated under the same ledger.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.live = 0
        self.peak = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        if self._device.type != "cpu":
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device) - self.live
            yield
            self.live = torch.cuda.memory_allocated(self._device) - before
            self.peak = torch.cuda.max_memory_allocated(self._device) - before
            return
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
            yield
        assert profile.profiler is not None
        events = profile.profiler.kineto_results.events()
        changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
        self.peak = self.live
        for _, change in sorted(changes, key=lambda entry: entry[0]):
            self.live += change
            self.peak = max(self.peak, self.live)


def of_a_step(make: Make, device: torch.device, *, release: bool = False) -> tuple[int, int, int]:
    """Return, in bytes, the peak of a step, what is live after it, the size of the parameters."""
    gc.collect()  # what an earlier contestant left must not be released under this ledger
    ledger = Ledger(device)
    with ledger.open():
        contestant = make(DEEP, device)
        for _ in range(2):
            contestant.step(Stopwatch(device, fine=False))
    with ledger.open():
        contestant.step(Stopwatch(device, fine=False))
        if release:
            assert isinstance(contestant, Thalweg)
            contestant.sam.release()
    return ledger.peak, ledger.live, sum(p.nbytes for p in contestant.parameters)


def extra(device: torch.device) -> dict[str, tuple[float, float]]:
    """Peak and what stays, beyond two gradients and a base step, in copies of the parameters."""
    peak_without, live_without, size = of_a_step(TwoGradients, device)
    table = {}
    for name, make in CONTESTANTS.items():
        peak, live, _ = of_a_step(make, device, release="release" in name)
        table[name] = ((peak - peak_without) / size, (live - live_without) / size)
    return table
