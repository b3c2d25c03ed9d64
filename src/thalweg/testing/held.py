"""What a step must leave alone: weights, normalization layers, random state."""

from __future__ import annotations

import copy

import torch
from torch import nn

from thalweg.testing.protocol import Failed, NotOffered
from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import Trial, everything, length, mse, net, require, same, weights


def _restore(bench: Bench, dtype: torch.dtype) -> None:
    """Take many steps at lr = 0, in each form in turn."""
    trial = Trial(bench, net(dtype=dtype, bias=True))
    trial.lr(0.0)
    before = weights(trial.model)
    places = [p.data_ptr() for p in trial.model.parameters()]
    forms = list(trial.driver.forms)
    turn = max(1, min(8, bench.long // len(forms)))  # in eight steps a gate opens
    used, uphill = set(), set()
    for step in range(bench.long):
        form = forms[step // turn % len(forms)]
        used.add(form)
        trial.step(form, mse(step % 20, dtype))
        if step < turn * len(forms) and length(trial.moved) > 0:
            uphill.add(form)
    require(uphill == used, "the last pass is not uphill")
    changed = sum(int((a != b).sum()) for a, b in _pairs(before, weights(trial.model)))
    share = changed / sum(t.numel() for t in before.values())
    require(not changed, f"{share:.0%} of the weights drifted")
    require(same(before, weights(trial.model)), "a bit of a weight has changed")
    now = [p.data_ptr() for p in trial.model.parameters()]
    require(now == places, "the weights are in other storage than before")


def _pairs(
    left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(t, right[name]) for name, t in left.items()]


for _dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):

    def _work(bench: Bench, dtype: torch.dtype = _dtype) -> None:
        _restore(bench, dtype)

    _name = str(_dtype).removeprefix("torch.")
    check(
        f"1000 steps at lr = 0 leave every bit and every storage in place, {_name}",
        name=f"restore_{_name}",
        per_form=False,
    )(_work)


def _layers(bench: Bench, form: str, momentum: float | None) -> tuple[nn.Module, nn.Module]:
    """Return the network after 5 steps, and one after 5 forwards with the same weights."""
    trial = Trial(bench, net(nn.BatchNorm1d(8, momentum=momentum)), rho=0.5)
    if trial.last == 0:
        raise NotOffered("a pass at the weights themselves")
    plain = net(nn.BatchNorm1d(8, momentum=momentum))
    for step in range(5):
        plain.load_state_dict(weights(trial.model), strict=False)
        mse(step)(plain)
        trial.step(form, mse(step))
    return trial.model, plain


def _statistics_once(bench: Bench, form: str, momentum: float | None) -> None:
    found, wanted = (m[1] for m in _layers(bench, form, momentum))  # type: ignore[index]
    for name in ("running_mean", "running_var"):
        gap = float((getattr(found, name) - getattr(wanted, name)).abs().max())
        require(gap == 0, f"{name} is off by {gap:.1g}")


@check("BatchNorm's running statistics advance once a step")
def batch_norm(bench: Bench, form: str) -> None:
    """With a momentum of 0.1."""
    _statistics_once(bench, form, 0.1)


@check("BatchNorm's cumulative averages (momentum=None) advance once a step")
def batch_norm_cumulative(bench: Bench, form: str) -> None:
    """The average's weight is the count of batches, which must be right too."""
    _statistics_once(bench, form, None)


@check("BatchNorm counts each batch once")
def batch_norm_count(bench: Bench, form: str) -> None:
    """The buffer ``num_batches_tracked``."""
    found = int(_layers(bench, form, 0.1)[0].get_buffer("1.num_batches_tracked"))
    require(found == 5, f"num_batches_tracked is {found} after 5 steps")


@check("both passes see the same dropout", per_form=False)
def dropout_replayed(bench: Bench) -> None:
    """In every form whose first pass SAM sees; there must be one."""
    replayed = {}
    for form in bench.forms():
        trial = Trial(bench, net(nn.Dropout(0.5)))
        seen: list[torch.Tensor] = []
        last = trial.model.get_submodule("2")
        hook = last.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0] == 0))
        torch.manual_seed(3)
        trial.step(form, mse(0))
        hook.remove()
        replayed[form] = all(torch.equal(seen[0], other) for other in seen[1:])
        if form in trial.driver.first_pass_outside and not replayed[form]:
            del replayed[form]
    wrong = [form for form, well in replayed.items() if not well]
    where = "" if len(wrong) == len(replayed) else f"{', '.join(wrong)}: "
    right = replayed and not wrong
    require(right, f"{where}other units are dropped in the second pass")


