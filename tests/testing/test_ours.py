"""thalweg passes its own suite, on every base optimizer and at every power."""

import functools

import pytest
import pytorch_optimizer
import torch

from thalweg import testing
from thalweg.testing import thalweg_driver

BASES = {
    "momentum": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, foreach=False),
    "adamw-foreach": functools.partial(torch.optim.AdamW, lr=0.01, foreach=True),
    "adamw-fused": functools.partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.01),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.01),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=0.01),
    "nadam": functools.partial(torch.optim.NAdam, lr=0.01),
    "muon": functools.partial(torch.optim.Muon, lr=0.01),
    "lion": functools.partial(pytorch_optimizer.Lion, lr=0.001),
}
ON_BASE = [check for check in testing.CHECKS.values() if check.depends_on_base]
ON_POWER = [check for check in testing.CHECKS.values() if check.depends_on_power]


def whole(results):
    return [str(r) for r in results if not r.passed]


@pytest.mark.parametrize("check", testing.CHECKS.values(), ids=str)
def test_every_check(check):
    result = check(BASES["momentum"], thalweg_driver)
    assert result.passed, result


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_other_powers(power):
    assert whole(testing.run(BASES["momentum"], thalweg_driver, ON_POWER, power=power)) == []


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("base", BASES)
def test_every_base(base, power):
    """All steps at power 1; at the others enough of them for the base to have a state."""
    if power == 1:
        results = testing.run(BASES[base], thalweg_driver, ON_BASE)
    else:
        both = [check for check in ON_BASE if check.depends_on_power]
        results = testing.run(BASES[base], thalweg_driver, both, power=power, long=6)
    assert whole(results) == []


def test_nothing_is_left_out():
    """What is "not offered" would pass elsewhere unseen."""
    driver = vars(testing.ThalwegDriver)
    abilities = {name for name in vars(testing.Driver) if not name.startswith("_")}
    assert abilities - set(driver) == {"scheduled", "around"}
