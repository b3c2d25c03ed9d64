"""What a diagnosis holds, as plain data: what was measured, what follows, what is advised."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from thalweg.curvature.edge import BaseStep
from thalweg.curvature.records import plain


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies along SAM's own direction: at w + ρ g/‖g‖, g being the gradient of the same batch.

    Each list has one entry for each rho. All are means over the batches, by their examples.

    Attributes:
        rho: Lengths of the perturbation, ascending.
        rise: Loss at w + ε minus loss at w.
        predicted: ρ‖g‖ + ½ρ²λ̂, with λ̂ of the shortest perturbation that was resolved.
        off: By which share the rise of a batch is not the predicted one.
        curvature: λ̂ = ⟨h - g, ε⟩/‖ε‖², the Hessian along ε averaged over the segment.
        slope: ⟨g, h⟩/‖g‖², the slope at w + ε along ε over that at w.
        cosine: Of the angle between g and h, the gradient at w + ε.
    """

    rho: tuple[float, ...]
    rise: tuple[float, ...]
    predicted: tuple[float, ...]
    off: tuple[float, ...]
    curvature: tuple[float, ...]
    slope: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How the eigenvalues of the Hessian are spread, by quadrature: see ``curvature.spectrum``.

    Attributes:
        nodes: Where on the axis of eigenvalues, ascending.
        weights: The share of the eigenvalues that stands at each; together 1.
    """

    nodes: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    def below(self, bound: float) -> float:
        """Return the share of the eigenvalues below a bound.

        Args:
            bound: An eigenvalue.
        """
        pairs = zip(self.nodes, self.weights, strict=True)
        return sum(weight for node, weight in pairs if node < bound)

    def within(self, share: float) -> float:
        """Return the least distance from 0 that holds a share of the eigenvalues.

        Args:
            share: From 0 to 1.
        """
        total = 0.0
        pairs = sorted((abs(n), w) for n, w in zip(self.nodes, self.weights, strict=True))
        for size, weight in pairs:
            total += weight
            if total >= share:
                return size
        return pairs[-1][0] if pairs else math.nan


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a model, on a few batches in training mode, nothing being moved.

    Attributes:
        parameters: D, entries of the parameters that the optimizer trains.
        batches: How many batches.
        examples: Examples in a batch, on average.
        loss: Mean loss.
        loss_noise: Standard deviation of the loss from batch to batch; NaN with one batch.
        weight_norm: ‖w‖.
        grad_norm: ‖g‖ of one batch, on average: the one that SAM divides by.
        mean_grad_norm: Norm of the mean gradient over all the batches.
        noise_scale: B = tr Σ/‖ḡ‖², in examples; NaN with one batch, infinite where the mean
            gradient is lost in the noise.
        largest_share: Share of ‖ε‖² that falls to the parameter that has most of it.
        largest_name: Name of that parameter.
        scan: Along ε.
        lower: Rho below which the rise is lost in batch noise: a hundredth of ``loss_noise``.
        upper: Rho above which the rise of a batch is no longer that of a quadratic; infinite where
            the scan did not come to it.
        flip: Rho from which the gradient at w + ε points uphill at w; infinite likewise.
        base: The base optimizer as the formulas of the edge want it.
        rho_now: Rho in the optimizer's groups, where they have one in common.
        start_loss: Mean loss of the model before training; NaN where it is not known.
        start_origin: Where that comes from, or why there is none, in half a sentence; empty where
            it was given.
        coarse: Dtypes of the parameters where a copy in a wider one was measured, else empty.
        summed: Whether the loss is a sum over the batch, as far as its halves tell.
        lambda_max: Largest eigenvalue of the Hessian of the mean loss over the batches.
        lambda_error: Its residual: some eigenvalue lies within this.
        trace: Trace of that Hessian.
        trace_error: Standard error of the trace.
        spectrum: Of that Hessian. It and the four above are NaN and empty where no Hessian
            products were taken.
    """

    parameters: int
    batches: int
    examples: float
    loss: float
    loss_noise: float
    weight_norm: float
    grad_norm: float
    mean_grad_norm: float
    noise_scale: float
    largest_share: float
    largest_name: str
    scan: Scan
    lower: float
    upper: float
    flip: float
    base: BaseStep
    rho_now: float | None = None
    start_loss: float = math.nan
    start_origin: str = ""
    coarse: str = ""
    summed: bool = False
    lambda_max: float = math.nan
    lambda_error: float = math.nan
    trace: float = math.nan
    trace_error: float = math.nan
    spectrum: Spectrum = field(default_factory=Spectrum)


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge of one method at the present learning rate.

    Attributes:
        method: ``"GD"``, ``"USAM"``, ``"p = 1/2"`` or ``"SAM"``.
        power: The normalization p; ``None`` for the base optimizer alone.
        edge: The curvature at which a step is marginally stable; ``None`` where unknown.
        ratio: λ_max over the edge; 1 is at the edge.
        largest_rho: Rho that brings the edge to λ_max at this ‖g‖; ``None`` where there is none.
        largest_lr: Learning rate that does so; ``None`` likewise.
        bounce: Distance from the minimum at which the iterate bounces; ``None`` where it does not.
        radius: ‖ε‖ on that bounce.
    """

    method: str
    power: float | None
    edge: float | None = None
    ratio: float | None = None
    largest_rho: float | None = None
    largest_lr: float | None = None
    bounce: float | None = None
    radius: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        part: Heading under which it stands.
        name: What it is.
        value: As it is printed.
        meaning: What it says.
    """

    part: str
    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What :func:`thalweg.diagnose` found.

    Attributes:
        rho: The rho that is recommended, at ``power``.
        power: The power that is recommended.
        reasons: Why, in sentences.
        measured: What was measured.
        asked: The rho that the edges are for: the one that was asked about, or ``rho``.
        edges: Of every method, at ``asked``.
        changes: What rho would become under another batch size, loss scale or width.
        rows: The same as a table for people.
        followed: Of every step that was followed with SAM, what its telemetry told.
    """

    rho: float
    power: float
    reasons: tuple[str, ...]
    measured: Measured
    asked: float
    edges: tuple[Edge, ...]
    changes: dict[str, float]
    rows: tuple[Row, ...]
    followed: tuple[dict[str, float], ...] = field(default=())

    @property
    def answer(self) -> str:
        """What is recommended, in a line: below a long table it is still in sight."""
        told = f"Recommended: rho = {self.rho:.3g} at power {self.power:g}"
        lr = [row.value for row in self.rows if row.name == "largest lr"]
        # That of the table is for the rho that was asked about.
        return f"{told}, largest lr {lr[0]}." if lr and self.asked == self.rho else f"{told}."

    def to_json(self) -> dict[str, Any]:
        """Return all but the table as plain JSON data; what is not finite becomes ``None``."""
        data: dict[str, Any] = plain(dataclasses.asdict(self))
        del data["rows"]
        return data

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines, part = [], ""
        for row in self.rows:
            lines += [] if row.part == part else ["", row.part]
            part = row.part
            lines.append(f"  {row.name:{width}}  {row.value:>10}  {row.meaning}".rstrip())
        return "\n".join([*lines[1:], "", *self.reasons, self.answer])
