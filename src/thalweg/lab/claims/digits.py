"""Claim: one ρ serves more than one task if SAM is normalized (real handwritten digits)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.ascent import Method
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.digits import Digits
from thalweg.lab.simulate import simulate
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role

Array = np.ndarray[Any, Any]
_ROLES: dict[float, Role] = {0.0: "p=0", 1.0: "p=1", 2.0: "p=2"}


@dataclass(frozen=True)
class Scores:
    """Accuracies of one power: (tasks, radii, seeds); gains are in points over plain SGD."""

    rho: Array
    validation: Array
    test: Array

    def picked(self, seeds: Array) -> Array:
        """The radius picked on validation for each task, by index."""
        return np.asarray(self.validation[:, :, seeds].mean(2).argmax(1))

    def common(self, seeds: Array) -> int:
        """The one radius picked on the validation of all tasks together."""
        return int(self.validation[:, :, seeds].mean((0, 2)).argmax())

    def gain(self, which: Any, sgd: Array, seeds: Array) -> Array:
        """Test gain over SGD of each task at the radii ``which``, in points."""
        tasks = np.arange(len(self.test))
        chosen = self.test[tasks, which][:, seeds]
        return np.asarray(100 * (chosen - sgd[:, seeds]).mean(1))


def measure(settings: Settings) -> Evidence:
    """Train every cell; pick ρ on validation; report on test; intervals over seeds."""
    seeds = np.arange(settings["seeds"])
    tasks = [Digits(label_noise=noise, n_train=settings["n_train"]) for noise in settings["noise"]]
    sgd, longer = (
        np.stack([_train(task, 0.0, 1.0, seeds, turns * settings["steps"])[1] for task in tasks])
        for turns in (1, 2)
    )
    scores = {}
    for power in settings["powers"]:
        low, high = settings["log_rho"][str(power)]
        rho = 10 ** np.arange(low, high + 1e-9, settings["decade"])
        found = [_train(t, rho[:, None], power, seeds[None, :], settings["steps"]) for t in tasks]
        validation, test = (np.stack(parts) for parts in zip(*found, strict=True))
        scores[power] = Scores(rho, validation, test)
    trained = sum(s.test.size for s in scores.values()) + sgd.size + longer.size
    return Evidence(
        checks=_checks(settings, scores, sgd, longer),
        charts=[_accuracy(settings, scores, sgd, longer), _transfer(settings, scores, sgd)],
        runs=trained,
        seeds=seeds.tolist(),
        dtype="float32",
    )


def _train(task: Digits, rho: Any, power: float, seeds: Array, steps: int) -> tuple[Array, Array]:
    """Accuracy on validation and on test for every cell."""
    run = simulate(
        task,
        rho=rho,
        method=Method(power=power),
        steps=steps,
        seed=seeds,
        compile=False,
        progress=f"digits: label noise {task.label_noise:g}, p = {power:g}",
    )
    return run.observed["validation_accuracy"], run.observed["test_accuracy"]


def _interval(settings: Settings, statistic: Any) -> tuple[float, float, float]:
    """A statistic of the seeds with its bootstrap interval (95 %); ρ is picked anew each time."""
    n, rng = settings["seeds"], np.random.default_rng(0)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(settings["bootstrap"])]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(statistic(np.arange(n))), float(low), float(high)


def _checks(
    settings: Settings, scores: dict[float, Scores], sgd: Array, longer: Array
) -> list[Check]:
    n, usam, sam = settings["seeds"], scores[0.0], scores[1.0]
    noisy = int(np.argmax(settings["noise"]))

    def line(what: str, predicted: str, statistic: Any, sign: int, *, decides: bool) -> Check:
        """A check that a difference has a sign; undecided where its interval includes 0."""
        value, low, high = _interval(settings, statistic)
        ends = sorted((sign * low, sign * high))
        return Check(
            what,
            predicted,
            f"{value:+.2f} points [{low:+.2f}, {high:+.2f}], n = {n} seeds",
            f"95 % interval {'above' if sign > 0 else 'below'} 0",
            None if ends[0] <= 0 <= ends[1] else ends[0] > 0,
            decides,
        )

    def transferred(s: Scores, seeds: Array) -> float:
        """Mean gain where each task gets the ρ that the other tasks picked."""
        return float(s.gain(_others(s, seeds), sgd, seeds).mean())

    def regret(s: Scores, seeds: Array) -> float:
        own = s.gain(s.picked(seeds), sgd, seeds)
        return float((own - s.gain(s.common(seeds), sgd, seeds)).mean())

    checks = [
        line(
            "gain over SGD with the ρ that the other task picked, p = 0 minus p = 1 "
            "(the pre-named endpoint)",
            "below 0: USAM's ρ does not carry over, SAM's does",
            lambda s: transferred(usam, s) - transferred(sam, s),
            -1,
            decides=True,
        ),
        line(
            f"label noise {settings['noise'][noisy]:g}: SAM with its own ρ minus SGD with twice "
            "the steps (as many gradients)",
            "above 0",
            lambda s: 100 * (sam.test[noisy, sam.picked(s)[noisy]][s] - longer[noisy, s]).mean(),
            1,
            decides=True,
        ),
        line(
            "both tasks, each with its own ρ: p = 0 minus p = 1",
            "no sign predicted: normalization is not known to make tuned SAM better",
            lambda s: (usam.gain(usam.picked(s), sgd, s) - sam.gain(sam.picked(s), sgd, s)).mean(),
            1,
            decides=False,
        ),
    ]
    everyone = np.arange(n)
    for power, s in scores.items():
        picked = s.picked(everyone)
        at_end = bool(np.isin(picked, (0, len(s.rho) - 1)).any())
        rhos = " and ".join(f"{s.rho[i]:.3g}" for i in picked)
        noises = " and ".join(f"{noise:g}" for noise in settings["noise"])
        checks.append(
            Check(
                f"p = {power:g}: best ρ at label noise {noises}",
                predicted="inside the grid",
                measured=rhos + (" (an end of the grid: extend it)" if at_end else ""),
                tolerance=f"grid of {settings['decade']:g} decade, "
                f"{s.rho[0]:.2g} to {s.rho[-1]:.2g}",
                holds=not at_end,
                decides=False,
            )
        )
        for t, noise in enumerate(settings["noise"]):
            checks.append(
                line(
                    f"p = {power:g}, label noise {noise:g}: gain over SGD with its own ρ",
                    "above 0",
                    lambda seeds, s=s, t=t: s.gain(s.picked(seeds), sgd, seeds)[t],
                    1,
                    decides=False,
                )
            )
        checks.append(
            line(
                f"p = {power:g}: what one ρ for both tasks costs against the best for each",
                "above 0 where a task needs a ρ of its own",
                lambda seeds, s=s: regret(s, seeds),
                1,
                decides=False,
            )
        )
    return checks


def _others(s: Scores, seeds: Array) -> Array:
    """For each task the radius picked on the validation of all the others."""
    mean = s.validation[:, :, seeds].mean(2)
    return np.asarray(((mean.sum(0) - mean) / (len(mean) - 1)).argmax(1))


def _accuracy(settings: Settings, scores: dict[float, Scores], sgd: Array, longer: Array) -> Chart:
    """Test accuracy over ρ, with 95 % t intervals over seeds."""
    axes = []
    for t, noise in enumerate(settings["noise"]):
        lines = []
        for power, s in scores.items():
            mean = s.test[t].mean(1)
            half = _half_width(s.test[t])
            name = f"p = {power:g}" + {0: " (USAM)", 1: " (SAM)", 2: " (‖ε‖ ≤ 1)"}[int(power)]
            lines.append(
                Line(
                    s.rho.tolist(),
                    mean.tolist(),
                    name,
                    _ROLES[power],
                    points="both",
                    low=(mean - half).tolist(),
                    high=(mean + half).tolist(),
                )
            )
        ends = [min(float(s.rho[0]) for s in scores.values())]
        ends.append(max(float(s.rho[-1]) for s in scores.values()))
        lines += [
            Line(ends, [float(level[t].mean())] * 2, name, "gd", dash=dash)
            for level, name, dash in ((sgd, "SGD", False), (longer, "SGD, twice the steps", True))
        ]
        axes.append(Axes(f"label noise {noise:g}", "ρ", "test accuracy", lines, x_log=True))
    return Chart(
        axes,
        "Test accuracy over ρ: mean and 95 % interval over seeds. The same number ρ is another "
        "length for every power; what counts is whether the peak stands at the same ρ in both "
        "panels, and how near the cliff is. SGD with more steps learns the noisy labels by heart; "
        "it is not stopped early here.",
    )


def _half_width(values: Array) -> Array:
    """Half of the 95 % t interval of the mean over the last axis."""
    from scipy import stats  # scikit-learn brings it

    n = values.shape[-1]
    spread = values.std(-1, ddof=1) / n**0.5
    return np.asarray(stats.t.ppf(0.975, n - 1) * spread)


def _transfer(settings: Settings, scores: dict[float, Scores], sgd: Array) -> Chart:
    ways: list[tuple[str, Role, Any]] = [
        ("each task its own ρ", "neutral", lambda s, seeds: s.picked(seeds)),
        ("one ρ for both", "p=1", lambda s, seeds: s.common(seeds)),
        ("the other task's ρ", "p=0", _others),
    ]
    lines = []
    for name, role, way in ways:
        found = [
            _interval(
                settings, lambda s, p=p, way=way: scores[p].gain(way(scores[p], s), sgd, s).mean()
            )
            for p in scores
        ]
        value, low, high = (list(column) for column in zip(*found, strict=True))
        lines.append(Line(list(scores), value, name, role, points="both", low=low, high=high))
    return Chart(
        [Axes("Does ρ carry over?", "power p", "mean test gain over SGD (points)", lines)],
        "The gain over SGD, averaged over both tasks, when ρ is picked on the task itself, on both "
        "together, or on the other task only. Bands are 95 % bootstrap intervals over seeds.",
    )


CLAIM = Claim(
    name="digits",
    title="Real digits: one ρ serves both tasks, if SAM is normalized",
    statement=(
        "On real handwritten digits, with clean and with noisy labels, SAM beats SGD given as many "
        "gradients where labels are noisy; and the ρ picked on one task keeps more of its gain on "
        "the other with normalization (p = 1) than without (p = 0)."
    ),
    source=(
        "Dai, Ahn and Sra, NeurIPS 2023 (robustness to the radius). The endpoint, leaving one task "
        "out, was fixed before these runs."
    ),
    expected="open",
    because=(
        "Label noise: SAM's gain is many times its interval. But two tasks that differ in label "
        "noise alone do not decide whether ρ carries over better with normalization: with 10 seeds "
        "the interval of the endpoint includes 0. (Over ten tasks that also differed in size, "
        "batch and step size, exploratory runs had USAM lose 1.13 ± .81 points.) That "
        "normalization makes tuned SAM more accurate is neither shown nor claimed."
    ),
    measure=measure,
    settings={
        "noise": [0.0, 0.3],
        "n_train": 600,
        "seeds": 10,
        "steps": 600,
        "powers": [0.0, 1.0, 2.0],
        "decade": 0.1,
        "log_rho": {"0.0": [-1.5, 0.4], "1.0": [-2.0, -0.1], "2.0": [-2.6, -0.7]},
        "bootstrap": 2000,
    },
    quick={"seeds": 8, "steps": 300, "decade": 0.3, "bootstrap": 500},
)
