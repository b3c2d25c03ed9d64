"""Claim: what USAM's missing normalization does to accuracy, it does by the length of ε."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.robust_runs import accuracies
from thalweg.lab.claims.robust_tasks import TASKS, task_of
from thalweg.lab.parts import part
from thalweg.lab.problems import Problem
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, Mean, beyond, inside, mean
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role

_USAM, _YOKED, _SHUFFLED, _CONSTANT = (
    "USAM",
    "SAM with another seed's ‖ε‖ of USAM",
    "the same ‖ε‖ in random order",
    "SAM with their mean",
)
_ROLES: dict[str, tuple[Role, bool]] = {
    _USAM: ("p=0", False),
    _YOKED: ("p=1", False),
    _SHUFFLED: ("neutral", True),
    _CONSTANT: ("p=1", True),
}


@dataclass(frozen=True)
class _Task:
    """One task: accuracies by method, (values of ρ, seeds) each.

    Attributes:
        validation: On validation.
        test: On the test.
        sgd: SGD on the test, (seeds,).
        lengths: USAM's ‖ε_t‖ at the best ρ, mean over seeds, (steps,).
        best: The index of USAM's best ρ on validation, a step below the last at most.
        ended: Whether an end of the grid is best, so that the best one may lie beyond.
        diverged: How many of USAM's networks left every bound.
    """

    validation: dict[str, Array]
    test: dict[str, Array]
    sgd: Array
    lengths: Array
    best: int
    ended: bool
    diverged: int


def measure(settings: Settings) -> Evidence:
    """Train with USAM, then with SAM under USAM's lengths; compare in pairs of seeds."""
    tasks = [
        _task(task_of(kind, arguments), name, settings)
        for name, kind, arguments in settings["tasks"]
    ]
    margin = settings["margin"]
    at = 10 ** (np.array(settings["rho"]) / 10)
    far = f"{10 ** (settings['rho'][1] / 10 - settings['rho'][0] / 10):.2g} times that ρ"
    gain = _difference(tasks, 0, lambda t, k: t.test[_USAM][k] - t.sgd)
    loop = [_difference(tasks, step, lambda t, k: _minus(t, k, _YOKED, _USAM)) for step in (0, 1)]
    drop = _difference(tasks, 0, lambda t, k: t.test[_USAM][k + 1] - t.test[_USAM][k])
    shuffled, constant = (_difference(tasks, 0, _between(m)) for m in (_SHUFFLED, _CONSTANT))
    pairs = list(zip(settings["tasks"], tasks, strict=True))
    ended = [name for (name, *_), t in pairs if t.ended]
    checks = [
        _within(f"{_YOKED} minus USAM, at USAM's best ρ", loop[0], margin, ended),
        _within(f"{_YOKED} minus USAM, at {far}", loop[1], margin, ended),
        Check(
            "there is something to explain: USAM at its best ρ minus SGD",
            "above 0",
            _text(gain),
            "95 % t interval above 0",
            beyond(float(gain.low), float(gain.high)),
        ),
    ]
    for what, value in [
        (f"USAM at {far} minus USAM at its best", drop),
        *(
            (f"{one} minus {_YOKED}, at {place}", _difference(tasks, step, _between(one)))
            for one in (_SHUFFLED, _CONSTANT)
            for step, place in ((0, "USAM's best ρ"), (1, far))
        ),
        ("USAM minus SAM, each with its own best on validation", _own(tasks)),
    ]:
        checks.append(Check(what, "none made", _text(value), "none", None, decides=False))
    gone = sum(t.diverged for t in tasks)
    best = ", ".join(f"{name} {at[t.best]:.2g}" for (name, *_), t in pairs)
    text = f"{best}; {gone} of USAM's networks diverged"
    checks.append(Check("USAM's best ρ, by task", "none made", text, "none", None, decides=False))
    return Evidence(
        checks=checks,
        charts=_charts(settings, tasks, at),
        runs=sum(a.size for t in tasks for a in t.test.values()) + len(tasks) * settings["seeds"],
        seeds=list(range(settings["seeds"])),
        dtype="float32",
        found=(
            f"SAM under the lengths ‖ε‖ of another seed's USAM run minus USAM: {_short(loop[0])} "
            f"points at USAM's best ρ and {_short(loop[1])} at {far}, where USAM itself has lost "
            f"{-drop.mean:.1f}. The same lengths in random order, minus that SAM, at USAM's best "
            f"ρ: {_short(shuffled)}; their mean: {_short(constant)} ({len(tasks)} tasks, "
            f"{settings['seeds']} seeds, 95 % t intervals over seeds)."
            + (f" USAM's best ρ is an end of the grid: {', '.join(ended)}." if ended else "")
        ),
    )


def _task(task: Problem, name: str, settings: Settings) -> _Task:
    """Train one task, or take it from an earlier try at this study."""
    made = part(lambda: _trained(task, name, settings), name)
    usam = made["validation"][0].mean(1)
    best = int(usam[:-1].argmax())
    return _Task(
        validation=dict(zip(_ROLES, made["validation"], strict=True)),
        test=dict(zip(_ROLES, made["test"], strict=True)),
        sgd=made["sgd"],
        lengths=made["lengths"][best],
        best=best,
        ended=int(usam.argmax()) in (0, len(usam) - 1),
        diverged=int(made["diverged"]),
    )


