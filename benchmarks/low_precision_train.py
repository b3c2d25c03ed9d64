"""SAM where 16 bits swallow ε: the settings, the cures, and an ensemble that is trained with them.

All seeds of a setting, a cure and a radius are one program: every tensor has the seeds first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.ascent.draws import mixed
from thalweg.lab import Digits
from thalweg.lab.parts import Arrays
from thalweg.lab.problems import Problem
from thalweg.parameters import cell_norms

Tensors = list[Tensor]

#: Steps between two looks at how much of ε is left.
LOOK = 20
#: Steps for which the factor of a wider radius is kept: a median takes as long as a gradient.
AGAIN = 10
BF16 = torch.bfloat16


class Setting(NamedTuple):
    """Where there are 16 bits.

    Attributes:
        weights: What the optimizer steps, and its momentum.
        seen: What the model is made of; ``None`` for the weights themselves.
        autocast: Whether it computes under autocast to bfloat16.
        digits: Binary digits of what the model is made of, the leading one included: 8 are
            bfloat16, 24 float32; 4 are those of float8 (e4m3), here with exponents to spare.
    """

    weights: torch.dtype
    seen: torch.dtype | None = None
    autocast: bool = False
    digits: int = 8


SETTINGS = {
    "copy": Setting(torch.float32, BF16),
    "pure": Setting(BF16),
    "autocast": Setting(torch.float32, autocast=True),
    "four": Setting(torch.float32, BF16, digits=4),
    "float32": Setting(torch.float32, digits=24),
}


def nearest(w: Tensor, digits: int) -> Tensor:
    """Round float32 to so many binary digits, to even where two are as near."""
    if digits == 24:
        return w
    if digits == 8:
        return w.to(BF16).float()
    bits, drop = w.contiguous().view(torch.int32), 24 - digits
    to_even = (bits >> drop) & 1
    return ((bits + (2 ** (drop - 1) - 1) + to_even) & -(2**drop)).view(torch.float32)


def stochastic(w: Tensor, digits: int, *numbers: int) -> Tensor:
    """Round every entry up or down, with the chances that keep its mean.

    Args:
        w: float32.
        digits: Binary digits to round to; 8 are bfloat16.
        numbers: Such as a seed and a step: the choices belong to them alone, and torch's
            generators are not touched.
    """
    draw = torch.Generator().manual_seed(mixed(*numbers))
    drop = 24 - digits
    chance = torch.randint(0, 2**drop, w.shape, generator=draw, dtype=torch.int32)
    # What is added to the bits to be dropped carries into those to be kept as often as they are
    # large, towards the larger size whatever the sign.
    return ((w.contiguous().view(torch.int32) + chance) & -(2**drop)).view(torch.float32)


def half_ulp(w: Tensor, digits: int) -> Tensor:
    """Return half the distance from every entry to the next number of so many binary digits."""
    return torch.ldexp(torch.ones_like(w), torch.frexp(w).exponent - digits - 1)


def widening(w: Tensors, epsilon: Tensors, digits: int) -> Tensor:
    """Return for every cell by how much ε must grow for half of its entries to move; at least 1."""
    pairs = zip(w, epsilon, strict=True)
    found = [(half_ulp(p, digits) / e.abs()).flatten(1) for p, e in pairs]
    every = torch.cat(found, 1)
    every = every.masked_fill(every.isinf(), math.nan)  # entries that are not to move
    return every.nanmedian(1).values.nan_to_num(1.0).clamp(min=1.0)


def spread(number: Tensor, like: Tensor) -> Tensor:
    """Let one number for every cell be multiplied with a tensor."""
    return number.view(-1, *[1] * (like.ndim - 1))


class Rounder:
    """Puts w + ε on the grid of bfloat16, by one of the cures.

    Args:
        cure: Which; ``"none"`` rounds to nearest, ``"exact"`` not at all.
        digits: How many binary digits are left.
    """

    def __init__(self, cure: str, digits: int) -> None:
        self.cure, self.digits = cure, digits
        self._rest: Tensors = []
        self._factor = torch.ones(())

    def __call__(self, w: Tensors, epsilon: Tensors, step: int) -> Tensors:
        """Return the point where the gradient is taken, in float32.

        Args:
            w: Where ε starts, float32.
            epsilon: As it was meant.
            step: How many steps went before.
        """
        if self.cure == "carry":
            return self._carried(w, epsilon)
        if self.cure == "wider":
            if step % AGAIN == 0:
                self._factor = widening(w, epsilon, self.digits)
            epsilon = [spread(self._factor, e) * e for e in epsilon]
        there = [p + e for p, e in zip(w, epsilon, strict=True)]
        if self.cure == "exact":
            return there
        if self.cure == "stochastic":
            return [stochastic(t, self.digits, step, i) for i, t in enumerate(there)]
        return [nearest(t, self.digits) for t in there]

    def _carried(self, w: Tensors, epsilon: Tensors) -> Tensors:
        rest = self._rest or list(map(torch.zeros_like, epsilon))
        wanted = [e + r for e, r in zip(epsilon, rest, strict=True)]
        there = [nearest(p + d, self.digits) for p, d in zip(w, wanted, strict=True)]
        moved = [t - nearest(p, self.digits) for t, p in zip(there, w, strict=True)]
        self._rest = [d - m for d, m in zip(wanted, moved, strict=True)]
        return there


class Fidelity:
    """Collects how much of ε was left, seed by seed: share moved, cosine, gain."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def add(self, meant: Tensors, real: Tensors) -> None:
        """Look at one step; see :meth:`thalweg.SAM.fidelity` for the three."""
        sums = torch.zeros(5, len(meant[0]), dtype=torch.float64)
        for m, r in zip(meant, real, strict=True):
            m, r = m.flatten(1), r.flatten(1)
            each = ((r != 0).sum(1), (m != 0).sum(1))
            each += ((r * m).sum(1), (r * r).sum(1), (m * m).sum(1))
            sums = sums + torch.stack([s.double() for s in each])
        moved, wanted, along, reals, meants = sums
        cosine = torch.where(along != 0, along / (reals * meants).sqrt(), 0.0)
        self._found.append(torch.stack([moved / wanted, cosine, along / meants]))

    def means(self) -> Arrays:
        """Return the means over the steps that were looked at."""
        every = torch.stack(self._found) if self._found else torch.full((1, 3, 1), math.nan)
        share, cosine, gain = every.nanmean(0).numpy()
        return {"share": share, "cosine": cosine, "gain": gain}


