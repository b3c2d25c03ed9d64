"""What is measured of a user's own model: along SAM's direction first, then by Hessian products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import parameters
from thalweg.curvature import frozen, lambda_max, over
from thalweg.curvature.measure import LossOf, examples
from thalweg.curvature.trace import trace
from thalweg.diagnose.base import base_of, common_rho, names, perturbed
from thalweg.diagnose.record import Measured, Scan
from thalweg.diagnose.rule import BENT, LOST, crossing
from thalweg.diagnose.start import untrained_loss
from thalweg.errors import ThalwegError
from thalweg.hold import Weights
from thalweg.replay import RandomState

#: The scan goes from this share of ‖w‖ to all of it, in so many steps a decade.
_FROM, _PER_DECADE = 1e-4, 4
#: Roundings of the loss below which a rise is one itself.
_ROUNDINGS = 64
#: Relative error of the trace that is enough, and products after which it is left at that.
_TRACE, _PRODUCTS = 0.1, 30
Tell = Callable[[str], None]


def measure_model(
    model: nn.Module,
    loss_of: LossOf,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    batches: int,
    seed: int,
    start_loss: float | None,
    tell: Tell,
) -> Measured:
    """Measure a model on the first batches of its loader; nothing of it is changed.

    Args:
        model: The model.
        loss_of: Of a model and a batch; the mean loss.
        loader: Gives batches.
        optimizer: Trains some of the model's parameters.
        batches: How many batches are taken.
        seed: Of the random vectors of Lanczos' method and of the trace.
        start_loss: Of the model before training; ``None`` to measure it on a copy.
        tell: Called with a word on what is measured next.

    Raises:
        ThalwegError: If there is nothing to measure.
    """
    moved = perturbed(model, optimizer)
    taken = first(loader, batches)
    # Layers that a user holds in evaluation mode stay there while the model itself trains.
    training = None if model.training else True
    tell(f"loss and gradients of {len(taken)} batches, and a scan along ε")
    along = _Along(model, loss_of, moved, tell)
    with frozen(model, training):
        rays = [along(batch) for batch in taken]
    scan = _scan(rays)
    losses = torch.tensor([ray.loss for ray in rays], dtype=torch.float64)
    noise = float(losses.std()) if len(rays) > 1 else math.nan
    size = sum(map(examples, taken)) / len(taken)
    before = start_loss
    if before is None:
        before = untrained_loss(model, loss_of, taken, training, seed)
    tell("λ_max")
    product = over(model, loss_of, taken, parameters=moved, training=training)
    top = lambda_max(product, seed=seed, tolerance=1e-2)
    tell("trace")
    total = trace(product, tolerance=_TRACE, products=_PRODUCTS, seed=seed)
    mean = float(parameters.norm(along.mean(len(rays))))
    eps = torch.finfo(moved[0].dtype).eps
    rounding = _ROUNDINGS * eps * float(losses.abs().mean())
    floor = rounding if math.isnan(noise) else max(LOST * noise, rounding)
    off = [abs(r / p - 1) for r, p in zip(scan.rise, scan.predicted, strict=True)]
    # Where rounding makes the rise, it has no shape.
    seen = next((i for i, r in enumerate(scan.rise) if r > rounding), len(off) - 1)
    share, place = torch.stack(along.shares).mean(0).max(0)
    return Measured(
        parameters=sum(p.numel() for p in moved),
        batches=len(rays),
        examples=size,
        loss=float(losses.mean()),
        loss_noise=noise,
        weight_norm=float(parameters.norm(moved)),
        grad_norm=_mean([ray.norm for ray in rays]),
        mean_grad_norm=mean,
        noise_scale=noise_scale([ray.norm for ray in rays], mean, size),
        lambda_max=top.value,
        lambda_error=top.residual,
        trace=total.value,
        trace_error=total.error,
        largest_share=float(share),
        largest_name=names(model, moved)[int(place)],
        scan=scan,
        lower=_lower(scan, floor),
        upper=crossing(scan.rho[seen:], off[seen:], BENT),
        flip=crossing(scan.rho, [-s for s in scan.slope], 0.0),
        base=base_of(optimizer),
        rho_now=common_rho(optimizer),
        start_loss=before,
    )


def first(loader: Iterable[Any], count: int) -> list[Any]:
    """Return the first batches of a loader, which is left as it was, its shuffling included.

    Args:
        loader: Something to loop over, more than once.
        count: How many; fewer where it has no more.

    Raises:
        ThalwegError: If it is an iterator, or gives nothing.

    Example:
        >>> first([1, 2, 3], 2)
        [1, 2]
    """
    if isinstance(loader, Iterator):
        raise ThalwegError(
            "loader must be something to loop over again, got an iterator, whose batches would be "
            "lost to the training: pass the loader itself, or a list of batches"
        )
    numbers, own = RandomState(), getattr(loader, "generator", None)
    state = own.get_state() if isinstance(own, torch.Generator) else None
    try:
        found = list(itertools.islice(loader, count))
    finally:
        numbers.put_back()
        if state is not None:
            own.set_state(state)  # type: ignore[union-attr]
    if not found:
        raise ThalwegError("loader must give at least one batch, got none")
    return found


def noise_scale(norms: Sequence[float], mean: float, size: float) -> float:
    """Return B = tr Σ/‖ḡ‖², in examples, from the gradients of some batches.

    Args:
        norms: ‖g‖ of each batch.
        mean: Norm of their mean.
        size: Examples in a batch.

    Returns:
        The scale: NaN with one batch, infinite where the mean is not above its own noise.

    Source:
        The usual unbiased estimates of both terms: the spread S of n batch gradients of m examples
        estimates tr Σ/m, and ‖mean‖² - S/n estimates ‖ḡ‖².

    Example:
        >>> noise_scale([5.0, 5.0], 4.0, 10)  # S = 18, ‖ḡ‖² = 16 - 9
        25.714285714285715
    """
    n = len(norms)
    if n < 2:
        return math.nan
    spread = max((sum(norm**2 for norm in norms) - n * mean**2) / (n - 1), 0.0)
    square = mean**2 - spread / n
    return size * spread / square if square > 0 else math.inf


@dataclass(frozen=True, slots=True)
class _Ray:
    """Loss and ‖g‖ of one batch; loss, λ̂ and cosine at every rho along its gradient."""

    loss: float
    norm: float
    rho: list[float]
    losses: list[float]
    curvature: list[float]
    cosine: list[float]


class _Along:
    """Goes from w along the gradient of a batch; every loss of it sees the same random numbers."""

    def __init__(self, model: nn.Module, loss_of: LossOf, moved: list[Tensor], tell: Tell) -> None:
        self._model, self._loss_of, self._moved, self._tell = model, loss_of, moved, tell
        self._devices = {p.device for p in moved if p.device.type not in ("cpu", "meta")}
        self._weights = Weights(model, keep=True)
        self._sum = [torch.zeros_like(p) for p in moved]
        self.shares: list[Tensor] = []
        size = float(parameters.norm(moved)) or 1.0
        steps = round(-math.log10(_FROM) * _PER_DECADE)
        self._rhos = [size * _FROM * 10 ** (i / _PER_DECADE) for i in range(steps + 1)]

    def mean(self, batches: int) -> list[Tensor]:
        return [s / batches for s in self._sum]

    def __call__(self, batch: Any) -> _Ray:
        start = RandomState(self._devices)
        loss, g = self._at(batch)
        norm = float(parameters.norm(g))
        if not (math.isfinite(loss) and 0 < norm < math.inf):
            raise ThalwegError(
                f"loss must be finite with a gradient that is not 0, got a loss of {loss:g} with "
                f"‖g‖ = {norm:g}: nothing can be measured here"
            )
        self._sum = [s + part for s, part in zip(self._sum, g, strict=True)]
        self.shares.append(torch.stack([parameters.norm([part]) ** 2 for part in g]) / norm**2)
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
        return _Ray(loss, norm, self._rhos, losses, curvature, cosine)

    def _at(self, batch: Any) -> tuple[float, list[Tensor]]:
        with torch.enable_grad():
            value = self._loss_of(self._model, batch)
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


def _scan(rays: list[_Ray]) -> Scan:
    """The means over the batches."""

    def mean(of: Callable[[_Ray], list[float]]) -> tuple[float, ...]:
        return tuple(_mean(values) for values in zip(*map(of, rays), strict=True))

    return Scan(
        rho=tuple(rays[0].rho),
        rise=mean(lambda ray: [loss - ray.loss for loss in ray.losses]),
        predicted=mean(_predicted),
        curvature=mean(lambda ray: ray.curvature),
        slope=mean(_slope),
        cosine=mean(lambda ray: ray.cosine),
    )


def _predicted(ray: _Ray) -> list[float]:
    # The shortest perturbation has the most rounding in it; a decade on there is little.
    bend = ray.curvature[_PER_DECADE]
    return [rho * ray.norm + 0.5 * rho**2 * bend for rho in ray.rho]


def _slope(ray: _Ray) -> list[float]:
    return [1 + rho * bend / ray.norm for rho, bend in zip(ray.rho, ray.curvature, strict=True)]


def _lower(scan: Scan, floor: float) -> float:
    """Where the rise reaches the noise; below the scan it is proportional to rho."""
    begin = scan.rho[0], scan.rise[0]
    inside = crossing(scan.rho, scan.rise, floor)
    return begin[0] * floor / begin[1] if inside == begin[0] and begin[1] > floor else inside


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.numel() != 1:
        return f"a tensor of the shape {tuple(value.shape)}: take the mean"
    return "one without: compute it without torch.no_grad() or .item()"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
