"""What SAM refuses, and what it warns of when it is made: arguments, calls, states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import layout, modules
from thalweg.ascent import AllParameters, Always, Method, Normalization, check_method
from thalweg.base import trained as parameters_of
from thalweg.errors import ThalwegError, brief, warn, whole

#: Wrappers of a model that show parameters which are not those of the loss.
_NOT_SUPPORTED = {"FullyShardedDataParallel", "DeepSpeedEngine"}
_UNTESTED = {"mps", "xla"}


def check(
    optimizer: object,
    model: object,
    method: object,
    scaler: object,
    power: object,
    unknown: Mapping[str, object],
) -> None:
    """Raise unless the arguments of SAM are of the right kinds.

    Args:
        optimizer: Must be an instance of a torch optimizer that has no ``rho`` of its own.
        model: Must be a module or ``None``.
        method: Must be a Method or ``None``.
        scaler: Must be a gradient scaler or ``None``.
        power: Must be ``None`` if there is a method.
        unknown: Must be empty: what is no argument of SAM.

    Raises:
        ThalwegError: If one is not.
    """
    if isinstance(optimizer, type):
        raise ThalwegError(
            f"optimizer must be an instance, got the class {optimizer.__name__}: write "
            f"SAM({optimizer.__name__}(model.parameters(), lr=...), model)"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        remedy = "pass the innermost torch optimizer"
        if isinstance(optimizer, nn.Module):
            remedy = "write SAM(optimizer, model)"
        elif isinstance(optimizer, Iterable):  # as other SAMs are made
            remedy = "write SAM(torch.optim.SGD(parameters, lr=...), model), or take compat.SAM"
        raise ThalwegError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: {remedy}"
        )
    if hasattr(optimizer, "first_step"):
        raise ThalwegError(
            f"optimizer must be a plain one, got {type(optimizer).__name__}, which is a SAM "
            "already: pass its base_optimizer"
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
    if unknown:
        name, value = next(iter(unknown.items()))
        remedy = "an option of the base optimizer goes to it, where it is made"
        if name == "adaptive":
            remedy = "write method=presets.asam_all(offset=0.0), or take compat.SAM"
        raise ThalwegError(
            f"{name} must be left out: SAM has no such argument, got {name}={brief(value)}; "
            f"{remedy}"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise ThalwegError(
            f"model must be a torch.nn.Module or None, got {type(model).__name__}: write "
            "SAM(optimizer, model, rho=...)"
        )
    check_method(method, power)
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise ThalwegError(
            f"scaler must be a torch.amp.GradScaler or None, got {type(scaler).__name__}: pass the "
            "object that scales the loss"
        )
    for layer in modules.layers(model):
        if type(layer).__name__ in _NOT_SUPPORTED:
            raise ThalwegError(
                f"model must not be wrapped by {type(layer).__name__}, which shows neither whole "
                "parameters nor shards of them: use DistributedDataParallel or fully_shard (FSDP2)"
            )
    for p in parameters_of(optimizer):
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
        if p.dtype.itemsize == 1:
            raise ThalwegError(
                f"parameters must have 16 bits or more, got {p.dtype}, which could hold no "
                "perturbation: keep the weights in a wider dtype, and cast in the forward"
            )
        if p.is_complex():
            raise ThalwegError(
                f"parameters must be real, got one of dtype {p.dtype} and shape {tuple(p.shape)}: "
                "train torch.view_as_real of it"
            )


def check_another(method: object, *, busy: bool) -> None:
    """Raise unless another method may take the place of the one there is.

    Args:
        method: Must be a Method.
        busy: Whether a loop is open.

    Raises:
        ThalwegError: If it is none, or a loop over passes or a block is open.
    """
    if method is None:
        raise ThalwegError("method must be a thalweg.Method, got None: plain SAM is Method()")
    check_method(method, None)
    if busy:
        raise ThalwegError(
            "method must stay as it is while a loop over passes() or a block is open, got another: "
            "assign it before or after"
        )


def check_filter(
    optimizer: torch.optim.Optimizer,
    method: Method,
    place_of: Callable[[Tensor], tuple[str, nn.Module | None]],
) -> None:
    """Raise if the filter of a method leaves no parameter to perturb.

    Args:
        optimizer: The base optimizer.
        method: What a step does.
        place_of: Tells where in the model a parameter is.

    Raises:
        ThalwegError: If there are parameters, and it chooses none; or if it gives something else
            than True or False.
    """
    trained = parameters_of(optimizer)
    if isinstance(method.filter, AllParameters) or not trained:
        return
    found = [place_of(p) for p in trained]
    answers = [method.filter(p, *place) for p, place in zip(trained, found, strict=True)]
    odd = [a for a in answers if not isinstance(a, bool | int) and not hasattr(a, "dtype")]
    if odd:
        raise ThalwegError(
            f"filter must give True or False for every parameter, got {brief(odd[0])} of "
            f"{brief(method.filter)}: return a comparison, such as parameter.ndim > 1"
        )
    if any(answers):
        return
    names = [name for name, _ in found if name]
    listed = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    remedy = f"choose among {listed}, or leave the filter out" if names else "give SAM the model"
    if names and isinstance(method.filter, Normalization):
        remedy = "none is of a normalization layer; leave the filter out"
    raise ThalwegError(
        f"filter must choose some of the {len(trained)} parameters of the optimizer, got none by "
        f"{brief(method.filter)}: {remedy}"
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
            f"loss, got {brief(closure)}: pass one, or use `for _ in sam.passes():`"
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
    two = method.passes == 2 and method.looks
    if not two or not isinstance(method.gate, Always):
        why = f"the gate {method.gate!r} may skip one" if two else f"this one takes {method.passes}"
        raise ThalwegError(
            f"perturbed() must have a method that takes two gradients at every step, but {why}: "
            "use `for _ in sam.passes():` or sam.step(closure)"
        )
    if all(p.grad is None for p in trained):
        raise ThalwegError(
            "perturbed() needs gradients, got none: call loss.backward() before the block"
        )


def check_state(state: Any, own: dict[str, Any], keeps: str) -> int | None:
    """Raise unless a state was saved with a method that remembers the same things.

    Args:
        state: What is to be loaded.
        own: What would be saved now.
        keeps: The kinds of the parts that depend on earlier steps.

    Returns:
        How many steps went before, where that is in it.

    Raises:
        ThalwegError: If not.
    """
    if not isinstance(state, Mapping):
        raise ThalwegError(f"state must be what sam.state_dict() gave, got {brief(state)}")
    if "param_groups" in state:
        raise ThalwegError(
            "state must come from sam.state_dict(), got an optimizer's: load it by "
            "optimizer.load_state_dict(state)"
        )
    always = {"memory", "method"}
    if set(state) - always != set(own) - always:
        raise ThalwegError(
            f"state must have the keys {sorted(own)}, got {sorted(map(str, state))}: it was saved "
            "with another method; build SAM with that one"
        )
    if state.get("method", keeps) != keeps:
        raise ThalwegError(
            f"state must come of a method that remembers by {keeps}, got one of "
            f"{state['method']!s:.80}: build SAM with that one"
        )
    return whole('the "step" of a state', state["step"]) if "step" in state else None


def warn_of_likely_mistakes(
    optimizer: torch.optim.Optimizer, model: nn.Module | None, rho: float, held: set[Any]
) -> None:
    """Warn of what is likely not meant: another rho in the groups, parameters left out.

    Args:
        optimizer: The base optimizer.
        model: The module that is trained, or ``None``.
        rho: The radius asked for now.
        held: What the groups held before.
    """
    if len(held) == 1 and not held <= {rho, None}:
        warn(
            f"the optimizer's param groups already hold rho={held.pop()}, which is used; the "
            f'rho={rho}, given now or by default, is not: set group["rho"] to change it',
        )
    known = set(parameters_of(optimizer))
    if model is None or any(map(layout.is_sharded, known)):
        return  # a sharded model may show parameters that are gathered, which are others
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in named if p not in known]
    if missing:
        remedy = "give it all of them, or call requires_grad_(False) on those that are to stay"
        if len(missing) == len(named):
            remedy = "is this the model that it was made for? Give SAM that one"
        warn(
            f"the optimizer lacks {len(missing)} of the model's {len(named)} trainable parameters "
            f"({missing[0]} is the first), and what it lacks is neither perturbed nor trained: "
            f"{remedy}",
        )
