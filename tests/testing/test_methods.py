"""thalweg passes its own suite with other methods than SAM, whatever gradients their steps take."""

import functools

import pytest
import torch
from family import METHODS

from thalweg import Method, testing
from thalweg.ascent import Momentum

MOMENTUM = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
NAMES = [
    "mean",
    "momentum",
    "previous",
    "gaussian",
    "ascents",
    "points",
    "look_back",
    "random",
    "magnitude",
    "gap",
    "adaptive_reuse",
]
#: Compared with SAM's formula.
OF_FORMULA = {name for name, check in testing.CHECKS.items() if check.of_formula}
#: Of an ascent gradient that is not finite, which some steps do not take.
OF_ASCENT = {"one_inf", "one_nan", "all_nan"}
OF_TWO = {"exception_in_second_pass", "scaler_inf_second"}
#: Statistics are those of a pass at w, of which there is none.
AT_W = {"batch_norm", "batch_norm_cumulative", "batch_norm_count"}
ONE = {"momentum", "previous", "gaussian"}
GATED = {"look_back", "adaptive_reuse", "random"}


def driver(name, setup):
    """Momentum-SAM needs a base optimizer that keeps one."""
    if name == "momentum" and setup.base.keywords.get("momentum", 0) == 0:
        base = functools.partial(setup.base.func, **setup.base.keywords | {"momentum": 1e-9})
        setup = testing.Setup(base, setup.params, setup.model, setup.rho, 1.0, setup.scaler)
    return testing.thalweg_driver(setup, METHODS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_check(name):
    results = testing.run(MOMENTUM, functools.partial(driver, name), long=24)
    assert [str(r) for r in results if r.verdict == "failed"] == []
    absent = OF_FORMULA | (OF_ASCENT if name in ONE | GATED else set())
    absent |= OF_TWO | AT_W if name in ONE else set()
    assert {r.check for r in results if r.verdict == "not offered"} == absent


def test_the_formula_is_asked_of_sam_alone():
    assert len(OF_FORMULA) < len(testing.CHECKS) / 2
    for method in (Method(), Method(power=0.5), Method(power=2.0, max_norm=0.3)):
        sam = functools.partial(testing.thalweg_driver, method=method)
        assert testing.run(MOMENTUM, sam, ["m_sam"])[0].verdict != "not offered"


def test_a_method_that_is_not_what_it_says_fails():
    """A driver that says two gradients where one is taken, or hides the state."""
    one = functools.partial(testing.thalweg_driver, method=Method(direction=Momentum()))

    class Two(testing.ThalwegDriver):
        passes = frozenset({2})

    def claims(setup):
        return Two(one(setup).sam, setup.scaler)

    assert "took 1 gradients, not 2" in testing.run(MOMENTUM, claims, ["batch_norm"])[0].reason

    class Forgetful(testing.ThalwegDriver):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    def forgets(setup):
        return Forgetful(driver("mean", setup).sam, setup.scaler)

    assert testing.run(MOMENTUM, forgets, ["resume"])[0].verdict == "failed"
