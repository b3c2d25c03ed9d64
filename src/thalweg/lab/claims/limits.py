"""Claim: where the other claims end. SAM diverges where no number bounds the curvature."""

from __future__ import annotations

import numpy as np
import torch

from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.observe import Maximum
from thalweg.lab.problems import Quartic
from thalweg.lab.sensing import MatrixSensing
from thalweg.lab.simulate import simulate
from thalweg.results import Axes, Chart, Check, Line


def measure(settings: Settings) -> Evidence:
    """Cross the threshold in ρ on a quartic in one variable, then look for one in 400."""
    exact, first, crossed = _quartic(settings)
    found, second, runs, out = _sensing(settings)
    return Evidence(
        checks=[*exact, *found],
        charts=[
            Chart(
                [first, second],
                "Left: SAM on w⁴/4. Its bounce grows with ρ up to a threshold (dashed, derived "
                "here), above which every start diverges. Right: matrix sensing, a loss of fourth "
                "degree in 400 variables, at a step size where gradient descent is far from its "
                "own threshold: SAM diverges from some ρ on, at the scale of the same formula.",
            )
        ],
        runs=crossed + runs,
        seeds=list(range(settings["seeds"])),
        dtype="float64",
        found=(
            f"On w⁴/4, ρ* = √(8/(27η)): at 0.999 ρ* {exact[0].measured}, at 1.001 ρ* "
            f"{exact[1].measured}. In matrix sensing the share of runs that diverge is "
            + ", ".join(f"{share:.2g} at ρ = {rho:g}" for rho, share in out)
            + f" (n = {settings['seeds']} seeds)."
        ),
    )


def _quartic(settings: Settings) -> tuple[list[Check], Axes, int]:
    """SAM on w⁴/4 at .999 and 1.001 of the threshold, and how far it bounces below it."""
    eta = np.array(settings["quartic_eta"])
    edge = np.sqrt(8 / (27 * eta))
    shares = np.array([*settings["quartic_shares"], 0.999, 1.001])
    run = simulate(
        Quartic(settings["quartic_start"]),
        eta=eta[:, None],
        rho=edge[:, None] * shares,
        steps=settings["quartic_steps"],
        ceiling=1e6,
        observe={},
        compile=False,
        progress="limits: a quartic",
    )
    inside = shares <= 0.999
    size = np.abs(run.final["w"]) / edge[:, None]
    # The smaller root of η(a+ρ)³ = 2a in units of ρ*: (a+s)³ = (27/4) a.
    bounce = np.array([_smaller_root(s) for s in shares[inside]])
    off = np.abs(size[:, inside] / bounce - 1).max()
    at, middle = f"at η = {', '.join(f'{e:g}' for e in eta)}", len(eta) // 2
    checks = [
        Check(
            f"SAM on w⁴/4, ρ = 0.999 of √(8/(27η)), {at}",
            "bounded",
            f"{int(run.diverged[:, -2].sum())} of {len(eta)} diverged",
            "none",
            not run.diverged[:, inside].any(),
        ),
        Check(
            f"SAM on w⁴/4, ρ = 1.001 of √(8/(27η)), {at}",
            "diverges",
            f"{int(run.diverged[:, -1].sum())} of {len(eta)} diverged",
            "all",
            bool(run.diverged[:, -1].all()),
        ),
        Check(
            "SAM on w⁴/4 below it: amplitude of the bounce",
            "the smaller root of η(a + ρ)³ = 2a",
            f"off by at most {off:.1e} of it",
            "1e-6 of the prediction",
            bool(off < 1e-6),
        ),
        _from_afar(settings, float(eta[middle])),
    ]
    line = np.linspace(0.02, 1, 100)
    axes = Axes(
        f"A quartic: SAM on w⁴/4, η = {eta[middle]:g}",
        "ρ / √(8/(27η))",
        "amplitude at the end / √(8/(27η))",
        [
            Line(
                line.tolist(),
                [_smaller_root(s) for s in line],
                "derived",
                "theory",
                dash=True,
            ),
            Line(
                shares[inside].tolist(),
                size[middle, inside].tolist(),
                "SAM, p = 1",
                "p=1",
                points="points",
            ),
            Line([1.0, 1.0], [0.0, 0.6], "every start diverges beyond", "theory", dash=True),
        ],
        x_range=(0.0, 1.15),
    )
    return checks, axes, run.diverged.size


def _from_afar(settings: Settings, eta: float) -> Check:
    """Below the threshold a start beyond the larger root diverges all the same."""
    shares, edge = settings["far_shares"], float(np.sqrt(8 / (27 * eta)))
    sides, out = (0.99, 1.01), []
    for share in shares:
        for side in sides:
            run = simulate(
                Quartic(side * _larger_root(share) * edge),
                eta=eta,
                rho=share * edge,
                steps=settings["far_steps"],
                ceiling=1e6,
                observe={},
                compile=False,
                progress="",
            )
            out.append(bool(run.diverged))
    listed = ", ".join(f"{share:g}" for share in shares)
    inside, beyond = out[::2], out[1::2]
    return Check(
        f"SAM on w⁴/4 at η = {eta:g}, ρ = {listed} of √(8/(27η)), from .99 and 1.01 of the larger "
        "root",
        "bounded, diverges",
        f"{sum(inside)} and {sum(beyond)} of {len(shares)} diverged",
        "none and all",
        not any(inside) and all(beyond),
    )


