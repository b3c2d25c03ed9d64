"""SAM's own direction, looked along: loss and gradient at w + ρ g/‖g‖, batch after batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import parameters
from thalweg.curvature.setting import LossOf, examples, numbers_of
from thalweg.diagnose.record import Scan
from thalweg.errors import ThalwegError
from thalweg.hold import Weights

#: The scan goes from this share of ‖w‖ to all of it, in so many steps a decade.
_FROM, _PER_DECADE = 1e-4, 4
#: What torch says of statistics over one value.
_ONE_VALUE = "Expected more than 1 value per channel"


@dataclass(frozen=True, slots=True)
class Ray:
    """Loss and ‖g‖ of one batch; loss, λ̂ and cosine at every rho along its gradient."""

    examples: int
    loss: float
    norm: float
    rho: list[float]
    losses: list[float]
    curvature: list[float]
    cosine: list[float]

    @property
    def rise(self) -> list[float]:
        """The losses less the one at w."""
        return [loss - self.loss for loss in self.losses]

    @property
    def predicted(self) -> list[float]:
        """The rise of a quadratic of the same slope and curvature."""
        # The shortest perturbation has the most rounding in it; a decade on there is little.
        bend = self.curvature[_PER_DECADE]
        return [rho * self.norm + 0.5 * rho**2 * bend for rho in self.rho]

    @property
    def off(self) -> list[float]:
        """By which share the rise is not the predicted one."""
        pairs = zip(self.rise, self.predicted, strict=True)
        return [abs(r - p) / abs(p) if p else math.inf for r, p in pairs]

    @property
    def slope(self) -> list[float]:
        """The slope at w + ε along ε over that at w."""
        pairs = zip(self.rho, self.curvature, strict=True)
        return [1 + rho * bend / self.norm for rho, bend in pairs]


class Along:
    """Goes from w along the gradient of a batch; every loss of it sees the same random numbers.

    Args:
        model: Its weights are moved, and put back.
        loss_of: Of the model and a batch.
        moved: The parameters that SAM would move.
    """

    def __init__(self, model: nn.Module, loss_of: LossOf, moved: list[Tensor]) -> None:
        self._model, self._loss_of, self._moved = model, loss_of, moved
        self._weights = Weights(model, keep=True)
        self._sum = [torch.zeros_like(p) for p in moved]
        self._shares = torch.zeros(len(moved), dtype=torch.float64)
        self._count = 0
        size = float(parameters.norm(moved)) or 1.0
        steps = round(-math.log10(_FROM) * _PER_DECADE)
        self._rhos = [size * _FROM * 10 ** (i / _PER_DECADE) for i in range(steps + 1)]

    @property
    def gradient(self) -> list[Tensor]:
        """Of the mean loss over all the examples."""
        return [s / self._count for s in self._sum]

    @property
    def shares(self) -> Tensor:
        """Which share of ‖ε‖² falls to each parameter, on average."""
        return self._shares / self._count

    def __call__(self, batch: Any) -> Ray:
        """Return what lies along the gradient of a batch.

        Raises:
            ThalwegError: If the loss is not one, or has no gradient.
        """
        start, count = numbers_of(self._moved), examples(batch)
        loss, g = self._at(batch)
        norm = float(parameters.norm(g))
        if not (math.isfinite(loss) and 0 < norm < math.inf):
            raise ThalwegError(
                f"loss must be finite with a gradient that is not 0, got a loss of {loss:g} with "
                f"‖g‖ = {norm:g}: nothing can be measured here"
            )
        self._sum = [s + count * part for s, part in zip(self._sum, g, strict=True)]
        share = [float(parameters.norm([part]) / norm) ** 2 for part in g]
        self._shares = self._shares + count * torch.tensor(share, dtype=torch.float64)
        self._count += count
        found = []
        try:
            for rho in self._rhos:
                self._weights.move([(self._moved, g, rho / norm)])
                start.put_back()
                value, h = self._at(batch)
                found.append((value, *_compared(g, h, norm, rho)))
        finally:
            self._weights.release()
        losses, curvature, cosine = map(list, zip(*found, strict=True))
        return Ray(count, loss, norm, self._rhos, losses, curvature, cosine)

    def _at(self, batch: Any) -> tuple[float, list[Tensor]]:
        with torch.enable_grad():
            try:
                value = self._loss_of(self._model, batch)
            except ValueError as error:
                if not str(error).startswith(_ONE_VALUE):
                    raise
                raise ThalwegError(
                    "a batch must hold more than one example where layers normalize over it, got "
                    "one: pass drop_last=True to the loader, or hold those layers in eval()"
                ) from error
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise ThalwegError(
                    "loss(model, batch) must return the mean loss, a tensor of one number with "
                    f"its graph, got {_form(value)}"
                )
            g = torch.autograd.grad(value.reshape(()), self._moved, materialize_grads=True)
        return float(value.detach()), list(g)


def _compared(g: list[Tensor], h: list[Tensor], norm: float, rho: float) -> tuple[float, float]:
    """λ̂ and the cosine of the angle between two gradients."""
    # ε is ρ g/‖g‖; the difference first, for it is small.
    change = float(parameters.dot([b - a for a, b in zip(g, h, strict=True)], g)) / norm
    other = float(parameters.norm(h))
    along = float(parameters.dot(g, h)) / (norm * other) if other > 0 else 0.0
    return change / rho, along


def scan_of(rays: Sequence[Ray]) -> Scan:
    """Return the means over the batches, each counting by its examples.

    Args:
        rays: One a batch.
    """

    def over(of: Callable[[Ray], list[float]]) -> tuple[float, ...]:
        return tuple(mean(rays, values) for values in zip(*map(of, rays), strict=True))

    return Scan(
        rho=tuple(rays[0].rho),
        rise=over(lambda ray: ray.rise),
        predicted=over(lambda ray: ray.predicted),
        off=over(lambda ray: ray.off),
        curvature=over(lambda ray: ray.curvature),
        slope=over(lambda ray: ray.slope),
        cosine=over(lambda ray: ray.cosine),
    )


def mean(rays: Sequence[Ray], values: Sequence[float]) -> float:
    """Return the mean of one value a batch, each counting by its examples.

    Args:
        rays: Of the batches.
        values: As many.
    """
    counts = [ray.examples for ray in rays]
    return sum(n * v for n, v in zip(counts, values, strict=True)) / sum(counts)


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.numel() != 1:
        return f"a tensor of the shape {tuple(value.shape)}: take the mean"
    return "one without: compute it without torch.no_grad() or .item()"
