"""SAM is SAM: its forms agree, it is two plain passes, and with rho = 0 the base optimizer."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.testing.protocol import NotOffered
from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import (
    RHO,
    Trial,
    everything,
    mse,
    net,
    relative,
    require,
    same,
    weights,
    written_out,
)


@check(
    "the forms agree bit for bit over 50 steps",
    per_form=False,
    depends_on_base=True,
    depends_on_power=True,
)
def forms_agree(bench: Bench) -> None:
    """Train once in each form, with BatchNorm."""
    names = bench.forms()
    if len(names) < 2:
        raise NotOffered("more than one form")
    ends = {}
    for form in names:
        trial = Trial(bench, net(nn.BatchNorm1d(8, affine=False)))
        for step in range(min(50, bench.long)):
            trial.step(form, mse(step))
        ends[form] = everything(trial.model)
    for form in names[1:]:
        require(same(ends[form], ends[names[0]]), f"{form} ends elsewhere than {names[0]}")


def _two_passes(bench: Bench, form: str, dtype: torch.dtype, tolerance: float) -> None:
    """Compare what the base is given with SAM written out, at the candidate's own weights.

    A twin of the base takes the very gradients that the candidate's base got: errors do not
    compound, and the step must be the base's own, bit for bit.
    """
    trial, twin = Trial(bench, net(dtype=dtype)), net(dtype=dtype)
    optimizer = bench.base(list(twin.parameters()))
    for step in range(min(20, bench.long)):
        loss = mse(step, dtype)
        wanted = written_out(twin, loss, RHO, bench.power)
        trial.step(form, loss)
        require(trial.stood is not None, "the base optimizer took no step")
        back = same(trial.stood or {}, weights(twin))
        require(back, "the weights were not back, bit for bit, for the step")
        gap = relative(trial.given, wanted)
        require(gap <= tolerance, f"the SAM gradient is off by {gap:.1e} of its norm")
        for name, p in twin.named_parameters():
            p.grad = trial.given[name]
        optimizer.step()
        require(same(weights(trial.model), weights(twin)), "the step is not the base optimizer's")


@check(
    "two plain passes give the same gradient to 1e-6 in float32, at each of 20 steps",
    depends_on_base=True,
    depends_on_power=True,
    of_formula=True,
)
def two_passes_float32(bench: Bench, form: str) -> None:
    """See :func:`_two_passes`."""
    _two_passes(bench, form, torch.float32, 1e-6)


@check(
    "two plain passes give the same gradient to 1e-13 in float64, at each of 20 steps",
    depends_on_base=True,
    depends_on_power=True,
    of_formula=True,
)
def two_passes_float64(bench: Bench, form: str) -> None:
    """See :func:`_two_passes`."""
    _two_passes(bench, form, torch.float64, 1e-13)


@check(
    "rho = 0 is the base optimizer bit for bit, with BatchNorm and dropout",
    depends_on_base=True,
    depends_on_power=True,
)
def rho_zero(bench: Bench, form: str) -> None:
    """Train beside the base alone, from one random seed."""

    def model() -> nn.Module:
        return net(nn.BatchNorm1d(8, affine=False), nn.Dropout(0.5))

    trial, plain = Trial(bench, model(), rho=0.0), model()
    optimizer = bench.base(list(plain.parameters()))
    torch.manual_seed(5)
    for step in range(min(20, bench.long)):
        trial.driver.forms[form](trial.backward(mse(step)))
    drawn = torch.rand(4)
    torch.manual_seed(5)
    for step in range(min(20, bench.long)):
        optimizer.zero_grad()
        mse(step)(plain).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found, wanted = everything(trial.model), everything(plain)
    for name, t in wanted.items():
        require(same({name: found[name]}, {name: t}), f"{name} is not the base optimizer's")
    require(torch.equal(drawn, torch.rand(4)), "the random state is not the base optimizer's")