def _smaller_root(share: float) -> float:
    """The smaller positive root a of (a + s)³ = (27/4) a, for 0 < s ≤ 1."""
    return min(_roots(share))


def _larger_root(share: float) -> float:
    """The larger one. Within it |w| shrinks or bounces, beyond it grows."""
    return max(_roots(share))


def _roots(share: float) -> list[float]:
    roots = np.roots([1, 3 * share, 3 * share**2 - 27 / 4, share**3])
    return [float(r.real) for r in roots if r.real > 0]


def _sensing(
    settings: Settings,
) -> tuple[list[Check], Axes, int, list[tuple[float, float]]]:
    """SAM from gradient descent's minima at ever larger ρ."""
    task, seeds, eta = settings["task"], np.arange(settings["seeds"]), settings["eta"]
    settle = simulate(
        MatrixSensing(**task),
        eta=eta,
        seed=seeds,
        steps=settings["settle_steps"],
        observe={},
        progress="limits: gradient descent to its minimum",
    )
    problem = MatrixSensing(**task, starts=settle.final["U"], noise=settings["noise"])
    minima = {"U": torch.tensor(settle.final["U"])}
    top = torch.linalg.eigvalsh(problem.hessian(minima, torch.tensor(seeds)))[:, -1].numpy()
    rho = np.array([0.0, *settings["rho"]])
    run = simulate(
        problem,
        eta=eta,
        rho=rho[:, None],
        seed=seeds[None, :],
        steps=settings["steps"],
        observe={"moved": Maximum("moved", every=50)},
        progress="limits: matrix sensing",
    )
    share = run.diverged.mean(1)
    gd, sam = run.diverged[0], run.diverged[1:]
    checks = [
        Check(
            f"matrix sensing, η = {eta:g}: ηλ at gradient descent's minimum, the largest",
            "below 2: a quadratic of this curvature bounds SAM for every ρ",
            f"{float(eta * top.max()):.3g}; gradient descent diverges in {int(gd.sum())} of "
            f"{len(seeds)} seeds",
            "below 2, none",
            bool(eta * top.max() < 2 and not gd.any()),
        ),
        Check(
            f"matrix sensing: SAM at ρ = {rho[1]:g}",
            "bounded",
            f"{int(sam[0].sum())} of {len(seeds)} seeds diverged",
            "none",
            not sam[0].any(),
        ),
        Check(
            f"matrix sensing: SAM at ρ = {rho[-1]:g}",
            "diverges: no number bounds the curvature of a quartic",
            f"{int(sam[-1].sum())} of {len(seeds)} seeds diverged",
            "all",
            bool(sam[-1].all()),
        ),
    ]
    axes = Axes(
        f"Matrix sensing, η = {eta:g}",
        "ρ",
        "share of runs that diverge",
        [
            Line(rho[1:].tolist(), share[1:].tolist(), "SAM, p = 1", "p=1", points="both"),
            Line(
                [float(np.sqrt(8 / (27 * eta)))] * 2,
                [0.0, 1.0],
                "√(8/(27η)), of w⁴/4",
                "theory",
                dash=True,
            ),
        ],
    )
    pairs = list(zip(rho[1:].tolist(), share[1:].tolist(), strict=True))
    return checks, axes, run.diverged.size + len(seeds), pairs


CLAIM = Claim(
    name="limits-of-the-claims",
    title="Where the claims end: SAM, too, diverges where the curvature has no bound",
    statement=(
        "That normalization takes ρ out of the stability threshold needs a bound on the curvature "
        "everywhere. On a loss of fourth degree there is none, and SAM (p = 1) diverges at large "
        "ρ, however small ηλ is at the minimum: in matrix sensing (η = 0.05) from ρ = 3 on at the "
        "latest; on w⁴/4 exactly above ρ = √(8/(27η)), from a start within the larger root of "
        "η(a + ρ)³ = 2a."
    ),
    source="Derived here.",
    expected="holds",
    because=(
        "SAM takes its gradient ρ away from the minimum. Where the gradient grows faster than "
        "linearly, a step from there leads farther than the bounce came from."
    ),
    derived=(
        "On w⁴/4 a bounce exists only for ρ ≤ √(8/(27η)); above, every start diverges, below it "
        "those beyond the larger root of η(a + ρ)³ = 2a."
    ),
    measure=measure,
    takes=(1.0, 4.0, 36.0),
    settings={
        "quartic_eta": [0.02, 0.05, 0.2],
        "quartic_shares": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98],
        "quartic_start": 0.01,
        "quartic_steps": 5_000,
        "far_shares": [0.5, 0.9],
        "far_steps": 1_000,
        "task": {"d": 20, "rank": 2, "measurements": 100},
        "eta": 0.05,
        "seeds": 8,
        "settle_steps": 5_000,
        "noise": 1e-3,
        "rho": [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0],
        "steps": 3_000,
    },
    quick={"seeds": 4, "settle_steps": 2_000, "rho": [1.0, 2.0, 2.5, 3.0], "steps": 1_000},
    full={"seeds": 32, "steps": 10_000},
)
