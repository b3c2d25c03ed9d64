"""A candidate at work on a small network, and SAM written out to compare it with."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from thalweg.testing.protocol import Backward, Failed, Setup
from thalweg.testing.suite import Bench

#: Named tensors: weights, or gradients of which some may be missing.
Named = dict[str, Tensor]
#: The loss as a function of the forward: the model itself, or a functional call of it.
Loss = Callable[[Any], Tensor]

RHO = 0.1
#: How far, of its norm, a gradient in float64 may be from the formula where the check is of its
#: meaning: some take the norm in float32, which is for the check of the digits to tell.
CLOSE = 1e-6
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def require(condition: object, reason: str) -> None:
    """Raise :class:`Failed` with this reason unless the condition holds."""
    if not condition:
        raise Failed(reason)


def net(*middle: nn.Module, dtype: torch.dtype = torch.float32, bias: bool = False) -> nn.Module:
    """Return a small network, always with the same weights.

    Args:
        *middle: Layers for its middle, 8 wide.
        dtype: Of the parameters.
        bias: Whether there are biases. Some base optimizers take nothing but matrices.
    """
    torch.manual_seed(0)
    first, last = nn.Linear(5, 8, bias=bias), nn.Linear(8, 3, bias=bias)
    return nn.Sequential(first, *middle, nn.Tanh(), last).to(dtype)


def mse(step: int, dtype: torch.dtype = torch.float32, part: slice = slice(None)) -> Loss:
    """Return the loss of a batch of 16, different at every step.

    Args:
        step: Which batch.
        dtype: Of the examples.
        part: Which of its examples.
    """
    x, y = _batch(step, dtype)
    x, y = x[part], y[part]
    return lambda forward: ((forward(x) - y) ** 2).mean()


@functools.lru_cache
def _batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000 + step)
    x, y = (torch.randn(16, k, generator=draw, dtype=torch.float64) for k in (5, 3))
    return x.to(dtype), 2 * y.to(dtype)


def weights(model: nn.Module) -> Named:
    """Return copies of the parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def everything(model: nn.Module) -> Named:
    """Return copies of the parameters and buffers."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same(left: Named, right: Named) -> bool:
    """Whether two sets of tensors have the same bits."""
    if left.keys() != right.keys():
        return False
    return all(torch.equal(_bits(left[k]), _bits(right[k])) for k in left)


def _bits(t: Tensor) -> Tensor:
    floating = t.is_floating_point() and t.numel()
    return t.contiguous().view(_INTEGERS[t.dtype.itemsize]) if floating else t


def length(tensors: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of all the tensors together, in float64."""
    wide = [t.to_dense().to(torch.complex128).abs() for t in tensors.values()]
    return math.sqrt(sum(float((t * t).sum()) for t in wide))


