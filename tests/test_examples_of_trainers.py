"""The examples of scripts and trainers that people have: they run, and train with SAM.

With rho = 0 each loop is what it was before SAM came into it, bit for bit.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
import transformers
from our_warnings import OURS_FAIL
from own_accelerator import fresh  # noqa: F401 (a fixture)
from sklearn.datasets import load_digits
from test_examples import apart
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thalweg

pytestmark = OURS_FAIL

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RHO = 0.05
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # trainers write where they stand


def load(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["train"]


def same_bits(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "name", ["timm_style", "imagenet_style", "mnist_style", "accelerate_digits"]
)
def test_scripts_train_and_are_sam(name):
    model, sam, losses = load(name)()[:3]
    assert sum(losses[-10:]) / 10 < losses[0] / 4
    assert sam.last.perturbation_norm == pytest.approx(RHO)
    plain, off, _ = load(name)(rho=0.0)[:3]
    assert not off.last.moved
    assert apart(model, plain) > 0.05  # rounding makes less than 0.001 of it


def digits(size, **settings):
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    return DataLoader(TensorDataset(x.float() / 8 - 1, y), size, shuffle=True, **settings)


def with_norm():
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


class NativeScaler:
    """What timm's does: backward, and where the step is due, clipping and the step."""

    def __init__(self, enabled):
        self._scaler = torch.amp.GradScaler("cpu", enabled=enabled)

    def __call__(self, loss, optimizer, clip_grad, parameters, need_update):
        self._scaler.scale(loss).backward()
        if need_update:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip_grad)
            self._scaler.step(optimizer)
            self._scaler.update()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_with_rho_zero_timm_s_loop_is_what_it_was(dtype):
    found, _, _, average = load("timm_style")(rho=0.0, clip_grad=0.5, dtype=dtype, epochs=2)
    torch.manual_seed(0)
    loader, model = digits(32, drop_last=True), with_norm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler, ema, steps = NativeScaler(dtype is torch.float16), {}, 0
    for _ in range(2):
        for i, (x, y) in enumerate(loader):
            pieces = 3 if i < 54 else 2  # 56 micro-batches make 18 steps of 3 and one of 2
            need_update = i in (55, *range(2, 54, 3))
            with torch.autocast("cpu", dtype):
                loss = cross_entropy(model(x), y) / pieces
            scaler(loss, optimizer, 0.5, model.parameters(), need_update)
            if not need_update:
                continue
            optimizer.zero_grad()
            steps += 1
            for name, value in model.state_dict().items():
                before = ema.setdefault(name, value.clone())
                if steps > 1 and value.is_floating_point():
                    ema[name] = before.lerp(value, 0.1)
    assert same_bits(found, model)
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, ema[name], rtol=1e-5, atol=1e-6)


def test_with_rho_zero_the_imagenet_loop_is_what_it_was():
    found, _, losses = load("imagenet_style")(rho=0.0, epochs=2)
    torch.manual_seed(0)
    loader, model = digits(64, drop_last=True), with_norm()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    seen = []
    for _ in range(2):
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            seen.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    assert losses == seen
    assert same_bits(found, model)


def test_with_rho_zero_the_mnist_loop_is_what_it_was_dropout_and_all():
    found, _, losses = load("mnist_style")(rho=0.0, epochs=2)
    torch.manual_seed(0)
    loader = digits(64)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10), nn.LogSoftmax(1)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    seen = []
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.nll_loss(model(x), y)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        scheduler.step()
    assert losses == seen
    assert same_bits(found, model)


def test_the_mnist_script_s_optimizer_is_refused_as_the_page_says():
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(thalweg.ThalwegError, match="Adadelta has a rho of its own"):
        thalweg.SAM(torch.optim.Adadelta([w]), None)


