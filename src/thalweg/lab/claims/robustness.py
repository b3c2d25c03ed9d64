"""Claim: one ρ serves many tasks if SAM is normalized (real data)."""

from __future__ import annotations

import numpy as np

import thalweg.lab.claims.robust_charts as charts
import thalweg.lab.claims.robust_stats as stats
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.robust_runs import Runs, train
from thalweg.lab.claims.robust_tasks import FULL, QUICK, SETTINGS, label, left_out, noisy
from thalweg.lab.statistics import Array, beyond, percentiles
from thalweg.results import Check

#: What is compared with all the others, and what the primary number subtracts it from.
SAM, USAM = label(1.0, None), label(0.0, None)
_SGD = {
    "own": "SGD at the task's step size, as many steps",
    "tuned": "SGD, step size picked on validation, as many steps",
    "longer": "SGD, step size picked, as many gradients (twice the steps)",
    "stopped": "SGD, step size and stopping time picked",
}


def measure(settings: Settings) -> Evidence:
    """Train everything, pick on validation, compare on the test."""
    runs = train(settings)
    w = stats.weights(runs.seeds, settings["bootstrap"])
    moved = {title: stats.transferred(runs, title, w) for title in runs.curves}
    own = {title: stats.tuned(runs, title, w) for title in runs.curves}
    sgd = {which: stats.rival(runs, which, w) for which in _SGD}
    apart = moved[USAM].points - moved[SAM].points
    gain = stats.mean(own[SAM].points - sgd["own"])
    checks = [
        *_primary(stats.mean(apart), gain),
        _without_the_largest(runs, apart),
        *_contrasts(moved, "one ρ, picked on the other tasks"),
        *_contrasts(own, "each task its own ρ"),
        *_regrets(moved, own),
        *_shapes(runs, w),
        *_rivals(own, sgd),
        *_matched(settings, runs),
        *_grid(settings, runs),
        _told(
            "not in a study of this size, but in the full one",
            left_out(settings) or "none left out",
        ),
    ]
    return Evidence(
        checks=checks,
        charts=[charts.gains(settings, runs, w), charts.curves(settings, runs, w)],
        runs=runs.trained,
        seeds=list(range(runs.seeds)),
        dtype="float32",
        found=_found(runs, moved, own, sgd),
    )


def _primary(primary: stats.Mean, gain: stats.Mean) -> list[Check]:
    both = f"{primary}, points"
    value, half = primary.value, primary.half
    ends = {
        "t interval over tasks": beyond(value - half, value + half, sign=-1),
        "bootstrap interval over seeds": beyond(primary.low, primary.high, sign=-1),
    }
    checks = [
        Check(
            "gain over SGD with the ρ that the other tasks picked, mean over tasks: p = 0 minus "
            "p = 1",
            predicted="below 0: a ρ carries over better with normalization",
            measured=both,
            tolerance=f"95 % {name} below 0",
            holds=holds,
        )
        for name, holds in ends.items()
    ]
    checks.append(
        Check(
            "there is a gain to lose: p = 1 with each task's own ρ minus SGD at the task's step "
            "size",
            predicted="above 0",
            measured=f"{gain}, points",
            tolerance="95 % bootstrap interval over seeds above 0",
            holds=beyond(gain.low, gain.high),
        )
    )
    return checks


def _without_the_largest(runs: Runs, apart: Array) -> Check:
    """The primary number without the task that counts most in it."""
    largest = int(abs(apart[0] - apart[0].mean()).argmax())
    rest = np.delete(apart, largest, axis=1)
    return _told(
        f"the same without the task that counts most, {runs.tasks[largest]} "
        f"({apart[0, largest]:+.1f}); added after a first look",
        f"{stats.mean(rest)}, points; below 0 on {(rest[0] < 0).sum()} of {rest.shape[1]} tasks",
    )


