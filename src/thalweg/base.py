"""What SAM asks of the base optimizer: parameters, radii, gradients; and ε, made of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg import layout, parameters, sharded
from thalweg.ascent import L2, AllParameters, Context, Gradient, LInf, Method, Number, WithMean
from thalweg.errors import number, warn
from thalweg.gradients import dense, kept
from thalweg.hold import Moves
from thalweg.memory import Page, Places
from thalweg.telemetry import Last, read, told

#: Rho and chosen parameters of every param group that is perturbed.
Rhos = list[tuple[float, list[Tensor]]]


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return every parameter of the optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def rhos(
    optimizer: torch.optim.Optimizer, default: float, method: Method, step: int, places: Places
) -> Rhos:
    """Return rho and chosen parameters of every group that is perturbed at this step.

    Args:
        optimizer: The base optimizer; groups without a ``"rho"`` get the default one.
        default: The radius for those.
        method: Its schedule and filter are applied.
        step: How many steps went before.
        places: Where the parameters are, for the filter.

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
        now = method.schedule(rho, step, group.get("lr", math.nan))
        if now > 0:
            chosen = group["params"]
            if not everything:
                chosen = [p for p in chosen if method.filter(p, *places.of(p))]
            found.append((now, chosen))
    return found


def climbing(rhos: Rhos, *, looks: bool) -> Rhos:
    """Return of every group the parameters that an ascent moves: those that have a gradient.

    Args:
        rhos: What :func:`rhos` gave.
        looks: Whether the ascent is made of a gradient.
    """
    if not looks:
        free = [(rho, [p for p in chosen if p.requires_grad]) for rho, chosen in rhos]
        return [(rho, some) for rho, some in free if some]
    groups = []
    for rho, chosen in rhos:
        held = [p for p in chosen if p.grad is not None]
        if held:
            groups.append((rho, held))
    if sum(len(held) for _, held in groups) < sum(len(chosen) for _, chosen in rhos):
        _look_for_gradients([p for _, chosen in rhos for p in chosen])
    return groups


def gradients_of(groups: Rhos, method: Method) -> Sequence[Tensor]:
    """Return the gradients of the parameters, each sharded as its parameter is.

    Args:
        groups: What :func:`climbing` gave.
        method: Unless it is plain, a sparse one is made dense; where it takes more than two
            gradients a step, the first ones outlive the others.
    """
    held = [p for _, some in groups for p in some]
    found = [p.grad for p in held if p.grad is not None]
    if method.passes > 2:
        found = list(map(kept, found))
    ball, bare = method.ball, isinstance(method.direction, Gradient) and method.mask is None
    if not (bare and isinstance(ball, L2) and ball.scale is None and ball.over == "all"):
        found = list(map(dense, found))
    return aligned(held, found)


def moves(
    method: Method,
    groups: Rhos,
    gradients: Sequence[Tensor],
    scale: Number | None,
    context: Context,
) -> tuple[Last, Moves]:
    """Return ε for every group.

    Args:
        method: What makes ε of a gradient.
        groups: What :func:`climbing` gave; at least one.
        gradients: Of all parameters in the groups; none for a direction that takes none.
        scale: What the gradients are multiplied by, if by anything.
        context: The step.

    Returns:
        The record of the perturbation; and parameters, direction and factor of each group. On
        the CPU the factor is a float and there are no moves where it is 0; on an accelerator it
        is a tensor there, so that nothing is read back and nothing waits.
    """
    costly = layout.costly_to_read(groups[0][1][0].device)
    if scale is not None and not costly:
        scale = float(scale)
    # The factor is linear in rho: it is taken once, for the largest, and shared out.
    top = max(rho for rho, _ in groups)
    epsilon = method.perturbation(gradients, top, scale=scale, context=context)
    if method.looks and not _shows(method):
        nothing = 0 * parameters.norm(gradients)  # or NaN
        epsilon = epsilon._replace(
            factor=torch.where(nothing == 0, nothing + epsilon.factor, 0.0),
            norm=epsilon.norm + nothing,
        )
    if not costly:
        epsilon = epsilon._replace(factor=float(epsilon.factor), norm=float(epsilon.norm))
    rest = iter(epsilon.direction)
    parts = [(held, list(itertools.islice(rest, len(held))), rho / top) for rho, held in groups]
    length = epsilon.length
    if len(parts) > 1:
        norms = [epsilon.factor * share * context.norm(d) for _, d, share in parts]
        if costly:
            length = torch.linalg.vector_norm(torch.stack([torch.as_tensor(n) for n in norms]))
        else:
            length = math.hypot(*map(float, norms))
    last = told(epsilon, length, method.cap)
    if costly:
        return last, [(w, d, epsilon.factor * share) for w, d, share in parts]
    return last, [(w, d, float(epsilon.factor) * share) for w, d, share in parts if last.moved]


