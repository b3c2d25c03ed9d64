"""When a monitor takes its next sample, and what it keeps of the steps until then."""

from __future__ import annotations

import time

from torch import Tensor

from thalweg.errors import ThalwegError, number, whole

#: Of the time of training, what samples may take where nothing else is asked for.
SHARE = 0.05
#: Of the curvature along ε so many values are kept between two samples, then every other one.
_KEPT = 256


class Pace:
    """When the next sample is due.

    Args:
        every: Steps from sample to sample, or ``None``.
        share: Of the time since the last sample, what the next one may take.

    Example:
        >>> pace = Pace(None, 0.05)
        >>> pace.sampled(0.0, 1.0)
        >>> pace.due(1, 20.0), pace.due(2, 41.0)
        (False, True)
    """

    def __init__(self, every: int | None, share: float) -> None:
        self._every, self._share = every, share
        self._cost, self._since = 0.0, 0.0

    @property
    def shares(self) -> bool:
        """Whether samples come by their share of the time."""
        return self._every is None

    def begins(self, seconds: float) -> None:
        """Start after the sample before training; the first wait pays for it and for the next.

        Args:
            seconds: How long it took.
        """
        self._cost, self._since = 2 * seconds, time.perf_counter()

    def due(self, step: int, now: float) -> bool:
        """Return whether a sample may be taken after this step.

        Args:
            step: How many steps there were.
            now: The time, in seconds.
        """
        if self._every is not None:
            return step % self._every == 0
        # Every wait pays for its own sample, so that a pause in training does not save time up.
        return (now - self._since) * self._share >= self._cost

    def sampled(self, began: float, ended: float) -> None:
        """Learn what a sample took.

        Args:
            began: When it began.
            ended: When it ended.
        """
        spent = ended - began
        unpaid = max(0.0, spent - self._cost)  # longer than it was waited for
        self._cost, self._since = spent + unpaid, ended


def pace_of(every: object, share: object) -> Pace:
    """Return the pace of a monitor with these arguments.

    Args:
        every: Steps from sample to sample, or ``None``.
        share: Of the time of training, or ``None``.

    Raises:
        ThalwegError: If both are given, or one is not what it should be.
    """
    if every is None:
        part = number("share", SHARE if share is None else share, above=0)
        if part >= 1:
            raise ThalwegError(
                f"share must be a part of the time of training, above 0 and below 1, got {part:g}: "
                "pass 0.05 for a twentieth of it"
            )
        return Pace(None, part)
    if share is not None:
        raise ThalwegError(
            f"every and share must not both be given, got every={every!r} and share={share!r}: "
            "pass the one that is to hold"
        )
    return Pace(whole("every", every, at_least=1), 0.0)


class Along:
    """The curvature along ε of the steps between two samples, thinned where there are many.

    Example:
        >>> along = Along()
        >>> for step in range(1, 301):
        ...     along.add(step, float(step))
        >>> steps, values = along.taken()
        >>> len(steps), steps[:3], values[-1]
        (150, [2, 4, 6], 300.0)
    """

    def __init__(self) -> None:
        self._found: list[tuple[int, float | Tensor]] = []
        self._stride = 1

    def add(self, step: int, value: float | Tensor) -> None:
        """Keep a value, unread where reading makes the program wait.

        Args:
            step: The step.
            value: The curvature, NaN where there is none.
        """
        if step % self._stride == 0:
            self._found.append((step, value))
        if len(self._found) > _KEPT:
            self._stride *= 2
            self._found = [(at, v) for at, v in self._found if at % self._stride == 0]

    def taken(self) -> tuple[list[int], list[float]]:
        """Return steps and values, and begin anew."""
        known = [(step, float(value)) for step, value in self._found]
        known = [(step, value) for step, value in known if value == value]
        self._found, self._stride = [], 1
        return [step for step, _ in known], [value for _, value in known]
