"""SAM through the Trainer of Transformers is a plain loop over ``passes()``, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from our_warnings import OURS_FAIL
from own_accelerator import STATEFUL, fresh  # noqa: F401 (a fixture)
from text import MODELS, bert, labelled, llama, sentences
from trained_by_transformers import (
    CLIP,
    EXAMPLES,
    SIZE,
    STEPS,
    Recorded,
    Recording,
    check_equal,
    in_bfloat16,
    plain,
    same,
    smoothed,
    told_by,
    trainer_of,
)

from thalweg import Method
from thalweg.integrations.accumulation import Accumulated
from thalweg.integrations.transformers import SAMMixin
from thalweg.telemetry import Pass

pytestmark = OURS_FAIL


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_plain_loop(name, k, accumulation, tmp_path):
    """With dropout, AdamW, clipping that bites, a schedule, and a last group that is not full."""
    trainer = check_equal(name, tmp_path, accumulation=accumulation, gradient_accumulation_steps=k)
    sizes = [len(batches) for batches, _, _ in trainer.order]
    assert sizes == ([1] * 5 if k == 1 else [3, 3, 1, 3, 3])
    assert any(norm > CLIP for _, norm in told_by(trainer))
    assert trainer.sam.last.moved


METHODS = {
    "usam": {"power": 0.0},
    "capped": {"method": Method(power=2, max_norm=0.05)},
    "stateful": {"method": STATEFUL},
    "off": {"rho": 0.0},
}


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_any_method(method, accumulation, tmp_path):
    """Also one that skips the ascent now and then."""
    options = {"accumulation": accumulation, "gradient_accumulation_steps": 2}
    check_equal("llama", tmp_path, sam=METHODS[method], **options)


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_label_smoothing(name, accumulation, tmp_path):
    """The Trainer takes the labels out of the inputs, in every pass."""
    options = {"accumulation": accumulation, "gradient_accumulation_steps": 2}
    check_equal(name, tmp_path, smoothed, label_smoothing_factor=0.2, **options)


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
def test_bfloat16(accumulation, tmp_path):
    options = {"accumulation": accumulation, "gradient_accumulation_steps": 2}
    check_equal("llama", tmp_path, in_bfloat16, bf16=True, **options)


def test_a_method_that_skips_takes_one_gradient(tmp_path):
    model, forwards = llama(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    trainer = trainer_of(model, sentences(EXAMPLES), tmp_path, sam={"method": STATEFUL})
    trainer.train()
    assert len(forwards) == 2 + 1 + 2 + 1 + 2
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["sam/steps"] for log in logs] == [1, 2, 3, 4, 5]


class Theirs(Recording):
    """What people write: a loss of their own, and a training step that does more."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        loss = nn.functional.cross_entropy(model(**inputs).logits, labels, label_smoothing=0.1)
        self.log({"aux": float(loss)})
        return loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        mask = inputs.pop("attention_mask")
        loss = super().training_step(model, inputs, num_items_in_batch)
        assert len(mask) == SIZE
        return 2 * loss


def test_a_trainer_of_ones_own(tmp_path):
    class Mine(SAMMixin, Theirs):
        pass

    def loss_of(model, batch, items):
        logits = model(input_ids=batch["input_ids"]).logits
        return nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)

    for accumulation in ("micro", "batch"):
        options = {"accumulation": accumulation, "gradient_accumulation_steps": 2}
        trainer = trainer_of(bert(), labelled(EXAMPLES), tmp_path, Mine, **options)
        trainer.train()
        expected = bert()
        told = plain(expected, trainer.order, accumulation, loss_of)
        assert same(trainer.model, expected)
        assert told_by(trainer) == [(2 * loss, norm) for loss, norm in told]
        logged = [log["aux"] for log in trainer.state.log_history if "aux" in log]
        assert len(logged) == sum(len(batches) for batches, _, _ in trainer.order)


def test_an_optimizer_and_a_schedule_of_ones_own(tmp_path):
    model = llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (STEPS - s) / STEPS)
    trainer = trainer_of(model, sentences(EXAMPLES), tmp_path, optimizers=(optimizer, schedule))
    trainer.train()
    assert trainer.sam.optimizer is optimizer
    expected = llama()
    plain(
        expected,
        trainer.order,
        make=lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    )
    assert same(model, expected)


def test_an_optimizer_that_a_subclass_makes(tmp_path):
    class Mine(Recorded):
        def create_optimizer(self, model=None):
            if self.optimizer is None:
                self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, Mine)
    trainer.train()
    expected = llama()
    plain(expected, trainer.order, make=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    assert same(trainer.model, expected)


def test_lora_trains_the_adapters_alone(tmp_path):
    """The base stays as it is, bit for bit; our warning of parameters left out is an error here."""
    peft = pytest.importorskip("peft")

    def make():
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
        base = llama(layers=2)
        torch.manual_seed(1)
        return peft.get_peft_model(base, config)

    trainer = trainer_of(make(), sentences(EXAMPLES), tmp_path, gradient_accumulation_steps=2)
    trainer.train()
    expected = make()
    plain(expected, trainer.order)
    assert same(trainer.model, expected)
    start = make().state_dict()
    moved = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, start[k])}
    adapters = {k for k, p in make().named_parameters() if p.requires_grad}
    assert {name.split("lora_")[1][0] for name in adapters} == {"A", "B"}
    assert moved == adapters
    assert trainer.sam.last.moved


def without_passes(self, micro, *, last):
    return [micro(Pass(0, ascent=False, last=True))]


def swapped(self, micro, *, last):
    self.accumulation = {"micro": "batch", "batch": "micro"}[self.accumulation]
    try:
        return self.straight(micro, last=last)
    finally:
        self.accumulation = {"micro": "batch", "batch": "micro"}[self.accumulation]


def doubled(self, micro, *, last):
    return [2 * loss for loss in self.straight(micro, last=last)]


@pytest.mark.parametrize("mutation", [without_passes, swapped, doubled])
@pytest.mark.parametrize("accumulation", ["micro", "batch"])
def test_mutations_are_noticed(mutation, accumulation, tmp_path, monkeypatch):
    monkeypatch.setattr(Accumulated, "straight", Accumulated.__call__, raising=False)
    monkeypatch.setattr(Accumulated, "__call__", mutation)
    with pytest.raises(AssertionError):
        check_equal("llama", tmp_path, accumulation=accumulation, gradient_accumulation_steps=3)
