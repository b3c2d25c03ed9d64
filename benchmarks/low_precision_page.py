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
steps of SGD with momentum .9 in batches of 64, {seeds} seeds. Wrong labels are drawn anew
from the ten digits, so that one in ten of them is right. A seed decides split, wrong labels,
start and batches, and is the same for all, so differences are of pairs. Of every setting and cure,
each seed picks ρ by its own validation images and is tested on others: {seeds} independent
experiments. In brackets are 95 % t intervals over them; p is of the paired t test against *nothing*
in the same setting, after Holm for the {comparisons} comparisons of cures.

Where the 16 bits are:

* **{copy}**: SGD steps the float32 weights and the model is their copy, so that of SAM
  only ε is rounded. ε is added to the copy.
* **{pure}**: weights, momentum, gradients.
* **{autocast}**: float32 weights, rounded on the way into every layer. ε is added before.
* **{four}**: as the first, with the mantissa of 8-bit floats (e4m3) and
  exponents to spare, computed in bfloat16. ε is swallowed 16 times as soon.

What is done about it:

* *{stochastic}*: every entry of w + ε goes up or down, with the chances that keep its
  mean. The choices belong to a seed and the step.
* *{carry}*: what rounding left out of ε is added to the next step's.
* *{wider}*: ε is multiplied by the least number, no less than 1, that lets half of its
  entries move: the median of ½ ulp / |ε|, taken again every ten steps.
* *{master}*: w + ε is made of the float32 weights, then rounded; the usual remedy.
  Autocast does it by itself.
* SGD, and SAM in float32, are for comparison.

How much of ε is left, means over a training: *moved* is the share of entries that move, *cosine* is
that of the angle between the ε that was meant and the one left, and *gain* is how far the one left
leads along the one meant, over the length of that (`sam.last.share_moved`, `sam.last.fidelity` and
`sam.last.gain`). Rounding that is only noise leaves a gain of 1, however low the cosine; SAM warns
where the gain is below {least}. Where float32 weights are rounded, entries that were not meant to
move may do so: more can move than were meant to.

What this does not tell: there is one kind of network, small enough to be trained some thousands of
times. Networks whose best ρ is below the ρ/‖w‖ at which rounding begins to take, as above, are not
among these; the copy with four digits stands in for them. Nothing was trained in float16, which has
three binary digits more than bfloat16.
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
    sixteen = [d for k, d in own.items() if k[1] != "four"]
    widest = max(max(-d.low, d.high) for d in sixteen)
    if better:
        first = f"**{len(better)} of {len(own)} comparisons show a cure that helps** where each"
    else:
        first = f"**No cure helps in any of {len(own)} comparisons** where each"
    return [
        f"{first} has its own ρ, in points of test accuracy; the largest gain is "
        f"{told(most, own[most])}. With 16 bits no interval of {len(sixteen)} reaches further than "
        f"{widest:.2f} from 0. Cures that hurt: {len(worse) or 'none'}.",
        "",
        *(f"* helps: {told(k, d)}" for k, d in better.items()),
        *(f"* hurts: {told(k, d)}" for k, d in worse.items()),
        *([""] if better or worse else []),
        "With ρ left as it is, at every value of it:",
        "",
        *_left_at_one_rho(found),
        "",
        *_what_counts(found),
        *_begins(found),
    ]


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
            f"* {title} ({low} of {sum(map(len, gains))} values leave a gain below "
            f"{SWALLOWED}): {'; '.join(told_of)}."
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
        lines.append(f"| {title} | nothing | {len(low)} | {_left(bare, low)} | |")
        for name in ("float32", "stochastic", "carry", "master"):
            key = (name, "none") if name == "float32" else (setting, name)
            if key == ("autocast", "master"):
                continue
            ours = {t: arrays_of(found, t, *key) for t in bare}
            one = np.mean([ours[t]["test"][i] for t, i in low], axis=0)
            other = np.mean([bare[t]["test"][i] for t, i in low], axis=0)
            d = difference(one, other)
            lines.append(f"| | {CURES.get(name, name)} | | {_left(ours, low)} | {d} |")
    head = [
        f"Where rounding to nearest leaves a gain below {SWALLOWED}, means over such ρ and tasks; "
        "points of test accuracy above *nothing* (each interval by itself):",
        "",
        "| | | values | cosine | gain | points |",
        "|---|---|---|---|---|---|",
    ]
    return [*head, *lines, ""] if lines else []


def _left(arrays: dict[str, dict[str, Array]], where: Sequence[tuple[str, int]]) -> str:
    return " | ".join(f"{at(arrays, where, name):.2f}" for name in ("cosine", "gain"))


def _begins(found: Found) -> list[str]:
    """Say from which ratio of ρ to ‖w‖ on nearly all of ε is left."""
    lines = [
        f"The ρ/‖w‖ at which the gain of ε rounded to nearest comes up to {SWALLOWED}, between two "
        "values of ρ (w at the end):",
        "",
    ]
    for setting, title in TITLES.items():
        for t in tasks(found):
            arrays = found.sam[t, setting, "none"]
            low, ratios = swallowed(arrays), 100 * np.asarray(found.rhos) / _norms(arrays)
            above = max(low, default=-1) + 1
            if not low:
                span = f"below {ratios[0]:.2g} %, if at all"
            elif above == len(ratios):
                span = f"above {ratios[-1]:.2g} %"
            else:
                span = f"{ratios[above - 1]:.2g} to {ratios[above]:.2g} %"
            least = arrays["gain"].mean(1).min()
            lines.append(f"* {title}, {t}: {span}; the least gain is {least:.2f}")
    return lines


def _norms(arrays: dict[str, Array]) -> Array:
    found: Array = arrays["weights"].mean(1)
    return found


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
                    bold = "**" if d.p < LEVEL else ""
                    left = "" if c == "float32" else _pair(arrays_of(found, task, setting, c), i)
                    row.append(f"{bold}{d.mean:+.2f}{bold}{left}")
                lines.append("| " + " | ".join(row) + " |")
            lines.append("")
    return lines


def _pair(arrays: dict[str, Array], i: int) -> str:
    return f" ({arrays['cosine'][i].mean():.2f}, {arrays['gain'][i].mean():.2f})"


def page(settings: dict[str, Any], found: Found, head: Sequence[str]) -> str:
    """Return the whole page, in Markdown: the verdict first, then what it rests on."""
    width = next(iter(settings["tasks"].values()))["width"]
    words = {**TITLES, **{k: v for k, v in CURES.items() if k != "none"}}
    method = METHOD.format(
        width=width,
        steps=settings["steps"],
        seeds=settings["seeds"],
        comparisons=len(treated(found)),
        least=SWALLOWED,
        **words,
    )
    lines = [*head, "## Verdict", "", *verdict(found), "", "## What was done", "", method]
    lines += ["## Each with its own ρ", "", *_tuned_tables(found)]
    lines += [
        "## All with the same ρ",
        "",
        "What is left of ε where nothing is done, test accuracy there, and what every cure and "
        f"float32 add to it, in points (cosine and gain in brackets); bold where p < {LEVEL} after "
        f"Holm for all {len(at_one_rho(found))} differences.",
        "",
        *_fixed_tables(found),
    ]
    return "\n".join(lines).rstrip() + "\n"
