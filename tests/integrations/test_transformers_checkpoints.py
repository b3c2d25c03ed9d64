"""SAM in the Trainer of Transformers: checkpoints, evaluation, logs."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from our_warnings import OURS_FAIL
from own_accelerator import STATEFUL, fresh  # noqa: F401 (a fixture)
from text import bert, labelled, llama, sentences
from trained_by_transformers import (
    EXAMPLES,
    RHO,
    STEPS,
    arguments,
    same,
    told_by,
    trainer_of,
)
from transformers import Trainer

from thalweg.integrations.transformers import STATE, SAMTrainer

pytestmark = OURS_FAIL


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
@pytest.mark.parametrize("method", [None, STATEFUL])
def test_resumed_bit_for_bit(method, accumulation, tmp_path):
    """With dropout; the rho that was saved comes back, and the method goes on where it was."""

    def run(rho, **how):
        options = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3}
        trainer = trainer_of(
            bert(),
            labelled(EXAMPLES),
            tmp_path,
            accumulation=accumulation,
            sam={"rho": rho, "method": method},
            **options,
        )
        trainer.train(**how)
        return trainer

    straight = run(RHO)
    checkpoint = tmp_path / "checkpoint-3"
    assert (checkpoint / STATE).exists() == (method is not None)
    resumed = run(RHO / 10, resume_from_checkpoint=str(checkpoint))
    assert same(straight.model, resumed.model)
    assert [group["rho"] for group in resumed.sam.optimizer.param_groups] == [RHO, RHO]
    assert told_by(resumed)[-2:] == told_by(straight)[-2:]


def test_a_checkpoint_of_a_plain_trainer_resumes(tmp_path):
    """SAM goes on with its own rho; a method with state starts at step 0."""
    data = sentences(EXAMPLES)
    saving = arguments(tmp_path, save_strategy="steps", save_steps=3)
    Trainer(llama(), saving, train_dataset=data).train()
    trainer = trainer_of(llama(), data, tmp_path, sam={"method": STATEFUL})
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [group["rho"] for group in trainer.sam.optimizer.param_groups] == [RHO, RHO]
    assert trainer.sam.state_dict() == {"step": 2}


def test_evaluation_and_saving_change_nothing(tmp_path):
    """Without dropout, since an evaluation draws random numbers of its own."""
    ends = []
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    for often in ({}, every):
        options = {"gradient_accumulation_steps": 2, "accumulation": "batch", **often}
        trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, **options)
        trainer.train()
        ends.append(trainer)
    assert same(ends[0].model, ends[1].model)
    evaluated = [log["eval_loss"] for log in ends[1].state.log_history if "eval_loss" in log]
    assert len(evaluated) == STEPS
    assert evaluated[-1] == ends[0].evaluate()["eval_loss"]  # at w, not at w + ε


def test_telemetry_is_in_the_log(tmp_path):
    options = {"gradient_accumulation_steps": 2, "accumulation": "batch"}
    trainer = trainer_of(
        llama(), sentences(EXAMPLES), tmp_path, SAMTrainer, sam={"telemetry": True}, **options
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == STEPS
    for log in logs:
        assert log["sam/perturbation_norm"] == pytest.approx(RHO, rel=1e-4)
        assert log["sam/loss_rise"] > 0
        assert -1 <= log["sam/cosine"] <= 1
        assert log["sam/descent_norm"] == pytest.approx(log["grad_norm"], rel=1e-4)
        assert log["sam/grad_norm"] != log["sam/descent_norm"]
        assert log["sam/skipped"] == 0
    others = [log for log in trainer.state.log_history if "loss" not in log]
    assert others
    assert not [key for log in others for key in log if key.startswith("sam/")]


def test_the_log_is_json_where_rho_is_0(tmp_path):
    trainer = trainer_of(llama(), sentences(EXAMPLES), tmp_path, sam={"rho": 0.0}, logging_steps=1)
    trainer.train()
    assert any("sam/steps" in log for log in trainer.state.log_history)
    json.loads(json.dumps(trainer.state.log_history, allow_nan=False))
