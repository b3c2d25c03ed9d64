"""Parameters as they come: groups, frozen, tied, sparse, empty, complex, without a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import (
    CLOSE,
    RHO,
    Trial,
    everything,
    length,
    mse,
    net,
    relative,
    require,
    same,
    weights,
    written_out,
)

_WIDE = torch.float64


def _agrees(trial: Trial, form: str) -> None:
    """Compare what the base is given with SAM written out, if it is SAM; see that it trains."""
    for step in range(3):
        loss, before = mse(step, _WIDE), weights(trial.model)
        wanted = written_out(trial.model, loss)
        trial.step(form, loss)
        gap = relative(trial.given, wanted) if trial.driver.plain else 0.0
        require(gap <= CLOSE, f"the SAM gradient is off by {gap:.1e} of its norm")
        away = length({n: t.double() - before[n] for n, t in (trial.stood or before).items()})
        back = same(trial.stood or {}, before)
        require(back, f"the weights were not back, bit for bit, for the step: {away:.1g} away")
        now = weights(trial.model)
        for name in wanted:
            still = before[name].numel() and torch.equal(now[name], before[name])
            require(not still, f"{name} is not trained")


@check("each param group has its own rho", of_formula=True)
def group_rho(bench: Bench, form: str) -> None:
    """Compare with ε = ρ_group g / ‖g‖, the norm that of all parameters."""
    model = net(dtype=_WIDE)
    first, last = model.parameters()
    groups = [{"params": [first], "rho": 0.3}, {"params": [last]}]
    trial = Trial(bench, model, params=groups)
    loss = mse(0, _WIDE)
    wanted = written_out(model, loss, {"0.weight": 0.3, "2.weight": RHO})
    trial.step(form, loss)
    gap = relative(trial.given, wanted)
    require(gap <= CLOSE, f"the SAM gradient is off by {gap:.1e} of its norm")


@check("a group with rho = 0 is trained and not moved; the others are moved", of_formula=True)
def group_off(bench: Bench, form: str) -> None:
    """Whether the norm in ε counts the group that is off is left open."""
    model = net(dtype=_WIDE)
    first, last = model.parameters()
    trial = Trial(bench, model, params=[{"params": [first], "rho": 0.0}, {"params": [last]}])
    before = weights(model)
    trial.step(form, mse(0, _WIDE))
    moved = trial.moved
    require(length({"": moved["0.weight"]}) == 0, "the group that is off is moved")
    far = length({"": moved["2.weight"]})
    require(1e-3 < far <= RHO * (1 + CLOSE), f"the other group is moved by {far:.3g}, not {RHO}")
    now = weights(model)
    require(all(not torch.equal(now[k], before[k]) for k in now), "a group is not trained")


@check("a frozen parameter stays where it is; the others follow the formula")
def frozen(bench: Bench, form: str) -> None:
    """It is in the optimizer, with ``requires_grad=False``."""
    model = net(dtype=_WIDE, bias=True)
    held = model.get_parameter("0.bias").requires_grad_(False)
    before = held.clone()
    _agrees(Trial(bench, model), form)
    require(torch.equal(held, before), "the frozen parameter has changed")


class _Tied(nn.Module):
    """One matrix on the way in and on the way out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 5, bias=False, dtype=_WIDE)
        self.second = nn.Linear(5, 5, bias=False, dtype=_WIDE)
        self.second.weight = self.first.weight
        self.last = nn.Linear(5, 3, dtype=_WIDE)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return found


@check("a parameter used twice (tied) is moved once")
def tied(bench: Bench, form: str) -> None:
    """Compare with the formula."""
    _agrees(Trial(bench, _Tied()), form)


class _Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 5, sparse=True, dtype=_WIDE)
        self.last = nn.Linear(5, 3, dtype=_WIDE)

    def forward(self, x: Tensor) -> Tensor:
        words = (x.abs() * 4).long() % 7  # some twice, some never
        found: Tensor = self.last(torch.tanh(self.table(words).sum(1)))
        return found


@check("an embedding with sparse gradients follows the formula, on SGD")
def sparse(bench: Bench, form: str) -> None:
    """A batch names some of its rows more than once."""
    _agrees(Trial(bench, _Sparse()), form)


