"""What one sample of a monitor measures, with the weights at rest before and after it."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thalweg import hold, layout, parameters, watch
from thalweg.ascent import Perturbation
from thalweg.curvature.edge import base_step
from thalweg.curvature.eigen import lambda_max
from thalweg.curvature.measure import on_batch, over
from thalweg.curvature.product import Product, flat
from thalweg.curvature.ranks import Ranks, bare
from thalweg.curvature.records import Record
from thalweg.curvature.setting import LossOf
from thalweg.curvature.trace import trace
from thalweg.errors import ThalwegError

if TYPE_CHECKING:
    from thalweg.sam import SAM

#: Error of λ_max, relative, that its search ends at.
_TOLERANCE = 0.01
#: Products after which it ends, whatever the residual; and where no training has paid for them.
MOST, SHORT = 30, 8
#: Products for the trace.
_FEW = 4

#: Rho, scheduled, and the perturbed parameters, for each param group.
Rhos = list[tuple[float, list[Tensor]]]


def take(
    sam: SAM,
    loss_of: LossOf,
    batch: Any,
    *,
    step: int,
    training: bool | None = True,
    with_trace: bool = True,
    start: Tensor | None = None,
    most: int = MOST,
) -> tuple[Record, Tensor]:
    """Measure loss, curvature, edge and ε of a SAM object at its weights, on one batch.

    Weights, buffers, modes, gradients and random numbers are afterwards what they were. Under
    DistributedDataParallel all ranks must call; where it fails on one, it fails on all.

    Args:
        sam: The SAM object; it has a model, and its weights are not moved.
        loss_of: The mean loss of a model over a batch.
        batch: The batch.
        step: How many steps the base optimizer has taken.
        training: As for :func:`thalweg.curvature.frozen`.
        with_trace: Whether the trace is estimated.
        start: Eigenvector of an earlier sample.
        most: Products after which the search for λ_max ends, whatever the residual.

    Returns:
        The record, without what training steps tell, and the eigenvector.

    Raises:
        ThalwegError: As :func:`thalweg.curvature.on_batch`.
    """
    assert sam.model is not None
    rhos, trained, ranks = _rhos(sam), _trained(sam), Ranks(sam.model)
    _wait(trained[0])
    began, now = time.perf_counter(), time.time()

    def product_here() -> Product:
        return _product(sam.model, loss_of, batch, trained, training)

    with ranks.together():
        product = ranks.shared(product_here())
        gradient = product.gradient
        along = flat(gradient)
        size = float(torch.linalg.vector_norm(along))
        top = lambda_max(product, tolerance=_TOLERANCE, most=most, start=start, seed=step)
        total = (
            trace(product, method="hutchinson", products=_FEW, seed=step) if with_trace else None
        )

        one, moves = _epsilon(sam, rhos, trained, gradient)
        epsilon = _spread(moves, trained, gradient)
        perturbed = [p for group, _, _ in moves for p in group] or trained
        length = float(parameters.norm(epsilon))
        rises = math.nan
        if moves:
            bent = parameters.dot(epsilon, product(epsilon))
            rises = float(parameters.dot(gradient, epsilon) + bent / 2)
        count, loss = product.count, product.loss
        del product  # its graph is as large as a training step's

        grad_norm = float(one.norm) if one else float(parameters.norm(gradient))
        edge, missing = _edge(sam, rhos, trained, grad_norm, one)
        record: dict[str, Any] = {
            "lambda_max": top.value,
            "residual": top.residual,
            "products": count,
            "trace": total.value if total else math.nan,
            "trace_error": total.error if total else math.nan,
            "grad_norm": grad_norm,
            "rho": max((rho for rho, _ in rhos), default=0.0),
            "power": sam.method.power,
            "edge": edge,
            "edge_missing": missing,
            "ratio": top.value / edge,
            "alignment": abs(float(torch.dot(along.double(), top.vector.double())))
            / (size or math.nan),
            "perturbation_norm": length,
            "relative_perturbation": length / (float(parameters.norm(perturbed)) or math.nan),
            "loss_rise_predicted": rises,
            **_settings(sam.optimizer),
        }
        if moves:
            record |= _uphill(sam.model, product_here, ranks, moves, loss, gradient)
    seconds = time.perf_counter() - began
    return Record(step=step, time=now, seconds=seconds, loss=loss, **record), top.vector


def _latest(sam: SAM) -> int:
    """Which of its steps was the last one, counted from 0."""
    return max(sam._step - 1, 0)


def _rhos(sam: SAM) -> Rhos:
    """Rho and perturbed parameters of every group that trains, as SAM had them in its last step."""
    found = []
    for group in sam.optimizer.param_groups:
        if trained := [p for p in group["params"] if p.requires_grad]:
            lr, places = group.get("lr", math.nan), sam._gear.places
            rho = float(sam.method.schedule(group.get("rho", sam.rho), _latest(sam), lr))
            found.append((rho, [p for p in trained if sam.method.filter(p, *places.of(p))]))
    return found


def _trained(sam: SAM) -> list[Tensor]:
    """The parameters of the optimizer, in the order of the model, others behind them."""
    assert sam.model is not None
    wanted = {p for group in sam.optimizer.param_groups for p in group["params"]}
    held = [p for p in sam.model.parameters() if p in wanted]
    rest = wanted - set(held)
    held += [p for group in sam.optimizer.param_groups for p in group["params"] if p in rest]
    return [p for p in held if p.requires_grad]


def _product(
    model: nn.Module | None, loss_of: LossOf, batch: Any, trained: list[Tensor], mode: bool | None
) -> Product:
    """The product of this rank's batch."""
    assert model is not None
    model = bare(model)
    dtypes = {p.dtype for p in trained}
    wide = functools.reduce(torch.promote_types, dtypes, torch.float32)
    if dtypes == {wide}:
        return on_batch(model, loss_of, batch, parameters=trained, training=mode)
    # 16 bits are too few for Lanczos' method, and it takes one dtype: a copy is measured.
    return over(model, loss_of, [batch], parameters=trained, training=mode, dtype=wide)


