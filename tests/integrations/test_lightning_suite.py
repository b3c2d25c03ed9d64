"""Lightning: the conformance suite, each step of it taken by a Trainer."""

from __future__ import annotations

import functools
import signal
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

import lightning.pytorch as pl
from lightning.pytorch.plugins import MixedPrecision
from our_warnings import OURS_FAIL
from trained_by_lightning import QUIET

from thalweg import testing
from thalweg.integrations.lightning import SAMCallback

pytestmark = OURS_FAIL


class Bridge(pl.LightningModule):
    """A module whose backward is what a check of the suite asks for."""

    def __init__(self, setup):
        super().__init__()
        self.model, self.optimizer = setup.model, setup.base(setup.params)
        self.works, self.failed = [], None

    def training_step(self, batch, batch_idx):
        self.work = self.works[batch]
        return torch.zeros((), requires_grad=True)

    def backward(self, loss):
        try:
            self.work()
        except BaseException as error:
            self.failed = error
            raise

    def configure_optimizers(self):
        return self.optimizer

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        loss = closure()  # the suite looks at the gradients when the step begins
        super().optimizer_step(epoch, batch_idx, optimizer, lambda: loss)


class Pair:
    """What a user holds: a module and the callback."""

    def __init__(self, setup):
        self.module = Bridge(setup)
        self.callback = SAMCallback(setup.rho, power=setup.power)


class Driver(testing.Driver):
    """SAM in the hands of a Trainer; each step is a fit of one step."""

    @property
    def optimizer(self):
        return self.sam.module.optimizer

    @property
    def forms(self):
        return {"trainer": lambda backward: self.m_sam([backward])}

    def m_sam(self, backwards):
        module = self.sam.module
        module.works, module.failed = backwards, None
        half = [MixedPrecision("16-mixed", device="cpu", scaler=self.scaler)]
        trainer = pl.Trainer(
            max_epochs=1,
            callbacks=[self.sam.callback],
            accumulate_grad_batches=len(backwards),
            plugins=half if self.scaler is not None else None,
            **QUIET,
        )
        batches = DataLoader(range(len(backwards)), batch_size=None, generator=torch.Generator())
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of Lightning's own doing
                trainer.fit(module, batches)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            raise module.failed from None
        finally:
            signal.signal(signal.SIGINT, interrupt)
            module.works = module.work = None


def lightning_driver(setup):
    return Driver(Pair(setup), setup.scaler)


#: What a Trainer does not let a caller do.
NOT_OFFERED = {"forms_agree", "clipping", "closure"}
MOMENTUM = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize("check", testing.CHECKS.values(), ids=str)
def test_the_suite_through_a_trainer(check):
    result = check(MOMENTUM, lightning_driver, long=20)
    assert result.verdict == ("not offered" if check.name in NOT_OFFERED else "passed"), result
