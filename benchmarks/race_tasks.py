"""The tasks of the race, and a preset trained on one: all its rho and seeds as one ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg import Method, lab, presets
from thalweg.lab.problems import Problem

Array = np.ndarray[Any, Any]
Params = dict[str, Tensor]

#: What a preset must be told that has no default; `total` is how many steps there are.
MICRO = 4
WARM = 0.1
#: Where the grid of ρ begins, 2 log₁₀ ρ; what is not named begins at ρ = .01.
BEGINS = {
    "usam": -3,
    "power": -6,
    "asam": -2,
    "asam_all": -2,
    "spectral_radius": -5,
    "modern": -5,
    "spectral_ball": -7,
    "trust_ratio": -5,
    "largest_entry": -5,
    "adam_metric": -6,
}
BEGIN, VALUES, ADDED = -4, 6, 2
#: How the learning rate of a rival may differ from the task's own.
RATES = (1 / 3, 1.0, 3.0)
#: A rival trains for so many times the steps, and is looked at so often in between.
HORIZON, LOOKS = 4, 20
#: On the text, chosen before the first run: one for each thing that a preset can change.
ON_TEXT = ("sam", "asam", "per_tensor", "surrogate_gap", "late", "momentum")
#: The simulator knows of no layers by kind, and keeps no second moment.
IN_TORCH = {"normalization_only": "sgd", "adam_metric": "adamw"}


class AsTorch(Problem):
    """Digits whose tensors lie as torch's layers have them: outputs first, vectors for biases.

    The laboratory's own have the inputs first and biases of two dimensions, which is another
    network to whoever scales by fans, leaves out vectors or goes by rows.

    Args:
        inner: The task.
    """

    dtype = torch.float32
    elementwise = False
    quantities = ("validation_accuracy", "test_accuracy")

    def __init__(self, inner: lab.Digits) -> None:
        self.inner, self.eta, self.momentum = inner, inner.eta, inner.momentum

    @staticmethod
    def theirs(params: Params) -> Params:
        """Return the tensors as torch's layers have them."""
        return {
            "0.weight": params["weight1"].mT.contiguous(),
            "0.bias": params["bias1"].squeeze(1),
            "2.weight": params["weight2"].mT.contiguous(),
            "2.bias": params["bias2"].squeeze(1),
        }

    @staticmethod
    def ours(params: Params) -> Params:
        """Return the tensors as the laboratory has them."""
        return {
            "weight1": params["0.weight"].mT,
            "bias1": params["0.bias"].unsqueeze(1),
            "weight2": params["2.weight"].mT,
            "bias2": params["2.bias"].unsqueeze(1),
        }

    def start(self, seeds: Tensor) -> Params:
        return self.theirs(self.inner.start(seeds))

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        return self.inner.loss(self.ours(params), batch)

    def gradient(self, params: Params, batch: Any = None) -> Params:
        return self.theirs(self.inner.gradient(self.ours(params), batch))

    def stream(self, seeds: Tensor) -> Callable[[int], Any]:
        return self.inner.stream(seeds)

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        return self.inner.final_loss(self.ours(params), seeds)

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        return lab.Digits.observe(self.inner, self.ours(params), seeds)