def _shows(method: Method) -> bool:
    """Whether the dual norm cannot be finite where the gradient is not; a mask may hide that."""
    bare = isinstance(method.direction, Gradient | WithMean) and method.mask is None
    return bare and isinstance(method.ball, L2 | LInf)


def together(before: Moves, after: Moves) -> tuple[Moves, Number]:
    """Return the way of two moves, one after the other, and its length.

    Args:
        before: The first one.
        after: The second one, of the same parameters where both move.
    """
    moves = _sum(before, after) if before and after else before or after
    length = parameters.norm([d * factor for _, some, factor in moves for d in some])
    return moves, read(length)


def _sum(before: Moves, after: Moves) -> Moves:
    found: dict[Tensor, Tensor] = {}
    for group, direction, factor in (*before, *after):
        for p, d in zip(group, direction, strict=True):
            # In float64, as the factor of a tiny gradient is more than its dtype may hold.
            part = torch.where(torch.as_tensor(factor) != 0, dense(d).double() * factor, 0.0)
            part = part.to(torch.float32 if d.itemsize == 2 else d.dtype)
            found[p] = found[p] + part if p in found else part
    return [(list(found), list(found.values()), 1.0)]


def context(
    optimizer: torch.optim.Optimizer,
    held: Sequence[Tensor],
    step: int,
    memory: Page,
    places: Places,
    agreed: Callable[[Number], Number],
    point: int = 0,
    *,
    stepped: bool = False,
) -> Context:
    """Return what the parts of a method may know of a step.

    Args:
        optimizer: The base optimizer, whose state they may look up.
        held: The chosen parameters, at w.
        step: How many steps went before.
        memory: What they remember.
        places: Where the parameters are.
        agreed: The mean of a number over the ranks.
        point: At which of several points the gradient is taken next.
        stepped: Whether the base optimizer has taken a step before.
    """
    costly = layout.costly_to_read(held[0].device)

    def state(name: str) -> list[Tensor | None]:
        return [optimizer.state.get(p, {}).get(name) for p in held]

    return Context(
        weights=held,
        step=step,
        norm=parameters.norm if costly else norm,
        dot=parameters.dot if costly else _dot,
        memory=memory,
        state=state,
        agreed=agreed,
        layers=lambda: places.layers(held),
        names=lambda: [places.of(p)[0] for p in held],
        stepped=stepped,
        point=point,
    )


def agreed(number: Number, model: nn.Module | None) -> Number:
    """Return the mean of a number over the ranks that train together.

    Args:
        number: This rank's own; a tensor is not read.
        model: Ranks are asked where it is, or holds, a DistributedDataParallel.
    """
    layers = layout.layers(model)
    wrapped = next((m for m in layers if isinstance(m, DistributedDataParallel)), None)
    if wrapped is None:
        return number
    held = torch.as_tensor(number, dtype=torch.float64, device=wrapped.device).clone()
    torch.distributed.all_reduce(held, group=wrapped.process_group)
    held = held / torch.distributed.get_world_size(wrapped.process_group)
    return held if isinstance(number, Tensor) else float(held)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return float(parameters.dot(left, right))


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all the tensors together as a float; waits for an accelerator.

    Args:
        tensors: As for :func:`thalweg.parameters.norm`.
    """
    return float(parameters.norm(tensors))


def aligned(held: Sequence[Tensor], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradients, each sharded as its parameter is."""
    if layout.all_plain(gradients):
        return gradients
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