def _contrasts(points: dict[str, stats.Picked], rule: str) -> list[Check]:
    """Every power against p = 1, with Holm's correction for their number."""
    others = [title for title in points if title != SAM]
    means = [stats.mean(points[title].points - points[SAM].points) for title in others]
    return [
        Check(
            f"{rule}: {title} minus p = 1",
            predicted="none made",
            measured=f"{m}, points; p = {p:.2g} after Holm: "
            + ("a difference" if p < 0.05 else f"no difference shown (±{m.half:.1f})"),
            tolerance="none",
            holds=None,
            decides=False,
        )
        for title, m, p in zip(others, means, stats.holm([m.p_value for m in means]), strict=True)
    ]


def _regrets(moved: dict[str, stats.Picked], own: dict[str, stats.Picked]) -> list[Check]:
    checks = []
    for title, there in moved.items():
        regret = own[title].points - there.points
        m = stats.mean(regret)
        checks.append(
            Check(
                f"{title}: what the others' ρ costs against the task's own",
                predicted="near 0 where one ρ serves all",
                measured=f"{m}, points; worst task {regret[0].max():.1f}",
                tolerance="none",
                holds=None,
                decides=False,
            )
        )
    return checks


def _shapes(runs: Runs, w: Array) -> list[Check]:
    """Where the best perturbations of the tasks are, and how far they may be missed."""
    shared = set(range(len(runs.tasks)))
    for title in runs.curves:
        shared &= set(stats.gains(runs, title, w))
    checks = []
    for title, curves in runs.curves.items():
        sd = stats.scatter(runs, title, w, sorted(shared)) if len(shared) > 1 else {}
        told = []
        for unit, values in sd.items():
            low, high = percentiles(values[1:])
            told.append(f"{unit} {values[0]:.2f} [{low:.2f}, {high:.2f}]")
        if told:
            what = f"the {len(shared)} tasks that gain at every p"
            checks.append(
                _told(
                    f"{title}: how far apart the best are, sd over {what}, in decades "
                    "[95 % bootstrap over seeds]",
                    told,
                )
            )
        ours = [stats.shape(curves[t], runs.rivals[t]) for t in stats.gains(runs, title, w)]
        for what, name in (
            ("width", "that keep half the gain"),
            ("cliff", "from the best to SGD's"),
        ):
            found = []
            for unit in stats.UNITS:
                known = [d[unit] for d in (getattr(s, what) for s in ours) if unit in d]
                found.append(f"{unit} {np.median(known):.2f} (n = {len(known)})" if known else "")
            if any(found):
                checks.append(_told(f"{title}: decades {name}, median over tasks that gain", found))
    return checks


def _told(what: str, measured: str | list[str]) -> Check:
    """A line that predicts nothing."""
    text = measured if isinstance(measured, str) else "; ".join(part for part in measured if part)
    return Check(what, "none made", text, "none", holds=None, decides=False)


def _rivals(own: dict[str, stats.Picked], sgd: dict[str, Array]) -> list[Check]:
    return [
        _told(
            f"p = 1, each task its own ρ, minus {name}",
            f"{stats.mean(own[SAM].points - sgd[which])}, points",
        )
        for which, name in _SGD.items()
    ]


def _matched(settings: Settings, runs: Runs) -> list[Check]:
    """Accuracy of every power at the same mean length of ε."""
    checks = []
    for length in settings["matched"]:
        found = {t: stats.at_length(runs, t, noisy(settings), length) for t in runs.curves}
        known = [f"{title}: {100 * a:.1f}" for title, a in found.items() if a is not None]
        if known:
            what = f"test accuracy (%) at a mean ‖ε‖ of {length:g}, mean over noisy tasks"
            checks.append(_told(what, known))
    return checks


