"""The page that `race.py` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from race_judge import KINDS, Gain, Record, Row, rival_at, stopped
from race_tasks import ADDED, HORIZON, IN_TORCH, LOOKS, ON_TEXT, TASKS, VALUES, WARM, Task

VERSUS = {
    "gradients": "the base optimizer at equal gradients",
    "rate": "the same at the same learning rate",
    "stopped": "the base optimizer at equal gradients, where both may stop early",
    "time": "the base optimizer at equal time",
    "sam": "plain SAM",
}

BASES = {"sgd": "SGD", "adamw": "AdamW"}

QUESTION = """\
What is a preset worth, when its cost is given to the base optimizer instead? A gain is *clear*
where p is below .05 after Holm: bold in the tables, filled in the figure. [How](#how) says who
trains how long. *Label noise* is the share of labels drawn anew; one in ten of these is the true
one.
"""

METHOD = """\
Every preset is trained at all its ρ and seeds as one ensemble of the simulator, on a perceptron
of 32 hidden units (batches of 64 of 600 digits) or on `thalweg.lab.Text`, at the task's own
learning rate, constant, with momentum .9: {steps}.
A seed has its own split, wrong labels, start and order of minibatches, the same for all methods. ρ
is the one with the best mean validation accuracy over all seeds; what is shown is test accuracy at
that ρ. The labels of validation and test are the true ones. A grid begins with {values} values in
half-decade steps and grows by {added} where the best lies at an end, up to {most} times. A diverged
run counts as no image known.

The rival is the base optimizer alone, with the best of three learning rates, chosen by validation
for each number of steps: a third of the task's own, itself, three times it. A method that takes c
gradients a step meets it after c times the steps (the nearest of {looks} looks a training's
length); at equal time c is the time of a step. The rival's run ends at {horizon} times the steps: a
slower method meets it there. So the presets have ρ to choose, and the rival its learning rate;
neither has both. *And learning rate* is the rival at the task's own. *Both stopped early*: each
ends at the look that validation chooses, together with ρ or the learning rate, the rival within c
times the steps; with wrong labels a rival that must train to the end learns them.

Gains are in points of test accuracy. Brackets are 95 % t intervals over seeds of the difference,
paired by seed; p, behind them, is of the t test, after Holm for all presets on the task, each kind
of comparison for itself. **Bold**: p below .05. The intervals take the chosen ρ, and the rival's
learning rate, as given: what the choice itself varies is not in them.

`total` is the number of steps; `warm_start` has {warm:.0%} plain steps; `micro_batch` looks uphill
for every 16 of the 64 images. All else is as the presets have it. The digits' tensors lie as torch
has them: outputs first, vectors for biases. On the text there are {text},
chosen before the first result. {torch} run through
`thalweg.SAM` on a network with BatchNorm (with AdamW at lr .003 where they need Adam), beside SAM
on the same network; a row is named by the base optimizer and the preset. *Gradients* are counted,
for gates from their real share.
{costs}
"""


LIMITS = """\
## What this does not show

Small networks, at most a few minutes of training, a constant learning rate. ρ is tuned to half a
decade; other arguments, and the learning rate of a method, are not tuned. Most presets were
made for large networks, and with other batch sizes; which is best here need not be best there.
"""


def shown(found: Gain | None) -> str:
    """One gain in a table."""
    if found is None:
        return ""
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{f'**{text}**' if found.sign else text} {found.p_value:.2g}"


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table of one task, the cheapest first."""
    lines = [
        "| preset | gradients | time | ρ | test | over the base, equal gradients |"
        " and learning rate | both stopped early | over the base, equal time | over SAM |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (round(r.gradients, 1), -r.test)):
        cells = [f"`{row.name}`", f"{row.gradients:.2f}"]
        cells += ["" if row.time is None else f"{row.time:.2f}"]
        cells += [f"{row.rho:.2g}{' (end)' if row.at_end else ''}", f"{row.test:.2f}"]
        cells += [shown(row.gains.get(kind)) for kind in KINDS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def rivals_told(task: Task, rivals: dict[str, Record], steps: int) -> str:
    """Say what the rivals reach, and what stopping early gives them."""
    told = []
    for base, rival in rivals.items():
        each = []
        for times in (1, 2):
            test, rate, count = rival_at(rival, times * steps)
            each.append(f"{100 * test.mean():.2f} after {count} steps (lr {rate:.3g})")
        text = f"{BASES[base]} alone: " + ", ".join(each)
        if not task.layers:
            test, rate, count = stopped(rival, 2 * steps)
            text += (
                f"; stopped where validation is best within {2 * steps} steps "
                f"{100 * test.mean():.2f} (step {count}, lr {rate:.3g})"
            )
        told.append(text + ".")
    return " ".join(told)


def findings(rows: Sequence[Row]) -> list[str]:
    """Say which presets are clearly above and below each rival, from the table's own numbers."""
    lines = []
    for kind in KINDS:
        those = [row for row in rows if kind in row.gains]
        if not those:
            continue
        parts = []
        for sign, word in ((1, "above"), (-1, "below")):
            names = [row for row in those if row.gains[kind].sign == sign]
            names.sort(key=lambda row: -sign * row.gains[kind].mean)
            told = ", ".join(f"{r.name} ({r.gains[kind].mean:+.2f})" for r in names) or "none"
            parts.append(f"clearly {word}: {told}")
        unclear = sum(row.gains[kind].sign == 0 for row in those)
        lines.append(f"- Against {VERSUS[kind]}, {'; '.join(parts)}; not clear: {unclear}.")
    return lines


def grids(judged: dict[str, list[Row]]) -> list[str]:
    """Return the table of grids: as they were at last on each task."""
    titles = {task.name: task.title for task in TASKS if judged.get(task.name)}
    names = list(dict.fromkeys(row.name for rows in judged.values() for row in rows))
    lines = ["| preset | " + " | ".join(titles.values()) + " |", "|---" * (len(titles) + 1) + "|"]
    for name in names:
        cells = [f"`{name}`"]
        for key in titles:
            row = next((row for row in judged[key] if row.name == name), None)
            cells.append("" if row is None else grid_told(row))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def grid_told(row: Row) -> str:
    low, high = (10 ** (half / 2) for half in (row.halves[0], row.halves[-1]))
    extra = ", grown" if row.grown else ""
    extra += ", **best at the end**" if row.at_end else ""
    return f"{low:.2g} to {high:.2g}{extra}"


def costs_told(costs: Record) -> str:
    if not costs:
        return "*Time* has not been measured."
    return (
        f"*Time* is that of `thalweg.SAM` on a {costs['network']}, one thread, in plain steps of "
        f"SGD: the median of {costs['rounds']} rounds in which all take turns; of a gated method "
        "that of open and closed steps, by its share."
    )


def page(
    head: Sequence[str],
    settings: dict[str, Any],
    judged: dict[str, list[Row]],
    told: dict[str, str],
    missing: Sequence[str],
    costs: Record,
    figure: str,
) -> str:
    """Return the whole page, in Markdown: what was found first."""
    lines = list(head)
    if missing:
        lines += [f"**Not yet run: {', '.join(missing)}.**", ""]
    lines += [QUESTION]
    if figure:
        lines += [f"![Gain over SGD at equal gradients, by cost]({figure})", ""]
    for task in TASKS:
        if not judged.get(task.name):
            continue
        lines += [f"## {task.title}", "", *findings(judged[task.name]), ""]
        lines += [told[task.name], ""] if told.get(task.name) else []
        lines += [*table(judged[task.name]), ""]
    kinds = {"digits": "digits", "text": "text", "layers": "networks with BatchNorm"}
    steps = "; ".join(
        f"{settings[k]['steps']} steps and {settings[k]['seeds']} seeds on the {word}"
        for k, word in kinds.items()
    )
    how = METHOD.format(
        steps=steps,
        values=VALUES,
        added=ADDED,
        most=settings["extensions"],
        looks=LOOKS,
        horizon=HORIZON,
        warm=WARM,
        text=", ".join(f"`{name}`" for name in ON_TEXT),
        torch=" and ".join(f"`{name}`" for name in IN_TORCH),
        costs=costs_told(costs),
    )
    lines += ["## How", "", how, "## Grids of ρ", "", *grids(judged), "", LIMITS]
    return "\n".join(lines)