def relative(found: Mapping[str, Tensor | None], wanted: Named) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖; a missing tensor counts as zero."""
    gaps = {}
    for name, t in wanted.items():
        there = found.get(name)
        away = torch.zeros_like(t) if there is None else there.to_dense()
        gaps[name] = away.to(torch.complex128) - t.to_dense().to(torch.complex128)
    return length(gaps) / length(wanted)


def gradients(model: nn.Module, loss: Loss, at: Named) -> Named:
    """Return the gradients at other weights; the model itself is left alone.

    Args:
        model: Whose forward.
        loss: The loss as a function of the forward.
        at: The weights. Parameters that have no gradient are left out.
    """
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    leaves = {n: t.detach().clone().requires_grad_(n in free) for n, t in at.items()}
    inside = leaves | {n: b.clone() for n, b in model.named_buffers()}
    value = loss(lambda *x: torch.func.functional_call(model, inside, x))
    wanted = [n for n in leaves if n in free]
    found = torch.autograd.grad(value, [leaves[n] for n in wanted], allow_unused=True)
    return {n: g for n, g in zip(wanted, found, strict=True) if g is not None}


def written_out(
    model: nn.Module,
    loss: Loss,
    rho: float | Mapping[str, float] = RHO,
    power: float = 1.0,
) -> Named:
    """Return the SAM gradient at the model's weights, from two passes of plain torch.

    Args:
        model: At the weights w; it is left alone.
        loss: The loss as a function of the forward.
        rho: Radius, for all or by name.
        power: The normalization p.
    """
    w = weights(model)
    g = gradients(model, loss, w)
    n = length(g)
    radius = dict.fromkeys(w, rho) if isinstance(rho, float) else rho
    epsilon = {k: radius[k] * n**-power * t.to_dense() for k, t in g.items()}
    if power > 1 and length(epsilon) > 0.9:
        raise RuntimeError("the suite's own data are wrong: a cap of 1 could bite")
    return gradients(model, loss, {k: t + epsilon[k] if k in g else t for k, t in w.items()})


class Trial:
    """A candidate and its network; notes what every pass saw and what the base was given.

    Args:
        bench: The candidate and its base.
        model: The network, which may be wrong in whatever way the check wants.
        base: Another base optimizer than the bench's.
        params: Param groups; all parameters unless told otherwise.
        rho: Radius.
        scaler: A gradient scaler.

    Attributes:
        start: The weights before the latest step.
        passes: The weights that each of its passes saw.
        stood: The weights when the base optimizer stepped; ``None`` if it did not.
        given: The gradients that it got.
    """

    def __init__(
        self,
        bench: Bench,
        model: nn.Module,
        *,
        base: Callable[[Any], torch.optim.Optimizer] | None = None,
        params: list[Any] | None = None,
        rho: float = RHO,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model = model
        self.scaler = scaler
        self.passes: list[Named] = []
        self.stood: Named | None = None
        self.given: dict[str, Tensor | None] = {}
        params = list(model.parameters()) if params is None else params
        self.start: Named = {}
        self.driver = bench.sam(Setup(base or bench.base, params, model, rho, bench.power, scaler))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the base optimizer is given. An optimizer around it steps earlier."""
        hook = register_optimizer_step_pre_hook(self._note)
        try:
            yield
        finally:
            hook.remove()

    def _note(self, *_: Any) -> None:
        self.stood = weights(self.model)
        self.given = {
            name: None if p.grad is None else p.grad.detach().clone()
            for name, p in self.model.named_parameters()
        }

    def backward(self, *losses: Loss | Sequence[Loss]) -> Backward:
        """Return forward and backward as a candidate calls them, and forget the last step.

        Args:
            *losses: One for each pass, the last one for the rest; several for micro-batches.
        """
        self.passes, self.stood, self.given = [], None, {}
        self.start = weights(self.model)

        def backward() -> Tensor:
            turn = losses[min(len(self.passes), len(losses) - 1)]
            self.passes.append(weights(self.model))
            total = torch.zeros(())
            for loss in turn if isinstance(turn, Sequence) else [turn]:
                value = loss(self.model)
                if value.requires_grad:
                    self._scaled(value).backward()  # type: ignore[no-untyped-call]
                total = total + value.detach()
            return total

        return backward

    def _scaled(self, value: Tensor) -> Tensor:
        return value if self.scaler is None else self.scaler.scale(value)

    def step(self, form: str, *losses: Loss | Sequence[Loss]) -> Any:
        """Take one step in one form; it must take as many gradients as the driver says."""
        with self.watching():
            loss = self.driver.forms[form](self.backward(*losses))
        wanted = " or ".join(map(str, sorted(self.driver.passes)))
        fits = len(self.passes) in self.driver.passes
        require(fits, f"a step took {len(self.passes)} gradients, not {wanted}")
        return loss

    @property
    def moved(self) -> Named:
        """How far the last pass was from the weights: ε as rounding let it through."""
        return {
            name: self.passes[-1][name].to(torch.complex128) - t.to(torch.complex128)
            for name, t in self.start.items()
        }

    @property
    def last(self) -> int:
        """The index of the last pass of a step that takes as many as it may."""
        return max(self.driver.passes) - 1

    def lr(self, value: float) -> None:
        """Set the learning rate of every group."""
        for group in self.driver.optimizer.param_groups:
            group["lr"] = value
