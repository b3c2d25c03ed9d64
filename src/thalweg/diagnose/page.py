"""The page of a diagnosis: one HTML file that needs nothing else."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch

from thalweg.curvature import Density
from thalweg.diagnose.record import Diagnosis, Measured
from thalweg.diagnose.rule import trusted
from thalweg.errors import ThalwegError
from thalweg.report.figures import figure
from thalweg.report.page import fill
from thalweg.results import Axes, Chart, Line
from thalweg.results.folder import write_whole

HERE = Path(__file__).parent
#: Width of the Gaussians of the spectrum, as a share of its range, and points of its curve.
_SMOOTH, _POINTS = 0.01, 400


def write_page(found: Diagnosis, folder: str | Path, subject: str = "") -> Path:
    """Write ``diagnosis.html`` into a folder.

    Args:
        found: The diagnosis.
        folder: Where; it is made where it is missing.
        subject: What was diagnosed.

    Returns:
        The page.

    Raises:
        ThalwegError: If it cannot be written.
    """
    drawn = [{"caption": c.caption, "figure": figure(c)} for c in charts(found)]
    text = fill(
        HERE / "page.html.jinja",
        found=found,
        subject=subject,
        parts=[(k, list(v)) for k, v in itertools.groupby(found.rows, lambda row: row.part)],
        drawn=drawn,
    )
    file = Path(folder) / "diagnosis.html"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as cause:
        raise ThalwegError(
            f"page {file} must be writable, got {cause.strerror!r}: name another folder"
        ) from None
    return file


def charts(found: Diagnosis) -> list[Chart]:
    """Return what the page draws: the scan, the spectrum, and the steps that were followed.

    Args:
        found: The diagnosis.
    """
    m, scan = found.measured, found.measured.scan
    rho = list(scan.rho)
    above = [r if r > 0 else None for r in scan.rise]
    high = max([r for r in scan.rise if r > 0 and math.isfinite(r)], default=1.0)
    low = min([r for r in scan.rise if r > 0], default=high)
    # Vertical lines at the ends of the range, and where the recommendation lies.
    lower, upper = trusted(m)
    marks = [("lower end", lower), ("upper end", upper), ("recommended", found.rho)]
    ends = [
        Line([x, x], [low, high], name, "p=1" if name == "recommended" else "neutral", dash=True)
        for name, x in marks
    ]
    rise = [
        *ends,
        Line(rho, list(scan.predicted), "as of a quadratic", "theory"),
        Line(rho, above, "measured", "p=1", points="both"),
    ]
    cosine = [
        Line(rho, [0.0] * len(rho), "", "gd", dash=True),
        Line(rho, list(scan.cosine), "cosine", "p=1", points="both"),
    ]
    curved = [
        Line(rho, [m.lambda_max] * len(rho), "λ_max", "neutral", dash=True),
        Line(rho, list(scan.curvature), "λ̂", "p=1", points="both"),
    ]
    axes = [
        Axes("Loss rise", "ρ (parameter units)", "loss at w + ε minus at w", rise, True, True),
        Axes("Curvature along ε", "ρ (parameter units)", "λ̂", curved, True),
        Axes("Which way h points", "ρ (parameter units)", "cosine of g and h", cosine, True),
    ]
    caption = (
        "Along SAM's own direction, g of the same batch; means over the batches. λ̂ is the Hessian "
        "along ε averaged from w to w + ε, h the gradient there."
    )
    drawn = [Chart(axes, caption)]
    if m.spectrum.nodes:
        drawn.append(_spectrum(m))
    return [*drawn, *([_followed(found)] if found.followed else [])]


def _spectrum(m: Measured) -> Chart:
    nodes = torch.tensor(m.spectrum.nodes, dtype=torch.float64)
    weights = torch.tensor(m.spectrum.weights, dtype=torch.float64)
    low, high = float(nodes.min()), float(nodes.max())
    width = _SMOOTH * ((high - low) or abs(high) or 1.0)
    grid = torch.linspace(low - 4 * width, high + 4 * width, _POINTS, dtype=torch.float64)
    found = Density(nodes, weights, 0.0, 0.0, m.parameters, 0).on(grid, width)
    # One eigenvalue alone is this high; what is far below it is the tail of a Gaussian.
    one = 1 / (m.parameters * width * math.sqrt(2 * math.pi))
    shown = [y if y > 0.1 * one else None for y in found.tolist()]
    lines = [
        Line(grid.tolist(), [one] * _POINTS, "one eigenvalue", "neutral", dash=True),
        Line(grid.tolist(), shown, "density", "p=1"),
    ]
    axes = Axes("Spectrum", "eigenvalue", "share of the eigenvalues per unit", lines, y_log=True)
    return Chart(
        [axes],
        "The eigenvalues of the Hessian of the mean loss, by stochastic Lanczos quadrature, each "
        "node smoothed over a hundredth of the range. Of one that stands alone the place is known "
        "well, the share but roughly.",
    )


def _followed(found: Diagnosis) -> Chart:
    steps = list(range(1, len(found.followed) + 1))

    def line(key: str, name: str, role: str) -> Line:
        y = [one.get(key) for one in found.followed]
        return Line(steps, y, name, role)  # type: ignore[arg-type]

    axes = [
        Axes("Loss", "step", "loss of the batch at w", [line("loss", "loss", "p=1")]),
        Axes(
            "Curvature along ε and the edge",
            "step",
            "curvature",
            [line("edge", "edge", "theory"), line("curvature", "λ̂", "p=1")],
            y_log=False,
        ),
    ]
    return Chart(axes, f"{len(steps)} steps with SAM at rho = {found.rho:.3g}, on a copy.")
