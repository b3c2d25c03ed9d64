"""What a monitor writes: one record a sample, to a file, to TensorBoard or to any function."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thalweg.errors import ThalwegError, brief

#: How every line begins.
_BEGIN = b'{"step": '
#: Takes the dictionary of a record.
Sink = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Record:
    """One sample, taken between two steps. What was not measured is NaN.

    Loss, gradient and curvature are those of the probe batch. The record that a monitor ends with
    is no sample: it has ``curvatures`` and their steps alone.

    Attributes:
        step: Steps of the base optimizer before the sample.
        time: When it was taken, in seconds since 1970.
        seconds: How long it took.
        loss: The loss at w.
        lambda_max: Largest eigenvalue of the Hessian.
        residual: ‖Hv − λv‖ of that pair: some eigenvalue lies within this of the value.
        products: Hessian products taken, all together.
        trace: Trace of the Hessian, estimated.
        trace_error: Standard error of the estimate.
        grad_norm: ‖g‖, over the perturbed parameters.
        lr: Learning rate of the base optimizer; the largest, where param groups differ.
        rho: Radius, scheduled; the largest, where param groups differ.
        power: The normalization p.
        momentum: Of the base optimizer.
        weight_decay: Of the base optimizer; the largest, where param groups differ.
        nesterov: Whether the momentum is Nesterov's.
        edge: Curvature at which a step of this lr, rho and ‖g‖ is marginally stable.
        edge_missing: Why there is no edge; empty where there is one.
        ratio: ``lambda_max / edge``.
        alignment: |cos| of the angle between g and the eigenvector of ``lambda_max``.
        perturbation_norm: ‖ε‖, in parameter units.
        relative_perturbation: ‖ε‖ / ‖w‖, over the perturbed parameters.
        loss_rise_predicted: ⟨g, ε⟩ + ½ ⟨ε, Hε⟩; the first is ρ‖g‖^(2−p).
        loss_rise: The loss at w + ε minus the loss at w.
        cosine: Of the angle between g and the gradient h at w + ε.
        change: ‖h − g‖ / ‖g‖: how much of another gradient SAM takes.
        fidelity: Where weights have 16 bits, the cosine of the angle between the ε that was meant
            and the one that rounding let through.
        gain: Likewise, how far what moves leads along the ε that was meant: 1 for all the way.
        curvature: ⟨h − g, ε⟩ / ‖ε‖² of the latest training step, from SAM's telemetry.
        curvatures: The same of the steps since the last sample, thinned where there are many.
        curvature_steps: The step of each of these.
        says: What the monitor said with this sample, in sentences.

    Example:
        >>> Record(step=3, time=0.0, loss=0.5).as_dict()["loss"]
        0.5
    """

    step: int
    time: float
    seconds: float = math.nan
    loss: float = math.nan
    lambda_max: float = math.nan
    residual: float = math.nan
    products: int = 0
    trace: float = math.nan
    trace_error: float = math.nan
    grad_norm: float = math.nan
    lr: float = math.nan
    rho: float = math.nan
    power: float = math.nan
    momentum: float = math.nan
    weight_decay: float = math.nan
    nesterov: bool = False
    edge: float = math.nan
    edge_missing: str = ""
    ratio: float = math.nan
    alignment: float = math.nan
    perturbation_norm: float = math.nan
    relative_perturbation: float = math.nan
    loss_rise_predicted: float = math.nan
    loss_rise: float = math.nan
    cosine: float = math.nan
    change: float = math.nan
    fidelity: float = math.nan
    gain: float = math.nan
    curvature: float = math.nan
    curvatures: list[float] = field(default_factory=list)
    curvature_steps: list[int] = field(default_factory=list)
    says: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary of plain numbers, strings and lists, its own at every call."""
        return dataclasses.asdict(self)