@check("after a step the random state is that after one pass")
def random_state(bench: Bench, form: str) -> None:
    """So that a run with SAM draws what a run without it does."""
    trial, plain = Trial(bench, net(nn.Dropout(0.5))), net(nn.Dropout(0.5))
    torch.manual_seed(7)
    trial.step(form, mse(0))
    drawn = torch.rand(4)
    torch.manual_seed(7)
    mse(0)(plain)
    require(torch.equal(drawn, torch.rand(4)), "the second pass drew random numbers too")


class _StopError(RuntimeError):
    pass


class _StopNow(KeyboardInterrupt):
    pass


def _interrupted(bench: Bench, form: str, in_pass: int, stop: type[BaseException]) -> None:
    """Interrupt a pass after its forward, then take a step beside a fresh candidate."""
    trial, one_pass = (Trial(bench, net(nn.BatchNorm1d(8)), rho=0.5) for _ in range(2))
    if in_pass > trial.last:
        raise NotOffered("steps of two gradients")
    places = [p.data_ptr() for p in trial.model.parameters()]

    def stopped(forward: nn.Module) -> torch.Tensor:
        mse(0)(forward)
        raise stop("stop")

    for _ in range(8 if in_pass and 1 in trial.driver.passes else 1):  # until a gate opens
        before = everything(trial.model)
        try:
            trial.step(form, *[mse(0)] * in_pass, stopped)
        except stop:
            break
    else:
        raise Failed("the exception was swallowed")
    now = everything(trial.model)
    one_pass.model.load_state_dict(before)
    mse(0)(one_pass.model)
    away = {n: now[n].double() - before[n].double() for n in weights(trial.model)}
    require(length(away) == 0, f"the weights are {length(away):.3g} away")
    require(places == [p.data_ptr() for p in trial.model.parameters()], "storage has changed")
    uphill = trial.last == 0  # there, the only pass was at w + ε
    ok = uphill or same(now, before) or same(now, everything(one_pass.model))
    require(ok, "BatchNorm's statistics are neither those before nor those after one pass")
    fresh = Trial(bench, net(nn.BatchNorm1d(8)), rho=0.5)
    fresh.model.load_state_dict(now)
    fresh.driver.load_state_dict(trial.driver.state_dict())
    fresh.driver.optimizer.load_state_dict(copy.deepcopy(trial.driver.optimizer.state_dict()))
    trial.step(form, mse(1))
    fresh.step(form, mse(1))
    require(
        same(everything(trial.model), everything(fresh.model)),
        "the next step is not that of a fresh SAM",
    )


@check("an exception in the first pass leaves the weights, and the next step works")
def exception_in_first_pass(bench: Bench, form: str) -> None:
    """An error, and an interruption from the keyboard."""
    for stop in (_StopError, _StopNow):
        _interrupted(bench, form, 0, stop)


@check("an exception in the second pass brings the weights back, and the next step works")
def exception_in_second_pass(bench: Bench, form: str) -> None:
    """An error, and an interruption from the keyboard."""
    for stop in (_StopError, _StopNow):
        _interrupted(bench, form, 1, stop)


@check("model.state_dict() in the second pass gives the unmoved weights, or raises")
def state_dict_while_moved(bench: Bench, form: str) -> None:
    """Such as a checkpoint written from a callback; the loop may be ended by an error."""
    trial = Trial(bench, net(), rho=0.5)
    saved: list[dict[str, torch.Tensor]] = []

    def saving(forward: nn.Module) -> torch.Tensor:
        value = mse(0)(forward)
        saved.append(everything(trial.model))
        return value

    refused = False
    for _ in range(8 if trial.last and 1 in trial.driver.passes else 1):  # until a gate opens
        before = weights(trial.model)
        try:
            trial.step(form, *[mse(0)] * trial.last, saving)
        except Exception:
            refused = True
            require(same(weights(trial.model), before), "it raised and left the weights moved")
        if refused or saved:
            break
    require(refused or saved, "the last pass was never taken")
    if saved:
        away = length({n: saved[0][n].double() - t.double() for n, t in before.items()})
        require(away == 0, f"the saved weights are {away:.3g} away")
