"""The traps of one descending direction: both their ends, their size, and when they leak."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.simulate import Simulation, simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Check, Heat, Line

#: Along the way down the curvature is -1, so that η is s = η|λ| and ρ is ρ|λ|.
DOWN = -1.0
#: An iterate beyond this has left: no trap here is half as large.
GONE = 1e4


def _end(start: Any, eta: Any, rho: Any, power: Any, steps: int) -> Array:
    """|y| at the end of runs along the descending direction alone; infinite where it has left."""
    run = _run(start, eta, rho, power, steps)
    return np.where(run.diverged, np.inf, run.observed["distance"])


def _run(start: Any, eta: Any, rho: Any, power: Any, steps: int) -> Simulation:
    start, eta, rho, power = np.broadcast_arrays(start, eta, rho, power)
    return simulate(
        ManyStarts([DOWN], start.reshape(-1, 1)),
        eta=eta,
        rho=rho,
        power=power,
        seed=np.arange(start.size).reshape(start.shape),
        steps=steps,
        ceiling=GONE,
        compile=False,
        progress="saddles",
    )


def usam(settings: Settings) -> tuple[list[Check], Axes, int]:
    """USAM is held iff 1 < ρ|λ| < 1 + 2/s: both sides of both ends, and a map."""
    s = np.array(settings["usam_s"])
    ends = np.stack([np.ones_like(s), 1 + 2 / s], 1)[..., None]
    rho = ends * np.array([0.99, 1.01])
    end = _end(1.0, s[:, None, None], rho, 0.0, settings["usam_steps"])
    law = theory.saddle_trap(s[:, None, None], rho, DOWN, 0.0) == np.inf
    shrinks = end < 1
    where = ", ".join(f"{x:g}" for x in s)
    n = settings["map_cells"]
    across, rhos = np.linspace(0.1, 3, n), np.linspace(0.1, 4, n)
    mapped = _end(1.0, across[None, :], rhos[:, None], 0.0, settings["map_steps"])
    # One factor a step, by which this coordinate is multiplied for ever.
    factor = np.abs(1 + across * (1 - rhos[:, None]))
    sure = np.abs(factor - 1) > 1e-3  # others have not had the time
    wrong = int(((mapped < 1) != (factor < 1))[sure].sum())
    with np.errstate(divide="ignore"):
        shown = np.where(np.isinf(mapped), np.nan, np.log10(np.maximum(mapped, 1e-6)))
    line = np.linspace(0.5, 3.05, 60)
    axes = Axes(
        "p = 0: where it is from |y| = 1",
        "s = η|λ|",
        "ρ|λ|",
        [
            Heat(across.tolist(), rhos.tolist(), shown.tolist(), "log₁₀ |y|", -6, 4),
            Line([0.05, 3.05], [1.0, 1.0], "predicted", "theory", dash=True),
            Line(line.tolist(), (1 + 2 / line).tolist(), "predicted", "theory", dash=True),
        ],
        y_range=(0.05, 4.05),
    )
    return (
        [
            Check(
                f"p = 0, s = η|λ| = {where}: held at .99 and 1.01 of ρ|λ| = 1, and of 1 + 2/s",
                predicted="no, yes; yes, no",
                measured="; ".join(
                    ", ".join("yes" if shrinks[:, k, i].all() else "no" for i in (0, 1))
                    for k in (0, 1)
                )
                + f" ({int((shrinks == law).sum())} of {law.size} as predicted)",
                tolerance="all as predicted; held: |y| falls, else it grows",
                holds=bool((shrinks == law).all()),
            ),
            Check(
                "p = 0 over the plane of s = η|λ| and ρ|λ|",
                predicted="held iff 1 < ρ|λ| < 1 + 2/s",
                measured=f"{wrong} of {int(sure.sum())} cells otherwise",
                tolerance="none otherwise, more than .001 from a factor of 1 a step",
                holds=bool(wrong == 0),
            ),
        ],
        axes,
        rho.size + mapped.size,
    )


def traps(settings: Settings) -> tuple[list[Check], Axes, int]:
    """The size of the trap for 0 < p ≤ 1, and the bounce inside it."""
    powers = np.array(settings["powers"])
    rhos, n, s = settings["trap_rho"], settings["trap_starts"], 0.2
    found, law, left = [], [], []
    for rho in rhos:
        trap = theory.saddle_trap(s, rho, DOWN, powers)
        # Starts on both sides of the prediction, and over a decade around it.
        share = np.concatenate([np.geomspace(0.1, 10, n), [0.99, 1.01]])
        end = _end(share * trap[:, None], s, rho, powers[:, None], settings["trap_steps"])
        order = np.argsort(share)
        gone = np.isinf(end[:, order])
        first = [int(np.argmax(row)) if row.any() else len(share) for row in gone]
        reach = [float(share[order][k - 1]) if k else 0.0 for k in first]
        held = (~gone).sum(1)
        left += [float(share[order][k]) if k < len(share) else np.inf for k in first]
        found.append(np.array(reach) * trap)
        law.append(trap)
        if not all(held[i] == first[i] for i in range(len(powers))):
            found[-1][:] = np.nan  # islands of starts that are held: no size to speak of
    share_held = np.array(found) / np.array(law)
    off = float(np.abs(share_held - 1).max())
    inside_p, inside_s = np.array(settings["inside_powers"]), np.array(settings["inside_s"])
    p, t = inside_p[:, None], inside_s[None, :]
    steady = p < 2 / (2 + t)
    bounce = (t * 0.5 / (2 + t)) ** (1 / p)
    end = _end(0.9 * bounce, t, 0.5, p, settings["trap_steps"])
    inside = float(np.abs(end / bounce - 1)[steady].max())
    chaotic = float(np.abs(end / bounce - 1)[~steady].min(initial=np.inf))
    names = ", ".join(f"{x:g}" for x in powers)
    fine = np.linspace(0.2, 1, 40)
    listed = ", ".join(f"{rho:g}" for rho in rhos)
    layers = []
    for rho, reach in zip(rhos, found, strict=True):
        curve = theory.saddle_trap(s, rho, DOWN, fine)
        layers.append(Line(fine.tolist(), curve.tolist(), "predicted", "theory", dash=True))
        name = f"ρ|λ| = {listed}, from below"
        layers.append(Line(powers.tolist(), reach.tolist(), name, "neutral", points="points"))
    return (
        [
            Check(
                f"p = {names}, s = {s:g}, ρ|λ| = {listed}: held from up to, over the prediction",
                predicted="1 ((ρ|λ|)^(1/p)/|λ|)",
                measured=f"held at {share_held.min():.2f} and below, gone at {max(left):.2f}, in "
                f"the worst of {share_held.size} traps",
                tolerance="held at .99 of it, gone at 1.01 of it",
                holds=bool(off < 0.011 and max(left) < 1.011),
            ),
            Check(
                f"inside the trap, p = {', '.join(f'{x:g}' for x in inside_p)}, s = "
                f"{', '.join(f'{x:g}' for x in inside_s)}, ρ|λ| = ½: size of the bounce",
                predicted="‖g‖^p = ηρλ²/(2+s), attracts iff p < 2/(2+s)",
                measured=f"off by at most {inside:.1g} of it where it attracts "
                f"({int(steady.sum())} cells), by at least {chaotic:.1g} where not",
                tolerance="1e-9 where it attracts, above .001 where not",
                holds=bool(inside < 1e-9 and chaotic > 1e-3),
            ),
        ],
        Axes(
            "0 < p ≤ 1: held from up to",
            "p",
            "|y| in units of 1/|λ|",
            layers,
            y_log=True,
        ),
        len(rhos) * len(powers) * (n + 2) + end.size,
    )


def largest_step(power: float) -> float:
    """The s at which a step begins to leap out of the trap, p^p (1−p)^(1−p) s = (1+s)^(1−p).

    Example:
        >>> round(largest_step(0.5), 4), largest_step(1.0)
        (4.8284, 1.0)
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        inside = theory.saddle_trap(middle, 0.5, DOWN, power) > 0 if middle else True
        low, high = (middle, high) if inside else (low, middle)
    return round(high, 12)


