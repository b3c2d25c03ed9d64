"""Drivers for two other SAMs, used as their documentation says, for docs/conformance.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from thalweg import testing


class TwoSteps(testing.Driver):
    """A SAM that is itself an optimizer, with a first_step and a second_step.

    A scheduler is given the base optimizer inside, as the README of davda54/sam advises.
    """

    @property
    def optimizer(self):
        return self.sam

    @property
    def scheduled(self):
        return self.sam.base_optimizer

    @property
    def forms(self):
        return {"two steps": self.two_steps, "closure": self.first_and_closure}

    def gradient(self, backward):
        self.sam.zero_grad()
        backward()
        self.sam.first_step(zero_grad=True)
        backward()

    def step(self):
        self.sam.second_step(zero_grad=True)

    def two_steps(self, backward):
        self.gradient(backward)
        self.step()


class Davda54(TwoSteps):
    """The closure form of its README: a backward, the step with a closure, zero_grad."""

    def first_and_closure(self, backward):
        self.sam.zero_grad()
        backward()
        self.sam.step(backward)
        self.sam.zero_grad()


class PytorchOptimizer(TwoSteps):
    """The closure form of its docstring: the closure clears, is called, and is handed over."""

    def first_and_closure(self, backward):
        def closure():
            self.sam.zero_grad()
            return backward()

        closure()
        self.sam.step(closure)


def built(sam: type, driver: type[testing.Driver]) -> testing.SAMFactory:
    """Return what builds a driver of a SAM that wants the base's class and its keywords."""

    def build(setup: testing.Setup) -> testing.Driver:
        if setup.power != 1:
            raise testing.NotOffered("a power other than 1")
        if setup.scaler is not None:
            raise testing.NotOffered("GradScaler")
        base = setup.base
        return driver(sam(setup.params, base.func, rho=setup.rho, **base.keywords))

    return build


def from_file(path: Path) -> ModuleType:
    """Return a module from a file, known to the rest of the program, as pickle needs."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
