"""Powers above 1 where the bounce does not attract: chaos, its law and tails, and the cap."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from thalweg import theory
from thalweg.ascent import Method
from thalweg.lab.claims.claim import Settings, within
from thalweg.lab.claims.exponent_bounce import stretching
from thalweg.lab.observe import History, Maximum
from thalweg.lab.simulate import simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role

#: Kolmogorov and Smirnov's distance times √n that a sample of the law exceeds once in 1000.
_KS = 1.95
#: Intervals of several quantities in one check are Bonferroni's.
_TOGETHER = "95 % for all together"
_QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99)


def cauchy(settings: Settings) -> tuple[list[Check], Axes, int]:
    """The law of the iterate at power 2 from many starts, its Lyapunov exponent, and a figure."""
    n, etas, rho, top = settings["chains"], settings["chaos_eta_lambda"], 0.25, 4.0
    starts = np.random.default_rng(settings["seed"]).normal(size=(n, 1))
    scale = theory.cauchy_scale(rho, top)
    checks, layers, rates, distances = [], [], [], []
    for x in etas:
        run = simulate(
            ManyStarts([top], starts),
            eta=x / top,
            rho=rho,
            power=2.0,
            seed=np.arange(n),
            steps=settings["chain_steps"],
            observe={},
            compile=False,
            progress="exponent: the law at p = 2",
        )
        size = np.sort(np.abs(run.final["w"][:, 0])) / scale
        law = 2 / np.pi * np.arctan(size)
        rank = np.arange(n) / n
        distances.append(float(max((law - rank).max(), (rank + 1 / n - law).max())))
        if x == 0.5:
            checks.append(_quantiles(size))
            layers.append(_tail_line(size, "measured at p = 2, ηλ = ½", "p=2"))
        # The map at curvature 4 and ρ = ¼ is that at 1 and 1, w measured in scales of its law.
        rates.append(stretching(run.final["w"] / scale, np.full(n, x), np.full(n, 2.0)))
    worst = max(distances) * math.sqrt(n)
    t = np.geomspace(0.03, 3e3, 60)
    layers.append(
        Line(t.tolist(), (1 - 2 / np.pi * np.arctan(t)).tolist(), "Cauchy's law", "theory", True)
    )
    expected = theory.lyapunov_exponent(np.array(etas), 1.0)
    with np.errstate(invalid="ignore"):
        errors = [_quantile(len(etas)) * float(rate.std()) / math.sqrt(n) for rate in rates]
    means = [float(rate.mean()) for rate in rates]
    where = ", ".join(f"{x:g}" for x in etas)
    checks += [
        Check(
            f"p = 2 without a cap, ηλ = {where}: distance of the law of w from Cauchy's "
            "(Kolmogorov and Smirnov)",
            predicted="Cauchy(√(ρ/λ)), whatever η",
            measured=f"at most {max(distances):.2g} (n = {n} chains), {worst:.2f}/√n",
            tolerance=f"{_KS}/√n, which a sample of the law exceeds once in 1000",
            holds=bool(worst < _KS),
        ),
        Check(
            f"p = 2, ηλ = {where}: Lyapunov exponent",
            predicted=" / ".join(f"{value:.4f}" for value in expected),
            measured=" / ".join(f"{m:.4f} ± {e:.4f}" for m, e in zip(means, errors, strict=True))
            + f" (normal, {_TOGETHER}, n = {n} chains)",
            tolerance="inside every interval",
            holds=bool(
                all(abs(m - x) < e for m, x, e in zip(means, expected, errors, strict=True))
            ),
        ),
    ]
    title = "Without a cap: how rare are large distances"
    axes = Axes(title, "distance from the minimum, in √(ρ/λ)", "share beyond it", layers)
    return checks, axes, 2 * n * len(etas)


def _quantile(many: int) -> float:
    """Half-width, in standard errors, of ``many`` intervals that hold together at 95 %."""
    return NormalDist().inv_cdf(1 - 0.025 / many)


def _quantiles(size: Array) -> Check:
    """Quantiles of the distance, with intervals of order statistics that hold all five at 95 %."""
    n = len(size)
    parts, inside = [], []
    for q in _QUANTILES:
        half = _quantile(len(_QUANTILES)) * math.sqrt(q * (1 - q) * n)
        ends = [size[min(max(int(q * n + sign * half), 0), n - 1)] for sign in (-1, 1)]
        exact = math.tan(math.pi * q / 2)
        parts.append(f"{np.quantile(size, q):.3g} [{ends[0]:.3g}, {ends[1]:.3g}]")
        inside.append(ends[0] <= exact <= ends[1])
    return Check(
        "p = 2, ηλ = ½: quantiles ¼, ½, ¾, .9, .99 of the distance over √(ρ/λ)",
        predicted=" / ".join(f"{math.tan(math.pi * q / 2):.3f}" for q in _QUANTILES),
        measured=" / ".join(parts) + f" (order statistics, {_TOGETHER}, n = {n})",
        tolerance="reported; the distance of the two laws below decides",
        holds=bool(all(inside)),
        decides=False,
    )


def across(settings: Settings) -> tuple[list[Check], int]:
    """At power 2 other modes die, one or nineteen, and the top one makes ever longer excursions."""
    n, steps = settings["across_chains"], settings["across_steps"]
    etas, small = np.array(settings["chaos_eta_lambda"]), 1e-30
    draw = np.random.default_rng(settings["seed"])
    run = simulate(
        ManyStarts([1.0, 0.5], np.stack([draw.standard_cauchy(n), np.full(n, small)], 1)),
        eta=etas[:, None],
        rho=1.0,
        power=2.0,
        seed=np.arange(n),
        steps=steps,
        observe={"largest": Maximum("distance")},
        compile=False,
        progress="exponent: across the top mode",
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.log(np.abs(run.final["w"][..., 1]) / small) / steps
        mean, half = rate.mean(1), _quantile(len(etas)) * rate.std(1) / math.sqrt(n)
    expected = theory.transverse_exponent(etas, 1.0, 0.5)
    many = simulate(
        ManyStarts([1 - i / 20 for i in range(20)], draw.normal(size=(n, 20))),
        eta=0.5,
        rho=1.0,
        power=2.0,
        seed=np.arange(n),
        steps=5 * steps,
        observe={},
        compile=False,
        progress="exponent: twenty dimensions",
    )
    w = np.abs(many.final["w"])
    top, others = float(np.median(w[:, 0])), float(np.median(w[:, 1:].max(1)))
    return [
        Check(
            f"p = 2, ηλ = {', '.join(f'{x:g}' for x in etas)}: rate at which a mode of half the "
            "curvature dies",
            predicted=" / ".join(f"{value:.4f}" for value in expected),
            measured=" / ".join(f"{m:.4f} ± {h:.4f}" for m, h in zip(mean, half, strict=True))
            + f" (normal, {_TOGETHER}, n = {n} chains of {steps} steps)",
            tolerance="inside every interval",
            holds=bool((np.abs(mean - expected) < half).all()),
        ),
        _excursions(etas, np.sort(run.observed["largest"]), steps),
        Check(
            f"p = 2 in 20 dimensions, ηλ₁ = ½, {5 * steps} steps: medians of the top mode over "
            "√(ρ/λ) and of the largest other",
            predicted="1, and 0 in the end",
            measured=f"{top:.3f} and {others:.1g} (n = {n} chains)",
            tolerance=f"{4 / math.sqrt(n):.2g}, and below 1e-10",
            holds=bool(abs(top - 1) < 4 / math.sqrt(n) and others < 1e-10),
        ),
    ], 2 * n


def _excursions(etas: Array, largest: Array, steps: int) -> Check:
    """The largest distance in t steps, sorted over chains: it has no bound, but a known median.

    From far out the iterate comes back by the factor 1 − ηλ a step, so that steps beyond
    a level come in clusters, 1/(ηλ) of them on average; Cauchy's law has 2/(πu) of its mass beyond
    u. In t steps a level u ≫ 1 is thus passed with probability 1 − exp(−2ηλt/(πu)),
    if t is long beside the ln(u)/(ηλ) steps that the way back takes.
    """
    n = largest.shape[1]
    half = _quantile(len(etas)) * math.sqrt(n) / 2
    low, high = (largest[:, round(n / 2 + sign * half)] for sign in (-1, 1))
    law = 2 * etas * steps / (math.pi * math.log(2))
    return Check(
        f"p = 2, ηλ = {', '.join(f'{x:g}' for x in etas)}: largest distance over √(ρ/λ) in t = "
        f"{steps:,} steps, the median of {n} chains",
        predicted=" / ".join(f"{u:.4g}" for u in law) + ", 2ηλt/(π ln 2), which has no bound",
        measured=" / ".join(
            f"{m:.4g} [{a:.4g}, {b:.4g}]"
            for m, a, b in zip(np.median(largest, 1), low, high, strict=True)
        )
        + f" (order statistics, {_TOGETHER})",
        tolerance="inside every interval; reported, since the law is that of long t",
        holds=bool(((low < law) & (law < high)).all()),
        decides=False,
    )


def tails(settings: Settings) -> tuple[list[Check], list[Line], int]:
    """How rare large distances are for powers above 1: Hill's index, and lines for the figure."""
    n, looks, x = settings["tail_chains"], settings["tail_looks"], settings["tail_eta_lambda"]
    starts = np.random.default_rng(settings["seed"]).normal(size=(n, 1))
    apart = 30  # steps after which a chain has forgotten: (1 − ηλ)^30 is 2e-5 at ηλ = .3
    checks, lines = [], []
    for power in settings["tail_powers"]:
        run = simulate(
            ManyStarts([1.0], starts),
            eta=x,
            rho=1.0,
            power=power,
            seed=np.arange(n),
            steps=200 + looks * apart,
            observe={"path": History("top", every=apart)},
            compile=False,
            progress=f"exponent: tails at p = {power:g}",
        )
        size = np.sort(np.abs(run.observed["path"][:, -looks:].ravel()))
        most = int(settings["tail_share"] * size.size)
        spread = float(np.log(size[-most:] / size[-most - 1]).mean())
        index = 1 / spread if spread > 0 else math.inf  # no tail at all
        check = within(
            f"p = {power:g}, ηλ = {x:g}: index of P(|w| > t) ~ t^−index, by Hill's estimator",
            theory.tail_index(power),
            index,
            settings["tail_within"],
        )
        half = 1.96 * index / math.sqrt(most)
        said = f"; ± {half:.2f} (asymptotic 95 %), top {most} of {size.size}"
        checks.append(Check(**{**_fields(check), "measured": check.measured + said}))
        if power == 1.5:
            lines.append(_tail_line(size, f"measured at p = {power:g}, ηλ = {x:g}", "p=1.5"))
            anchor = float(size[-most])
            t = np.geomspace(anchor, 30 * anchor, 20)
            share = settings["tail_share"] * (t / anchor) ** -theory.tail_index(power)
            lines.append(Line(t.tolist(), share.tolist(), "t⁻² (p = 1.5)", "theory", dash=True))
    return checks, lines, n * len(settings["tail_powers"])


