"""Claim: the edge with momentum, Nesterov and weight decay, and with the interpolated ascent."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims import edge_thresholds as thresholds
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Line


def measure(settings: Settings) -> Evidence:
    """Find the thresholds in η, and what is at the end below them."""
    plain, drawn, n_plain = thresholds.usam_over_rho(settings)
    steps, n_bases = thresholds.bases(settings)
    bounces, n_bounces = _bounces(settings)
    mixed, points, n_mixed = thresholds.interpolated(settings)
    cycles, n_cycles = _cycles(settings)
    return Evidence(
        checks=[*plain, *steps, *bounces, *mixed, *cycles],
        charts=[_chart(settings, drawn, points)],
        runs=n_plain + n_bases + n_bounces + n_mixed + n_cycles,
        seeds=[settings["seed"]],
        dtype="float64",
        found=_found(settings, steps, mixed, cycles),
    )


def _bounces(settings: Settings) -> tuple[list[Check], int]:
    """At p > 0 the two-point bounce sits on the edge, under every base step."""
    top, power = settings["curvature"], settings["bounce_power"]
    ratios = []
    for how in map(thresholds.BASES.__getitem__, settings["bases"]):
        # Halfway to the threshold of the base step itself, from a start near the bounce.
        eta = 0.5 * theory.largest_stable_eta(0.0, top, **how)
        bears = theory.edge(eta, **how)
        norm = (settings["rho"] * top**2 / (bears - top)) ** (1 / power)
        run = simulate(
            ManyStarts([top], [[1.05 * norm / top]]),
            eta=eta,
            rho=settings["rho"],
            power=power,
            steps=settings["bounce_steps"],
            compile=False,
            observe={"path": History("top", every=settings["bounce_steps"] // 2)},
            progress="edges: the bounce",
            **how,
        )
        end = abs(float(run.final["w"][0])) * top
        ratios.append(theory.edge(eta, settings["rho"], end, power, **how) / top if end else 0.0)
    off = max(abs(ratio - 1) for ratio in ratios)
    return [
        Check(
            f"p = {power:g}: where the bounce ends, the edge at its ‖g‖ over λ, for the same",
            predicted="1: the bounce sits on the edge",
            measured=" / ".join(f"{ratio:.10f}" for ratio in ratios),
            tolerance="1e-9",
            holds=bool(off < 1e-9),
        )
    ], len(ratios)


def _cycles(settings: Settings) -> tuple[list[Check], int]:
    """With momentum the two-point bounce is not the only end: shares of random starts by period."""
    n, checks = settings["cycle_starts"], []
    starts = np.random.default_rng(settings["seed"]).normal(
        scale=settings["cycle_spread"], size=(n, 1)
    )
    for momentum, product, many in settings["cycles"]:
        path = simulate(
            ManyStarts([1.0], starts),
            eta=product * (1 + momentum),
            rho=1.0,
            momentum=momentum,
            seed=np.arange(n),
            steps=settings["cycle_steps"],
            compile=False,
            observe={"path": History("top")},
            progress="edges: cycles",
        ).observed["path"][:, -48:]
        period = _period(path)
        kinds, counts = np.unique(period, return_counts=True)
        shares = ", ".join(
            f"{int(kind) or 'none up to 24'} ({count / n:.2f})"
            for kind, count in sorted(zip(kinds, counts, strict=True), key=lambda pair: -pair[1])
        )
        only = bool((period == 2).all())
        size = theory.bounce_amplitude(product * (1 + momentum), 1.0, 1.0, 1.0, momentum)
        z = path[:, -24:]
        reach = (z + np.sign(z)) ** 2
        stretch = float((reach.mean(1) / (size + 1) ** 2).max())
        checks.append(
            Check(
                f"momentum {momentum:g}, p = 1, η̃λ = {product:g}: period of the end, share of "
                f"starts, {settings['cycle_spread']:g}ρ in standard deviation",
                predicted="longer cycles beside the bounce"
                if many
                else "the two-point bounce alone",
                measured=f"{shares}; n = {n}; mean (z+ε)² up to {stretch:.2g} of the bounce's",
                tolerance="a share above .05 of other periods" if many else "all of period 2",
                holds=bool((period != 2).mean() > 0.05) if many else only,
            )
        )
    return checks, n * len(checks)


def _period(path: Array) -> Array:
    """The shortest period up to 24 of every path; 0 if there is none."""
    period = np.zeros(len(path), dtype=int)
    scale = np.abs(path).max(1)
    for k in range(24, 0, -1):
        same = np.abs(path[:, k:] - path[:, :-k]).max(1) < 1e-6 * scale
        period[same] = k
    return period


def _found(settings: Settings, bases: list[Check], mixed: list[Check], cycles: list[Check]) -> str:
    """The sentence for the table of findings."""
    return (
        f"USAM's thresholds under {len(settings['bases'])} base steps: η = {bases[0].measured}; "
        f"interpolated ascent, l = {', '.join(f'{share:g}' for share in settings['shares'])}: η = "
        f"{mixed[0].measured}; with momentum other cycles than the bounce attract: "
        f"{cycles[0].measured}."
    )


def _chart(
    settings: Settings, drawn: dict[str, list[float]], mixed: list[tuple[float, float]]
) -> Chart:
    top, radii = settings["curvature"], settings["usam_rho"]
    fine = np.geomspace(min(radii) / 1.5, 1.5 * max(radii), 60)
    left = []
    for name in drawn:
        law = theory.largest_stable_eta(fine, top, **thresholds.BASES[name])
        left.append(Line(fine.tolist(), law.tolist(), "predicted", "theory", dash=True))
        left.append(
            Line(list(radii), drawn[name], f"USAM, {name}", thresholds.DRAWN[name], points="points")
        )
    shares = np.linspace(0, 1, 80)
    law = theory.interpolated_largest_eta(settings["share_rho"], top, shares)
    return Chart(
        [
            Axes("USAM's threshold (p = 0)", "ρ", "largest stable η", left, x_log=True, y_log=True),
            Axes(
                "Between USAM and SAM",
                "share l of normalization",
                "largest stable η",
                [
                    Line(shares.tolist(), law.tolist(), "predicted", "theory", dash=True),
                    Line(
                        [share for share, _ in mixed],
                        [eta for _, eta in mixed],
                        f"ρ(1−l+l/‖g‖)g, ρ = {settings['share_rho']:g}",
                        "neutral",
                        points="points",
                    ),
                ],
            ),
        ],
        f"Curvature λ = {top:g}. Left: without normalization the largest stable step size falls "
        "with ρ, whatever the base step; momentum raises it, Nesterov's form lowers it. Right: "
        "mixed linearly, a share of normalization is not enough. Only l = 1, all of it, gives "
        "gradient descent's own 2/λ. (With ε = ρ g/‖g‖^p every p > 0 does.)",
    )


CLAIM = Claim(
    name="edges",
    title="The edge under momentum, weight decay and mixed normalization",
    statement=(
        "USAM's threshold in η is known under momentum, Nesterov's form, and coupled and decoupled "
        "decay. For p > 0 a two-point bounce sits exactly on the edge of the base step, but with "
        "momentum it is not the only end. Of the ascents ρ(1−l+l/‖g‖)g only l = 1 is rid of ρ."
    ),
    source="Derived here. The interpolated ascent is that of Oikonomou and Loizou, 2025.",
    derived=(
        "λ_edge = 2c/(1+√(1+4ρc/‖g‖^p)), where c is the edge of the base step without "
        "perturbation; for the interpolated ascent ηλ(1+ρ(1−l)λ) = 2."
    ),
    expected="holds",
    because="All of it is linear algebra on one mode; the longer cycles are what was observed.",
    measure=measure,
    takes=(2.8, 7.0, 7.0),
    settings={
        "seed": 1,
        "curvature": 10.0,
        "rho": 0.2,
        "bases": list(thresholds.BASES),
        "usam_rho": [0.01, 0.05, 0.2, 1.0],
        "steps": 400,
        "rows": [40, 40, 40],
        "side_steps": 10_000,
        "within": 1e-4,
        "bounce_power": 0.5,
        "bounce_steps": 1_000,
        "share_rho": 0.5,
        "shares": [0.0, 0.25, 0.5, 0.75, 0.9, 1.0],
        # Momentum, η̃λ with η̃ = η/(1+μ), and whether longer cycles were seen to attract there.
        "cycles": [
            [0.5, 0.2, True],
            [0.9, 0.2, True],
            [0.9, 0.05, True],
            [0.5, 1.0, False],
            [0.9, 1.8, False],
        ],
        "cycle_spread": 10.0,
        "cycle_starts": 1_000,
        "cycle_steps": 2_000,
    },
    quick={
        "usam_rho": [0.05, 1.0],
        "shares": [0.0, 0.5, 1.0],
        "side_steps": 4_000,
        "cycles": [[0.5, 0.2, True], [0.5, 1.0, False]],
        "cycle_starts": 100,
        "cycle_steps": 1_500,
    },
    full={
        "side_steps": 20_000,
        "cycle_starts": 4_000,
        "usam_rho": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
    },
)
