"""Claim: a ball for every tensor, of the right radius, makes ρ independent of the width."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from thalweg.ascent import Method
from thalweg.ascent.ball import Ball
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.claims.tuned import Curve, ended
from thalweg.lab.claims.width_effects import WAYS, effect_axes, effects, flat
from thalweg.lab.observe import Final, Observer
from thalweg.lab.parts import part
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, inside, interval
from thalweg.lab.wide import WideDigits
from thalweg.results import Axes, Chart, Check, Line


def measure(settings: Settings) -> Evidence:
    """Measure what every layer's ε does over the width, and where ρ is best."""
    found = effects(settings)
    curves = {name: _tune(settings, name, make) for name, make, *_ in WAYS}
    slopes = {name: _best_slope(settings, curves[name]) for name in curves}
    trained = sum(c.test.size for ways in curves.values() for c in ways.values())
    probed = len(settings["widths"]) * settings["probe_seeds"] * len(settings["looks"])
    return Evidence(
        checks=[
            *(check for name, _, law, _ in WAYS for check in flat(settings, name, law, found)),
            *(_kept(settings, name, curves[name], slopes[name]) for name in curves),
            *_gained(settings, curves),
        ],
        charts=[_chart(settings, found, curves)],
        runs=probed + trained,
        seeds=list(range(max(settings["seeds"], settings["probe_seeds"]))),
        dtype="float32",
        found=_found(settings, curves, slopes),
    )


def _tune(settings: Settings, name: str, make: Callable[[WideDigits], Ball]) -> dict[int, Curve]:
    """Accuracies over ρ and seeds, by width."""
    curves = {}
    for width in settings["tuned_widths"]:
        made = part(functools.partial(_accuracies, settings, name, make, width), name, width)
        curves[width] = Curve(made["rho"], made["validation"], made["test"])
    return curves


def _accuracies(
    settings: Settings, name: str, make: Callable[[WideDigits], Ball], width: int
) -> dict[str, Array]:
    task, steps = WideDigits(width=width, **settings["task"]), settings["steps"]
    low, high = settings["log_rho"][name]
    rho = 10 ** np.arange(low, high + 1e-9, settings["decade"])
    watch: dict[str, Observer] = {
        "validation": Final("validation_accuracy", every=steps),
        "test": Final("test_accuracy", every=steps),
    }
    run = simulate(
        task,
        rho=rho[:, None],
        method=Method(ball=make(task)),
        steps=steps,
        seed=np.arange(settings["seeds"])[None, :],
        observe=watch,
        compile=False,
        progress=f"width: {name}, {width}",
    )
    return {"rho": rho, **run.observed}


def _best_slope(settings: Settings, curves: dict[int, Curve]) -> tuple[float, float, float]:
    """Slope of the best ρ over the width, both logarithmic, with its interval."""
    x = np.log10([*curves])

    def slope(seeds: Array) -> float:
        return float(np.polyfit(x, [curve.best(seeds) for curve in curves.values()], 1)[0])

    return interval(settings, slope)


def _kept(
    settings: Settings, name: str, curves: dict[int, Curve], slope: tuple[float, float, float]
) -> Check:
    """Whether the best ρ stays where it is."""
    value, low, high = slope
    everyone, decides = np.arange(settings["seeds"]), name == "a ball each"
    best = ", ".join(f"{10 ** curve.best(everyone):.2g}" for curve in curves.values())
    at_end, remark = ended(settings, curves.values())
    allowed = settings["in_place"]
    return Check(
        f"{name}: the best ρ at width {', '.join(map(str, curves))} is {best}{remark}; "
        "it goes as the width to the power",
        predicted="0" if decides else "none made",
        measured=f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        f", n = {settings['seeds']} seeds, {settings['steps']} steps",
        tolerance=f"95 % interval within {allowed:g} of 0: yes; else, and without 0: no"
        if decides
        else "none",
        holds=inside(low, high, allowed) if decides and not at_end else None,
        decides=decides,
    )


def _ahead(a: Curve, b: Curve, seeds: Array) -> float:
    """Test accuracy of the one minus that of the other, each at its best ρ, in points."""
    return a.points(seeds, a.best(seeds)) - b.points(seeds, b.best(seeds))


