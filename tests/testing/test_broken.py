"""Every check fails for a SAM that is broken in the way it guards, and for no whole one."""

import functools
import gc

import pytest
import torch

from thalweg import testing

MOMENTUM = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)

FORMULA = {
    *("accumulation", "clipping", "closure", "frozen", "group_rho", "late_group", "m_sam"),
    *("sparse", "tied", "two_passes_float64", "zero_size"),
}
FLOAT32 = {"two_passes_float32"}
COMPLEX = {"complex_parameters"}
FIRST = {"only_first_cold", "only_first_warm"}
SECOND = {"only_second_cold", "only_second_warm"}
RESTORE = {"restore_bfloat16", "restore_float16", "restore_float32", "restore_float64"}
SIZES = {"half_norm", "huge_gradient", "tiny_gradient"}
RADIUS = {"bare_checkpoint", "rho_survives"}
SPOILED = {"all_nan", "one_inf", "one_nan"}
LEFT_AWAY = {"exception_in_second_pass", "state_dict_while_moved"}
MOVED = {
    *("frozen", "late_group", "scaler_inf_second", "sparse", "tied", "zero_size"),
    *("bare_checkpoint", "two_passes_float32", "two_passes_float64"),
} | LEFT_AWAY

#: What is wrong with the handmade SAM, and the checks that fail for it. No others do, of which each
#: fault is asked every third.
CAUGHT_BY = {
    "": set(),
    # weights
    "does not restore": MOVED | FIRST | SECOND | RESTORE | {"m_sam", "scheduler"},
    "restores by subtraction": MOVED | FIRST | SECOND | RESTORE,
    "swaps storage": RESTORE | {"exception_in_second_pass"},
    "restores what has a gradient": FIRST | LEFT_AWAY,
    "keeps old backups": FIRST
    | SECOND
    | SPOILED
    | LEFT_AWAY
    | {"rho_zero", "scaler_inf_first", "zero_gradient"},
    "is not safe with exceptions": LEFT_AWAY,
    "stays open": {"exception_in_first_pass", "exception_in_second_pass"},
    "lets moved weights be saved": {"state_dict_while_moved"},
    # the perturbation
    "ignores rho": FORMULA
    | FLOAT32
    | COMPLEX
    | FIRST
    | SECOND
    | RESTORE
    | SIZES
    | RADIUS
    | {"group_off"},
    "goes downhill": FORMULA | FLOAT32 | COMPLEX,
    "drops the normalization": FORMULA | FLOAT32 | COMPLEX | FIRST | SECOND | SIZES | RADIUS,
    "takes the first norm": FORMULA | FLOAT32 | FIRST | SECOND | RADIUS | {"one_inf", "one_nan"},
    "works in float32": COMPLEX | {"two_passes_float64"},  # it drops the imaginary part
    "takes the norm in the gradients' dtype": SIZES,
    "divides by zero": {"no_gradient", "rho_zero", "zero_gradient"},
    "does not look at the norm": {  # it divides in float32, by zero too
        *("all_nan", "never_worse", "one_nan"),
        *("rho_zero", "two_passes_float64", "zero_gradient"),
    },
    "one rho for all": {"group_off", "group_rho", "rho_survives"},
    "looks at the largest entry": {"zero_size"},
    "flattens the gradients": {"sparse"},
    "takes the real part": COMPLEX,
    "wants every gradient": {"frozen", "no_gradient"} | SECOND,
    "moves by modules": {"late_group", "tied"},
    "knows its first parameters only": {"late_group"},
    # the second gradient
    "adds the first gradient": FORMULA
    | FLOAT32
    | COMPLEX
    | FIRST
    | SPOILED
    | {"never_worse", "rho_zero"},
    "has a form that differs": {"forms_agree", "two_passes_float64"},
    "ascends from what arrived last": {
        *("accumulation", "frozen"),  # it asks the frozen one for a gradient
        *("deep_copy", "nothing_left", "pickled"),
    },
    "ascends once for all parts": {"m_sam"},
    "writes the gradient late": {"clipping"},
    "returns nothing": {"closure"},
    # layers and random numbers
    "advances BatchNorm twice": {
        *("batch_norm", "batch_norm_count", "batch_norm_cumulative"),
        *("exception_in_second_pass", "rho_zero"),
    },
    "holds BatchNorm's averages alone": {
        *("batch_norm_count", "batch_norm_cumulative"),
        *("exception_in_second_pass", "rho_zero"),
    },
    "does not replay": {"dropout_replayed", "rho_zero"},
    "leaves the random state": {"random_state", "rho_zero"},
    # the scaler
    "steps without the scaler": {"scaler_inf_first", "scaler_inf_second", "scaler_scales"},
    "hides the first overflow": {"scaler_inf_first"},
    "cleans the gradient": {"scaler_inf_second"},
    # checkpoints
    "shows another optimizer": RADIUS | {"late_group", "resume", "scheduler"},
    "copies without its optimizer": {"deep_copy", "pickled"},
    "keeps a function": {"pickled"},
    "leaves a hook": {"nothing_left"},
    "leaves a reference": {"nothing_left"},
}

#: The same at other powers, for the checks that depend on it.
CAUGHT_AT = {
    ("", 0.0): set(),
    ("", 0.5): set(),
    ("", 2.0): set(),
    ("always normalizes", 0.0): FLOAT32 | {"two_passes_float64"},
    ("always normalizes", 0.5): FLOAT32 | {"two_passes_float64"},
    ("always normalizes", 2.0): FLOAT32 | {"two_passes_float64"},
    ("drops the normalization", 0.5): FLOAT32 | {"two_passes_float64"},
    ("drops the normalization", 2.0): FLOAT32 | {"two_passes_float64"},
    ("forgets the scale", 0.0): {"scaler_scales"},
    ("forgets the scale", 0.5): {"scaler_scales"},
    ("forgets the scale", 2.0): {"scaler_scales"},
}


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """One check looks at every object there is: leave it those of this module."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("fault", CAUGHT_BY, ids=lambda fault: fault or "nothing")
def test_what_is_wrong_is_caught_by_the_checks_that_guard_it(handmade, fault):
    turn = list(CAUGHT_BY).index(fault)
    asked = {*list(testing.CHECKS)[turn % 3 :: 3]} if fault else {*testing.CHECKS}
    asked |= CAUGHT_BY[fault]
    results = testing.run(MOMENTUM, handmade(fault), sorted(asked), long=8)
    reasons = {r.check: r.reason for r in results if not r.passed}
    assert set(reasons) == CAUGHT_BY[fault], reasons
    assert all(r.verdict == "failed" and r.reason for r in results if not r.passed)


@pytest.mark.parametrize(("fault", "power"), CAUGHT_AT)
def test_a_wrong_power_is_caught(handmade, fault, power):
    checks = [check for check in testing.CHECKS.values() if check.depends_on_power]
    results = testing.run(MOMENTUM, handmade(fault), checks, power=power, long=8)
    assert {r.check for r in results if not r.passed} == CAUGHT_AT[fault, power], results


def test_every_check_can_fail():
    assert set().union(*CAUGHT_BY.values()) == set(testing.CHECKS)
