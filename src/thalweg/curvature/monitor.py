"""A monitor: curvature, edge and ε of a SAM object while it trains, in one added line."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from thalweg.curvature.given import check_loss_of
from thalweg.curvature.pace import Along, pace_of
from thalweg.curvature.ranks import Ranks
from thalweg.curvature.records import Record, Sink, sinks
from thalweg.curvature.sample import MOST, SHORT, take
from thalweg.curvature.setting import LossOf
from thalweg.curvature.words import WINDOW, thought
from thalweg.errors import ThalwegError, flag, warn
from thalweg.modules import distributed

if TYPE_CHECKING:
    from thalweg.sam import SAM


class Monitor:
    """Watches a SAM object train: every so often a sample, taken between two steps.

    ::

        thalweg.curvature.Monitor(sam, loss_of, batch, to="run.jsonl")  # the one added line

    A sample is a :class:`Record`: λ_max, trace, the edge of the present lr, rho and ‖g‖, how
    ε lies, what the loss does at w + ε; with ``telemetry=True`` in SAM also the curvature along ε
    of every step between. The first is taken at once, so that what is wrong is told here. Nothing
    of the training changes, bit for bit: not weights, buffers, gradients or random numbers.

    It works until :meth:`close`, or until the SAM object is gone, which it does not keep alive; it
    need not be bound to a name. It keeps the batch and one vector of the size of a gradient. At
    its end, and at that of the program, the curvature along ε of the steps since the last sample
    goes to the sinks, as a record in which nothing else is known.

    A sink that raises loses that record and nothing else: the step is taken, training goes on, the
    sink gets the next record, and a warning tells of it, once. A sample that cannot be taken is
    left out likewise, under DistributedDataParallel by all ranks together. Only in the first
    sample, before training, both raise.

    Sentences are collected in ``says``, each at most once. What is a fault (ε too small, too large,
    lost to rounding) is a warning as well, unless SAM itself has warned of it before. That λ_max
    sits at the edge is no fault, and no warning.

    Args:
        sam: The SAM object; it must have a model.
        loss_of: A function of a model and a batch that returns the mean loss, zero-dimensional.
        batch: The probe batch, the same for all samples, on the device of the model. Under
            DistributedDataParallel each rank has its own, and a record is of their mean loss.
        every: Steps from sample to sample. Must be given under DistributedDataParallel, whose
            ranks must sample alike.
        share: Where ``every`` is not given: of the time of training, at most so much goes into
            samples, from the second one on and as far as one tells how long the next will take;
            a twentieth unless told otherwise. The first, for which no training has paid, searches
            shortly for λ_max: its ``residual`` tells how far it came.
        to: Where records go: a path (JSON lines are appended), a TensorBoard ``SummaryWriter``, a
            function of the record's dictionary, or several in a list. Under
            DistributedDataParallel the first rank alone writes.
        training: The mode of the model while measured; see :func:`thalweg.curvature.frozen`.
        trace: Whether the trace is estimated: four Hessian products.

    Attributes:
        last: The record of the latest sample, a dictionary.
        says: What it has said so far.
        steps: Steps of the base optimizer so far; set it where a run goes on.

    Raises:
        ThalwegError: If an argument is not what it should be, or the first sample fails.

    Example:
        >>> import thalweg, torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sam = thalweg.SAM(optimizer, model, rho=0.05)
        >>> def loss_of(model, x):
        ...     return (model(x) ** 2).mean() / 2
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
        >>> with Monitor(sam, loss_of, x, every=10) as monitor:
        ...     for _ in range(10):
        ...         for _ in sam.passes():
        ...             loss_of(model, x).backward()
        ...         optimizer.step(); optimizer.zero_grad()
        >>> monitor.last["step"], round(monitor.last["lambda_max"], 4)
        (10, 3.0)
    """

    def __init__(
        self,
        sam: SAM,
        loss_of: LossOf,
        batch: Any,
        *,
        every: int | None = None,
        share: float | None = None,
        to: Any = (),
        training: bool | None = True,
        trace: bool = True,
    ) -> None:
        self._ranks = _check(sam, loss_of, every)
        flag("trace", trace)
        self._pace = pace_of(every, share)
        found = sinks(to)
        self._sinks = found if self._ranks.writes else []
        self._sam = weakref.ref(sam)
        self._loss_of, self._batch = loss_of, batch
        self._training, self._trace = training, trace
        self._vector: Tensor | None = None
        self._along = Along()
        self._window: deque[Record] = deque(maxlen=WINDOW)
        self._said: set[str] = set()
        self._failed: set[int] = set()
        self._closed = self._busy = False
        self._end: weakref.finalize[Any, Any] | None = None
        self.steps = 0
        self.says: list[str] = []
        self.last: dict[str, Any] = {}
        began = time.perf_counter()
        self._give(self._take(sam), strict=True)
        self._pace.begins(time.perf_counter() - began)
        if self._closed:  # by a sink, after one record
            return
        # The hook holds the monitor, which needs no name then; nothing holds SAM.
        handle = sam.optimizer.register_step_post_hook(lambda *_: self._stepped())
        self._end = weakref.finalize(sam, _ended, handle, weakref.ref(self))

    def sample(self) -> dict[str, Any]:
        """Take a sample now, outside of a step, whatever its turn; on all ranks, if on one.

        Returns:
            The record; it has gone to all sinks.

        Raises:
            ThalwegError: If the monitor is closed, the weights are moved, or the loss cannot be
                measured.
        """
        sam = self._sam()
        if self._closed or sam is None:
            raise ThalwegError("sample() must come before close(), while the SAM object lives")
        if sam._gear.weights.moved:
            raise ThalwegError(
                "sample() must find the weights at rest, and they are at w + ε: call it after the "
                "loop over passes()"
            )
        self._give(self._take(sam))
        return self.last

    def close(self) -> None:
        """End: no more samples; the batch is let go. On all ranks, if on one."""
        self._closed = True
        self._batch = self._vector = None
        steps, values = self._along.taken()
        if values:
            rest = Record(self.steps, time.time(), curvature=values[-1])
            rest = dataclasses.replace(rest, curvatures=values, curvature_steps=steps)
            for sink in self._sinks:
                self._hand(sink, rest)
        # Torch goes through the hooks now, if a sink calls this: the hook stays, and does nothing.
        if not self._busy and self._end is not None and (end := self._end.detach()):
            end[2][0].remove()

    def __enter__(self) -> Monitor:
        """Return the monitor, which is already at work."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _stepped(self) -> None:
        """A step of the base optimizer is over."""
        sam = self._sam()
        if sam is None or self._closed:
            return
        self.steps += 1
        if sam.telemetry:
            self._along.add(self.steps, sam.last.curvature)
        if not sam._gear.weights.moved and self._pace.due(self.steps, time.perf_counter()):
            self._busy = True
            try:
                self._sample(sam)
            finally:
                self._busy = False

    def _sample(self, sam: SAM) -> None:
        """Take a sample in training, which it must not break off."""
        began = time.perf_counter()
        try:
            record = self._take(sam)
        except Exception as error:
            self._fails(id(self), f"no sample could be taken after step {self.steps}", error)
        else:
            self._give(record)
        self._pace.sampled(began, time.perf_counter())

    def _take(self, sam: SAM) -> Record:
        unpaid = self._vector is None and self._pace.shares
        record, vector = take(
            sam,
            self._loss_of,
            self._batch,
            step=self.steps,
            training=self._training,
            with_trace=self._trace,
            start=self._vector,
            most=SHORT if unpaid else MOST,
        )
        self._vector = vector
        steps, values = self._along.taken()
        latest = values[-1] if values else record.curvature
        return dataclasses.replace(
            record, curvature=latest, curvatures=values, curvature_steps=steps
        )

    def _give(self, record: Record, *, strict: bool = False) -> None:
        """Think a record over and hand it to all sinks; then warn of what is a fault."""
        with self._ranks.together():
            self._tell(record, strict=strict)
            # One rank alone has sinks: where one of them closes the monitor, all must end here.
            closed = self._ranks.some(self._closed)
        if closed:
            self.close()

    def _tell(self, record: Record, *, strict: bool) -> None:
        self._window.append(record)
        news = {what: text for what, text in thought(self._window) if what not in self._said}
        self._said |= set(news)
        self.says += news.values()
        record = dataclasses.replace(record, says=list(news.values()))
        self.last = record.as_dict()
        for sink in self._sinks:
            self._hand(sink, record, strict=strict)
        sam = self._sam()
        for what, text in news.items():
            if sam is not None and what != "edge":
                sam._gear.watch.say(what, text)  # which knows what SAM itself has said

    def _hand(self, sink: Sink, record: Record, *, strict: bool = False) -> None:
        try:
            sink(record.as_dict())
        except Exception as error:
            if strict:
                raise
            self._fails(id(sink), f"a record of step {record.step} did not reach {sink}", error)

    def _fails(self, who: int, what: str, error: Exception) -> None:
        if who not in self._failed:
            self._failed.add(who)
            warn(
                f"{what}, because of {type(error).__name__}: {error}. Training goes on, and so "
                "does the monitor; this is told once"
            )


def _ended(handle: RemovableHandle, monitor: weakref.ref[Monitor]) -> None:
    """The SAM object is gone, or the program ends."""
    held = monitor()  # before its hook goes, which alone may have kept it
    handle.remove()
    if held is not None:
        held.close()


def _check(sam: SAM, loss_of: object, every: object) -> Ranks:
    """The ranks that sample together, if the arguments are right."""
    if getattr(sam, "passes", None) is None or getattr(sam, "optimizer", None) is None:
        raise ThalwegError(f"sam must be a thalweg.SAM object, got {type(sam).__name__}")
    if sam.model is None:
        raise ThalwegError(
            "sam must have a model to be watched, got None: make it with SAM(optimizer, model)"
        )
    check_loss_of(loss_of)
    if every is None and distributed(sam.model) is not None:
        raise ThalwegError(
            "every must be given under DistributedDataParallel, whose ranks must sample alike, "
            "got a share of time, which each rank measures by itself: pass every=100"
        )
    return Ranks(sam.model)
