"""What SAM asks of the base optimizer: parameters, radii, gradients; and ε, made of these."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg import layout, parameters, sharded
from thalweg.ascent import AllParameters, Context, Method, Number
from thalweg.cut import Pieces
from thalweg.errors import ThalwegError, brief, flag, number
from thalweg.gradients import dense, kept
from thalweg.hold import ANY_HOLDS, Moves
from thalweg.modules import Places
from thalweg.telemetry import Last, read, told

#: Rho and chosen parameters of every param group that is perturbed.
Rhos = list[tuple[float, list[Tensor]]]


class Default:
    """The radius of groups that have none: given once, then read only, as the groups hold theirs.

    Raises:
        ThalwegError: If it is no number >= 0, or is assigned again.
    """

    def __get__(self, sam: object, _: type | None = None) -> float:
        found: float = vars(sam)["rho"]
        return found

    def __set__(self, sam: object, rho: float) -> None:
        if "rho" in vars(sam):
            raise ThalwegError(
                f"sam.rho must stay as it was given, got {brief(rho)}: every param group has its "
                'own; write `for group in optimizer.param_groups: group["rho"] = ...`'
            )
        vars(sam)["rho"] = number("rho", rho, at_least=0)


class Flag:
    """True or False: given once, then read only, as what was made with it stays.

    Raises:
        ThalwegError: If it is something else, or is assigned again.
    """

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, sam: object, _: type | None = None) -> bool:
        found: bool = vars(sam)[self._name]
        return found

    def __set__(self, sam: object, value: bool) -> None:
        flag(self._name, value)
        if vars(sam).setdefault(self._name, value) is not value:
            raise ThalwegError(
                f"sam.{self._name} must stay as it was given, got {value}: make SAM anew with "
                f"{self._name}={value}"
            )


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return every parameter of the optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def described(optimizer: torch.optim.Optimizer, default: float, method: Method) -> str:
    """Return what one should know of a SAM at sight: base optimizer, radii, method.

    Args:
        optimizer: The base optimizer.
        default: The radius of groups that have none.
        method: Only what differs from plain SAM is told.
    """
    radii = list(dict.fromkeys(group.get("rho", default) for group in optimizer.param_groups))
    usual, names = Method(), [field.name for field in dataclasses.fields(Method)]
    own = [f"{n}={found!r}" for n in names if (found := getattr(method, n)) != getattr(usual, n)]
    law = f"power={method.power:g}"
    if own and own != [f"power={method.power!r}"]:
        law = f"method=Method({', '.join(own)})"
    return f"{type(optimizer).__name__}, rho={radii[0] if len(radii) == 1 else radii}, {law}"


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
        One pair for every group whose rho is not 0 and of which the filter chooses any.

    Raises:
        ThalwegError: If the ``"rho"`` of a group, or what the schedule makes of it, is not a
            number >= 0.
    """
    found = []
    everything = isinstance(method.filter, AllParameters)
    for i, group in enumerate(optimizer.param_groups):
        rho = group.setdefault("rho", default)
        if type(rho) is not float or not 0 <= rho < math.inf:
            rho = number(f'the "rho" of param group {i}', rho, at_least=0)
        now = method.schedule(rho, step, group.get("lr", math.nan))
        if type(now) is not float or not 0 <= now < math.inf:
            now = number(f"what the schedule {method.schedule!r} gives", now, at_least=0)
        if now > 0:
            chosen = group["params"]
            if not everything:
                chosen = [p for p in chosen if method.filter(p, *places.of(p))]
            if chosen or everything:
                found.append((now, chosen))
    return found


