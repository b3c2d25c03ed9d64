"""Claim: trained to the end, a network's curvature sits on SAM's edge, or on USAM's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from thalweg import theory
from thalweg.lab import statistics as over
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.networks import TanhMLP
from thalweg.lab.observe import History
from thalweg.lab.simulate import Simulation, simulate
from thalweg.lab.spectrum import flat
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role


def measure(settings: Settings) -> Evidence:
    """Train networks with every radius and both powers; compare λ_max with the edge."""
    eta, seeds = settings["eta"], np.arange(settings["seeds"])
    cells = _cells(settings)
    net = TanhMLP(settings["examples"])
    run = simulate(
        net,
        eta=eta,
        rho=np.array([rho for _, rho in cells])[:, None],
        power=np.array([power for power, _ in cells])[:, None],
        seed=seeds,
        steps=settings["steps"],
        observe={q: History(q, settings["every"]) for q in ("loss", "lambda_max", "grad_norm")},
        compile=False,
        progress="network-edge",
    )
    curvature, slope = run.observed["lambda_max"], run.observed["grad_norm"]
    ratio = np.stack(
        [curvature[i] / _edge(eta, rho, slope[i], p) for i, (p, rho) in enumerate(cells)]
    )
    late = np.median(ratio[..., ratio.shape[-1] // 2 :], axis=-1)
    large = settings["large_rho"]
    checks = [
        _on_the_edge(settings, cell, late[i], curvature[i, :, -1])
        for i, cell in enumerate(cells)
        if cell != (1.0, large)
    ]
    checks += _free(settings, net, run, cells, curvature[..., -1], slope[..., -1])
    checks.append(_too_large(settings, net, run, cells))
    return Evidence(
        checks=checks,
        charts=[_chart(settings, cells, run)],
        runs=late.size,
        seeds=seeds.tolist(),
        dtype="float64",
        found=_found(settings, cells, late, checks[-1]),
    )


def _cells(settings: Settings) -> list[tuple[float, float]]:
    """Power and radius of every setting: gradient descent, USAM's radii, SAM's, and a large one."""
    return [
        (0.0, 0.0),
        *((0.0, rho) for rho in (*settings["usam_rho"], settings["large_rho"])),
        *((1.0, rho) for rho in (*settings["sam_rho"], settings["large_rho"])),
    ]


def _edge(eta: float, rho: Any, slope: Array, power: float) -> Array:
    """The edge at every ‖g‖; NaN where a run has diverged or g is 0."""
    known = np.isfinite(slope) & (slope > 0)
    return np.where(known, theory.edge(eta, rho, np.where(known, slope, 1.0), power), np.nan)


def _name(power: float, rho: float) -> str:
    kind = "gradient descent" if rho == 0 else "USAM (p = 0)" if power == 0 else "SAM (p = 1)"
    return kind + (f", ρ = {rho:g}" if rho else "")


def _printed(values: Array) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f} (one seed)"
    found = over.mean(values)
    ends = f"[{found.low:.4f}, {found.high:.4f}]"
    return f"{found.mean:.4f} {ends}, 95 % t interval, n = {found.n}"


def _on_the_edge(settings: Settings, cell: tuple[float, float], late: Array, end: Array) -> Check:
    """λ_max over the edge: the median over the second half of the run, for every seed."""
    power, rho = cell
    tolerance = settings["sam_tolerance" if power else "usam_tolerance"]
    law = f"{theory.edge(settings['eta'], rho):.4g}"
    if power:
        law = "the edge at the iterate's own ‖g‖: seen in this way alone, ‖g‖ = ηρλ²/(2−ηλ)"
    return Check(
        f"{_name(power, rho)}: λ_max over the edge, median over the second half of "
        f"{settings['steps']} steps",
        predicted=f"1 (λ_max = {law})",
        measured=f"{_printed(late)}; λ_max {end.mean():.4g} at the end",
        tolerance=f"every seed within {tolerance:g}",
        holds=bool((np.abs(late - 1) <= tolerance).all()),
    )


def _free(
    settings: Settings,
    net: TanhMLP,
    run: Simulation,
    cells: list[tuple[float, float]],
    curvature: Array,
    slope: Array,
) -> list[Check]:
    """SAM at the end: the curvature that its two gradients give for nothing."""
    eta, large = settings["eta"], settings["large_rho"]
    chosen = [i for i, (power, rho) in enumerate(cells) if power and rho != large]
    rho = np.array([cells[i][1] for i in chosen])[:, None]
    seeds = torch.arange(settings["seeds"])
    free = np.stack(
        [
            free_curvature(net, {k: v[i] for k, v in run.final.items()}, seeds, cells[i][1])
            for i in chosen
        ]
    )
    over_top = (free / curvature[chosen]).ravel()
    over_edge = (free / _edge(eta, rho, slope[chosen], 1.0)).ravel()
    tolerance = settings["free_tolerance"]
    return [
        Check(
            f"SAM, ρ = {', '.join(f'{cells[i][1]:g}' for i in chosen)}, after the last step: "
            f"λ̂ = ⟨h − g, ε⟩/‖ε‖² over {what}",
            predicted="1: on the bounce g lies along the leading eigenvectors",
            measured=f"{values.min():.4f} to {values.max():.4f} (n = {len(values)})",
            tolerance=f"every one within {tolerance:g}",
            holds=bool((np.abs(values - 1) <= tolerance).all()),
        )
        for what, values in (("λ_max", over_top), ("the edge", over_edge))
    ]


def free_curvature(net: TanhMLP, final: dict[str, Array], seeds: torch.Tensor, rho: float) -> Array:
    """Return ⟨h − g, ε⟩/‖ε‖² of SAM at p = 1: the curvature along ε, averaged from w to w + ε."""
    w = {name: torch.as_tensor(value) for name, value in final.items()}
    batch = net.stream(seeds)(0)
    g = net.gradient(w, batch)
    size = torch.linalg.vector_norm(flat(g), dim=1)
    factor = rho / size
    uphill = {k: w[k] + factor.reshape(-1, 1, 1) * g[k] for k in w}
    rise = flat(net.gradient(uphill, batch)) - flat(g)
    along = (rise * flat(g)).sum(1) * factor / (factor * size) ** 2
    return np.asarray(along)


def _too_large(
    settings: Settings, net: TanhMLP, run: Simulation, cells: list[tuple[float, float]]
) -> Check:
    """The counter-example: a radius at which SAM learns nothing and USAM does."""
    rho = settings["large_rho"]
    targets = [net.examples_of(seed)[1] for seed in range(settings["seeds"])]
    constant = np.array([y.var() / 2 for y in targets])
    sam, usam = (run.loss[cells.index((power, rho))] / constant for power in (1.0, 0.0))
    return Check(
        f"ρ = {rho:g}: loss after {settings['steps']} steps over that of the best constant",
        predicted="SAM 1 or more (it fails to train), USAM near 0: a bound to what normalization "
        "gives; the same ρ is not the same ‖ε‖",
        measured=f"SAM {sam.min():.3f} to {sam.max():.3f}, USAM at most {usam.max():.2g} "
        f"(n = {len(sam)})",
        tolerance="SAM above .9, USAM below .1, every seed",
        holds=bool((sam > 0.9).all() and (usam < 0.1).all()),
    )


def _found(settings: Settings, cells: list[tuple[float, float]], late: Array, last: Check) -> str:
    large = settings["large_rho"]
    usam = late[[i for i, (p, rho) in enumerate(cells) if rho and not p]]
    sam = late[[i for i, (p, rho) in enumerate(cells) if p and rho != large]]
    return (
        f"λ_max over the edge {usam.min():.3f} to {usam.max():.3f} for USAM, {sam.min():.3f} to "
        f"{sam.max():.3f} for SAM (n = {usam.size} and {sam.size} networks). At ρ = {large:g} loss "
        f"over that of a constant: {last.measured}."
    )


def _chart(settings: Settings, cells: list[tuple[float, float]], run: Simulation) -> Chart:
    """λ_max along the way beside the edge, and all of it in one plot: measured over predicted."""
    eta, large = settings["eta"], settings["large_rho"]
    seen, slope = run.observed["lambda_max"], run.observed["grad_norm"]
    t = settings["every"] * np.arange(seen.shape[-1])
    top = 1.3 * theory.edge(eta)
    panels = []
    for power, title in ((0.0, "USAM (p = 0)"), (1.0, "SAM (p = 1)")):
        layers = []
        for i, (p, rho) in enumerate(cells):
            if p != power or (p and rho == large):
                continue
            edge = _edge(eta, rho, slope[i, 0], p)
            role: Role = "gd" if rho == 0 else "p=1" if p else "p=0"
            name = "gradient descent" if rho == 0 else "SAM" if p else "USAM"
            layers += [
                Line(t[1:].tolist(), seen[i, 0, 1:].tolist(), name, role),
                Line(t[1:].tolist(), edge[1:].tolist(), "edge", "theory", dash=True),
            ]
        panels.append(
            Axes(
                f"{title}, along the way",
                "step",
                "λ_max",
                layers,
                y_log=True,
                y_range=(theory.edge(eta, large) / 2.5, top),
            )
        )
    half = seen.shape[-1] // 2
    points = []
    kinds: list[tuple[float, Role, str]] = [(0.0, "p=0", "USAM"), (1.0, "p=1", "SAM")]
    for power, role, name in kinds:
        chosen = [i for i, (p, rho) in enumerate(cells) if rho and p == power]
        edges = [_edge(eta, cells[i][1], slope[i], power) for i in chosen]
        x = np.median(np.stack(edges)[..., half:], axis=-1).ravel()
        y = np.median(seen[chosen][..., half:], axis=-1).ravel()
        points.append(Line(x.tolist(), y.tolist(), name, role, points="points"))
    diagonal = Line([0.8, top], [0.8, top], "λ_max = edge", "theory", dash=True)
    panels.append(
        Axes(
            "Second half of the run, every network",
            "edge",
            "λ_max",
            [diagonal, *points],
            x_log=True,
            y_log=True,
        )
    )
    return Chart(
        panels,
        "Largest curvature of a network in training (left and middle: one seed; every radius a "
        "curve, the smaller ρ above). Gradient descent stops at 2/η, USAM at an edge that ρ alone "
        "sets: nothing is fitted. SAM's edge depends on ‖g‖, which its bounce sets: that λ_max is "
        "on it says that the iterate bounces, and both fall together. The points at λ_max = 1 are "
        f"SAM at ρ = {large:g}: on its edge, too, with nothing learned.",
    )


CLAIM = Claim(
    name="network-edge",
    title="A network trained to the end sits on the edge",
    statement=(
        "Trained on all its data, a tanh network gets sharper until λ_max meets the edge: 2/η for "
        "gradient descent, 4/(η(1 + √(1 + 8ρ/η))) for USAM, and the edge at the iterate's own ‖g‖ "
        "for SAM. A large radius bounds it: at ρ = 1 SAM does not train at all, and USAM does."
    ),
    source=(
        "SAM's edge: Long and Bartlett, 2023. USAM's, and the law of ‖g‖ on the bounce, are "
        "derived here."
    ),
    expected="holds",
    because=(
        "The edge is where a step along the top eigenvector neither shrinks nor grows. For USAM "
        "it has no ‖g‖ in it, so nothing in the run can make it true. For SAM λ_max = edge is the "
        "same equation as ‖g‖ = ηρλ²/(2−ηλ): the bounce sets ‖g‖ so that it holds. Nothing here "
        "is of a power between 0 and 1. In the full study one curvature of 15 that SAM's own two "
        "gradients gave in a single step is more than a tenth off the edge."
    ),
    full_expected="does not hold",
    measure=measure,
    settings={
        "eta": 0.1,
        "usam_rho": [0.01, 0.03, 0.1, 0.3],
        "sam_rho": [0.02, 0.05, 0.1],
        "large_rho": 1.0,
        "examples": 100,
        "seeds": 3,
        "steps": 3_500,
        "every": 100,
        "usam_tolerance": 0.02,
        "sam_tolerance": 0.1,
        "free_tolerance": 0.1,
    },
    quick={
        "eta": 0.2,
        "usam_rho": [0.1],
        "sam_rho": [0.05],
        "examples": 60,
        "seeds": 1,
        "steps": 1_200,
        "every": 40,
    },
    full={"seeds": 5, "steps": 12_000, "usam_tolerance": 0.01},
    paper=(
        "Long and Bartlett, 2023: SAM's edge of stability is 4/(η(1 + √(1 + 8ρ/(η‖g‖)))), so it "
        "depends on the gradient's norm."
    ),
    derived=(
        "USAM's edge has no ‖g‖ in it: 4/(η(1 + √(1 + 8ρ/η))). On SAM's bounce the edge and "
        "‖g‖ = ηρλ²/(2−ηλ) are one statement."
    ),
    takes=(2.0, 25.0, 130.0),
)
