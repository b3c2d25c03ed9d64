"""The conformance suite through Accelerate's optimizer, and through the Trainer's training step.

The suite brings its own forward and backward, so that the Trainer runs that as its training step.
The loop around it is the Trainer's in the order of its calls: a training step for each micro-batch,
then the prepared optimizer; ``train()`` itself, which fetches data and steps by itself, is held to
a plain loop elsewhere.
"""

from __future__ import annotations

import functools
import tempfile

import pytest
import torch

pytest.importorskip("transformers")

from accelerate import Accelerator
from our_warnings import OURS_FAIL
from own_accelerator import fresh  # noqa: F401 (a fixture)
from transformers import Trainer, TrainingArguments

from thalweg import testing
from thalweg.integrations.accelerate import innermost, prepare
from thalweg.integrations.transformers import SAMMixin

pytestmark = OURS_FAIL
BASE = functools.partial(torch.optim.AdamW, lr=0.01)


class AccelerateDriver(testing.Driver):
    """The loop over passes, with what ``accelerator.prepare`` returned."""

    def __init__(self, accelerator, prepared, sam, scaler):
        super().__init__(sam, scaler)
        self.accelerator, self.prepared = accelerator, prepared

    @property
    def optimizer(self):
        return self.prepared

    @property
    def scheduled(self):
        return innermost(self.prepared)

    @property
    def forms(self):
        return {"accelerate": self.whole}

    def whole(self, backward):
        self.gradient(backward)
        self.step()

    def gradient(self, backward):
        self.prepared.zero_grad()
        for _ in self.sam.passes():
            backward()

    def step(self):
        self.prepared.step()

    def m_sam(self, backwards):
        self.prepared.zero_grad()
        for backward in backwards:
            for _ in self.sam.passes():
                backward()
        self.step()

    def around(self, sam):
        other = super().around(sam)
        other.prepared = self.accelerator.prepare_optimizer(sam.optimizer)
        return other


def by_accelerate(setup):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = setup.scaler
    optimizer = setup.base(setup.params)
    model, prepared = accelerator.prepare(setup.model, optimizer)
    sam = prepare(accelerator, model, prepared, setup.rho, power=setup.power)
    return AccelerateDriver(accelerator, prepared, sam, setup.scaler)


class Given(Trainer):
    """Its training step is a forward and backward that the suite brings."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        return inputs["backward"]().detach()


class Driven(SAMMixin, Given):
    pass


class TransformersDriver(AccelerateDriver):
    """The training step with the passes in it; the Trainer's loop around it."""

    def __init__(self, trainer, scaler):
        super().__init__(trainer.accelerator, trainer.optimizer, trainer.sam, scaler)
        self.trainer = trainer

    def gradient(self, backward):
        self.prepared.zero_grad()
        self.run(backward, last=True)

    def run(self, backward, last):
        self.accelerator.gradient_state._set_sync_gradients(last)
        self.trainer.training_step(self.trainer.model, {"backward": backward})

    def m_sam(self, backwards):
        self.prepared.zero_grad()
        for i, backward in enumerate(backwards):
            self.run(backward, last=i == len(backwards) - 1)
        self.step()

    def around(self, sam):
        raise testing.NotOffered("a copy of a Trainer")


def by_transformers(setup):
    args = TrainingArguments(tempfile.gettempdir(), report_to=[], use_cpu=True)
    optimizer = setup.base(setup.params)
    trainer = Driven(
        setup.model, args, optimizers=(optimizer, None), rho=setup.rho, power=setup.power
    )
    trainer.accelerator.scaler = setup.scaler
    trainer.create_optimizer()
    trainer.optimizer = trainer.accelerator.prepare(trainer.optimizer)
    return TransformersDriver(trainer, setup.scaler)


#: What a trainer has no place for: a closure, and forms to compare, of which it has but one.
LEFT_OUT = {
    by_accelerate: {"closure", "forms_agree"},
    by_transformers: {"closure", "forms_agree", "deep_copy", "pickled"},
}


@pytest.mark.parametrize("check", testing.CHECKS.values(), ids=str)
@pytest.mark.parametrize("driver", LEFT_OUT, ids=["accelerate", "transformers"])
def test_every_check(driver, check):
    result = check(BASE, driver, long=60)
    expected = "not offered" if check.name in LEFT_OUT[driver] else "passed"
    assert result.verdict == expected, result
