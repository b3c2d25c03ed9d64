"""The page on low precision: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from low_precision_numbers import (
    CURES,
    LEVEL,
    SWALLOWED,
    TITLES,
    Array,
    Difference,
    Found,
    arrays_of,
    at,
    at_one_rho,
    difference,
    picked,
    swallowed,
    tasks,
    treated,
    tuned,
)

from thalweg.lab import statistics

METHOD = """\
Handwritten digits (scikit-learn), a perceptron of one hidden layer with {width} units, {steps}
steps of SGD with momentum .9 in batches of 64, {seeds} seeds. A seed decides split, wrong labels,
start and batches, and is the same for all, so differences are of pairs. Of every setting and cure,
each seed picks ρ by its own validation images and is tested on others: {seeds} independent
experiments. In brackets are 95 % t intervals over them; p is of the paired t test against *nothing*
in the same setting, after Holm for the {comparisons} comparisons of cures.

Where the 16 bits are:

* **{copy}**: SGD steps the float32 weights, the model is their copy, so that of SAM only ε is
  rounded. ε is added to the copy.
* **{pure}**: weights, momentum, gradients.
* **{autocast}**: float32 weights, rounded on the way into every layer. ε is added before.
* **{four}**: as the first, with the mantissa of 8-bit floats (e4m3) and exponents to spare,
  computed in bfloat16. ε is swallowed 16 times as soon.

What is done about it:

* *{stochastic}*: every entry of w + ε goes up or down, with the chances that keep its mean. The
  choices belong to a seed and the step.
* *{carry}*: what rounding left out of ε is added to the next step's.
* *{wider}*: ε is multiplied by the least number, no less than 1, that lets half of its entries
  move: the median of ½ ulp / |ε|, taken again every ten steps.
* *{master}*: w + ε is made of the float32 weights, then rounded; the usual remedy. Autocast does
  it by itself.
* SGD, and SAM in float32, are for comparison.

