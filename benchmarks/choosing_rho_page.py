"""The page that `choosing_rho.py` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from choosing_rho_measure import Measured
from choosing_rho_rules import (
    CAUTIOUS,
    DEFAULT,
    LATER,
    RULES,
    SHIPPED,
    SINGLE,
    Apart,
    Found,
    apart,
    tuned,
)
from choosing_rho_tasks import Curves
from choosing_rho_words import LIMITS, METHOD

import thalweg.lab.claims.robust_stats as stats
from thalweg.diagnose.rule import BENT, LEVEL

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Set:
    """Tasks with what was found on them.

    Attributes:
        names: Of the tasks.
        curves: Accuracy over ρ.
        measured: What their networks show.
        judged: By rule, one for each time of measurement.
        w: Weights of seeds, (draws, seeds).
        nearby: The rule that is shipped with other constants.
    """

    names: list[str]
    curves: Curves
    measured: Measured
    judged: dict[str, list[Found]]
    w: Array
    nearby: dict[float, Found]


def page(settings: dict[str, Any], sets: tuple[Set, Set], told: str, head: Sequence[str]) -> str:
    """Return the whole page, in Markdown: what was found first."""
    primary = settings["points"].index(settings["primary"])
    claim, fresh = ({name: f[primary] for name, f in s.judged.items()} for s in sets)
    at = sets[0].curves.at
    method = METHOD.format(
        values=len(at),
        least=10 ** at[0],
        most=10 ** at[-1],
        steps=settings["steps"],
        seeds=settings["seeds"],
        primary=settings["primary"],
        draws=settings["bootstrap"],
        batches=settings["batches"],
        ramp=settings["ramp"],
        later=LATER,
        shipped=SHIPPED,
        cautious=CAUTIOUS,
        level=LEVEL,
        bent=BENT,
    )
    lines = [*head, "## What was found", "", *_confirmed(fresh), "", "On the claim's tasks:", ""]
    lines += [*_verdict(claim), "", "## How", "", method, *([told, ""] if told else [])]
    lines += [
        f"## The constant of {SHIPPED}",
        "",
        *_nearby(sets),
        "",
        LIMITS.format(steps=settings["steps"]),
    ]
    for title, one, found in (
        ("The claim's tasks", sets[0], claim),
        ("Fresh tasks, constants of the claim's", sets[1], fresh),
    ):
        lines += [f"## {title}", "", *_rules(found, fitted=one is sets[0]), ""]
        lines += ["### Each task", "", *_tasks(one, found), ""]
        lines += ["### Measured at another time", "", *_points(settings, one.judged), ""]
        lines += ["### What was measured", "", *_measured(one, primary), ""]
    return "\n".join(lines)


def differences(at: dict[str, Found]) -> dict[str, dict[str, tuple[Apart, float]]]:
    """Return regret minus that of the default, and of the single ρ: by rule, with Holm's p."""
    found: dict[str, dict[str, tuple[Apart, float]]] = {}
    for base in (DEFAULT, SINGLE):
        others = [name for name in at if name != base]
        values = [apart(at[name].regret - at[base].regret) for name in others]
        adjusted = stats.holm([v.over_tasks.p_value for v in values])
        found[base] = dict(zip(others, zip(values, adjusted, strict=True), strict=True))
    return found


def _clear(difference: tuple[Apart, float]) -> int:
    """-1 where regret is clearly less (both intervals and Holm's p), 1 where more, 0 if open."""
    value, p = difference
    if p < 0.05 and value.high < 0:
        return -1
    return 1 if p < 0.05 and value.low > 0 else 0


def _confirmed(at: dict[str, Found]) -> list[str]:
    """What is shipped, on the tasks that were chosen after its rule: two comparisons."""
    tasks = at[SHIPPED].regret.shape[1]
    named = {"the default .05": DEFAULT, f"ρ = {at[SINGLE].constants[0]:.2g}": SINGLE}
    values = [apart(at[SHIPPED].regret - at[base].regret) for base in named.values()]
    adjusted = stats.holm([v.over_tasks.p_value for v in values])
    lines = [
        f"On {tasks} fresh tasks, with the constants of the claim's tasks, the regret in points:",
        f"*{SHIPPED}* (c = {at[SHIPPED].constants[0]:.2g}) {_told(at[SHIPPED])}, the default "
        f"{_told(at[DEFAULT])}, the claim's single ρ {_told(at[SINGLE])}.",
        "",
    ]
    words = {-1: "clearly less", 0: "no difference shown", 1: "clearly more"}
    for title, value, p in zip(named, values, adjusted, strict=True):
        told = words[_clear((value, p))]
        lines.append(
            f"- *{SHIPPED}* minus {title}: {value} (p = {p:.2g} after Holm for 2): {told}."
        )
    return lines


def _told(found: Found) -> str:
    return f"{apart(found.regret)} (worst task {found.regret[0].max():.1f})"


