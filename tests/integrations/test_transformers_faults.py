"""SAM in the Trainer of Transformers: what goes wrong, what is refused."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

pytest.importorskip("transformers")

from accelerate.utils import DistributedType
from our_warnings import OURS_FAIL
from own_accelerator import fresh  # noqa: F401 (a fixture)
from text import llama, sentences
from trained_by_transformers import (
    EXAMPLES,
    RHO,
    STEPS,
    Recording,
    arguments,
    plain,
    same,
    told_by,
    trainer_of,
)
from transformers import Trainer, TrainerCallback

from thalweg import Method, ThalwegError
from thalweg.integrations.transformers import SAMMixin, SAMTrainer

pytestmark = OURS_FAIL


class Infinite(Recording):
    """One loss in the middle is infinite, its gradient is not."""

    calls = 0

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.calls += 1
        return loss + (math.inf if self.calls in (5, 6, 7, 8) else 0.0)


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
@pytest.mark.parametrize("filtered", [True, False])
def test_losses_that_are_not_finite(filtered, accumulation, tmp_path):
    class Mine(SAMMixin, Infinite):
        pass

    trainer = trainer_of(
        llama(),
        sentences(EXAMPLES),
        tmp_path,
        Mine,
        accumulation=accumulation,
        gradient_accumulation_steps=2,
        logging_nan_inf_filter=filtered,
        logging_steps=5,
    )
    trainer.train()
    expected = llama()
    told = plain(expected, trainer.order, accumulation)
    assert same(trainer.model, expected)
    ((loss, _),) = told_by(trainer)
    assert math.isfinite(loss) == filtered
    assert not filtered or loss < 1.1 * max(first for first, _ in told)


class Failing(Recording):
    """Fails in the second pass of the third step."""

    calls = 0

    def compute_loss(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyError("of the test")
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(("accumulation", "at"), [("micro", 12), ("micro", 10), ("batch", 12)])
def test_an_exception_puts_the_weights_back(accumulation, at, tmp_path):
    class Mine(SAMMixin, Failing):
        fails_at = at

    options = {"accumulation": accumulation, "gradient_accumulation_steps": 2}
    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, Mine, **options)
    with pytest.raises(KeyError):
        trainer.train()
    assert trainer.state.global_step == 2
    expected = llama()
    plain(expected, trainer.order[:2], accumulation)
    assert same(trainer.model, expected)


class StopInTheMiddle(TrainerCallback):
    """Stops between two micro-batches of the third step."""

    def on_substep_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_micro_batches_of_a_step_that_never_comes(tmp_path):
    """They are let go with the gradients that the Trainer would have dropped."""
    options = {"accumulation": "batch", "gradient_accumulation_steps": 2}
    trainer = trainer_of(
        llama(), sentences(EXAMPLES), tmp_path, callbacks=[StopInTheMiddle()], **options
    )
    trainer.train()
    expected = llama()
    plain(expected, trainer.order[:2], "batch")
    assert same(trainer.model, expected)
    assert trainer._sam_passes._kept == []
    assert not trainer.sam._gear.weights._backup
    trainer.callback_handler.remove_callback(StopInTheMiddle)
    trainer.order.clear()
    trainer.train()
    assert [len(batches) for batches, _, _ in trainer.order] == [2, 2, 2, 1, 2]
    assert len(told_by(trainer)) == STEPS


def test_a_model_made_anew_gets_a_sam_of_its_own(tmp_path):
    args, init = arguments(tmp_path), lambda: llama()
    trainer = SAMTrainer(args=args, model_init=init, train_dataset=sentences(EXAMPLES), rho=RHO)
    found = []
    for _ in range(2):
        trainer.train()
        found.append((trainer.sam, {k: v.clone() for k, v in trainer.model.state_dict().items()}))
        trained = {p for group in trainer.sam.optimizer.param_groups for p in group["params"]}
        assert trained == set(trainer.model.parameters())
    (first, left), (second, right) = found
    assert first is not second
    assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "XLA", "MEGATRON_LM"])
def test_what_cannot_work_is_refused(kind, tmp_path, monkeypatch):
    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path)
    told = {"FSDP": "FSDP1", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}.get(kind, kind)
    where = type(trainer.accelerator)
    monkeypatch.setattr(where, "distributed_type", property(lambda self: DistributedType[kind]))
    monkeypatch.setattr(where, "is_fsdp2", property(lambda self: False))
    with pytest.raises(ThalwegError, match=f"got {told}, under which SAM cannot work"):
        trainer.create_optimizer()
    assert trainer.sam is None


def test_an_optimizer_that_steps_in_the_backward_is_refused(tmp_path):
    class Lomo(torch.optim.SGD):
        pass

    model = llama()
    options = {"optimizers": (Lomo(model.parameters(), lr=0.1), None)}
    trainer = trainer_of(model, sentences(EXAMPLES), tmp_path, **options)
    with pytest.raises(ThalwegError, match="must step after the backward, got Lomo"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation": "all"}, 'accumulation must be "micro" or "batch"'),
        ({"rho": -1}, "rho must be"),
        ({"power": 1, "method": Method()}, "must not both be given"),
        ({"power": -1}, "power must be"),
        ({"power": "1"}, "power must be"),
        ({"method": "asam"}, "method must be a thalweg.Method"),
    ],
)
def test_bad_arguments_are_told_of_at_once(options, message, tmp_path):
    with pytest.raises(ThalwegError, match=message):
        SAMTrainer(llama(), arguments(tmp_path), **options)


def test_the_mixin_after_the_trainer_is_refused():
    with pytest.raises(ThalwegError, match="must stand before the Trainer"):

        class Wrong(Recording, SAMMixin):
            pass


def test_a_training_step_that_leaves_sam_out_is_told_of(tmp_path):
    class Mine(SAMTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            return Trainer.training_step(self, model, inputs, num_items_in_batch)

    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, Mine)
    with pytest.warns(UserWarning, match="Mine has trained without SAM"):
        trainer.train()


def test_a_batch_changed_in_place_is_told_of(tmp_path):
    class Masking(SAMTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs["input_ids"].clamp_(max=1000)
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, Masking)
    with pytest.warns(UserWarning, match="must leave the tensors of its batch"):
        trainer.train()


def test_a_rho_left_over_in_the_optimizer_is_told_of(tmp_path):
    model = llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rho in (0.1, 0.2):
        trainer = trainer_of(
            model, sentences(EXAMPLES), tmp_path, optimizers=(optimizer, None), sam={"rho": rho}
        )
        with (
            pytest.warns(UserWarning, match="already hold rho=0.1")
            if rho == 0.2
            else (contextlib.nullcontext())
        ):
            trainer.create_optimizer()