def _epsilon(
    sam: SAM, rhos: Rhos, trained: list[Tensor], gradient: Sequence[Tensor]
) -> tuple[Perturbation | None, list[tuple[list[Tensor], list[Tensor], float]]]:
    """ε of the method at this gradient, as parameters, directions and factor for each group."""
    place = {p: i for i, p in enumerate(trained)}
    groups = [(rho, chosen) for rho, chosen in rhos if rho > 0 and chosen]
    if not groups:
        return None, []
    found = [gradient[place[p]] for _, chosen in groups for p in chosen]
    top = max(rho for rho, _ in groups)  # the factor is linear in rho
    held = [p for _, chosen in groups for p in chosen]
    context = sam._gear.context(held, _latest(sam))  # what it keeps is forgotten
    one = sam.method.perturbation(found, top, context=context)
    factor, rest = float(one.factor), iter(one.direction)
    parts = [(chosen, [next(rest) for _ in chosen], factor * rho / top) for rho, chosen in groups]
    return one, parts if factor else []


def _spread(
    moves: Sequence[tuple[list[Tensor], list[Tensor], float]],
    trained: list[Tensor],
    gradient: Sequence[Tensor],
) -> list[Tensor]:
    """ε with one tensor for every trained parameter, 0 where it does not move."""
    found = {
        p: f * d for group, direction, f in moves for p, d in zip(group, direction, strict=True)
    }
    return [
        found[p] if p in found else torch.zeros_like(g)
        for p, g in zip(trained, gradient, strict=True)
    ]


def _uphill(
    model: nn.Module,
    product_here: Callable[[], Product],
    ranks: Ranks,
    moves: Sequence[tuple[list[Tensor], list[Tensor], float]],
    loss: float,
    gradient: Sequence[Tensor],
) -> dict[str, float]:
    """What is seen from w + ε; the weights are back afterwards."""
    fitting = [(ps, [d.to(p.dtype) for p, d in zip(ps, ds, strict=True)], f) for ps, ds, f in moves]
    weights = hold.Weights(model, keep=False)
    found: dict[str, float] = {}
    own = None
    try:
        weights.move(fitting)
        if any(p.dtype.itemsize == 2 for ps, _, _ in moves for p in ps):
            left = watch.fidelity(weights, fitting)
            found |= {name: float(left[name]) for name in ("fidelity", "gain")}
        with contextlib.suppress(ThalwegError):  # at w all went well: here the loss overflows
            # Random numbers begin where they did at w: dropout is the same.
            own = product_here()
        if ranks.some(own is None) or own is None:
            return found | {"loss_rise": math.inf}
        there = ranks.shared(own)
        rise, uphill = there.loss - loss, there.gradient
        del own, there
    finally:
        weights.restore()
    here, far = float(parameters.norm(gradient)), float(parameters.norm(uphill))
    along = float(parameters.dot(gradient, uphill))
    change = float(parameters.norm([h - g for h, g in zip(uphill, gradient, strict=True)]))
    cosine = along / (here * far) if far else math.nan
    return found | {
        "loss_rise": rise,
        "cosine": max(-1.0, min(1.0, cosine)) if far else math.nan,
        "change": change / here,
    }


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The numbers of the base optimizer's groups that the edge is made of."""
    groups = optimizer.param_groups
    found: dict[str, Any] = {
        name: max((float(group.get(name, math.nan)) for group in groups), default=math.nan)
        for name in ("lr", "momentum", "weight_decay")
    }
    return found | {"nesterov": any(group.get("nesterov", False) for group in groups)}


def _edge(
    sam: SAM, rhos: Rhos, trained: list[Tensor], grad_norm: float, one: Perturbation | None
) -> tuple[float, str]:
    """The edge of this moment, or NaN and the reason why there is none."""
    method, step = sam.method, base_step(sam.optimizer)
    if step.missing:
        return math.nan, step.missing
    if not method.plain:
        return math.nan, "the edge is known for ε = ρ g/‖g‖^p, and this method does something else"
    if len({rho for rho, _ in rhos}) > 1:
        return math.nan, "the edge is that of one step size: param groups differ in rho"
    rho, power = max(rho for rho, _ in rhos), method.power
    if rho and sum(len(ps) for _, ps in rhos) < len(trained):
        return math.nan, "the edge is known where every parameter is perturbed, and some are not"
    if one and float(one.length) > method.cap * (1 - 1e-9):
        rho, power = method.cap, 1.0  # where it is cut, only the direction is the gradient's
    return step.edge(rho, grad_norm, power)


def _wait(parameter: Tensor) -> None:
    """Let an accelerator finish the training step, so that a sample's seconds are its own."""
    if layout.costly_to_read(parameter.device):
        torch.accelerator.synchronize(parameter.device)
