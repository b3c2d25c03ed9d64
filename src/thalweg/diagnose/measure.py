"""What is measured of a user's own model: along SAM's direction first, then by Hessian products."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from thalweg import parameters
from thalweg.curvature import frozen, lambda_max, over, spectrum
from thalweg.curvature.edge import base_step
from thalweg.curvature.setting import LossOf, undrawn
from thalweg.curvature.trace import trace
from thalweg.diagnose.base import common_rho, names, perturbed, precise
from thalweg.diagnose.halves import summed
from thalweg.diagnose.record import Measured, Scan, Spectrum
from thalweg.diagnose.rule import BENT, LOST, crossing
from thalweg.diagnose.scan import Along, mean, scan_of
from thalweg.diagnose.start import untrained_loss
from thalweg.errors import ThalwegError, warn
from thalweg.replay import RandomState

#: Roundings of the loss below which a rise is one itself.
_ROUNDINGS = 64
#: Relative error of the trace that is enough, and products after which it is left at that.
_TRACE, _PRODUCTS = 0.1, 30
#: Products a random vector of the spectrum, and how many vectors.
_STEPS, _VECTORS = 20, 2
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
    products: bool = True,
) -> Measured:
    """Measure a model on the first batches of its loader; nothing of it is changed.

    Args:
        model: The model.
        loss_of: Of a model and a batch; the mean loss.
        loader: Gives batches; all means count them by their examples.
        optimizer: Trains some of the model's parameters.
        batches: How many batches are taken.
        seed: Of the random vectors of Lanczos' method, of the trace and of the spectrum.
        start_loss: Of the model before training; ``None`` to measure it on a copy.
        tell: Called with a word on what is measured next.
        products: Whether Hessian products are taken, too. The recommendation needs none.

    Raises:
        ThalwegError: If there is nothing to measure.
    """
    moved = perturbed(model, optimizer)
    largest = names(model, moved)
    taken = first(loader, batches)
    # Layers that a user holds in evaluation mode stay there while the model itself trains.
    training = None if model.training else True
    model, loss_of, moved, coarse = precise(model, loss_of, moved)
    tell(f"loss and gradients of {len(taken)} batches, and a scan along ε")
    along = Along(model, loss_of, moved)
    with frozen(model, training):
        rays = [along(batch) for batch in taken]
    scan = scan_of(rays)
    counts, losses = [ray.examples for ray in rays], [ray.loss for ray in rays]
    loss, noise = mean(rays, losses), _spread(losses, counts)
    before, origin = start_loss, ""
    if before is None:
        before, origin = untrained_loss(model, loss_of, taken, training, seed)
    length = float(parameters.norm(along.gradient))
    rounding = _ROUNDINGS * torch.finfo(moved[0].dtype).eps * mean(rays, list(map(abs, losses)))
    floor = rounding if math.isnan(noise) else max(LOST * noise, rounding)
    if a_sum := summed(model, loss_of, taken[0]):
        warn(
            "loss must be the mean over a batch, and that of the first batch is the sum of the "
            "losses of its halves: curvature, edges and USAM's rho are those of a sum; take the "
            "mean, here and where you train"
        )
    # Where rounding makes the rise, it has no shape.
    seen = next((i for i, r in enumerate(scan.rise) if r > rounding), len(scan.rise) - 1)
    share, place = along.shares.max(0)
    found = Measured(
        parameters=sum(p.numel() for p in moved),
        batches=len(rays),
        examples=sum(counts) / len(rays),
        loss=loss,
        loss_noise=noise,
        weight_norm=float(parameters.norm(moved)),
        grad_norm=mean(rays, [ray.norm for ray in rays]),
        mean_grad_norm=length,
        noise_scale=noise_scale([ray.norm for ray in rays], length, counts),
        largest_share=float(share),
        largest_name=largest[int(place)],
        scan=scan,
        lower=_lower(scan, floor),
        upper=crossing(scan.rho[seen:], scan.off[seen:], BENT),
        flip=crossing(scan.rho, [-s for s in scan.slope], 0.0),
        base=base_step(optimizer),
        rho_now=common_rho(optimizer),
        start_loss=before,
        start_origin=origin,
        coarse=coarse,
        summed=a_sum,
    )
    if not products:
        return found
    product = over(model, loss_of, taken, parameters=moved, training=training)
    tell("λ_max")
    top = lambda_max(product, seed=seed)
    tell("trace")
    total = trace(product, tolerance=_TRACE, products=_PRODUCTS, seed=seed)
    tell("spectrum")
    density = spectrum(product, steps=_STEPS, vectors=_VECTORS, seed=seed)
    return dataclasses.replace(
        found,
        lambda_max=top.value,
        lambda_error=top.residual,
        trace=total.value,
        trace_error=total.error,
        spectrum=Spectrum(tuple(density.nodes.tolist()), tuple(density.weights.tolist())),
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
    numbers = RandomState()
    try:
        with undrawn(loader):
            found = list(itertools.islice(loader, count))
    finally:
        numbers.put_back()
    if not found:
        raise ThalwegError("loader must give at least one batch, got none")
    return found


def noise_scale(norms: Sequence[float], mean: float, sizes: Sequence[int]) -> float:
    """Return B = tr Σ/‖ḡ‖², in examples, from the gradients of some batches.

    Args:
        norms: ‖g‖ of each batch.
        mean: Norm of the mean gradient over all their examples.
        sizes: Examples in each batch.

    Returns:
        The scale: NaN with one batch, infinite where the mean is not above its own noise.

    Source:
        Unbiased estimates of both terms. Of n batches of m_i examples, M together, with Σ the
        covariance of the gradient of one example: E(Σ m_i ‖g_i‖² - M‖mean‖²) = (n - 1) tr Σ, and
        E‖mean‖² = ‖ḡ‖² + tr Σ/M.

    Example:
        >>> noise_scale([5.0, 5.0], 4.0, [10, 10])  # tr Σ = 180, ‖ḡ‖² = 16 - 9
        25.714285714285715
    """
    n, whole = len(norms), sum(sizes)
    if n < 2:
        return math.nan
    squares = sum(m * norm**2 for m, norm in zip(sizes, norms, strict=True))
    spread = max(squares - whole * mean**2, 0.0) / (n - 1)
    square = mean**2 - spread / whole
    return spread / square if square > 0 else math.inf


def _spread(losses: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard deviation of the loss of a batch of the mean size; NaN with one batch."""
    if len(losses) < 2:
        return math.nan
    pairs = list(zip(sizes, losses, strict=True))
    centre = sum(m * loss for m, loss in pairs) / sum(sizes)
    one = sum(m * (loss - centre) ** 2 for m, loss in pairs) / (len(losses) - 1)
    return math.sqrt(one * len(sizes) / sum(sizes))


def _lower(scan: Scan, floor: float) -> float:
    """Where the rise reaches the noise; below the scan it is proportional to rho."""
    begin = scan.rho[0], scan.rise[0]
    if not floor:  # of losses that are exactly 0 rounding tells nothing
        return begin[0]
    inside = crossing(scan.rho, scan.rise, floor)
    return begin[0] * floor / begin[1] if inside == begin[0] and begin[1] > floor else inside