class _Late(nn.Module):
    """Has a second head, or an empty parameter, from the start."""

    def __init__(self, extra: Tensor) -> None:
        super().__init__()
        self.body = net(dtype=_WIDE)
        self.extra = nn.Parameter(extra)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x) + self.extra.sum()
        return found


@check("a param group added later is moved and trained")
def late_group(bench: Bench, form: str) -> None:
    """By the optimizer's own ``add_param_group``."""
    model = _Late(torch.full((3,), 0.5, dtype=_WIDE))
    trial = Trial(bench, model, params=list(model.body.parameters()))
    trial.step(form, mse(9, _WIDE))
    trial.driver.optimizer.add_param_group({"params": [model.extra]})
    _agrees(trial, form)


@check("a parameter without elements does no harm")
def zero_size(bench: Bench, form: str) -> None:
    """Compare with the formula."""
    _agrees(Trial(bench, _Late(torch.zeros(0, dtype=_WIDE))), form)


class _Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        turn = torch.arange(1.0, 6.0, dtype=_WIDE)
        self.weight = nn.Parameter(torch.polar(turn / 5, turn))

    def forward(self, x: Tensor) -> Tensor:
        value = x.to(torch.complex128) @ self.weight
        return torch.stack([value.real, value.imag, value.abs()], 1)


@check("complex parameters are refused with an error, or follow the formula", of_formula=True)
def complex_parameters(bench: Bench, form: str) -> None:
    """Any error will do that leaves the weights alone."""
    model = _Complex()
    before = model.weight.detach().clone()
    wanted = written_out(model, mse(0, _WIDE))
    try:
        trial = Trial(bench, model)
        trial.step(form, mse(0, _WIDE))
    except Exception:
        require(torch.equal(model.weight, before), "it raised and left the weights moved")
        return
    gap = relative(trial.given, wanted)
    require(gap <= CLOSE, f"it went on, with a gradient off by {gap:.1e} of its norm")


class _Sometimes(nn.Module):
    """Its second parameter is in the loss only when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net(dtype=_WIDE)
        self.extra = nn.Parameter(torch.full((3,), 0.5, dtype=_WIDE))
        self.asked = True

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found + self.extra if self.asked else found


def _sometimes(bench: Bench, form: str, in_pass: int, warm: bool) -> None:
    model = _Sometimes()
    trial = Trial(bench, model)
    if warm:
        trial.step(form, mse(8, _WIDE))
        trial.step(form, mse(9, _WIDE))
    loss = mse(0, _WIDE)
    before = weights(model)

    def turn(asked: bool) -> Tensor:
        model.asked = asked
        return loss(model)

    trial.step(form, lambda _: turn(in_pass == 0), lambda _: turn(in_pass == 1))
    require(trial.stood is not None, "the base optimizer took no step")
    stood = trial.stood or before
    away = length({k: stood[k] - t for k, t in before.items()})
    require(away == 0, f"when the base stepped, the weights were {away:.2g} away")
    got = trial.given["extra"]
    if in_pass == 0:
        require(got is None or not got.any(), "the base got the gradient of the first pass")
    else:
        require(got is not None and bool(got.any()), "the base missed the second gradient")
    far = length(trial.moved)
    require(math.isclose(far, RHO, rel_tol=CLOSE), f"‖ε‖ is {far:.7g}, not {RHO}")


for _pass, _word in enumerate(("first", "second")):
    for _warm in (False, True):

        def _work(bench: Bench, form: str, at: int = _pass, warm: bool = _warm) -> None:
            _sometimes(bench, form, at, warm)

        check(
            f"a parameter with a gradient in the {_word} pass only, "
            f"{'after other steps' if _warm else 'at the first step'}",
            name=f"only_{_word}_{'warm' if _warm else 'cold'}",
            of_formula=True,
        )(_work)


@check("a step in which nothing has a gradient does nothing, as the base's", per_form=False)
def no_gradient(bench: Bench) -> None:
    """In one form at least; another may raise, if it leaves the weights alone."""
    errors = []
    for form in bench.forms():
        trial = Trial(bench, net())
        trial.step(form, mse(1))
        before = everything(trial.model)
        try:
            trial.driver.forms[form](trial.backward(lambda _: torch.zeros(())))
        except Exception as error:
            errors.append(error)
        require(same(everything(trial.model), before), f"{form}: the weights have changed")
        trial.step(form, mse(2))
    if len(errors) == len(bench.forms()):
        raise errors[0]
