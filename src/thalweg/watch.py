"""Watches a SAM object at work: telemetry, totals, and the warnings, once each, that they give."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg import layout, parameters
from thalweg.errors import ThalwegError, warn
from thalweg.gradients import Both
from thalweg.hold import Moves, Weights
from thalweg.telemetry import Last, measured, read

#: Steps over which a warning is thought over.
_WINDOW = 50
#: Windows in which training must begin to lower the loss.
_PATIENCE = 4
#: A mean loss rise below this share of the batch noise is lost in it.
_LOST = 0.01
#: Training that lowers the loss by less than this share of its rise stands still.
_LITTLE = 0.25
#: A perturbation that leads less than this share of the way that was meant is another one. Of its
#: cosine nothing is asked: rounding that is only noise makes it low, and does no harm.
FAITHFUL = 0.9

#: Of a pass without gradients, by which the method or the base optimizer has nothing to do.
NOTHING_TO_CLIMB = (
    "no parameter of the optimizer got a gradient in the first pass, so nothing is perturbed: call "
    "backward() in every pass, on a loss of the parameters that the optimizer was given"
)
NOTHING_TO_DESCEND = (
    "no parameter of the optimizer got a gradient in the last pass, so its step will do nothing: "
    "call backward() in every pass"
)


class Watch:
    """What is measured of a step, and what all steps so far have in common.

    Args:
        weights: What is moved.
        telemetry: Whether to measure what needs the gradient at w + ε.
    """

    def __init__(self, weights: Weights, *, telemetry: bool) -> None:
        self._weights = weights
        self._telemetry = telemetry
        self._steps = 0
        self._skipped: float | Tensor = 0.0
        self._idle: float | Tensor = 0.0
        self._moves: Moves = []
        self._looked = False
        self._window: deque[tuple[Any, Any, Any]] = deque(maxlen=_WINDOW)
        self._first: list[Tensor] = []
        self._young = True
        self._said: set[str] = set()

    def moved(self, last: Last, moves: Moves) -> Last:
        """Return the record with what rounding to 16 bits left of ε; without telemetry, once.

        Args:
            last: The record so far.
            moves: How the weights were meant to move.
        """
        if self._telemetry:
            self._moves = moves
        if not self._weights.moved or (self._looked and not self._telemetry):
            return last
        first, self._looked = not self._looked, True
        narrow = {p.dtype for group, _, _ in moves for p in group if p.dtype.itemsize == 2}
        if not narrow:
            return last
        last = dataclasses.replace(last, **fidelity(self._weights, moves))
        if first:
            names = " and ".join(str(dtype).removeprefix("torch.") for dtype in narrow)
            self._judge(f"{names} weights", float(last.share_moved), float(last.gain))
        return last

    def measure(self, last: Last, both: Both, scale: Tensor | None) -> Last:
        """Return the record with what the gradient at w + ε tells; the weights are still there.

        Args:
            last: The record so far.
            both: The gradients g and h.
            scale: What both gradients were multiplied by, if by anything.
        """
        self._moves = []
        return measured(last, both, self._weights, scale) if self._telemetry else last

    def fidelity(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Return the share of entries that move, cosine and gain, when rounded to ``dtype``.

        Args:
            dtype: To which the weights are rounded.

        Raises:
            ThalwegError: If the weights are not moved now, or there is no telemetry.
        """
        if not (self._weights.moved and self._moves):
            came = "weights at rest" if self._telemetry else "telemetry=False"
            raise ThalwegError(
                "fidelity() must be called while the weights are moved, with telemetry=True, got "
                f"{came}: call it in the loop over passes(), where here.last is True"
            )
        found = fidelity(self._weights, self._moves, dtype)
        share, cosine, gain = (float(found[name]) for name in ("share_moved", "fidelity", "gain"))
        self._judge(f"weights rounded to {str(dtype).removeprefix('torch.')}", share, gain)
        return share, cosine, gain

    def _judge(self, what: str, share: float, gain: float) -> None:
        if gain < FAITHFUL:
            self.say(
                "rounding",
                f"rounding swallows the perturbation: {what} let {100 * share:.0f} % of the "
                f"entries move, and these lead {100 * gain:.0f} % of the way along the ε that was "
                "meant; keep the weights in float32, which autocast may round, or use a larger rho",
            )

    def log(self, last: Last) -> dict[str, float]:
        """Return the latest step and the totals in plain floats.

        Args:
            last: The latest step.
        """
        self.think()
        totals = {"steps": self._steps, "skipped": self._skipped}
        return {f"sam/{name}": float(v) for name, v in {**last.known(), **totals}.items()}

    def count(self, last: Last, losses: Sequence[Tensor | None], *, perturbed: bool) -> Last:
        """Add a step, and return its record with the loss rise.

        Args:
            last: What it did.
            losses: At w and at w + ε, where they are known.
            perturbed: Whether it was to be perturbed.
        """
        known = [loss for loss in losses if loss is not None]
        if len(known) == 2:
            last = dataclasses.replace(last, loss_rise=read(known[1] - known[0]))
        self._steps += 1
        if not perturbed:
            return last
        length = last.perturbation_norm
        nothing = (length == 0).double() if isinstance(length, Tensor) else float(length == 0)
        self._skipped = self._skipped + nothing
        self._idle = (self._idle + 1) * nothing
        if self._telemetry:
            self._window.append((last.cosine, last.loss_rise, known[0] if known else None))
            if known and len(self._first) < _WINDOW * self._young:
                self._first.append(known[0])
        if not isinstance(length, Tensor) and _WINDOW in (self._idle, len(self._window)):
            self.think()
        return last

    def think(self) -> None:
        """Warn, once each, of what the last steps tell; an accelerator is waited for."""
        if float(self._idle) >= _WINDOW:
            self.say(
                "idle",
                f"nothing was perturbed in the last {_WINDOW} steps: the gradient of the first "
                "pass was 0 or not finite in each; look for an overflow or a dead loss",
            )
        if len(self._window) < _WINDOW:
            return
        rows = [tuple(float("nan" if v is None else v) for v in row) for row in self._window]
        self._window.clear()
        uphill = sum(cosine < 0 for cosine, _, _ in rows)
        if uphill > _WINDOW / 2:
            self.say(
                "large",
                f"rho is too large here: in {uphill} of the last {_WINDOW} steps the gradient at "
                "w + ε points uphill at w (its cosine with the gradient at w is negative); use "
                "a smaller rho",
            )
        rises, losses = [rise for _, rise, _ in rows], [loss for _, _, loss in rows]
        # Second differences, so that a loss that falls is not taken for noise.
        bends = [a - 2 * b + c for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
        noise = math.sqrt(sum(bend * bend for bend in bends) / len(bends) / 6)
        # Not their mean, which is 0 where the ascent has a batch of its own.
        rise = math.sqrt(sum(r * r for r in rises) / len(rises))
        if rise == 0 < noise:
            self.say(
                "same",
                f"the loss at w + ε is that at w to the last bit, in {_WINDOW} steps: put the "
                "forward pass, too, into the loop over passes(); if it is there, use a larger rho",
            )
        elif rise < _LOST * noise:
            self.say(
                "small",
                f"rho is too small to matter here: over the last {_WINDOW} steps the loss changes "
                f"by {rise:.2g} from w to w + ε, and differs by {noise:.2g} from batch to batch; "
                "use a larger rho, or none",
            )
        if self._young and self._steps >= _PATIENCE * _WINDOW:
            self._young = False
            fall = (sum(map(float, self._first)) - sum(losses)) / _WINDOW
            self._first.clear()
            # Where all outputs have become alike, the gradients agree, and no cosine tells.
            if fall < _LITTLE * rise and rise > noise:
                self.say(
                    "stalled",
                    f"rho is likely too large here: in {self._steps} steps the loss has fallen by "
                    f"{fall:.2g}, but from w to w + ε it changes by {rise:.2g}, and from batch to "
                    f"batch by {noise:.2g}; unless the learning rate has been small so far, or "
                    "this model was trained before, use a tenth of that rho",
                )

    def say(self, what: str, message: str) -> None:
        """Warn, unless this was said before.

        Args:
            what: Names what is said.
            message: The sentence.
        """
        if what not in self._said:
            self._said.add(what)
            warn(message)


@torch.no_grad()
def fidelity(weights: Weights, moves: Moves, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return how much of the ε that was meant rounding has let through; the weights are moved.

    Args:
        weights: What was moved.
        moves: How they were meant to move.
        dtype: As which the weights are looked at; ``None`` for their own.

    Returns:
        ``share_moved``, ``fidelity`` and ``gain`` of :class:`Last`; empty where nothing moved.
    """
    before, found = weights.before, []
    for group, direction, factor in moves if before else ():
        held = [before[p] for p in group]
        for kind, (d, now, then) in layout.pieces(direction, group, held):
            meant = d.double() * factor
            if dtype is not None:
                now, then = now.to(dtype), then.to(dtype)
            real = now.double() - then.double()
            sums = ((now != then).sum(), (meant != 0).sum(), torch.dot(real, meant))
            squares = (torch.dot(real, real), torch.dot(meant, meant))
            found.append((kind, torch.stack([s.double() for s in (*sums, *squares)])))
    if not found:
        return {}
    moved, wanted, along, reals, meants = parameters.summed(found)
    cosine = torch.where(along != 0, along / (reals * meants).sqrt(), 0.0).clamp(-1, 1)
    shares = {"share_moved": moved / wanted, "fidelity": cosine, "gain": along / meants}
    return {name: read(value) for name, value in shares.items()}
