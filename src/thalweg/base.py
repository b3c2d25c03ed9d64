"""What SAM asks of the base optimizer: its parameters, and the radius of each group."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import layout, parameters, sharded
from thalweg.ascent import AllParameters, Always, Method, Norm, Number, check_method
from thalweg.errors import ThalwegError, number
from thalweg.telemetry import Last, told

#: Wrappers of a model that show parameters which are not those of the loss.
_NOT_SUPPORTED = {"FullyShardedDataParallel", "DeepSpeedEngine"}
_UNTESTED = {"mps", "xla"}
#: Rho and chosen parameters of every param group that is perturbed.
Rhos = list[tuple[float, list[Tensor]]]


def check(optimizer: object, model: object, method: object, scaler: object, power: object) -> None:
    """Raise unless the arguments of SAM are of the right kinds.

    Args:
        optimizer: Must be an instance of a torch optimizer that has no ``rho`` of its own.
        model: Must be a module or ``None``.
        method: Must be a Method or ``None``.
        scaler: Must be a gradient scaler or ``None``.
        power: Must be ``None`` if there is a method.

    Raises:
        ThalwegError: If one is not.
    """
    if isinstance(optimizer, type):
        raise ThalwegError(
            f"optimizer must be an instance, got the class {optimizer.__name__}: write "
            f"SAM({optimizer.__name__}(model.parameters(), lr=...), model)"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ThalwegError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: pass the "
            "innermost torch optimizer"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ThalwegError(
            "optimizer must take one gradient a step, but LBFGS takes many in a search of its own: "
            "choose another base optimizer"
        )
    if "rho" in optimizer.defaults:
        raise ThalwegError(
            f'optimizer must leave the key "rho" of its param groups to SAM, but '
            f"{type(optimizer).__name__} has a rho of its own (rho={optimizer.defaults['rho']}): "
            "choose another base optimizer"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise ThalwegError(
            f"model must be a torch.nn.Module or None, got {type(model).__name__}: write "
            "SAM(optimizer, model, rho=...)"
        )
    check_method(method, power)
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise ThalwegError(
            f"scaler must be a torch.amp.GradScaler or None, got {type(scaler).__name__}"
        )
    for layer in layout.layers(model):
        if type(layer).__name__ in _NOT_SUPPORTED:
            raise ThalwegError(
                f"model must not be wrapped by {type(layer).__name__}, which shows neither whole "
                "parameters nor shards of them: use DistributedDataParallel or fully_shard (FSDP2)"
            )
    for p in trained(optimizer):
        if p.device.type in _UNTESTED:
            raise ThalwegError(
                f"parameters must lie on the CPU or a CUDA device, got {p.device.type}, which is "
                "not tested: move the model before the optimizer is made"
            )
        if model is None and layout.is_sharded(p):
            raise ThalwegError(
                "model must be the module where its parameters are sharded (DTensor), got None: "
                "it has to be resharded after every move; pass the module"
            )
        if p.is_complex():
            raise ThalwegError(
                f"parameters must be real, got one of dtype {p.dtype} and shape {tuple(p.shape)}: "
                "train torch.view_as_real of it"
            )


def check_closure(closure: Callable[[], Any] | None) -> Callable[[], Any]:
    """Return the closure of a step, or raise if it is none.

    Args:
        closure: What the caller gave.

    Returns:
        The same.

    Raises:
        ThalwegError: If it cannot be called.
    """
    if not callable(closure):
        raise ThalwegError(
            f"step() needs a closure that clears the gradients, calls backward() and returns the "
            f"loss, got {closure!r}: pass one, or use `for _ in sam.passes():`"
        )
    return closure


def check_block(method: Method, trained: list[Tensor]) -> None:
    """Raise unless a block can take the second gradient of a step, the first being there.

    Args:
        method: What a step does.
        trained: The parameters.

    Raises:
        ThalwegError: If the method may skip passes, or there is no gradient.
    """
    if not isinstance(method.gate, Always):
        raise ThalwegError(
            f"perturbed() always takes two gradients, but the gate {method.gate!r} may skip one: "
            "use `for _ in sam.passes():` or sam.step(closure)"
        )
    if all(p.grad is None for p in trained):
        raise ThalwegError(
            "perturbed() needs gradients, got none: call loss.backward() before the block"
        )


def check_state(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise unless a state was saved with a method that remembers the same things.

    Args:
        state: What is to be loaded.
        own: What would be saved now.

    Raises:
        ThalwegError: If not.
    """
    if set(state) != set(own):
        raise ThalwegError(
            f"state must have the keys {sorted(own)}, got {sorted(state)}: it was saved with "
            "another method; build SAM with that one"
        )


def warn(optimizer: torch.optim.Optimizer, model: nn.Module | None, rho: float) -> None:
    """Warn of what is likely not meant: another rho in the groups, parameters left out.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
        rho: The radius asked for now.
    """
    held = {group.get("rho") for group in optimizer.param_groups}
    if len(held) == 1 and not held <= {rho, None}:
        warnings.warn(
            f"the optimizer's param groups already hold rho={held.pop()}, which is used; the "
            f'rho={rho} given now is not: set group["rho"] to change it',
            stacklevel=3,
        )
    known = set(trained(optimizer))
    if model is None or any(map(layout.is_sharded, known)):
        return  # a sharded model may show parameters that are gathered, which are others
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in named if p not in known]
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(named)} trainable parameters of the model are not in the "
            f"optimizer ({missing[0]} is the first), so they are neither perturbed nor trained: "
            "give them to the optimizer, or call requires_grad_(False) on them",
            stacklevel=3,
        )


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
    for group in optimizer.param_groups:
        rho = group.setdefault("rho", default)
        if type(rho) is not float or not 0 <= rho < math.inf:
            rho = number('the "rho" of a param group', rho, at_least=0)
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
            _look_for_gradients([p for _, chosen in rhos for p in chosen])
        if held:
            groups.append((rho, held))
            gradients += [g for g in found if g is not None]
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
        warnings.warn(
            "no parameter of the optimizer got a gradient in the first pass, so nothing is "
            "perturbed: call backward() in every pass, on a loss of the parameters that the "
            "optimizer was given",
            stacklevel=4,
        )
