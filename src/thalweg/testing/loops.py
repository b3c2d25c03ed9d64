"""The loops people write: accumulation, clipping, m-SAM, mixed precision with a scaler."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.testing.protocol import Backward, NotOffered
from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import (
    CLOSE,
    Loss,
    Trial,
    everything,
    mse,
    net,
    relative,
    require,
    same,
    written_out,
)

_WIDE = torch.float64


def _parts(step: int, k: int) -> list[Loss]:
    """Return the losses of k micro-batches, which sum to that of the whole batch."""

    def part(i: int) -> Loss:
        loss = mse(step, _WIDE, slice(i * 16 // k, (i + 1) * 16 // k))
        return lambda forward: loss(forward) / k

    return [part(i) for i in range(k)]


@check("four micro-batches in each pass equal the big batch to 1e-6", of_formula=True)
def accumulation(bench: Bench, form: str) -> None:
    """The passes run over micro-batches, and the step sees their sum."""
    trial = Trial(bench, net(dtype=_WIDE))
    for step in range(3):
        wanted = written_out(trial.model, mse(step, _WIDE))
        trial.step(form, _parts(step, 4))
        gap = relative(trial.given, wanted)
        require(gap <= CLOSE, f"the SAM gradient is off by {gap:.1e} of its norm")


@check(
    "clipping acts on the SAM gradient; the ascent uses the raw one",
    per_form=False,
    of_formula=True,
)
def clipping(bench: Bench) -> None:
    """Clip by value, which turns the gradient, between the second pass and the step."""
    trial, most = Trial(bench, net(dtype=_WIDE)), 0.05
    for step in range(3):
        loss = mse(step, _WIDE)
        raw = written_out(trial.model, loss)
        wanted = {name: t.clamp(-most, most) for name, t in raw.items()}
        trial.driver.gradient(trial.backward(loss))
        for p in trial.model.parameters():
            p.grad = None if p.grad is None else p.grad.clamp(-most, most)
        with trial.watching():
            trial.driver.step()
        gap = relative(trial.given, wanted)
        require(gap <= CLOSE, f"the base got a gradient off by {gap:.1e} of its norm")


@check(
    "torch's closure contract: step(closure) alone, and it returns the loss",
    per_form=False,
    of_formula=True,
)
def closure(bench: Bench) -> None:
    """The closure clears, runs forward and backward, and returns the loss, as for LBFGS."""
    trial = Trial(bench, net(dtype=_WIDE))
    for step in range(3):
        loss = mse(step, _WIDE)
        first, wanted = float(loss(trial.model)), written_out(trial.model, loss)
        backward = trial.backward(loss)

        def clearing(backward: Backward = backward) -> Tensor:
            trial.driver.optimizer.zero_grad()
            return backward()

        with trial.watching():
            value = trial.driver.closure(clearing)
        gap = relative(trial.given, wanted)
        require(gap <= CLOSE, f"the SAM gradient is off by {gap:.1e} of its norm")
        require(value is not None, "it does not return the loss")
        require(float(value) == first, "it does not return the loss at the weights")


@check("m-SAM equals the formula written out", per_form=False, of_formula=True)
def m_sam(bench: Bench) -> None:
    """Four parts of a batch, each with its own ascent; one step."""
    trial = Trial(bench, net(dtype=_WIDE))
    for step in range(3):
        losses = _parts(step, 4)
        each = [written_out(trial.model, loss) for loss in losses]
        wanted = {name: sum((g[name] for g in each[1:]), each[0][name]) for name in each[0]}
        whole = written_out(trial.model, mse(step, _WIDE))
        if relative(dict(whole), wanted) < 1e-4:
            raise RuntimeError("the suite's own data are wrong: m-SAM is SAM on them")

        with trial.watching():
            trial.driver.m_sam([_both(trial, loss) for loss in losses])
        gap = relative(trial.given, wanted)
        require(gap <= CLOSE, f"the sum of SAM gradients is off by {gap:.1e} of its norm")


def _both(trial: Trial, loss: Loss) -> Backward:
    def backward() -> Tensor:
        value = loss(trial.model)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    return backward


def _scaler(scale: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)


@check("GradScaler: scales of 1 and 65536 train alike, bit for bit", depends_on_power=True)
def scaler_scales(bench: Bench, form: str) -> None:
    """And like no scaler at all, since these are powers of two."""
    ends = []
    for scaler in (None, _scaler(1.0), _scaler(65536.0)):
        trial = Trial(bench, net(), scaler=scaler)
        for step in range(10):
            trial.step(form, mse(step))
        ends.append(everything(trial.model))
    gap = relative(dict(ends[2]), ends[0])
    require(same(ends[1], ends[0]), "a scale of 1 trains otherwise than no scaler")
    require(same(ends[2], ends[0]), f"at 65536 the weights are off by {gap:.0e} of their norm")


def _overflow(bench: Bench, form: str, in_pass: int) -> None:
    scaler = _scaler(1024.0)
    trial = Trial(bench, net(), scaler=scaler)
    if in_pass > trial.last:
        raise NotOffered("steps of two gradients")
    trial.step(form, mse(0))

    def infinite(forward: torch.nn.Module) -> Tensor:
        weight = trial.model.get_parameter("0.weight")
        return mse(1)(forward) + weight[0, 0] * math.inf

    losses = [mse(1), mse(1)]
    losses[in_pass] = infinite
    for _ in range(8 if in_pass and 1 in trial.driver.passes else 1):  # until a gate opens
        before = everything(trial.model)
        trial.step(form, *losses)
        if len(trial.passes) > in_pass:
            break
    after = everything(trial.model)
    finite = all(bool(torch.isfinite(t).all()) for t in after.values())
    require(finite, "the weights are not finite")
    require(same(after, before), "the step was taken")
    require(scaler.get_scale() == 512, f"the scale went from 1024 to {scaler.get_scale():g}")
    trial.step(form, mse(2))
    require(not same(everything(trial.model), before), "the next step was not taken")


@check(
    "GradScaler: an infinite gradient in the first pass skips the step, lowers the scale",
    depends_on_power=True,
)
def scaler_inf_first(bench: Bench, form: str) -> None:
    """The second pass is finite."""
    _overflow(bench, form, 0)


@check(
    "GradScaler: an infinite gradient in the second pass skips the step, lowers the scale",
    depends_on_power=True,
)
def scaler_inf_second(bench: Bench, form: str) -> None:
    """The first pass is finite."""
    _overflow(bench, form, 1)
