"""How much time a study takes yet, and a time in words."""

from __future__ import annotations

import heapq
import math

#: What the times on record weigh beside those measured here, as a share of all of them.
_TRUST = 0.05
#: The share of all work after which what a claim took counts half: the machine may be idle by then.
_HALF = 0.25
#: What a claim that has outrun its time is taken to need yet, as a share of what it took.
_MORE = 0.1


class Estimate:
    """How much longer claims take: what is on record, scaled by what finished ones took here.

    Args:
        seconds: How long each claim takes on record, by its name.
        jobs: How many are measured side by side.

    Example:
        >>> estimate = Estimate({"a": 100.0, "b": 100.0, "c": 50.0}, 1)
        >>> estimate.finish("a", 300.0)
        >>> estimate.left(300.0)  # three times what is on record for the other two
        (450.0, 450.0)
    """

    def __init__(self, seconds: dict[str, float], jobs: int) -> None:
        self._due, self._jobs, self._total = dict(seconds), jobs, sum(seconds.values())
        self.begun: dict[str, float] = {}  # when, of each that runs
        self._done = 0.0  # seconds on record
        # Seconds for each on record; these; how many were done then.
        self._seen: list[tuple[float, float, float]] = []

    def finish(self, name: str, took: float | None) -> None:
        """Take a claim off the list; one that was on file took nothing."""
        expected = self._due.pop(name)
        self.begun.pop(name, None)
        if took is None:
            self._total -= expected
        elif expected:
            self._done += expected
            self._seen.append((took / expected, expected, self._done))

    def left(self, now: float) -> tuple[float, float] | None:
        """Return the least and the most seconds that are to be expected; ``None`` if unknown."""
        if not (self._due and all(self._due.values())):
            return None
        # Of what a finished claim took for each second on record the middle half is taken: one that
        # went quite otherwise, is short, or long ago, says little. The record counts as one, too.
        half = _HALF * self._total
        known = [(1.0, _TRUST * self._total, 0.0), *self._seen]
        seen = [(pace, size * 0.5 ** ((self._done - at) / half)) for pace, size, at in known]
        usual = _quantile(seen, 0.5)
        for name, begun in self.begun.copy().items():
            expected = self._due.get(name, 0.0)
            if now - begun > usual * expected > 0:  # is slower than that by now, already
                seen.append(((now - begun) / expected, expected))
        # The slower pace may end first: a claim that has outrun the faster one is given some more.
        low, high = sorted(self._end(_quantile(seen, share), now) for share in (0.25, 0.75))
        return low, high

    def on_record(self) -> str:
        """Return in a sentence how long what is left takes on record; nothing, if unknown."""
        many, cores = len(self._due), min(self._jobs, len(self._due))
        if not (many and all(self._due.values())):
            return ""
        took, s = span(self._end(1.0, 0.0)), "s" * (cores > 1)
        return f"to measure: {many}; on record, about {took} on {cores} idle core{s}"

    def _end(self, pace: float, now: float) -> float:
        """When the last one ends: those that run, then the longest first, wherever one is free."""
        begun, free = self.begun.copy(), []
        for name, at in begun.items():
            rest = pace * self._due.get(name, 0.0) - (now - at)
            free.append(rest if rest > 0 else _MORE * (now - at))
        free.sort()
        free = [0.0] * (self._jobs - len(free)) + free
        waiting = (took for name, took in self._due.copy().items() if name not in begun)
        for took in sorted(waiting, reverse=True):
            heapq.heapreplace(free, free[0] + pace * took)
        return max(free)


def _quantile(points: list[tuple[float, float]], share: float) -> float:
    """The least value at or below which this share of the weights lies."""
    wanted, below = share * sum(weight for _, weight in points), 0.0
    for value, weight in sorted(points):
        below += weight
        if below >= wanted:
            return value
    return math.nan


def between(low: float, high: float) -> str:
    """Return two times as a range in words, or as one where they are told by the same.

    Args:
        low: Seconds.
        high: Seconds, no fewer.

    Example:
        >>> between(150.0, 290.0), between(20.0, 20.3), between(80.0, 110.0)
        ('2 to 5 min', 'about 20 s', '80 s to 2 min')
    """
    first, last = span(low), span(high)
    if first == last:
        return f"about {last}"
    number, unit = first.split()
    return f"{number if last.endswith(unit) else first} to {last}"


def span(seconds: float) -> str:
    """Return a time in words.

    Args:
        seconds: The time.

    Example:
        >>> span(20.3), span(150.0), span(7200.0)
        ('20 s', '2 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