def climbing(rhos: Rhos, method: Method) -> tuple[Rhos, Sequence[Tensor]]:
    """Return what an ascent moves, and the gradients that it is made of.

    Args:
        rhos: What :func:`rhos` gave.
        method: What makes ε of a gradient.

    Returns:
        Of every group, the parameters that have a gradient; and the gradients of all, each sharded
        as its parameter is. Unless ε is parallel to them, sparse ones are made dense. Where a step
        takes more than two gradients, the first ones outlive the others. A direction that takes no
        gradient moves every parameter that requires one.
    """
    groups, found, all_there = [], [], True
    for rho, chosen in rhos:
        if method.looks:
            each = [p.grad for p in chosen]
            some = [g for g in each if g is not None]
            if len(some) < len(chosen):
                all_there = False
                chosen = [p for p, g in zip(chosen, each, strict=True) if g is not None]
            found += some
        else:
            chosen = [p for p in chosen if p.requires_grad]
        if chosen:
            groups.append((rho, chosen))
    if not all_there:
        sharded.check_reduced([p for _, chosen in rhos for p in chosen])
    if method.passes > 2:
        found = list(map(kept, found))
    if not method.parallel:
        found = list(map(dense, found))
    return groups, aligned([p for _, held in groups for p in held], found)


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
    top = max(groups, key=operator.itemgetter(0))[0]
    shares = [(held, len(held), rho / top) for rho, held in groups]

    def shared(direction: Sequence[Tensor]) -> Sequence[Tensor]:
        return context.each(torch.mul, direction, [s for _, k, s in shares for _ in range(k)])

    def measure(direction: Sequence[Tensor]) -> Number:
        if type(direction) is Pieces:
            return context.norm(shared(direction))
        rest = iter(direction)
        norms = [context.norm(list(itertools.islice(rest, k))) * share for _, k, share in shares]
        if not costly:
            return math.hypot(*map(float, norms))
        total: Tensor = torch.linalg.vector_norm(torch.stack(list(map(torch.as_tensor, norms))))
        return total

    cap, ascents = method.cap, method.ascents
    epsilon = method.perturbation(
        gradients,
        top / ascents,
        scale=scale,
        context=context,
        cap=cap / ascents,
        measure=measure if len(groups) > 1 else None,
    )
    if method.hides:
        nothing = 0 * parameters.norm(gradients)  # or NaN
        epsilon = epsilon._replace(
            factor=torch.where(nothing == 0, nothing + epsilon.factor, 0.0),
            norm=epsilon.norm + nothing,
        )
    direction = epsilon.direction
    if type(direction) is Pieces:  # of all groups together
        if len(groups) > 1:
            direction = shared(direction)
        if math.isnan(epsilon.length) and isinstance(direction, Pieces):
            direction.measure()
        parts = [([p for _, held in groups for p in held], direction, 1.0)]
    else:
        rest = iter(direction)
        parts = [(held, list(itertools.islice(rest, k)), share) for held, k, share in shares]
    last = told(epsilon, cap / ascents)
    if costly:
        return last, [(w, d, epsilon.factor * share) for w, d, share in parts]
    return last, [(w, d, float(epsilon.factor) * share) for w, d, share in parts if epsilon.factor]


def measured(last: Last, moves: Moves) -> Last:
    """Return the record with the length of an ε that was made piece by piece to move the weights.

    Args:
        last: The record.
        moves: What :func:`moves` gave with it, at its whole length.
    """
    _, direction, factor = moves[0] if moves else ([], [], 0.0)
    if not isinstance(direction, Pieces) or not math.isnan(last.perturbation_norm):
        return last
    return dataclasses.replace(last, perturbation_norm=factor * direction.measured())


def together(before: Moves, after: Moves) -> tuple[Moves, Number]:
    """Return the way of two moves, one after the other, and its length.

    Args:
        before: The first one.
        after: The second one, of the same parameters where both move.
    """
    if before and after:
        moves = _sum(before, after)
        return moves, read(parameters.norm(moves[0][1]))
    moves = before or after
    length = parameters.norm([d * factor for _, some, factor in moves for d in some])
    return moves, read(length)


def _sum(before: Moves, after: Moves) -> Moves:
    found: dict[Tensor, Tensor] = {}
    for group, direction, factor in (*before, *after):
        for p, d in zip(group, direction, strict=True):
            if isinstance(factor, float) and 0 < factor < ANY_HOLDS and d.itemsize > 2:
                part = dense(d) if factor == 1 else dense(d) * factor
            else:  # in float64, as the factor of a tiny gradient is more than its dtype may hold
                part = torch.where(torch.as_tensor(factor) != 0, dense(d).double() * factor, 0.0)
                part = part.to(torch.float32 if d.itemsize == 2 else d.dtype)
            found[p] = found[p] + part if p in found else part
    return [(list(found), list(found.values()), 1.0)]


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
