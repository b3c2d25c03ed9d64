"""What SAM asks of the base optimizer: its parameters, and the radius of each group."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg import layout, parameters, sharded
from thalweg.ascent import AllParameters, Method, Norm, Number
from thalweg.errors import number, warn
from thalweg.telemetry import Last, told

#: Rho and chosen parameters of every param group that is perturbed.
Rhos = list[tuple[float, list[Tensor]]]


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return every parameter of the optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def rhos(optimizer: torch.optim.Optimizer, default: float, method: Method, step: int) -> Rhos:
    """Return rho and chosen parameters of every group that is perturbed at this step.

    Args:
        optimizer: The base optimizer; groups without a ``"rho"`` get the default one.
        default: The radius for those.
        method: Its schedule and filter are applied.
        step: How many steps went before.

    Returns:
        One pair for every group whose rho is not 0.

    Raises:
        ThalwegError: If the ``"rho"`` of a group is not a number >= 0.
    """
    found = []
    everything = isinstance(method.filter, AllParameters)
    for i, group in enumerate(optimizer.param_groups):
        rho = group.setdefault("rho", default)
        if type(rho) is not float or not 0 <= rho < math.inf:
            rho = number(f'the "rho" of param group {i}', rho, at_least=0)
        now = method.schedule(rho, step)
        if now > 0:
            chosen = group["params"]
            found.append((now, chosen if everything else [p for p in chosen if method.filter(p)]))
    return found


def moves(
    method: Method, rhos: Rhos, scale: Number | None
) -> tuple[Last, list[tuple[list[Tensor], list[Tensor], float | Tensor]]]:
    """Return ε for every group, from the gradients there are.

    Args:
        method: What makes ε of a gradient.
        rhos: What :func:`rhos` gave.
        scale: What the gradients are multiplied by, if by anything.

    Returns:
        The record of the perturbation; and parameters, direction and factor for each group. On
        the CPU the factor is a float and there are no moves where it is 0; on an accelerator it
        is a tensor there, so that nothing is read back and nothing waits.
    """
    groups, gradients = [], []
    for rho, chosen in rhos:
        held, found = chosen, [p.grad for p in chosen]
        if any(g is None for g in found):
            held = [p for p in chosen if p.grad is not None]
        if held:
            groups.append((rho, held))
            gradients += [g for g in found if g is not None]
    if len(gradients) < sum(len(chosen) for _, chosen in rhos):
        _look_for_gradients([p for _, chosen in rhos for p in chosen])
    if not groups:
        return Last(grad_norm=0.0 if rhos else math.nan), []
    if not layout.all_plain(gradients):
        gradients = _aligned([p for _, held in groups for p in held], gradients)
    costly = layout.costly_to_read(gradients[0].device)
    norm: Norm = parameters.norm if costly else _norm
    if scale is not None and not costly:
        scale = float(scale)
    # The factor is linear in rho: it is taken once, for the largest, and shared out.
    top = max(rho for rho, _ in groups)
    epsilon = method.perturbation(gradients, top, norm=norm, scale=scale)
    rest = iter(epsilon.direction)
    parts = [(held, list(itertools.islice(rest, len(held))), rho / top) for rho, held in groups]
    length = epsilon.length
    if len(parts) > 1:
        norms = [epsilon.factor * share * norm(d) for _, d, share in parts]
        if costly:
            length = torch.linalg.vector_norm(torch.stack([torch.as_tensor(n) for n in norms]))
        else:
            length = math.hypot(*map(float, norms))
    last = told(epsilon, length, method.cap)
    if costly:
        return last, [(w, d, epsilon.factor * share) for w, d, share in parts]
    factor = float(epsilon.factor)
    return last, [(w, d, factor * share) for w, d, share in parts if last.moved]


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(parameters.norm(tensors))


def _aligned(held: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Return the gradients, each sharded as its parameter is."""
    return [
        g.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
        if layout.is_sharded(p) and g.placements != p.placements  # type: ignore[attr-defined]
        else g
        for p, g in zip(held, gradients, strict=True)
    ]


def _look_for_gradients(chosen: list[Tensor]) -> None:
    """Tell of an ascent pass that left no gradient where there must be one."""
    sharded.check_reduced(chosen)
    if all(p.grad is None for p in chosen):
        warn(
            "no parameter of the optimizer got a gradient in the first pass, so nothing is "
            "perturbed: call backward() in every pass, on a loss of the parameters that the "
            "optimizer was given",
        )