def _verdict(at: dict[str, Found]) -> list[str]:
    apart_from = differences(at)
    tasks = at[DEFAULT].regret.shape[1]
    lines = []
    for base, title in ((DEFAULT, "the default .05"), (SINGLE, "the single ρ of the other tasks")):
        by = {s: [n for n, d in apart_from[base].items() if _clear(d) == s] for s in (-1, 0, 1)}
        for sign, word in ((-1, "Clearly less regret than"), (1, "Clearly more regret than")):
            lines.append(f"- {word} {title}: {', '.join(by[sign]) or 'none'}.")
        widths = [apart_from[base][n][0].over_tasks.half for n in by[0]]
        if widths:
            lines.append(
                f"- No difference from {title} shown: {', '.join(by[0])}; the t intervals over "
                f"{tasks} tasks are ±{min(widths):.1f} to ±{max(widths):.1f} points wide."
            )
    best = min(at, key=lambda name: float(at[name].regret[0].mean()))
    lines.append(
        f"- Least mean regret: {best}, {apart(at[best].regret)} points; the default "
        f"{apart(at[DEFAULT].regret)}, the single ρ {apart(at[SINGLE].regret)} (n = {tasks} tasks)."
        " The least of many is flattered by having been picked."
    )
    return lines


def _rules(at: dict[str, Found], *, fitted: bool) -> list[str]:
    apart_from = differences(at)
    whose = ", all tasks (each task without itself)" if fitted else ""
    lines = [
        f"| rule | | c or x{whose} | regret | worst task | minus default | p | minus single | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        found = at[rule.name]
        constant = "—"
        if rule.fitted:
            low, high = found.constants.min(), found.constants.max()
            constant = f"{found.constant:.3g} ({low:.3g} to {high:.3g})" if fitted else f"{low:.3g}"
        cells = [
            rule.name,
            rule.formula,
            constant,
            str(apart(found.regret)),
            f"{found.regret[0].max():.1f}",
        ]
        for base in (DEFAULT, SINGLE):
            if rule.name in apart_from[base]:
                value, p = apart_from[base][rule.name]
                cells += [str(value), f"{p:.2g}"]
            else:
                cells += ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _nearby(sets: tuple[Set, Set]) -> list[str]:
    lines = [
        "Regret in points with one constant for all tasks, and the worst task. On the claim's "
        "tasks the best line is fitted to them; it is the fresh tasks that judge.",
        "",
        "| c | the claim's tasks | worst | fresh tasks | worst | all, minus default | "
        "all, minus single |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in sets[0].nearby:
        found = [one.nearby[c].regret for one in sets]
        cells = [f"{c:.2g}"]
        for regret in found:
            cells += [str(apart(regret)), f"{regret[0].max():.1f}"]
        for base in (DEFAULT, SINGLE):
            others = [one.judged[base][0].regret for one in sets]
            cells.append(str(apart(np.concatenate(found, 1) - np.concatenate(others, 1))))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _tasks(one: Set, at: dict[str, Found]) -> list[str]:
    points, best = (values[0] for values in tuned(one.curves, one.w))
    sgd = 100 * one.curves.sgd.mean(1)
    shown = [rule.name for rule in RULES if rule.name != DEFAULT]
    lines = [
        "Best ρ, test accuracy there and with SGD (%); then by rule the ρ it recommends (geometric "
        "mean over seeds) and, in brackets, its regret in points.",
        "",
        f"| task | best ρ | accuracy | SGD | {DEFAULT} | " + " | ".join(shown) + " |",
        "|" + "---|" * (len(shown) + 5),
    ]
    for t, name in enumerate(one.names):
        cells = [name, f"{10 ** best[t]:.3g}", f"{points[t]:.1f}", f"{sgd[t]:.1f}"]
        for rule in (DEFAULT, *shown):
            cells.append(f"{at[rule].rho[t]:.2g} ({at[rule].regret[0, t]:.1f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _points(settings: dict[str, Any], judged: dict[str, list[Found]]) -> list[str]:
    shares = settings["points"]
    lines = [
        "Mean regret in points (worst task) when networks are measured after another share of the "
        f"steps. Looked at beside the {settings['primary']:.0%} that counts: the least of a row is "
        "no finding.",
        "",
        "| rule | " + " | ".join(f"{share:.0%}" for share in shares) + " |",
        "|" + "---|" * (len(shares) + 1),
    ]
    for name, found in judged.items():
        cells = [f"{f.regret[0].mean():.2f} ({f.regret[0].max():.1f})" for f in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _measured(one: Set, point: int) -> list[str]:
    measured = one.measured
    shown = {
        "loss": "loss",
        "norm": "‖g‖",
        "full norm": "‖g‖, all data",
        "noise scale": "noise scale (examples)",
        "lambda": "λ_max",
        "along": "λ̂",
        "weights": "‖w‖",
        "flip": "⟨h, g⟩ < 0 from",
    }
    lines = [
        f"After {measured.points[point]:.0%} of the steps; medians over seeds.",
        "",
        "| task | " + " | ".join(shown.values()) + " | break |",
        "|" + "---|" * (len(shown) + 2),
    ]
    for t, name in enumerate(one.names):
        values = [measured.numbers[k][t, point] for k in shown] + [measured.break_at[t]]
        cells = [f"{np.median(v):.3g}" for v in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