class Ensemble:
    """One network for every seed, trained in one setting with one cure at one radius.

    Args:
        task: What is learned.
        setting: Where there are 16 bits.
        cure: What is done about them; ``"master"`` adds ε to the float32 weights.
        rho: The radius; 0 is SGD.
        seeds: One network for each.
    """

    def __init__(
        self, task: Problem, setting: Setting, cure: str, rho: float, seeds: Sequence[int]
    ) -> None:
        self.task, self.setting, self.rho = task, setting, rho
        self.seeds = torch.tensor(seeds)
        start = task.start(self.seeds)
        self.names = list(start)
        self.weights = [p.to(setting.weights) for p in start.values()]
        self.momenta: Tensors = []
        self.fidelity = Fidelity()
        self._cure = cure
        # Autocast itself rounds to nearest.
        exact = setting.digits == 24 or (setting.autocast and cure == "none")
        rounded = "none" if cure == "master" else cure
        self._round = Rounder("exact" if exact else rounded, setting.digits)
        self._stream = task.stream(self.seeds)

    def seen(self, weights: Tensors) -> Tensors:
        """Return weights as the model has them."""
        held = self.setting
        if held.seen is None:
            return weights
        few = weights if held.digits == 8 else [nearest(p, held.digits) for p in weights]
        return [p.to(held.seen) for p in few]

    def gradient(self, at: Tensors, batch: Any) -> Tensors:
        """Return the gradient of the loss, of the dtype of the weights that it is taken at."""
        images, labels = batch
        params = dict(zip(self.names, at, strict=True))
        if self.setting.autocast:
            with torch.autocast("cpu", BF16):
                found = Problem.gradient(self.task, params, batch)
        else:
            found = self.task.gradient(params, (images.to(at[0].dtype), labels))
        return [found[name] for name in self.names]

    def epsilon(self, gradient: Tensors) -> Tensors:
        """Return ρ g / ‖g‖ for every seed, in float32."""
        wide = [g.float() for g in gradient]
        norm = cell_norms(wide)
        factor = torch.where((norm > 0) & norm.isfinite(), self.rho / norm, 0.0)
        return [spread(factor, g) * g for g in wide]

    def step(self, step: int) -> None:
        """Take one step."""
        batch = self._stream(step)
        here = self.seen(self.weights)
        h = self.gradient(here, batch)
        if self.rho:
            there = self._climb(here, self.epsilon(h), step)
            h = self.gradient(there, batch)
        self.descend(h)

    def _climb(self, here: Tensors, epsilon: Tensors, step: int) -> Tensors:
        start = self.weights if self._cure == "master" else here
        there = self._round([p.float() for p in start], epsilon, step)
        if step % LOOK == 0:
            digits, pairs = self.setting.digits, zip(there, here, strict=True)
            real = [nearest(t, digits) - nearest(p.float(), digits) for t, p in pairs]
            self.fidelity.add(epsilon, real)
        return [t.to(p.dtype) for t, p in zip(there, here, strict=True)]

    def descend(self, h: Tensors) -> None:
        """Take a step of SGD with momentum, as torch takes it."""
        task, wide = self.task, [g.to(p.dtype) for g, p in zip(h, self.weights, strict=True)]
        if self.momenta:
            pairs = zip(self.momenta, wide, strict=True)
            wide = [torch.add(m * task.momentum, g) for m, g in pairs]
        self.momenta = wide
        pairs = zip(self.weights, wide, strict=True)
        self.weights = [torch.add(p, m, alpha=-task.eta) for p, m in pairs]

    def accuracies(self) -> Arrays:
        """Return the accuracy on validation and test, with the weights that the model has."""
        held = [p.float() for p in self.seen(self.weights)]
        found = self.task.observe(dict(zip(self.names, held, strict=True)), self.seeds)
        return {name.removesuffix("_accuracy"): value.numpy() for name, value in found.items()}


def train(
    arguments: dict[str, Any], setting: str, cure: str, rho: float, seeds: int, steps: int
) -> Arrays:
    """Train all seeds, and return what was found of each: accuracies, and how much of ε was left.

    Args:
        arguments: Of the task.
        setting: The name of one.
        cure: The name of one.
        rho: The radius; 0 is SGD.
        seeds: How many.
        steps: How many.
    """
    ensemble = Ensemble(Digits(**arguments), SETTINGS[setting], cure, rho, range(seeds))
    with torch.no_grad():
        for step in range(steps):
            ensemble.step(step)
        found = ensemble.accuracies()
    left = {k: np.broadcast_to(v, seeds).copy() for k, v in ensemble.fidelity.means().items()}
    norms = cell_norms([p.float() for p in ensemble.weights]).numpy()
    return {**found, **left, "weights": norms}
