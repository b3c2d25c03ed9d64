"""The tasks and the methods of the claim about robustness on real data, as plain data."""

from __future__ import annotations

from typing import Any

from thalweg.lab.claims.claim import Settings
from thalweg.lab.convnet import DigitsConv
from thalweg.lab.digits import Digits
from thalweg.lab.problems import Problem
from thalweg.lab.text import Text

KINDS: dict[str, type[Problem]] = {"perceptron": Digits, "convnet": DigitsConv, "text": Text}


def task_of(kind: str, arguments: Settings) -> Problem:
    """Return a task as the settings describe it."""
    return KINDS[kind](**arguments)


def label(power: float, cap: float | None) -> str:
    """Return what a method is called."""
    return f"p = {power:g}" + (f", ‖ε‖ ≤ {cap:g}" if cap is not None else "")


def noisy(settings: Settings) -> list[int]:
    """Return the tasks with wrong labels."""
    rows = enumerate(settings["tasks"])
    return [t for t, (_, _, arguments) in rows if arguments.get("label_noise")]


def left_out(settings: Settings) -> str:
    """Return the tasks and methods that a full study has beside these; empty if there are none."""
    names = {name for name, *_ in settings["tasks"]}
    titles = {label(*row[:2]) for row in settings["methods"]}
    tasks = [name for name, *_ in TASKS if name not in names]
    methods = [t for t in (label(*row[:2]) for row in METHODS) if t not in titles]
    missing = (("tasks", tasks), ("methods", methods))
    return " and ".join(f"the {what} ({'; '.join(left)})" for what, left in missing if left)


_NOISY: Settings = {"label_noise": 0.3}
#: Name, kind and arguments; what is not told is as in :class:`thalweg.lab.Digits`.
TASKS: list[list[Any]] = [
    ["30 % noise", "perceptron", _NOISY],
    ["no noise", "perceptron", {}],
    ["60 % noise", "perceptron", {"label_noise": 0.6}],
    ["200 images", "perceptron", {**_NOISY, "n_train": 200}],
    ["1200 images", "perceptron", {**_NOISY, "n_train": 1200}],
    ["batches of 16", "perceptron", {**_NOISY, "batch_size": 16}],
    ["batches of 256", "perceptron", {**_NOISY, "batch_size": 256}],
    ["η = .01", "perceptron", {**_NOISY, "eta": 0.01}],
    ["η = .1", "perceptron", {**_NOISY, "eta": 0.1}],
    ["200 images, no noise", "perceptron", {"n_train": 200}],
    ["convnet", "convnet", {"width": 16}],
    ["convnet, 30 % noise", "convnet", {**_NOISY, "width": 16}],
    ["width 128", "perceptron", {**_NOISY, "width": 128}],
    ["1200 images, 60 % noise", "perceptron", {"label_noise": 0.6, "n_train": 1200}],
    ["text", "text", {"n_train": 4096, "batch_size": 8, "context": 16, "width": 16}],
]
#: Power, cap on ‖ε‖, and the ends of the coarse grid: 10 log₁₀ ρ.
METHODS: list[list[Any]] = [
    [0.0, None, -15, 3],
    [0.5, None, -18, 0],
    [1.0, None, -21, -3],
    [1.5, None, -24, -6],
    [2.0, None, -27, -6],
    [1.5, 1.0, -24, -6],
    [2.0, 1.0, -27, -6],
]
#: The three that a standard study compares.
STANDARD = [METHODS[0], METHODS[2], METHODS[6]]
SETTINGS: Settings = {
    "steps": 600,
    "fine": 2,  # steps of .1 decade on either side of a pick on the coarse grid
    "extend": 4,  # how often the coarse grid may grow
    "gain": 0.01,  # of accuracy: less is no reason to look for smaller ρ
    "eta": [-9, 7],  # SGD's step sizes: 10 log₁₀ of multiples of the task's own, by .3 decade
    "look": 20,  # steps between two chances to stop SGD
    "looks": 15,  # at ‖g‖ along a training
    "matched": [0.1, 0.3, 0.6, 1.0],
    "bootstrap": 2000,
    "tasks": TASKS[:12],
    "methods": STANDARD,
    "seeds": 3,
}
QUICK: Settings = {
    "tasks": [TASKS[0], TASKS[5], TASKS[7]],
    "methods": STANDARD[:2],
    "steps": 300,
    "fine": 0,
    "extend": 0,
    "bootstrap": 500,
}
FULL: Settings = {"tasks": TASKS, "methods": METHODS, "seeds": 10}
