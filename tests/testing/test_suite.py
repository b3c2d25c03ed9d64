"""The suite itself: verdicts, reasons, and what it leaves alone."""

import functools
import subprocess
import sys

import pytest
import torch

from thalweg import ThalwegError, testing

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Bare(testing.Driver):
    """Has one form, and nothing else."""

    optimizer = None

    @property
    def forms(self):
        return {"only": self.sam}


def bare(step):
    return lambda setup: Bare(step)


def test_what_a_driver_lacks_is_not_offered():
    names = ["clipping", "m_sam", "closure", "forms_agree"]
    results = testing.run(SGD, bare(lambda backward: backward()), names)
    assert [r.verdict for r in results] == ["not offered"] * 4
    assert [r.passed for r in results] == [False] * 4
    assert "m-SAM" in results[1].reason


def test_a_factory_may_say_what_it_does_not_offer():
    def no_scaler(setup):
        if setup.scaler is not None:
            raise testing.NotOffered("GradScaler")
        return testing.thalweg_driver(setup)

    results = testing.run(SGD, no_scaler, ["scaler_scales", "tied"])
    assert [r.verdict for r in results] == ["not offered", "passed"]
    assert results[0].reason == "GradScaler"


def test_an_error_of_the_candidate_is_a_failure_and_the_next_check_runs():
    def broken(setup):
        raise KeyError("old_p")

    results = testing.run(SGD, broken, ["tied", "dropout_replayed"])
    assert [r.verdict for r in results] == ["failed", "failed"]
    assert results[0].reason == "KeyError: 'old_p'"


def test_a_failure_in_one_form_names_it():
    def one_bad(setup):
        driver = testing.thalweg_driver(setup)
        driver._closure = lambda backward: 1 / 0
        return driver

    (result,) = testing.run(SGD, one_bad, ["tied"])
    assert result.reason == "closure: ZeroDivisionError: division by zero"


def test_a_candidate_that_takes_one_gradient_is_told_so():
    def once(setup):
        class Once(Bare):
            optimizer = property(lambda self: self.sam)
            forms = property(lambda self: {"once": self.once})

            def once(self, backward):
                self.sam.zero_grad()
                backward()
                self.sam.step()

        return Once(setup.base(setup.params))

    (result,) = testing.run(SGD, once, ["two_passes_float64"])
    assert result.reason == "a step took 1 gradients, not 2"


def test_random_state_and_the_environment_are_left_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    testing.run(SGD, testing.thalweg_driver, ["rho_zero", "scheduler"])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_check_is_an_error():
    with pytest.raises(ThalwegError, match="got 'restor': choose among forms_agree"):
        testing.run(SGD, testing.thalweg_driver, ["restor"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": None}, r"^base must be a function that builds it, got None: write run\("),
        ({"sam": "thalweg"}, "^sam must be a function that builds it, got 'thalweg'"),
        ({"checks": "m_sam"}, "^checks must be a list of names or None, got 'm_sam': write"),
        ({"checks": 3}, "^checks must be a list of names or None, got 3"),
        ({"checks": [["m_sam"]]}, r"^checks must be names in testing\.CHECKS, got \['m_sam'\]"),
        ({"power": "1"}, "^power must be a finite number >= 0, got '1'"),
        ({"long": 0}, "^long must be a whole number >= 1, got 0"),
    ],
)
def test_what_cannot_be_run_is_told_of(changes, told):
    given = {"base": SGD, "sam": testing.thalweg_driver, "checks": ["m_sam"], **changes}
    with pytest.raises(ThalwegError, match=told):
        testing.run(**given)


def test_the_base_given_is_used_only_where_it_matters():
    built = []

    def base(params):
        built.append(1)
        return SGD(params)

    testing.run(base, testing.thalweg_driver, ["tied"])
    assert not built
    testing.run(base, testing.thalweg_driver, ["resume"])
    assert built


def test_checks_have_one_title_each():
    titles = [check.title for check in testing.CHECKS.values()]
    assert len(set(titles)) == len(titles)
    assert all(
        check.work.__doc__ or check.name.startswith(("only_", "restore_"))
        for check in testing.CHECKS.values()
    )


def test_the_suite_needs_neither_pytest_nor_numpy():
    code = """
import sys
for name in ("pytest", "_pytest", "numpy"):
    sys.modules[name] = None
import functools, torch
from thalweg import testing
sgd = functools.partial(torch.optim.SGD, lr=0.1)
print(*{r.verdict for r in testing.run(sgd, testing.thalweg_driver, ["tied", "resume"])})
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert run.stdout.strip() == "passed", run.stderr