class Lines:
    r"""Appends records to a file, one JSON object a line; numbers that are not finite as null.

    A line is written in one piece and flushed. Where a kill has left a part of one at the end of
    the file, the next write takes it away first.

    Args:
        file: Where; folders above it are made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Lines(Path(folder) / "run.jsonl")({"step": 1, "edge": math.nan})
        ...     (Path(folder) / "run.jsonl").read_text()
        '{"step": 1, "edge": null}\n'
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def __call__(self, record: dict[str, Any]) -> None:
        """Append a record.

        Raises:
            ThalwegError: If the file cannot be written.
        """
        line = json.dumps(plain(record), allow_nan=False) + "\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab+") as file:  # anew: nothing is left open between samples
                _mend(file)
                file.write(line.encode())
                file.flush()
        except OSError as cause:
            raise ThalwegError(
                f"records file {self.file} must be writable, got {cause.strerror!r}: name "
                "another file in to=, or make room"
            ) from None


class Scalars:
    """Gives the numbers of a record to a writer such as TensorBoard's ``SummaryWriter``.

    Args:
        writer: Anything with ``add_scalar(tag, value, step)``. Tags have ``thalweg/`` before.

    Example:
        >>> class Writer:
        ...     def add_scalar(self, tag, value, step):
        ...         print(tag, value, step)
        >>> Scalars(Writer())({"step": 7, "edge": 20.0, "trace": math.nan})
        thalweg/edge 20.0 7
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def __call__(self, record: dict[str, Any]) -> None:
        """Give what is a finite number."""
        for name, value in record.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in ("step", "time") and math.isfinite(value):
                self.writer.add_scalar(f"thalweg/{name}", value, record["step"])


def sinks(to: Any) -> list[Sink]:
    """Return what takes the records.

    Args:
        to: A path, a writer with ``add_scalar``, a function of a dictionary, or several of them in
            a list or tuple.

    Returns:
        One function for each.

    Raises:
        ThalwegError: If one is nothing of this.

    Example:
        >>> len(sinks(["run.jsonl", print]))
        2
    """
    if isinstance(to, Iterable) and not isinstance(to, str | Path) and not callable(to):
        return [sink for one in to for sink in sinks(one)]
    if isinstance(to, str | Path):
        if str(to).endswith(("/", os.sep)):  # the name of a folder, of which a file would be made
            raise ThalwegError(f"to must name a file, got {to!r}: pass '{to}run.jsonl'")
        return [Lines(to)]
    if isinstance(to, type):
        raise ThalwegError(
            f"to must be an object, got the class {to.__name__}: write {to.__name__}()"
        )
    if callable(getattr(to, "add_scalar", None)):
        return [Scalars(to)]
    if callable(to):
        return [to]
    raise ThalwegError(
        "to must be a path, a TensorBoard SummaryWriter, a function of a record's dictionary, or a "
        f"list of these, got {brief(to)}"
    )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    r"""Return the records of a file that a monitor wrote.

    Args:
        path: The file. A last line that a kill has cut off is left out.

    Returns:
        One dictionary a sample, as :meth:`Record.as_dict` has it; what is null in the file is NaN.

    Raises:
        ThalwegError: If the file cannot be read or holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "run.jsonl"
        ...     _ = file.write_text('{"step": 1, "edge": null}\n{"step": 2, "ed')
        ...     read_records(file)
        [{'step': 1, 'edge': nan}]
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as cause:
        raise ThalwegError(
            f"{path} must be a file of a monitor's records, got {cause.strerror!r}: pass the one "
            "that Monitor(to=...) wrote"
        ) from None
    found = []
    for place, line in enumerate(lines, 1):
        record = _record(line)
        if record is not None:
            found.append(record)
        elif line.strip() and place < len(lines):
            raise ThalwegError(
                f"{path} must hold one record of a monitor a line, got something else in line "
                f"{place}: {line[:60]!r}; take that line away, or pass the file that to= named"
            )
    return found


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # includes what is not UTF-8
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return {name: _number(value) for name, value in record.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(one) for one in value]
    return math.nan if value is None else value


def plain(value: Any) -> Any:
    """Return data as JSON has them: keys are text, tuples lists, what is not finite ``None``.

    Args:
        value: Of dictionaries, lists, tuples, numbers and text.

    Example:
        >>> plain({1: (0.5, math.nan)})
        {'1': [0.5, None]}
    """
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mend(file: Any) -> None:
    """Take away a last line that was cut off; end one that only lacks its end."""
    size = file.seek(0, 2)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    rest = file.read().rpartition(b"\n")[2]
    # Of a file that is none of ours nothing is taken away.
    if _record(rest) is None and rest[: len(_BEGIN)] == _BEGIN[: len(rest)]:
        file.truncate(size - len(rest))
    else:
        file.write(b"\n")