How much of ε is left, means over a training: *moved* is the share of entries that move, *cosine* is
that of the angle between the ε that was meant and the one left (as `sam.last.share_moved` and
`sam.last.fidelity`), and *gain* is how far the one left leads along the one meant, over the length
of that.
"""


def told(case: Sequence[Any], d: Difference, rhos: Sequence[float] = ()) -> str:
    """Tell of one difference in words."""
    where = f", ρ = {rhos[case[3]]:g}" if rhos else ""
    name = "float32" if case[2] == "float32" else CURES[case[2]]
    return f"{name} ({TITLES[case[1]]}; {case[0]}{where}): {d}, p = {d.p:.2g}"


def verdict(found: Found) -> list[str]:
    """Say whether any cure helps, with the numbers."""
    own = tuned(found)
    better = {k: d for k, d in own.items() if d.p < LEVEL and d.mean > 0}
    worse = {k: d for k, d in own.items() if d.p < LEVEL and d.mean < 0}
    most = max(own, key=lambda k: own[k].mean)
    widest = max(max(-d.low, d.high) for d in own.values())
    if better:
        first = f"**{len(better)} of {len(own)} comparisons show a cure that helps** where each"
    else:
        first = f"**No cure helps in any of {len(own)} comparisons** where each"
    lines = [
        f"{first} has its own ρ, in points of test accuracy; the largest gain is "
        f"{told(most, own[most])}. No interval reaches further than {widest:.2f} from 0. "
        f"Cures that hurt: {len(worse) or 'none'}."
    ]
    lines += [f"* helps: {told(k, d)}" for k, d in better.items()]
    lines += [f"* hurts: {told(k, d)}" for k, d in worse.items()]
    return [*lines, "", *_left_at_one_rho(found), "", *_what_counts(found), *_begins(found)]


def _left_at_one_rho(found: Found) -> list[str]:
    """Say the same of a ρ that is left as it is."""
    fixed = at_one_rho(found)
    lines = []
    for setting, title in TITLES.items():
        told_of = []
        for cure in ("stochastic", "carry", "master", "float32"):
            mine = {k: d for k, d in fixed.items() if k[1:3] == (setting, cure)}
            if mine:
                up = [d.mean for d in mine.values() if d.p < LEVEL and d.mean > 0]
                down = [d.mean for d in mine.values() if d.p < LEVEL and d.mean < 0]
                most = f", by up to {max(up):.1f} points" if up else ""
                hurt = f", worse at {len(down)}" if down else ""
                name = "float32" if cure == "float32" else CURES[cure]
                told_of.append(f"{name} better at {len(up)} of {len(mine)}{most}{hurt}")
        gains = [found.sam[t, setting, "none"]["gain"].mean(1) for t in tasks(found)]
        low = sum(int((g < SWALLOWED).sum()) for g in gains)
        lines.append(
            f"* {title}, ρ left as it is ({low} of {sum(map(len, gains))} values of ρ leave "
            f"a gain below {SWALLOWED}): {'; '.join(told_of)}."
        )
    return lines


def _what_counts(found: Found) -> list[str]:
    """Say whether the gain or the cosine tells what rounding costs."""
    lines = []
    for setting, title in TITLES.items():
        bare = {t: found.sam[t, setting, "none"] for t in tasks(found)}
        low = [(t, i) for t, a in bare.items() for i in swallowed(a)]
        if not low:
            continue
        lines.append(
            f"* {title}, mean over the {len(low)} pairs of task and ρ where rounding to nearest "
            f"leaves a gain below {SWALLOWED} (cosine {at(bare, low, 'cosine'):.2f}, gain "
            f"{at(bare, low, 'gain'):.2f}), points above that:"
        )
        for name in ("float32", "stochastic", "carry", "master"):
            key = (name, "none") if name == "float32" else (setting, name)
            if key == ("autocast", "master"):
                continue
            ours = {t: arrays_of(found, t, *key) for t in bare}
            one = np.mean([ours[t]["test"][i] for t, i in low], axis=0)
            other = np.mean([bare[t]["test"][i] for t, i in low], axis=0)
            left = f"cosine {at(ours, low, 'cosine'):.2f}, gain {at(ours, low, 'gain'):.2f}"
            lines.append(f"    * {CURES.get(name, name)} ({left}): {difference(one, other)}")
    return [*lines, ""] if lines else []


def _begins(found: Found) -> list[str]:
    """Say from which ratio of ρ to ‖w‖ on nearly all of ε is left."""
    told_of = []
    for setting, title in TITLES.items():
        for t in tasks(found):
            arrays = found.sam[t, setting, "none"]
            low, ratios = swallowed(arrays), np.asarray(found.rhos) / arrays["weights"].mean(1)
            if low and max(low) + 1 < len(ratios):
                ends = ratios[max(low)], ratios[max(low) + 1]
                told_of.append(f"{title}, {t}: {100 * ends[0]:.2g} to {100 * ends[1]:.2g} %")
    if not told_of:
        return []
    return [
        f"The gain of ε rounded to nearest comes up to {SWALLOWED} where ρ/‖w‖ is (between two "
        f"values of ρ; w at the end): {'; '.join(told_of)}."
    ]


def _tuned_tables(found: Found) -> list[str]:
    own, lines = tuned(found), []
    for task in tasks(found):
        lines += [f"### {task[0].upper()}{task[1:]}", ""]
        lines += ["| | ρ | moved | cosine | gain | test, % | minus *nothing* | p |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for setting, title in TITLES.items():
            bare = picked(found.sam[task, setting, "none"], "test")
            lines.append(f"| **{title}** | | | | | | | |")
            for cure in ("none", *(c for t, s, c in own if (t, s) == (task, setting))):
                arrays = arrays_of(found, task, setting, cure)
                d = own.get((task, setting, cure))
                told_of = f"{d} | {d.p:.2g}" if d else " | "
                lines.append(f"| {CURES[cure]} | {_row(found, arrays)} | {told_of} |")
            sgd = found.sgd[task, setting]
            lines.append(f"| SGD | | | | | {_points(sgd)} | {difference(sgd, bare)} | |")
        whole = found.sam[task, "float32", "none"]
        lines.append("| **float32** | | | | | | | |")
        lines.append(f"| SAM | {_row(found, whole)} | | |")
        lines += [f"| SGD | | | | | {_points(found.sgd[task, 'float32'])} | | |", ""]
    return lines


def _row(found: Found, arrays: dict[str, Array]) -> str:
    best = np.asarray(found.rhos)[arrays["validation"].argmax(0)]
    low, high = f"{best.min():g}", f"{best.max():g}"
    left = (f"{picked(arrays, k).mean():.{n}f}" for k, n in _LEFT)
    span = low if low == high else f"{low} to {high}"
    return " | ".join((span, *left, _points(picked(arrays, "test"))))


_LEFT = (("share", 2), ("cosine", 3), ("gain", 2))


def _points(accuracy: Array) -> str:
    m = statistics.mean(100 * np.asarray(accuracy, dtype=float))
    return f"{float(m.mean):.2f} ± {float(m.half):.2f}"


def _fixed_tables(found: Found) -> list[str]:
    fixed, lines = at_one_rho(found), []
    for task in tasks(found):
        for setting, title in TITLES.items():
            cures = [c for t, s, c, i in fixed if (t, s, i) == (task, setting, 0)]
            bare = found.sam[task, setting, "none"]
            names = [CURES.get(c, c) for c in cures]
            lines += [f"### {title}: {task}", ""]
            lines.append("| ρ | moved | cosine | gain | test, % | " + " | ".join(names) + " |")
            lines.append("|---" * (5 + len(cures)) + "|")
            for i, rho in enumerate(found.rhos):
                row = [f"{rho:g}", *(f"{bare[k][i].mean():.{n}f}" for k, n in _LEFT)]
                row.append(f"{100 * bare['test'][i].mean():.2f}")
                for c in cures:
                    d = fixed[task, setting, c, i]
                    row.append(f"**{d.mean:+.2f}**" if d.p < LEVEL else f"{d.mean:+.2f}")
                lines.append("| " + " | ".join(row) + " |")
            lines += ["", *_left_by(found, task, setting, cures), ""]
    return lines


def _left_by(found: Found, task: str, setting: str, cures: Sequence[str]) -> list[str]:
    """Tell what every cure leaves of ε, at every ρ."""
    lines = ["Cosine, gain by ρ:"]
    for cure in [c for c in cures if c != "float32"]:
        arrays = arrays_of(found, task, setting, cure)
        pairs = zip(arrays["cosine"].mean(1), arrays["gain"].mean(1), strict=True)
        lines.append(f"{CURES[cure]} " + ", ".join(f"{c:.2f} {g:.2f}" for c, g in pairs) + ";")
    return [" ".join(lines).rstrip(";") + "."]


def page(settings: dict[str, Any], found: Found, head: Sequence[str]) -> str:
    """Return the whole page, in Markdown: the verdict first, then what it rests on."""
    width = next(iter(settings["tasks"].values()))["width"]
    words = {**TITLES, **{k: v for k, v in CURES.items() if k != "none"}}
    method = METHOD.format(
        width=width,
        steps=settings["steps"],
        seeds=settings["seeds"],
        comparisons=len(treated(found)),
        **words,
    )
    lines = [*head, "## Verdict", "", *verdict(found), "", "## What was done", "", method]
    lines += ["## Each with its own ρ", "", *_tuned_tables(found)]
    lines += [
        "## All with the same ρ",
        "",
        "What is left of ε where nothing is done, test accuracy there, and what every cure and "
        f"float32 add to it, in points; bold where p < {LEVEL} after Holm for all "
        f"{len(at_one_rho(found))} numbers.",
        "",
        *_fixed_tables(found),
    ]
    return "\n".join(lines).rstrip() + "\n"
