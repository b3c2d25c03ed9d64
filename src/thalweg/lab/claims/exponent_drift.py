"""Where the drift along minima stops for every power, and how it slows (the single neuron)."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History
from thalweg.lab.problems import SingleNeuron
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role

_ROLES: dict[float, Role] = {0.0: "p=0", 0.25: "p=0.25", 0.5: "p=0.5", 0.75: "p=0.75", 1.0: "p=1"}


def drift(settings: Settings) -> tuple[list[Check], Axes, dict[float, float], int]:
    """Follow the curvature s = y² for every power from one start.

    Returns:
        The checks, the axes, s at the end by power, and how many runs.
    """
    eta, rho, (x0, y0) = settings["eta"], settings["rho"], settings["start"]
    powers, steps, every = settings["drift_powers"], settings["drift_steps"], 100
    run = simulate(
        SingleNeuron("log_cosh", start=(x0, y0)),
        eta=eta,
        rho=rho,
        power=powers,
        steps=steps,
        observe={"s": History("y_squared", every=every)},
        compile=False,
        progress="exponent: the drift",
    )
    s = dict(zip(powers, run.observed["s"], strict=True))
    stop = theory.single_neuron_limit(0.0, eta, rho, x0, y0)
    from_step = settings["drift_from"]
    slow = [p for p in powers if 0 < p < 1]
    checks = [
        Check(
            f"p = 0: s = y² after {steps // 2:,} steps and after {steps:,}",
            predicted=f"stops at {stop:.4g} (s(1+ρs) = 2/η)",
            measured=f"{s[0][steps // 2 // every]:.4f}, {s[0][-1]:.4f}",
            tolerance="2η of the prediction (leading order in η), 1e-9 of each other",
            holds=bool(
                abs(s[0][-1] - stop) <= 2 * eta
                and abs(s[0][-1] / s[0][steps // 2 // every] - 1) < 1e-9
            ),
        ),
        *[_slows(p, s[p], eta, rho, from_step, steps, every) for p in slow],
        _exponential(s[1.0], eta, rho, from_step, every),
        _jumps(powers, s, every, steps),
    ]
    return (
        checks,
        _axes(s, eta, rho, from_step, every),
        {p: row[-1] for p, row in s.items()},
        len(s),
    )


def _slows(
    power: float, s: Array, eta: float, rho: float, from_step: int, steps: int, every: int
) -> Check:
    """Below p = 1: s at every decade after ``from_step``, and its slope over the last one."""
    decades = [10**k for k in range(2, 10) if from_step < 10**k <= steps]
    start = float(s[from_step // every])
    law = [float(_after(eta, rho, start, t - from_step, power)) for t in decades]
    found = [float(s[t // every]) for t in decades]
    off = max(abs(a / b - 1) for a, b in zip(found, law, strict=True))
    slope = float(np.log10(s[-1] / s[steps // 10 // every]))
    return Check(
        f"p = {power:g}: s after {', '.join(f'{t:,}' for t in decades)} steps, from {start:.4g} "
        f"after {from_step:,}",
        predicted=" / ".join(f"{value:.4g}" for value in law)
        + f"; in the end t^−{power / (4 * (1 - power)):.3g}",
        measured=" / ".join(f"{value:.4g}" for value in found)
        + f" (off by at most {off:.1g} of it); over the last decade t^{slope:.3f}",
        tolerance="1 % of s; the exponent is reported: at small p its limit is far off",
        holds=bool(off < 0.01),
    )


def _exponential(s: Array, eta: float, rho: float, from_step: int, every: int) -> Check:
    """At p = 1 ln s falls by 2ηρ² a step in the end: ds = −8ηρ²s/(2−ηs)²."""
    first, last = 2 * from_step // every, 4 * from_step // every
    steps = (last - first) * every
    rate = float(np.log(s[last] / s[first])) / steps
    after = float(_after(eta, rho, s[first], steps, 1.0))
    law = float(np.log(after / s[first])) / steps
    return Check(
        f"p = 1: change of ln s per step, from step {first * every:,} to {last * every:,}",
        predicted=f"{law:.6f}; in the end −2ηρ² = {-2 * eta * rho**2:.6f}",
        measured=f"{rate:.6f} (s from {s[first]:.2g} to {s[last]:.2g})",
        tolerance="1 % of the prediction",
        holds=bool(abs(rate / law - 1) < 0.01),
    )


def _after(eta: float, rho: float, s: float, steps: Any, power: float) -> Array:
    """The law's curvature so many steps later; NaN where it has none to start from."""
    if not 0 < s < 2 / eta:
        return np.full(np.shape(steps), np.nan)
    return np.asarray(theory.single_neuron_s_after(eta, rho, float(s), steps, power))


def _jumps(powers: list[float], s: dict[float, Array], every: int, steps: int) -> Check:
    """Up to p = 1 s only falls; above, where the bounce is unstable, it jumps both ways."""
    looks = slice(1000 // every, None)
    with np.errstate(over="ignore", invalid="ignore"):
        rise = {p: float(np.nanmax(s[p][looks][1:] / s[p][looks][:-1])) for p in powers}
    calm = max(rise[p] for p in powers if p <= 1)
    wild = {p: rise[p] for p in powers if p > 1}
    return Check(
        f"largest factor by which s grows in {every} steps, from step 1,000 to {steps:,}",
        predicted="p ≤ 1: 1 (it only falls); p > 1 jumps, since ηs comes below 2 − 2/p",
        measured=f"p ≤ 1: {calm:.6f}; "
        + ", ".join(f"p = {p:g}: {factor:.2g}" for p, factor in wild.items()),
        tolerance="p ≤ 1: at most 1 + 1e-6; p > 1: above 10",
        holds=bool(calm <= 1 + 1e-6 and min(wild.values()) > 10),
    )


def _axes(s: dict[float, Array], eta: float, rho: float, from_step: int, every: int) -> Axes:
    layers = []
    looks = len(next(iter(s.values())))
    keep = np.unique(np.geomspace(1, looks - 1, 60).astype(int))
    later = keep[keep >= from_step // every]
    for power, role in _ROLES.items():
        if power not in s:
            continue
        t = (keep * every).tolist()
        layers.append(Line(t, s[power][keep].tolist(), f"p = {power:g}", role))
        if power == 0:
            law = np.full(len(later), theory.edge(eta, rho, power=0.0))
        else:
            begin = float(s[power][from_step // every])
            wait = later * every - from_step
            law = _after(eta, rho, begin, wait, power)
        law = np.where(law > 1e-12, law, np.nan)
        layers.append(
            Line((later * every).tolist(), law.tolist(), "predicted", "theory", dash=True)
        )
    if 1.5 in s:
        t, wild = (keep * every).tolist(), s[1.5][keep].tolist()
        layers.append(Line(t, wild, "p = 1.5", "p=1.5", points="points"))
    return Axes(
        "Along the minima",
        "step",
        "curvature s = y²",
        layers,
        x_log=True,
        y_log=True,
        x_range=(float(every), float((looks - 1) * every)),
        y_range=(1e-3, 30.0),
    )