def _gained(settings: Settings, curves: dict[str, dict[int, Curve]]) -> list[Check]:
    """Whether the rule's balls also make a better SAM, each way at its own best ρ."""
    one, own = (curves[name] for name, *_ in WAYS)
    checks = []
    for width in settings["tuned_widths"][-1:]:
        a, b = own[width], one[width]
        value, low, high = interval(settings, functools.partial(_ahead, a, b))
        checks.append(
            Check(
                f"width {width}: test accuracy with a ball each minus one ball, each at its best ρ",
                predicted="none made",
                measured=f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"
                f", n = {settings['seeds']} seeds",
                tolerance="none",
                holds=None,
                decides=False,
            )
        )
    return checks


def _chart(
    settings: Settings, found: dict[str, Array], curves: dict[str, dict[int, Curve]]
) -> Chart:
    return Chart(
        [*effect_axes(settings, found), _best_axes(settings, curves)],
        "What each layer's ε does to its output, over the width, beside the law (dashed). By it, "
        "with one ball around all the weights a wider network is perturbed in its last layer "
        "alone, and with a ball for every matrix, of radius ρ√(fan out/fan in), in all alike. "
        "Last: the best ρ over the width; bands are 95 % bootstrap intervals over seeds.",
    )


def _best_axes(settings: Settings, curves: dict[str, dict[int, Curve]]) -> Axes:
    lines = []
    for name, _, _, role in WAYS:
        found = [interval(settings, curve.best) for curve in curves[name].values()]
        value, low, high = (list(10 ** np.array(column)) for column in zip(*found, strict=True))
        widths = [*curves[name]]
        lines.append(Line(widths, value, name, role, points="both", low=low, high=high))
    return Axes("The best ρ", "width", "ρ", lines, x_log=True, y_log=True)


def _found(
    settings: Settings,
    curves: dict[str, dict[int, Curve]],
    slopes: dict[str, tuple[float, float, float]],
) -> str:
    told = " and ".join(
        f"width^{value:+.2f} [{low:+.2f}, {high:+.2f}] with {name}"
        + ended(settings, curves[name].values())[1]
        for name, (value, low, high) in slopes.items()
    )
    widths = settings["tuned_widths"]
    return (
        f"From width {widths[0]} to {widths[-1]} the best ρ on digits went as {told}; "
        f"95 % bootstrap over {settings['seeds']} seeds."
    )


CLAIM = Claim(
    name="width",
    title="Does a ball for every tensor keep the best ρ in place as networks widen?",
    statement=(
        "In a network whose training does not depend on its width, one ball around all the weights "
        "perturbs the last layer alone as the width grows: each layer's own effect goes as the "
        "width to the power −3/2, −1/2 and +1/2. With a ball for every matrix, of radius "
        "ρ√(fan out/fan in), every layer's effect stays, and the best ρ stays in place."
    ),
    source="Derived here. The subject of Haas et al., 2024.",
    expected="open",
    because=(
        "The layers' effects are arithmetic. Where ρ is best depends on more than their sizes, and "
        "the widths over which ρ can be tuned are too few, and too close to one another, for a "
        "narrow interval of the slope: only the full study has a verdict on it."
    ),
    full_expected="does not hold",
    measure=measure,
    settings={
        "task": {
            "n_train": 600,
            "label_noise": 0.3,
            "batch_size": 64,
            "eta": 0.05,
            "momentum": 0.9,
        },
        "widths": [64, 128, 256, 512, 1024],
        "looks": [0, 100],
        "probe_seeds": 3,
        "probe_images": 100,
        "slope_error": 0.15,
        "tuned_widths": [32, 64, 128],
        "log_rho": {"one ball": [-1.0, 0.0], "a ball each": [-1.3, 0.0]},
        "decade": 0.1,
        "seeds": 5,
        "steps": 200,
        "bootstrap": 500,
        "in_place": 0.15,
    },
    quick={
        "widths": [64, 128, 256, 512],
        "looks": [0],
        "tuned_widths": [32, 64],
        "decade": 0.2,
        "seeds": 3,
        "bootstrap": 200,
    },
    full={
        "widths": [64, 128, 256, 512, 1024, 2048, 4096],
        "tuned_widths": [32, 64, 128, 256],
        "log_rho": {"one ball": [-1.3, 0.3], "a ball each": [-1.6, 0.4]},
        "seeds": 10,
        "bootstrap": 1000,
    },
    derived="ρ√(fan out/fan in) for every matrix keeps the effect of each layer at every width.",
    takes=(2.0, 21.0, 180.0),
    needs="scikit-learn's digits",
)
