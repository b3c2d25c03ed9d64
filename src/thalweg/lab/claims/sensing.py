"""Claim: in matrix sensing SAM drifts to flat minima at a known speed; USAM stays below ρ*."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.sensing_floor import Floor
from thalweg.lab.observe import History
from thalweg.lab.sensing import MatrixSensing
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, Mean, geometric, mean
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role

#: Name, role, ρ, power: from the far start.
_METHODS: list[tuple[str, Role, float, float]] = [
    ("gradient descent", "gd", 0.0, 1.0),
    ("USAM, ρ = 0.1", "p=0", 0.1, 0.0),
    ("SAM, ρ = 0.1", "p=1", 0.1, 1.0),
    ("SAM, ρ = 0.3", "p=1", 0.3, 1.0),
]


def measure(settings: Settings) -> Evidence:
    """Run from far away, then from gradient descent's minimum."""
    seeds = np.arange(settings["seeds"])
    far, axes, minima, ended, lost = _far(settings, seeds)
    large = _large(settings, seeds, lost)
    floor = Floor(settings, minima)
    leaves, left = floor.threshold()
    speeds, speed, share = floor.drift()
    timed, path = floor.timed()
    return Evidence(
        checks=[*far, large, *leaves, *speeds, *timed],
        charts=[
            Chart(
                axes,
                "From a far start: the trace of the Hessian and the test error over time, means "
                "over seeds with 95 % bands. Gradient descent and USAM stop where they arrive; "
                "SAM drifts on towards the truth's own trace (dashed), and generalizes better.",
            ),
            Chart(
                [left, speed, path],
                "From the minimum that gradient descent found. Left: USAM stays there up to ρ*, "
                "which its curvature predicts, and leaves beyond. Middle: SAM drifts at every ρ, "
                "as fast as the drift law says (dashed, no free constant). Right: for the whole "
                "way, the time goes with 1/ρ².",
            ),
        ],
        runs=(len(_METHODS) + 1) * len(seeds) + len(settings["large"]) * len(seeds) + floor.runs,
        seeds=seeds.tolist(),
        dtype="float64",
        found=(
            f"From the far start SAM (ρ = 0.1) ends with {ended[0].mean:.2g} of gradient descent's "
            f"trace of the Hessian and {ended[1].mean:.2g} of its test error (n = {len(seeds)}, "
            f"{settings['far_steps']} steps). From the minimum USAM goes at most "
            f"{leaves[0].measured} times as far as gradient descent at "
            f"{max(s for s in settings['shares'] if s < 1):g} of ρ*, at least "
            f"{leaves[1].measured} times at {min(s for s in settings['shares'] if s > 1):g}; SAM "
            f"drifts at {share:.3g} of the predicted speed."
        ),
    )


