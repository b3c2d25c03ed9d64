"""Timing in turn, and what the numbers say: medians, their intervals, shares."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from overhead_contestants import PEERS, ZERO, ByHand, Contestant, Stopwatch, contestants
from overhead_nets import Task
from torch import Tensor

#: Low end, median, high end.
Interval = tuple[float, float, float]
RESAMPLES = 2000


@dataclass(frozen=True)
class Timing:
    """What one network with one number of threads gave: milliseconds, one for each round."""

    key: str
    title: str
    threads: int
    own: dict[str, Tensor]
    whole: dict[str, Tensor]

    @property
    def rounds(self) -> int:
        return len(self.own[ZERO])

    @property
    def reference(self) -> float:
        """Milliseconds of two gradients and a base step."""
        return float(self.whole[ZERO].quantile(0.5))

    @property
    def better(self) -> str:
        """The peer's mode whose own work is smaller."""
        return min(PEERS, key=lambda name: float(self.own[name].quantile(0.5)))

    def own_work(self, name: str) -> Interval:
        return bootstrap(lambda pick: middle(self.own[name][pick]), self.rounds)

    def percent(self, name: str) -> Interval:
        """Own work in percent of two gradients and a base step."""
        return bootstrap(
            lambda pick: 100 * middle(self.own[name][pick]) / middle(self.whole[ZERO][pick]),
            self.rounds,
        )

    def share(self, name: str) -> Interval:
        """Own work as a share of that of the peer's better mode; rounds are drawn for both."""
        better = self.better
        return bootstrap(
            lambda pick: middle(self.own[name][pick]) / middle(self.own[better][pick]), self.rounds
        )

    def difference(self, name: str) -> Interval:
        """Whole step less that of two gradients and a base step in the same round."""
        return bootstrap(lambda pick: self._difference(name, pick), self.rounds)

    def share_of_difference(self, name: str) -> Interval:
        """Difference as a share of that of the peer's mode whose difference is smaller."""
        every = torch.arange(self.rounds)
        better = min(PEERS, key=lambda peer: float(self._difference(peer, every)))
        return bootstrap(
            lambda pick: self._difference(name, pick) / self._difference(better, pick), self.rounds
        )

    def _difference(self, name: str, pick: Tensor) -> Tensor:
        return middle(self.whole[name][pick] - self.whole[ZERO][pick])


def middle(values: Tensor) -> Tensor:
    """Median over the last dimension, the mean of the two middle ones where there are two."""
    return values.quantile(0.5, dim=-1)


def bootstrap(statistic: Callable[[Tensor], Tensor], rounds: int) -> Interval:
    """Return a statistic of all rounds between the ends of its 95 % interval over resamples."""
    draw = torch.Generator().manual_seed(0)
    drawn = statistic(torch.randint(rounds, (RESAMPLES, rounds), generator=draw))
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return low, float(statistic(torch.arange(rounds))), high


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, from now on for good; False where there is no glibc.

    By default it gives large blocks back to the system, and who allocates every step pays for new
    pages every step. Other allocators keep them.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mmap_max, trim_threshold = -4, -1  # as <malloc.h> numbers them
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))


def timed(contestant: Contestant, device: torch.device) -> tuple[float, float]:
    """Take a step; return the milliseconds of the whole and of SAM's own work."""
    watch = Stopwatch(device)
    contestant.step(watch)
    whole, own = watch.stop()
    if device.type != "cpu":  # the stamps made it wait: the whole step once more without them
        watch = Stopwatch(device, fine=False)
        contestant.step(watch)
        whole, _ = watch.stop()
    return 1e3 * whole, 1e3 * own


def in_turn(
    key: str, task: Task, *, threads: int, rounds: int, warm_up: int, device: torch.device
) -> Timing:
    """Let everyone take one timed step a round, in an order that changes every round."""
    torch.set_num_threads(threads)
    who = contestants(task, device, options=key != "resnet")
    whole: dict[str, list[float]] = {name: [] for name in who}
    own: dict[str, list[float]] = {name: [] for name in who}
    for turn in range(warm_up + rounds):
        names = list(who)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for name in names[:: -1 if turn % 2 else 1]:
            for _ in range(task.unseen):
                who[name].step(Stopwatch(device, fine=False))
            seconds = timed(who[name], device)
            if turn >= warm_up:
                whole[name].append(seconds[0])
                own[name].append(seconds[1])
    return Timing(
        key,
        task.title,
        threads,
        {name: torch.tensor(values, dtype=torch.float64) for name, values in own.items()},
        {name: torch.tensor(values, dtype=torch.float64) for name, values in whole.items()},
    )


def apart(tasks: Iterable[Task], steps: int = 3) -> float:
    """Greatest distance of anyone's weights from SAM's by hand, relative to how far those went.

    In float64: in float32 the smallest difference in rounding turns a ReLU of the ResNet over.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return max(_apart(task, steps) for task in tasks)
    finally:
        torch.set_default_dtype(usual)


def _apart(task: Task, steps: int) -> float:
    device = torch.device("cpu")
    found = [0.0]
    hands: dict[float, list[Tensor]] = {}
    for contestant in contestants(task, device, options=True).values():
        if not contestant.perturbs:
            continue
        power = contestant.power
        if power not in hands:
            hand = ByHand(task, device, power=power)
            start = [p.detach().clone() for p in hand.parameters]
            _walk(hand, steps)
            hands[power] = hand.parameters
        _walk(contestant, steps)
        went = distance(hands[power], start)
        found.append(distance(contestant.parameters, hands[power]) / went)
    return max(found)


def _walk(contestant: Contestant, steps: int) -> None:
    for _ in range(steps):
        contestant.step(Stopwatch(torch.device("cpu"), fine=False))


@torch.no_grad()
def distance(left: list[Tensor], right: list[Tensor]) -> float:
    """Euclidean distance of two lists of weights, as one vector each."""
    squares = [(a.double() - b.double()).square().sum() for a, b in zip(left, right, strict=True)]
    return float(torch.stack(squares).sum().sqrt())