def _grid(settings: Settings, runs: Runs) -> list[Check]:
    checks = []
    for title, curves in runs.curves.items():
        at = curves[0].only(runs.common[title]).at
        floors = [100 * r.own[1].mean() for r in runs.rivals]
        pairs = list(zip(runs.tasks, curves, floors, strict=True))
        open_above = [n for n, c, f in pairs if c.best == at[-1] or 100 * c.test[-1].mean() >= f]
        at_low = [n for n, c, f in pairs if c.best == at[0]]
        checks.append(
            Check(
                f"{title}: tasks whose best ρ is the grid's last, or whose last is not worse than "
                "SGD",
                predicted="none",
                measured=(", ".join(open_above) or "none")
                + (f"; at the low end, where SAM is SGD: {', '.join(at_low)}" if at_low else ""),
                tolerance=f"ρ from {10 ** (at[0] / 10):.2g} to {10 ** (at[-1] / 10):.2g} by .3 "
                + ("decade" if not settings["fine"] else "decade, by .1 near the picks"),
                holds=not open_above,
                decides=False,
            )
        )
    return checks


def _found(
    runs: Runs,
    moved: dict[str, stats.Picked],
    own: dict[str, stats.Picked],
    sgd: dict[str, Array],
) -> str:
    """The paragraph that a reader can quote."""
    there = {t: stats.mean(moved[t].points - sgd["own"]) for t in (SAM, USAM)}
    here = {t: stats.mean(own[t].points - sgd["own"]) for t in (SAM, USAM)}
    primary = stats.mean(moved[USAM].points - moved[SAM].points)
    apart = stats.mean(own[USAM].points - own[SAM].points)
    best = stats.mean(own[SAM].points - sgd["stopped"])
    worst = {t: float((own[t].points - moved[t].points)[0].max()) for t in (SAM, USAM)}
    known = abs(apart.value) > apart.half
    return (
        f"Over {len(runs.tasks)} tasks and {runs.seeds} seeds, one ρ picked on the other tasks "
        f"leaves SAM (p = 1) {there[SAM].value:+.1f} points over plain SGD and USAM (p = 0) "
        f"{there[USAM].value:+.1f}: a difference of {primary.value:+.2f} ± {primary.half:.2f} "
        f"(95 % t interval over tasks; bootstrap over seeds {primary.low:+.2f} to "
        f"{primary.high:+.2f}). The task that loses most by it loses {worst[SAM]:.1f} points with "
        f"SAM and {worst[USAM]:.1f} with USAM. With ρ tuned for each task the gains are "
        f"{here[SAM].value:+.1f} and {here[USAM].value:+.1f}, USAM minus SAM {apart.value:+.2f} ± "
        f"{apart.half:.2f}: "
        + ("a difference. " if known else "no difference in accuracy is shown. ")
        + f"Against SGD whose step size and stopping time are tuned with the same budget, tuned "
        f"SAM stands at {best.value:+.2f} ± {best.half:.2f} points."
    )


CLAIM = Claim(
    name="robustness",
    title="Real data: one ρ serves many tasks, if SAM is normalized",
    statement=(
        "Over tasks on real data that differ in training size, label noise, batch size, step size, "
        "width and architecture, the ρ that the other tasks pick leaves a task a larger gain over "
        "SGD with normalization (p = 1) than without (p = 0)."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (robustness to hyper-parameters). The endpoint, the gain "
        "that is left with the ρ of all other tasks, the tasks and the methods were fixed before "
        "these runs."
    ),
    paper=(
        "Dai, Ahn and Sra, NeurIPS 2023: normalization makes SAM robust to the choice of its "
        "hyper-parameters."
    ),
    expected="open",
    because=(
        "USAM's length ‖ε‖ = ρ‖g‖ follows the gradient, so one ρ is another length on every task; "
        "what that costs differs from nothing to a network that collapses. The mean over a sample "
        "of tasks can rest on a single one, and its interval over tasks be too wide to decide."
    ),
    measure=measure,
    settings=SETTINGS,
    quick=QUICK,
    full=FULL,
    takes=(3.0, 90.0, 1200.0),
    needs="scikit-learn's digits",
)