def _far(
    settings: Settings, seeds: Array
) -> tuple[list[Check], list[Axes], Array, tuple[Mean, Mean], int]:
    """Every method from the start that a seed draws; then gradient descent to its minimum."""
    problem, steps = MatrixSensing(**settings["task"]), settings["far_steps"]
    looks = {q: History(q, every=steps // settings["looks"]) for q in ("trace", "test_error")}
    run = simulate(
        problem,
        eta=settings["eta"],
        rho=np.array([rho for *_, rho, _ in _METHODS])[:, None],
        power=np.array([power for *_, power in _METHODS])[:, None],
        seed=seeds[None, :],
        steps=steps,
        observe=looks,
        progress="sensing: from a far start",
    )
    settle = simulate(
        MatrixSensing(**settings["task"], starts=run.final["U"][0]),
        eta=settings["eta"],
        seed=seeds,
        steps=settings["settle_steps"],
        observe={},
        progress="sensing: gradient descent to its minimum",
    )
    trace, error = (run.observed[q][..., -1] for q in ("trace", "test_error"))
    truth = _truth(problem, seeds)
    checks = []
    ended = (geometric(trace[2] / trace[0]), geometric(error[2] / error[0]))
    for what, found in (
        ("trace of the Hessian at the end, SAM (ρ = 0.1) over gradient descent", ended[0]),
        ("test error ‖UUᵀ − X‖², SAM (ρ = 0.1) over gradient descent", ended[1]),
        ("trace of the Hessian, SAM over USAM, both at ρ = 0.1", geometric(trace[2] / trace[1])),
        ("test error, SAM over USAM, both at ρ = 0.1", geometric(error[2] / error[1])),
    ):
        checks.append(
            Check(
                f"far start, {steps} steps: {what}",
                "below 1",
                str(found),
                "interval of the geometric mean below 1",
                bool(found.high < 1),
            )
        )
    for i, (name, *_) in enumerate(_METHODS):
        checks.append(
            Check(
                f"far start, {steps} steps, {name}: trace (test error)",
                f"none made; the truth's trace is {truth.mean():.3g}",
                f"{mean(trace[i])} ({error[i].mean():.3g})",
                "none",
                None,
                decides=False,
            )
        )
    time = np.arange(run.observed["trace"].shape[-1]) * (steps // settings["looks"])
    axes = [
        _over_time(
            "Trace of the Hessian", "trace", time, run.observed["trace"], float(truth.mean())
        ),
        _over_time("Test error", "‖UUᵀ − X‖²", time, run.observed["test_error"], None),
    ]
    lost = int(run.diverged[2:].sum())  # of SAM's
    return checks, axes, np.asarray(settle.final["U"]), ended, lost


def _truth(problem: MatrixSensing, seeds: Array) -> Array:
    """The Hessian's trace at the truth, (seeds,)."""
    at = torch.tensor(seeds)
    truth = torch.stack([problem.instance(int(s)).truth for s in seeds])
    values, vectors = torch.linalg.eigh(truth)
    root = vectors * values.clamp(min=0).sqrt()[:, None, :]
    return np.asarray(problem.observe({"U": root}, at)["trace"].numpy())


def _large(settings: Settings, seeds: Array, lost: int) -> Check:
    """USAM from the far start at larger radii: it diverges, from where on depends on the seed."""
    rho = np.array(settings["large"])
    run = simulate(
        MatrixSensing(**settings["task"]),
        eta=settings["eta"],
        rho=rho[:, None],
        power=0.0,
        seed=seeds[None, :],
        steps=settings["large_steps"],
        observe={},
        progress="sensing: USAM at large radii",
    )
    out = run.diverged.sum(1)
    return Check(
        f"far start: USAM diverges at ρ = {rho[-1]:g}, SAM does not at {_METHODS[-1][2]:g}",
        "from where on is not derived",
        "; ".join(f"ρ = {r:g}: {k} of {len(seeds)}" for r, k in zip(rho, out, strict=True))
        + f"; SAM: {lost}",
        "USAM in every seed at the largest ρ, SAM in none",
        bool(out[-1] == len(seeds) and lost == 0),
    )


def _over_time(title: str, label: str, time: Array, seen: Array, truth: float | None) -> Axes:
    lines: list[Any] = []
    for i, (name, role, *_) in enumerate(_METHODS[:3]):
        found = geometric(seen[i].T)
        lines.append(
            Line(
                time[1:].tolist(),
                found.mean[1:].tolist(),
                name,
                role,
                low=found.low[1:].tolist(),
                high=found.high[1:].tolist(),
            )
        )
    if truth is not None:
        ends = [float(time[1]), float(time[-1])]
        lines.append(Line(ends, [truth, truth], "at the truth", "theory", dash=True))
    return Axes(title, "step", label, lines, y_log=True)


CLAIM = Claim(
    name="sensing",
    title="Matrix sensing: SAM drifts to flat minima, as fast as the drift law says",
    statement=(
        "In matrix sensing, whose minima form a manifold, gradient descent and USAM (p = 0) stop "
        "at the minimum they reach: USAM stays at one of curvature λ as long as ηλ(1 + ρλ) < 2. "
        "SAM leaves it at every ρ > 0, drifts at the speed of the drift law, and ends at flatter "
        "minima with a smaller test error."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (normalization lets SAM drift). USAM's threshold and the "
        "drift law with its finite-η factor are derived here."
    ),
    expected="holds",
    because=(
        "At a minimum the loss is a quadratic to leading order, where the threshold and the "
        "bounce are exact. That flatter minima generalize better here is found, not derived."
    ),
    paper=(
        "Dai, Ahn and Sra, NeurIPS 2023: normalization lets SAM drift along a continuum of minima."
    ),
    derived=(
        "USAM's threshold ρ* = (2/(ηλ) − 1)/λ, and SAM's drift −½ηρ²(2/(2−ηλ))² P∇λ per step, "
        "which have no free constant."
    ),
    measure=measure,
    takes=(4.0, 20.0, 135.0),
    settings={
        "task": {"d": 20, "rank": 2, "measurements": 100},
        "eta": 0.05,
        "seeds": 8,
        "far_steps": 10_000,
        "looks": 100,
        "settle_steps": 10_000,
        "large": [0.15, 0.2, 0.3],
        "large_steps": 2_000,
        "noise": 1e-3,
        # Of ρ*; the noise grows or dies by some 3 % a step at .98 and 1.02.
        "shares": [0.5, 0.9, 0.98, 1.02, 1.1],
        "beyond": 3.0,
        "threshold_steps": 2_000,
        "rates_rho": [0.001, 0.002, 0.004],
        "rates_steps": 8_000,
        "timed_rho": [0.04, 0.08],
        "timed_shares": [0.95, 0.7],
        # In steps × ρ².
        "timed_budget": 12.0,
    },
    quick={
        "seeds": 5,
        "far_steps": 1_500,
        "settle_steps": 3_000,
        "large": [0.3],
        "threshold_steps": 1_000,
        "rates_rho": [0.002, 0.004],
        "rates_steps": 3_000,
        "timed_rho": [0.04, 0.08],
        "timed_shares": [0.95, 0.85],
        "timed_budget": 4.0,
    },
    full={
        "seeds": 24,
        "far_steps": 20_000,
        "settle_steps": 20_000,
        "rates_steps": 20_000,
        "timed_rho": [0.02, 0.04, 0.08],
        "timed_budget": 24.0,
    },
)
