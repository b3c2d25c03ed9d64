"""Gradients that are zero, infinite, not a number, huge or tiny."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thalweg.testing.protocol import NotOffered
from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import RHO, Loss, Trial, length, mse, net, require, same, weights


class _Line(nn.Module):
    """A loss whose gradient is the same everywhere: ``slope``.

    Args:
        slope: The gradient, 1-dimensional; its dtype is that of the weights, which start at 0.
    """

    slope: Tensor

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(slope))
        self.register_buffer("slope", slope)

    def forward(self) -> Tensor:
        return (self.weight * self.slope).sum()


def _spread(dtype: torch.dtype, scale: float, size: int = 64) -> Tensor:
    """Return a slope with entries from −2 to 2 times the scale."""
    return (torch.linspace(-2.0, 2.0, size, dtype=torch.float64) * scale).to(dtype)


def _finite(trial: Trial, when: str = "") -> None:
    bad = sum(int((~t.isfinite()).sum()) for t in weights(trial.model).values())
    total = sum(t.numel() for t in weights(trial.model).values())
    require(not bad, f"{bad / total:.0%} of the weights are not finite" + when)


@check("a gradient of zero moves nothing, as with the base", depends_on_power=True)
def zero_gradient(bench: Bench, form: str) -> None:
    """At a minimum, or with a dead unit everywhere."""
    trial = Trial(bench, net())
    before = weights(trial.model)
    trial.step(form, lambda forward: 0.0 * mse(0)(forward))
    _finite(trial)
    require(same(weights(trial.model), before), "the weights have changed")
    trial.step(form, mse(1))
    require(not same(weights(trial.model), before), "the next step was not taken")


def _spoiled(bench: Bench, form: str, value: float, everywhere: bool) -> None:
    """Spoil the ascent gradient alone; the base could take the second one."""
    trial = Trial(bench, net())
    if 1 in trial.driver.passes:
        raise NotOffered("an ascent gradient in every step")

    def spoil(forward: nn.Module) -> Tensor:
        parts = trial.model.parameters() if everywhere else [trial.model.get_parameter("2.weight")]
        bad = sum((p.sum() if everywhere else p[0, 0]) * value for p in parts)
        return mse(0)(forward) + bad

    before = weights(trial.model)
    trial.step(form, spoil, mse(0))
    _finite(trial)
    trial.step(form, mse(1))
    _finite(trial, " after the next step")
    require(not same(weights(trial.model), before), "the next step was not taken")


@check("one infinite entry in the ascent gradient leaves the weights finite", depends_on_power=True)
def one_inf(bench: Bench, form: str) -> None:
    """The second pass is finite."""
    _spoiled(bench, form, math.inf, everywhere=False)


@check("one NaN in the ascent gradient leaves the weights finite", depends_on_power=True)
def one_nan(bench: Bench, form: str) -> None:
    """The second pass is finite."""
    _spoiled(bench, form, math.nan, everywhere=False)


@check("an ascent gradient of nothing but NaN leaves the weights finite", depends_on_power=True)
def all_nan(bench: Bench, form: str) -> None:
    """The second pass is finite."""
    _spoiled(bench, form, math.nan, everywhere=True)


def _radius(bench: Bench, form: str, slope: Tensor, rho: float, tolerance: float) -> None:
    trial = Trial(bench, _Line(slope), rho=rho)
    trial.lr(0.0)
    loss: Loss = lambda forward: forward()  # noqa: E731
    trial.step(form, loss)
    far = length(trial.moved)
    require(math.isclose(far, rho, rel_tol=tolerance), f"‖ε‖ is {far:.3g}, not {rho}")


@check("‖ε‖ is rho for float32 gradients of 1e30", of_formula=True)
def huge_gradient(bench: Bench, form: str) -> None:
    """Their squares overflow."""
    _radius(bench, form, _spread(torch.float32, 1e30), RHO, 1e-5)


@check("‖ε‖ is rho for float32 gradients of 1e-30", of_formula=True)
def tiny_gradient(bench: Bench, form: str) -> None:
    """Their squares underflow."""
    _radius(bench, form, _spread(torch.float32, 1e-30), RHO, 1e-5)


@check("‖ε‖ is rho for float16 gradients whose norm float16 cannot hold", of_formula=True)
def half_norm(bench: Bench, form: str) -> None:
    """Of 70,000 entries of size 500 on average: a norm of 150,000."""
    _radius(bench, form, _spread(torch.float16, 500.0, 70_000), 8.0, 1e-2)


@check("where the base's step is finite, SAM's is", depends_on_power=True)
def never_worse(bench: Bench, form: str) -> None:
    """Gradients from 1e-45 to 1e38, on a line with a bowl that is too wide to matter.

    Above power 1 the tiny ones are left out: there ε grows as they shrink, and a cap is needed.
    """
    for exponent in (-45, -38, -20, 0, 20, 30, 38) if bench.power <= 1 else (0, 20, 30, 38):
        slope = _spread(torch.float32, 10.0**exponent)
        trial = Trial(bench, _Line(slope))
        trial.lr(1e-3)
        for _ in range(3):
            trial.step(form, lambda forward: forward() + (forward.weight**2).sum() / 8)
        _finite(trial, f" for gradients of 1e{exponent}")