def _trained(task: Problem, name: str, settings: Settings) -> dict[str, Array]:
    """USAM over ρ, and SAM under three forms of its lengths; methods as in ``_ROLES``, first."""
    seeds, steps, at = np.arange(settings["seeds"]), settings["steps"], settings["rho"]
    common: dict[str, Any] = {
        "steps": steps,
        "seed": seeds[None, :],
        "observe": {},
        "compile": False,
        "progress": f"yoked: {name}",
    }
    rho = 10 ** (np.array(at)[:, None] / 10)
    usam = simulate(task, rho=rho, power=0.0, lengths=True, **common)
    assert usam.lengths is not None
    # Every seed under the lengths of its neighbour: what it does cannot reach them.
    other = np.roll(usam.lengths, 1, axis=1)
    order = np.random.default_rng(0).permutation(steps)
    mean = np.broadcast_to(other.mean(-1, keepdims=True), other.shape)
    found = [accuracies(task, usam.final, seeds, len(at))]
    for lengths in (other, other[..., order], mean):
        run = simulate(task, replay=lengths, **common)
        found.append(accuracies(task, run.final, seeds, len(at)))
    sgd = simulate(task, **common)
    return {
        "validation": np.stack([pair[0] for pair in found]),
        "test": np.stack([pair[1] for pair in found]),
        "sgd": accuracies(task, sgd.final, seeds, 1)[1][0],
        "lengths": usam.lengths.mean(1),
        "diverged": usam.diverged.sum(),
    }


def _minus(task: _Task, k: int, one: str, other: str) -> Array:
    difference: Array = task.test[one][k] - task.test[other][k]
    return difference


def _between(one: str) -> Any:
    return lambda task, k: _minus(task, k, one, _YOKED)


def _difference(tasks: list[_Task], step: int, of: Any) -> Mean:
    """A difference in points, mean over tasks, so many steps of the grid above USAM's best ρ."""
    return mean(100 * np.mean([of(t, t.best + step) for t in tasks], axis=0))


def _own(tasks: list[_Task]) -> Mean:
    """USAM minus SAM of constant length, each at what its own validation picks."""
    rows = []
    for t in tasks:
        picks = {m: int(t.validation[m].mean(1).argmax()) for m in (_USAM, _CONSTANT)}
        rows.append(t.test[_USAM][picks[_USAM]] - t.test[_CONSTANT][picks[_CONSTANT]])
    return mean(100 * np.mean(rows, axis=0))


def _short(value: Mean) -> str:
    return f"{value.mean:+.2f} ± {value.half:.2f}"


def _text(value: Mean) -> str:
    return f"{_short(value)} points (95 % t interval, n = {value.n} seeds)"


def _within(what: str, value: Mean, margin: float, ended: list[str]) -> Check:
    """Return a check that a difference is smaller than a margin, fixed before."""
    remark = f"; USAM's best ρ is an end of the grid, extend it: {', '.join(ended)}"
    return Check(
        what,
        predicted="none to speak of: the lengths are all that counts",
        measured=_text(value) + (remark if ended else ""),
        tolerance=f"95 % interval within ±{margin:g} point: yes; else, and without 0: no",
        holds=None if ended else inside(float(value.low), float(value.high), margin),
    )


def _charts(settings: Settings, tasks: list[_Task], at: Array) -> list[Chart]:
    axes = []
    for (name, *_), task in list(zip(settings["tasks"], tasks, strict=True))[:3]:
        lines = []
        for title, (role, dash) in _ROLES.items():
            test = task.test[title]
            over = mean(test)
            band = {"low": over.low.tolist(), "high": over.high.tolist()}
            lines.append(
                Line(
                    at.tolist(),
                    over.mean.tolist(),
                    title,
                    role,
                    dash=dash,
                    points="both",
                    **({} if dash else band),
                )
            )
        sgd = float(task.sgd.mean())
        lines.append(Line([at[0], at[-1]], [sgd, sgd], "SGD", "gd", dash=True))
        axes.append(Axes(name, "ρ of USAM", "test accuracy", lines, x_log=True))
    every = max(1, settings["steps"] // 300)
    lengths = tasks[0].lengths[::every]
    step = np.arange(len(lengths)) * every
    axes.append(
        Axes(
            f"USAM's ‖ε‖ at its best ρ: {settings['tasks'][0][0]}",
            "step",
            "‖ε‖, mean over seeds",
            [Line(step.tolist(), lengths.tolist(), _USAM, "p=0")],
        )
    )
    caption = (
        "Test accuracy of USAM over its ρ, and of SAM under USAM's lengths: those of another seed "
        "step by step, the same in random order, and their mean. Bands are 95 % t intervals over "
        "seeds."
    )
    return [Chart(axes, caption)]


CLAIM = Claim(
    name="yoked",
    title="Real data: is it the length of ε alone that USAM changes?",
    statement=(
        "What USAM's missing normalization does to accuracy, it does by the lengths ‖ε‖ along the "
        "training: SAM under the lengths of another seed's USAM run, which cannot answer to its "
        "own gradient, tests within a point of USAM, at USAM's best ρ and beyond it."
    ),
    source=(
        "An experiment of this project: a yoked control. The margin of one point was fixed before "
        "it was run."
    ),
    expected="open",
    because=(
        "At USAM's best ρ the lengths are all that tells USAM from SAM under them but for the "
        "answer to the own gradient, so the margin should hold there. Above it a network trains or "
        "collapses by chance, and the mean of a few such differences has a wide interval."
    ),
    measure=measure,
    settings={
        "tasks": [TASKS[0], TASKS[7]],
        "rho": [-9, -6, -3, 0, 3],
        "seeds": 6,
        "steps": 600,
        "margin": 1.0,
    },
    quick={"tasks": [TASKS[0]], "rho": [-6, -3, 0, 3], "seeds": 4, "steps": 300},
    full={
        "tasks": [TASKS[0], TASKS[2], TASKS[3], TASKS[7]],
        "rho": [-9, -6, -3, 0, 3, 6],
        "seeds": 20,
    },
    takes=(2.0, 8.0, 41.0),
    needs="scikit-learn's digits",
)