def _fields(check: Check) -> dict[str, Any]:
    return {name: getattr(check, name) for name in Check.__slots__}


def _tail_line(size: Array, name: str, role: Role) -> Line:
    """The share of sorted distances beyond a distance, thinned for drawing."""
    n = len(size)
    keep = np.unique(n - np.geomspace(1, 0.98 * n, 120).astype(int))
    return Line(size[keep].tolist(), ((n - keep) / n).tolist(), name, role)


def capped(settings: Settings) -> tuple[list[Check], int]:
    """Powers above 1 with a cap on ‖ε‖: on which side of the bound they end as SAM."""
    n, steps = settings["cap_starts"], settings["cap_steps"]
    below, above, everywhere, runs = [], [], [], 0
    for power in settings["cap_powers"]:
        for x in settings["cap_eta_lambda"]:
            bound = theory.cap_bound(x, 1.0, 1.0, power)
            safe = theory.cap_bound(x, 1.0, 1.0, power, every_start=True)
            below.append(_off_sam(power, x, 0.98 * bound, steps))
            above.append(_off_sam(power, x, 1.02 * bound, steps))
            everywhere.append(_off_sam(power, x, 0.99 * safe, steps, n))
            runs += 2 + n
    powers = ", ".join(f"{p:g}" for p in settings["cap_powers"])
    where = f"p = {powers}, ηλ = {', '.join(f'{x:g}' for x in settings['cap_eta_lambda'])}"
    bound_text = "R^p = ρ((2−ηλ)/(ηλ²))^(p−1)"
    return [
        Check(
            f"{where}, ‖ε‖ ≤ R from a thousandth beside SAM's bounce of radius R: where it ends",
            predicted=f"on that bounce for R below {bound_text}, off it above",
            measured=f"at .98 of it off by at most {max(below):.1g}; at 1.02 by at least "
            f"{min(above):.2g}",
            tolerance="1e-9; above .001",
            holds=bool(max(below) < 1e-9 and min(above) > 1e-3),
        ),
        Check(
            f"{where}, ‖ε‖ ≤ R from {n} starts between .001 and 30",
            predicted="all end on SAM's bounce for R below that bound with 1 for 2−ηλ if ηλ < 1",
            measured=f"at .99 of it off by at most {max(everywhere):.1g}",
            tolerance="1e-6 of the bounce",
            holds=bool(max(everywhere) < 1e-6),
        ),
    ], runs


def _off_sam(power: float, x: float, cap: float, steps: int, starts: int = 1) -> float:
    """How far from SAM's bounce of this radius a capped power ends, relatively, at most."""
    bounce = theory.bounce_amplitude(x, cap, 1.0)
    begin = np.geomspace(1e-3, 30, starts) if starts > 1 else np.array([1.001 * bounce])
    run = simulate(
        ManyStarts([1.0], begin[:, None]),
        eta=x,
        rho=1.0,
        method=Method(power=power, max_norm=cap),
        seed=np.arange(starts),
        steps=steps,
        compile=False,
        progress="exponent: the cap",
    )
    return float(np.abs(run.observed["distance"] / bounce - 1).max())
