"""The public conformance suite: checks for any SAM on any base optimizer, yours included.

Write a :class:`Driver` for your SAM, which says how a step is taken with it, and a function that
builds it from a :class:`Setup`. For a SAM with a first_step and a second_step::

    class MyDriver(testing.Driver):
        @property
        def optimizer(self):  # what users checkpoint and clear
            return self.sam

        @property
        def forms(self):  # every way to take a step; ``backward`` is one forward and backward
            return {"two steps": self.two_steps}

        def two_steps(self, backward):
            self.sam.zero_grad()
            backward()
            self.sam.first_step(zero_grad=True)
            backward()
            self.sam.second_step(zero_grad=True)

    def my_driver(setup):
        if setup.power != 1 or setup.scaler is not None:
            raise testing.NotOffered("other powers, gradient scalers")
        return MyDriver(MySAM(setup.params, setup.base, rho=setup.rho))

Then, in a script::

    import functools

    import torch

    from thalweg import testing

    base = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    for result in testing.run(base, my_driver):  # base(params) returns a torch optimizer
        print(result)

or in pytest::

    @pytest.mark.parametrize("check", testing.CHECKS.values(), ids=str)
    def test_my_sam(check):
        result = check(base, my_driver)
        assert result.verdict != "failed", result.reason

Raise :class:`NotOffered` for what your SAM does not claim; the other methods of :class:`Driver`
stand for more that it may offer. Of a partial, ``base.func`` and ``base.keywords`` are the class
and its arguments. :func:`thalweg_driver` is a driver that offers everything.

A verdict is "passed", "failed" or "not offered". Checks that say ``depends_on_base`` use the base
they are given, the others plain SGD; ``depends_on_power`` says for which ``power=`` matters. All
run on the CPU, in less than ten seconds together.
"""

from thalweg.testing import (  # noqa: F401 (each enters its checks)
    agreement,
    checkpoints,
    held,
    loops,
    numbers,
    parameters,
)
from thalweg.testing.ours import ThalwegDriver, thalweg_driver
from thalweg.testing.protocol import BaseFactory, Driver, Failed, NotOffered, SAMFactory, Setup
from thalweg.testing.suite import CHECKS, Check, Result, run

__all__ = [
    "CHECKS",
    "BaseFactory",
    "Check",
    "Driver",
    "Failed",
    "NotOffered",
    "Result",
    "SAMFactory",
    "Setup",
    "ThalwegDriver",
    "run",
    "thalweg_driver",
]