def written_out(accumulation, pieces, epochs=1, clip=None):
    """Train on the digits as the examples for trainers do, by `passes()`; return the network."""
    torch.manual_seed(0)
    loader = digits(32, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sam = thalweg.SAM(optimizer, model, rho=RHO)
    for _ in range(epochs):
        batches = list(loader)
        for i in range(0, len(batches), pieces):
            step = batches[i : i + pieces]
            for part in [[b] for b in step] if accumulation == "micro" else [step]:
                for _ in sam.passes():
                    for x, y in part:
                        (cross_entropy(model(x), y) / pieces).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize("accumulation", ["micro", "batch"])
def test_lightning_is_the_plain_loop(accumulation):
    settings = QUIET | {"accumulation": accumulation, "epochs": 1}
    model, sam = load("lightning_digits")(**settings)
    other = {"micro": "batch", "batch": "micro"}[accumulation]
    assert same_bits(model, written_out(accumulation, 2))
    assert apart(model, written_out(other, 2)) > 0.05
    assert sam.last.perturbation_norm == pytest.approx(RHO)


def test_accelerate_is_the_plain_loop():
    model, _, _ = load("accelerate_digits")(epochs=1)
    assert same_bits(model, written_out("micro", 2, clip=1.0))
    assert apart(model, written_out("batch", 2, clip=1.0)) > 0.05


def without_sam(model, args, *, rho, accumulation, **settings):
    trainer = transformers.Trainer(model, args, **settings)
    trainer.sam = None
    return trainer


def test_transformers_trains_logs_and_is_sam():
    runs = {}
    for accumulation in ("micro", "batch"):
        model, sam, history = load("transformers_text")(
            accumulation=accumulation, disable_tqdm=True
        )
        told = [entry for entry in history if "loss" in entry]
        assert told[-1]["loss"] < 0.8 * told[0]["loss"]
        assert told[-1]["sam/perturbation_norm"] == pytest.approx(RHO)
        assert sam.last.moved
        runs[accumulation] = model
    assert apart(*runs.values()) > 0.05
    plain = load("transformers_text")
    plain.__globals__["SAMTrainer"] = without_sam
    same, _, _ = plain(disable_tqdm=True, steps=20)
    off, _, _ = load("transformers_text")(rho=0.0, disable_tqdm=True, steps=20)
    on, _, _ = load("transformers_text")(disable_tqdm=True, steps=20)
    assert same_bits(same, off)
    assert apart(same, on) > 0.05


def diffs(title):
    section = re.split(rf"^## {re.escape(title)}$", RECIPES, flags=re.M)[1]
    section = re.split(r"^## ", section, flags=re.M)[0]
    return re.findall(r"```diff\n(.*?)```", section, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("title", "name"),
    [("torch's ImageNet example", "imagenet_style"), ("torch's MNIST example", "mnist_style")],
)
def test_what_the_diff_adds_to_the_loop_stands_in_the_example(title, name):
    example = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in example.splitlines()]
    added = [
        line[1:].strip()
        for diff in diffs(title)[1:]
        for line in diff.splitlines()
        if line.startswith("+")
    ]
    assert len(added) >= 5
    for line in added:
        assert line.replace("F.", "nn.functional.") in lines


def test_the_launcher_starts_two_processes_of_it(tmp_path):
    """The real launcher; the replicas train the same weights."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = tmp_path / "script.py"
    script.write_text(
        "import os, runpy, sys\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "example = runpy.run_path(sys.argv[1])\n"
        "model, sam, _ = example['train'](steps=3)\n"
        "w = torch.cat([p.detach().flatten() for p in model.parameters()])\n"
        "both = [torch.empty_like(w) for _ in range(2)]\n"
        "torch.distributed.all_gather(both, w)\n"
        "print('same' if torch.equal(*both) and sam.last.moved else 'not the same')\n"
        "torch.distributed.destroy_process_group()\n",
        encoding="utf-8",
    )
    example = ROOT / "examples" / "transformers_text.py"
    found = subprocess.run(
        [*command, str(script), str(example)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert re.findall("same|not the same", found.stdout) == ["same", "same"], found.stdout