@dataclass(frozen=True)
class Task:
    """What is trained on.

    Attributes:
        name: Of its files.
        title: In words.
        noise: The share of labels drawn anew, or ``None`` for the text.
        layers: Whether it is the small torch network with a normalization layer.
    """

    name: str
    title: str
    noise: float | None
    layers: bool = False

    def problem(self, micro: int | None = None) -> Problem:
        """Return the problem for the simulator, with so many micro-batches a batch."""
        if self.noise is None:
            return lab.Text()
        if micro is None:
            return AsTorch(lab.Digits(label_noise=self.noise))
        return AsTorch(lab.MicroDigits(64 // micro, label_noise=self.noise))

    @property
    def runners(self) -> list[str]:
        """The presets that are trained here."""
        if self.layers:
            return [f"{base} {name}" for name, base in IN_TORCH.items() for name in ("sam", name)]
        known = [card.name for card in presets.cards() if card.name not in IN_TORCH]
        return [n for n in known if n in ON_TEXT] if self.noise is None else known

    @property
    def bases(self) -> list[str]:
        """The rivals that take one gradient a step."""
        return ["sgd", "adamw"] if self.layers else ["sgd"]


TASKS = (
    Task("clean", "Digits", 0.0),
    Task("noisy", "Digits, 30 % of the labels drawn anew", 0.3),
    Task("text", "Text", None),
    Task("layers-clean", "Digits, a network with BatchNorm", 0.0, layers=True),
    Task("layers-noisy", "Digits, a network with BatchNorm, 30 % label noise", 0.3, layers=True),
)


def method_of(name: str, steps: int) -> Method:
    """Return a preset by name, told what it must be told for so many steps."""
    given = {"total": steps, "first": max(1, round(WARM * steps)), "m": 64 // MICRO, "m_ref": 64}
    card = presets.card(name)
    told = {k: given[k] for k in card.arguments if k not in card.defaults}
    return getattr(presets, name)(**told)  # type: ignore[no-any-return]


def gradients(method: Method, share: float) -> float:
    """Return how many gradients a step takes if this share of the steps is perturbed."""
    return 1 + share * (method.passes - 1) if method.looks else float(method.passes)


def first_grid(name: str) -> list[int]:
    """Return the grid that a preset begins with, 2 log₁₀ ρ."""
    begin = BEGINS.get(name.rpartition(" ")[2], BEGIN)
    return list(range(begin, begin + VALUES))


#: One entry for each ρ: validation and test at the end, by seed; how many seeds diverged; the share
#: of perturbed steps; of the look with the best mean validation that mean, test by seed, and step.
Trained = dict[str, list[Any]]


def pace(steps: int) -> int:
    """Return from how many steps to how many a training is looked at, the last step included."""
    return 1 if steps % LOOKS else steps // LOOKS


def trained(
    task: Task, name: str, halves: list[int], steps: int, seeds: int, method: Method | None = None
) -> Trained:
    """Train a preset at some ρ, given as 2 log₁₀ ρ, with all seeds as one ensemble."""
    method = method_of(name, steps) if method is None else method
    problem = task.problem(MICRO if name == "micro_batch" else None)
    rho = 10 ** (np.array(halves)[:, None] / 2)
    every = pace(steps)
    watch = {k: lab.History(f"{k}_accuracy", every=every) for k in ("validation", "test")}
    result = lab.simulate(
        problem,
        rho=rho,
        seed=np.arange(seeds),
        method=method,
        steps=steps,
        lengths=True,
        observe=watch,
        progress="",
    )
    lengths = result.lengths
    assert lengths is not None
    moved = np.where(np.isfinite(lengths), lengths > 0, np.nan)
    always = method.gate == Method().gate
    with np.errstate(invalid="ignore"):
        share = np.nanmean(moved, axis=(1, 2)) if not always else np.ones(len(halves))
    seen = {k: result.observed[k].astype(float) for k in watch}
    found = {k: np.where(result.diverged[..., None], 0.0, v) for k, v in seen.items()}
    at = found["validation"].mean(1).argmax(1)
    which = np.arange(len(halves))
    return {
        "validation": found["validation"][..., -1].tolist(),
        "test": found["test"][..., -1].tolist(),
        "stop validation": found["validation"].mean(1)[which, at].tolist(),
        "stop test": found["test"][which, :, at].tolist(),
        "stop step": (at * every).tolist(),
        "diverged": result.diverged.sum(1).tolist(),
        "share": share.tolist(),
    }


def best(validation: Any) -> int:
    """Return which ρ has the largest validation accuracy, a mean or one for each seed.

    Of equals it is the largest ρ.
    """
    mean = np.asarray(validation)
    mean = mean.mean(-1) if mean.ndim > 1 else mean
    return len(mean) - 1 - int(mean[::-1].argmax())


def tuned(
    train: Callable[[list[int]], Trained], halves: list[int], extensions: int
) -> tuple[list[int], Trained]:
    """Train over a grid, and over more of it as long as the best lies at an end.

    Args:
        train: Trains at some ρ, given as 2 log₁₀ ρ.
        halves: The grid to begin with.
        extensions: How often it may grow.

    Returns:
        The grid at last, and what was found on it.
    """
    found = train(halves)
    for _ in range(extensions):
        at = best(found["validation"])
        if 0 < at < len(halves) - 1:
            break
        if at == 0:
            more = list(range(halves[0] - ADDED, halves[0]))
            new = train(more)
            halves, found = more + halves, {k: new[k] + found[k] for k in found}
        else:
            more = list(range(halves[-1] + 1, halves[-1] + 1 + ADDED))
            new = train(more)
            halves, found = halves + more, {k: found[k] + new[k] for k in found}
    return halves, found


def rival(task: Task, steps: int, seeds: int) -> dict[str, Any]:
    """Train SGD with momentum at three learning rates, and look at it again and again.

    The learning rate is constant: a longer run passes through what a shorter one would end with.
    """
    problem = task.problem()
    assert problem.eta is not None
    rates = [problem.eta * rate for rate in RATES]
    every = pace(steps)
    total = HORIZON * steps
    watch = {k: lab.History(f"{k}_accuracy", every=every) for k in ("validation", "test")}
    result = lab.simulate(
        problem,
        eta=np.array(rates)[:, None],
        seed=np.arange(seeds),
        steps=total,
        observe=watch,
        progress="",
    )
    found: dict[str, Any] = {"rates": rates, "looks": list(range(0, total + 1, every))}
    for k in watch:
        kept = np.where(result.diverged[..., None], 0.0, result.observed[k])
        found[k] = kept.round(6).tolist()
    return found


def nearest(looks: list[int], steps: float) -> int:
    """Return which look is nearest to a number of steps; the last one beyond them all."""
    if math.isinf(steps):
        return len(looks) - 1
    return int(np.abs(np.array(looks) - steps).argmin())
