"""What every layer's ε does to the output of its layer, over the width of the network."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from thalweg import parameters, theory
from thalweg.ascent import L2, Ball, Context, Method
from thalweg.ascent.scale import Radii
from thalweg.lab.claims.claim import Settings
from thalweg.lab.here import norms
from thalweg.lab.parts import part
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, mean
from thalweg.lab.wide import WideDigits, training_set
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role


def one_ball(task: WideDigits) -> Ball:
    """One Euclidean ball for all the matrices W = s·w together, told in terms of w."""
    return L2(scale=Radii(tuple(1 / s for s in task.scales)))


def own_balls(task: WideDigits) -> Ball:
    """A Euclidean ball for every matrix W, of the radius that the rule for the width gives."""
    radii = [theory.rho_for_width(1.0, *fans) for fans in task.shapes]
    reaches = tuple(r / s for r, s in zip(radii, task.scales, strict=True))
    return L2(scale=Radii(reaches), over="tensor")


_LAYERS = ("first", "hidden", "last")
#: Name, how the ball is made, predicted slopes of the layers' effects, and role in the figures.
#: One ball around all the weights is what SAM has as a rule.
WAYS: list[tuple[str, Callable[[WideDigits], Ball], tuple[float, ...], Role]] = [
    ("one ball", one_ball, (-1.5, -0.5, 0.5), "p=1"),
    ("a ball each", own_balls, (0.0, 0.0, 0.0), "neutral"),
]


def effects(settings: Settings) -> dict[str, Array]:
    """Measure the root mean square change of every layer's output by its own ε, over ρ.

    Args:
        settings: ``task``, ``widths``, ``looks`` (steps of training before the measurement),
            ``probe_seeds`` and ``probe_images`` (how many images the gradient is of).

    Returns:
        By way of perturbing, an array (looks, widths, seeds, layers).
    """
    looks, widths = settings["looks"], settings["widths"]
    found = [
        [part(functools.partial(_probe, settings, steps, w), steps, w) for w in widths]
        for steps in looks
    ]
    return {name: np.array([[one[name] for one in row] for row in found]) for name, *_ in WAYS}


def _probe(settings: Settings, steps: int, width: int) -> dict[str, Array]:
    task = WideDigits(width=width, **settings["task"])
    rows: dict[str, list[list[float]]] = {name: [] for name, *_ in WAYS}
    for seed in range(settings["probe_seeds"]):
        run = simulate(task, steps=steps, seed=[seed], compile=False, observe={}, progress="")
        params = {k: torch.from_numpy(v) for k, v in run.final.items()}
        x, labels = (t[:, : settings["probe_images"]] for t in training_set(task, seed))
        gradient = [*task.gradient(params, (x, labels)).values()]
        # What goes into a layer is left as it is: this is the layer's own effect.
        ins = task.inputs(params, x)[:-1]
        for name, make, *_ in WAYS:
            method, rho = Method(ball=make(task)), torch.tensor([1.0])
            context = Context(norm=parameters.cell_norms, norms=norms, cells=1)
            p = method.perturbation(gradient, rho, context=context)
            factor = torch.as_tensor(p.factor).view(-1, 1, 1)
            changes = [
                s * torch.bmm(i, factor * d)
                for s, i, d in zip(task.scales, ins, p.direction, strict=True)
            ]
            rows[name].append([float(change.square().mean().sqrt()) for change in changes])
    return {name: np.array(found) for name, found in rows.items()}


def _slopes(settings: Settings, effects: Array) -> Array:
    """Slope of every seed's effects over the width, both logarithmic: (seeds, layers)."""
    x = np.log(settings["widths"])
    y = np.log(np.maximum(effects, 1e-300))
    x = x - x.mean()
    return np.asarray(np.einsum("w,wsl->sl", x, y) / (x @ x))


def flat(
    settings: Settings, name: str, law: tuple[float, ...], effects: dict[str, Array]
) -> list[Check]:
    """Compare every layer's slope over the width with the law.

    Args:
        settings: Those of :func:`effects`, and ``slope_error``.
        name: The way of perturbing.
        law: The slopes predicted, layer by layer.
        effects: What :func:`effects` gave.

    Returns:
        One check for every look.
    """
    checks, allowed, widths = [], settings["slope_error"], settings["widths"]
    for steps, found in zip(settings["looks"], effects[name], strict=True):
        each = mean(_slopes(settings, found).T)
        off = np.abs(each.mean - np.array(law))
        checks.append(
            Check(
                f"{name}, after {steps} steps, width {widths[0]} to {widths[-1]}: what ε changes "
                f"in the output of the {', '.join(_LAYERS)} layer goes as the width to the power",
                predicted=", ".join(f"{value:+g}" for value in law),
                measured=", ".join(
                    f"{value:+.2f} ± {h:.2f}" for value, h in zip(each.mean, each.half, strict=True)
                )
                + f" (t, 95 %, n = {each.n} seeds)",
                tolerance=f"{allowed:g} each",
                holds=bool((off <= allowed).all()),
            )
        )
    return checks


def effect_axes(settings: Settings, effects: dict[str, Array]) -> list[Axes]:
    """Return one pair of axes a layer: its effect over the width, and the laws through the first.

    Args:
        settings: Those of :func:`effects`.
        effects: What :func:`effects` gave, of which the last look is shown.

    Returns:
        The axes.
    """
    widths, axes = np.array(settings["widths"]), []
    for i, layer in enumerate(_LAYERS):
        lines = []
        for name, _, law, role in WAYS:
            middle = np.exp(np.log(np.maximum(effects[name][-1, ..., i], 1e-300)).mean(1))
            predicted = middle[0] * (widths / widths[0]) ** law[i]
            lines += [
                Line(widths.tolist(), middle.tolist(), name, role, points="both"),
                Line(widths.tolist(), predicted.tolist(), "law", "theory", dash=True),
            ]
        axes.append(
            Axes(
                f"ε's effect: {layer} layer",
                "width",
                "change of its output, over ρ",
                lines,
                x_log=True,
                y_log=True,
                y_range=(1e-4, 1e2),
            )
        )
    return axes