def leaps(settings: Settings) -> tuple[Check, int]:
    """The step size above which the trap leaks."""
    powers = np.array(settings["leap_powers"])
    bound = np.array([largest_step(float(p)) for p in powers])
    s = bound[:, None, None] * np.array([0.97, 1.03])[None, :, None]
    trap = 0.5 ** (1 / powers)[:, None, None]
    n = settings["leap_starts"]
    draw = np.random.default_rng(settings["seed"]).uniform(0.02, 0.98, n)
    end = _end(draw * trap, s, 0.5, powers[:, None, None], settings["leap_steps"])
    held = np.isfinite(end).mean(-1)
    listed = " / ".join(f"{value:.3g}" for value in bound)
    return Check(
        f"p = {', '.join(f'{p:g}' for p in powers)}: share still held after "
        f"{settings['leap_steps']:,} steps at .97 and 1.03 of s = {listed}",
        predicted="1 below, 0 above",
        measured="; ".join(f"{a:.3f}, {b:.3f}" for a, b in held) + f" (n = {n} starts)",
        tolerance="all below, none above",
        holds=bool((held[:, 0] == 1).all() and (held[:, 1] == 0).all()),
    ), end.size


def never(settings: Settings) -> tuple[list[Check], int]:
    """Powers above 1 leave from every start, unless it takes them too long to be waited for."""
    powers, s = np.array(settings["never_powers"])[:, None], np.array(settings["never_s"])
    steps = settings["never_steps"]
    n: int = settings["leap_starts"]
    draw = np.random.default_rng(settings["seed"]).normal(size=n)
    run = _run(draw, s[:, None], 0.5, powers[..., None], steps)
    late, early = (
        (~run.diverged | (run.steps_run > until)).sum(-1) for until in (steps, steps / 2)
    )
    # If s is below 1, a step leaps out from nearer than s^(1/(p−1)), in units of the trap.
    rare = np.minimum(s, 1) ** (1 / (powers - 1)) < 1e-4
    checks = [
        Check(
            f"p = {_list(powers)}, s = {_list(s)}, ρ|λ| = ½: starts still held after {steps:,} "
            "steps, where one step in ten thousand or more leaps out",
            predicted="none",
            measured=f"{int(late[~rare].sum())} of {int((~rare).sum()) * n} (starts drawn "
            "from N(0, 1))",
            tolerance="none",
            holds=bool(late[~rare].sum() == 0),
        )
    ]
    for i, j in np.argwhere(rare):
        checks.append(
            Check(
                f"p = {powers[i, 0]:g}, s = {s[j]:g}, where leaps are rarer: share of the starts "
                f"still held after {steps // 2:,} and {steps:,} steps",
                predicted="none in the end",
                measured=f"{early[i, j] / n:.3g}, {late[i, j] / n:.3g} (n = {n})",
                tolerance="fewer after all the steps than after half of them",
                holds=bool(late[i, j] < early[i, j]),
            )
        )
    return checks, run.diverged.size


def _list(values: Array) -> str:
    return ", ".join(f"{value:g}" for value in values.ravel())
