"""The page on trainers: each block of code runs, and trains with SAM as the page says."""

from __future__ import annotations

import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from our_warnings import OURS_FAIL
from own_accelerator import fresh  # noqa: F401 (a fixture)
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

import thalweg
from thalweg.integrations.accelerate import prepare
from thalweg.integrations.lightning import SAMCallback
from thalweg.integrations.transformers import SAMTrainer

pytestmark = OURS_FAIL

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "integrations.md").read_text(encoding="utf-8")
BLOCKS = {
    block.split("\n")[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
}
RHO, EPOCHS = 0.05, 2


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # trainers write where they stand


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits():
    x, y = (torch.tensor(a[:256]) for a in load_digits(return_X_y=True))
    return DataLoader(TensorDataset(x.float() / 8 - 1, y), batch_size=32)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain(rho=RHO, pieces=1, together=False, epochs=EPOCHS):
    """Return the weights after the plain loop, with micro-batches together or each by itself."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sam = thalweg.SAM(optimizer, model, rho=rho)
    batches = list(digits())
    for _ in range(epochs):
        for i in range(0, len(batches), pieces):
            step = batches[i : i + pieces]
            for part in [step] if together else [[batch] for batch in step]:
                for _ in sam.passes():
                    for x, y in part:
                        (nn.functional.cross_entropy(model(x), y) / pieces).backward()
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("title", "settings"),
    [
        ("Lightning", {}),
        ("Lightning, one ascent for four micro-batches", {"pieces": 4, "together": True}),
        ("Lightning, manual optimization", {}),
    ],
)
def test_lightning(title, settings):
    held = {"module": Module(), "net": network(), "loader": digits()}
    held |= {"loss_fn": nn.functional.cross_entropy}
    held |= {"Trainer": pl.Trainer, "SAMCallback": SAMCallback}
    exec(BLOCKS[title], held)
    found = weights(held["net"] if "manual" in title else held["module"].net)
    assert torch.equal(found, plain(**settings))
    assert not torch.equal(found, plain(**settings | {"rho": 0.0}))
    if settings:
        assert not torch.equal(found, plain(**settings | {"together": False}))


def accelerated(pieces=1):
    model = network()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=pieces)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = {"accelerator": accelerator, "model": model, "optimizer": optimizer}
    return held | {"loader": digits(), "loss_fn": nn.functional.cross_entropy}


@pytest.mark.parametrize("pieces", [1, 4])
def test_accelerate(pieces):
    held = accelerated(pieces)
    exec(BLOCKS["Accelerate"], held)
    assert torch.equal(weights(held["model"]), plain(pieces=pieces, epochs=1))
    assert not torch.equal(weights(held["model"]), plain(0.0, pieces=pieces, epochs=1))


def test_accelerate_with_the_micro_batches_together():
    held = accelerated()
    accelerator, model, optimizer = (held[k] for k in ("accelerator", "model", "optimizer"))
    held["model"], held["optimizer"] = accelerator.prepare(model, optimizer)
    held["sam"] = prepare(accelerator, held["model"], held["optimizer"], rho=RHO)
    exec(BLOCKS["Accelerate, one ascent for four micro-batches"], held)
    wanted, other = (plain(pieces=4, together=t, epochs=1) for t in (True, False))
    assert torch.equal(weights(model), wanted)
    assert not torch.equal(weights(model), other)


def text():
    from pydoc_data.topics import topics

    letters = "".join(topics[name] for name in sorted(topics))[: 48 * 32]
    rows = torch.tensor([min(ord(letter), 127) for letter in letters]).view(-1, 32)
    return [{"input_ids": row, "labels": row} for row in rows]


def language_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, num_attention_heads=2, **sizes))


def trained(title, pieces):
    args = TrainingArguments(
        "checkpoints",
        max_steps=4,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=pieces,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        max_grad_norm=0.0,
    )
    held = {"model": language_model(), "args": args, "dataset": text(), "SAMTrainer": SAMTrainer}
    exec(BLOCKS[title], held)
    return held["trainer"]


def test_transformers():
    one = trained("Transformers", 1)
    assert float(one.sam.last.perturbation_norm) == pytest.approx(RHO, rel=1e-4)
    assert [entry["sam/steps"] for entry in one.state.log_history if "loss" in entry] == [
        1,
        2,
        3,
        4,
    ]


def test_transformers_with_the_micro_batches_together():
    title = "Transformers, one ascent for all micro-batches"
    micro, batch = (trained(block, 2) for block in ("Transformers", title))
    steps = [[e["sam/steps"] for e in t.state.log_history if "loss" in e] for t in (micro, batch)]
    assert steps == [[2, 4, 6, 8], [1, 2, 3, 4]]
    assert not torch.equal(weights(micro.model), weights(batch.model))


def test_a_trainer_of_one_s_own():
    own, usual = trained("a Trainer of one's own", 1), trained("Transformers", 1)
    first, other = (t.state.log_history[0] for t in (own, usual))
    assert first["loss"] == pytest.approx(2 * other["loss"], rel=1e-4)
    assert first["sam/grad_norm"] == pytest.approx(2 * other["sam/grad_norm"], rel=1e-4)
    assert float(own.sam.last.perturbation_norm) == pytest.approx(RHO, rel=1e-4)


def test_every_block_of_the_page_is_one_of_these():
    assert list(BLOCKS) == [
        "Lightning",
        "Transformers",
        "Accelerate",
        "a Trainer of one's own",
        "Lightning, one ascent for four micro-batches",
        "Transformers, one ascent for all micro-batches",
        "Accelerate, one ascent for four micro-batches",
        "Lightning, manual optimization",
    ]


def test_what_is_logged_has_the_names_that_the_page_gives():
    w = torch.ones(1, requires_grad=True)
    sam = thalweg.SAM(torch.optim.SGD([w], lr=0.1), None)

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss

    sam.step(closure)
    assert set(re.findall(r"`(sam/\w+)`", PAGE)) == set(sam.log_dict())
