"""SAM in Accelerate's documented loop is SAM in a plain loop, bit for bit."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("accelerate")
sys.path.insert(0, str(Path(__file__).parent))

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from own_accelerator import STATEFUL, fresh, same  # noqa: F401 (a fixture)

from thalweg import SAM, Method, ThalwegError
from thalweg.integrations.accelerate import check, innermost, prepare, synced_last

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*(perturb|SAM|rho).*"),
]
RHO, CLIP = 0.1, 0.5


def digits(n=7 * 16):
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    return TensorDataset(x[:n].float() / 8 - 1, y[:n])


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


def prepared(rho=RHO, k=1, mixed="no", **options):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=k, mixed_precision=mixed)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    loader = DataLoader(digits(), 16)
    found = accelerator.prepare(model, optimizer, loader, schedule)
    sam = prepare(accelerator, found[0], found[1], rho, **options)
    return accelerator, sam, *found


def train(accelerator, sam, model, optimizer, loader, schedule, epochs=2):
    """The loop of Accelerate's own documentation, with the passes around the backward."""
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                for _ in sam.passes():
                    accelerator.backward(nn.functional.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


def plain(k=1, epochs=2, together=False, loss_of=None, rho=RHO, **options):
    """Train by a plain loop, the micro-batches outside the passes, or inside."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    sam = SAM(optimizer, model, rho, **options)
    torch.manual_seed(1)
    loss_of = loss_of or (lambda model, x, y: nn.functional.cross_entropy(model(x), y))
    loader = DataLoader(digits(), 16)
    for _ in range(epochs):
        batches = list(iter(loader))
        for group in [batches[i : i + k] for i in range(0, len(batches), k)]:
            if together:
                for _ in sam.passes():
                    for x, y in group:
                        (loss_of(model, x, y) / len(group)).backward()
            else:
                for x, y in group:
                    for _ in sam.passes():
                        (loss_of(model, x, y) / k).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("options", [{}, {"power": 0.0}, {"method": STATEFUL}, {"rho": 0.0}])
def test_equals_the_plain_loop(options, k):
    """With dropout, BatchNorm, clipping, a schedule, and a last group that is not full."""
    everything = prepared(k=k, **options)
    torch.manual_seed(1)
    train(*everything)
    found = everything[2]
    expected = plain(k, **options)
    assert same(found, expected)
    assert not same(found, net())
    assert not same(found, plain(k, **{**options, "rho": 0.3}))


def test_one_ascent_for_all_micro_batches():
    accelerator, sam, model, optimizer, loader, schedule = prepared()
    torch.manual_seed(1)
    for _ in range(2):
        batches = list(loader)
        for group in [batches[i : i + 3] for i in range(0, len(batches), 3)]:
            for _ in sam.passes():
                for x, y in synced_last(accelerator, model, group):
                    loss = nn.functional.cross_entropy(model(x), y)
                    accelerator.backward(loss / len(group))
            accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    expected = plain(3, together=True)
    other = plain(3)
    assert same(model, expected)
    assert not same(model, other)


def test_bfloat16():
    everything = prepared(mixed="bf16", k=2)
    torch.manual_seed(1)
    train(*everything)

    def loss_of(model, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        return nn.functional.cross_entropy(output.float(), y)

    expected = plain(2, loss_of=loss_of)
    other = plain(2)
    found, wanted, wide = (list(m.parameters()) for m in (everything[2], expected, other))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found, wide, strict=True))


def test_an_overflow_in_either_pass_skips_the_step():
    """By a gradient scaler, which Accelerate has for fp16 on accelerators alone."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    model = net()
    plain_one = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, plain_one)
    sam = prepare(accelerator, model, optimizer, RHO, power=0.0)
    assert sam.scaler is accelerator.scaler
    x, y = digits()[:16]
    for spoilt, scale in ((0, 2.0), (1, 1.0), (2, 1.0)):
        before = [p.detach().clone() for p in model.parameters()]
        for here in sam.passes():
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss * (float("inf") if here.index == spoilt else 1.0))
        optimizer.step()
        optimizer.zero_grad()
        kept = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert kept == optimizer.step_was_skipped == (spoilt < 2)
        assert accelerator.scaler.get_scale() == scale
    assert sam.last.perturbation_norm == pytest.approx(RHO * sam.last.grad_norm, rel=1e-5)


@pytest.mark.parametrize("method", [None, STATEFUL])
def test_resumed_bit_for_bit(method, tmp_path):
    """rho comes back with the optimizer's state, the method goes on where it was."""
    accelerator, *straight = prepared(rho=0.3, k=2, method=method)
    torch.manual_seed(1)
    train(accelerator, *straight)
    accelerator.save_state(str(tmp_path / "state"))
    assert (tmp_path / "state" / "sam.pt").exists() == (method is not None)
    train(accelerator, *straight)

    accelerator, *resumed = prepared(rho=0.1, k=2, method=method)
    for p in resumed[1].parameters():
        nn.init.zeros_(p)
    accelerator.load_state(str(tmp_path / "state"))
    train(accelerator, *resumed)
    assert same(straight[1], resumed[1])
    assert [group["rho"] for group in resumed[0].optimizer.param_groups] == [0.3]
    assert straight[0].state_dict() == resumed[0].state_dict()


@pytest.mark.parametrize("method", [None, STATEFUL])
def test_a_state_saved_without_sam_is_loaded(method, tmp_path):
    accelerator = Accelerator(cpu=True)
    model = net()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    accelerator.save_state(str(tmp_path / "state"))
    sam = prepare(accelerator, model, optimizer, RHO, method=method)
    accelerator.load_state(str(tmp_path / "state"))
    x, y = digits()[:16]
    sam.step(lambda: nn.functional.cross_entropy(model(x), y).backward())
    assert sam.last.moved
    assert [group["rho"] for group in optimizer.param_groups] == [RHO]


def test_a_state_saved_with_sam_is_loaded_without_it(tmp_path):
    accelerator, *parts = prepared(method=STATEFUL)
    accelerator.save_state(str(tmp_path / "state"))
    accelerator = Accelerator(cpu=True)
    model = net()
    parts = model, torch.optim.AdamW(model.parameters()), DataLoader(digits(), 16)
    plan = torch.optim.lr_scheduler.StepLR(parts[1], 2)
    _, optimizer, _, _ = accelerator.prepare(*parts, plan)
    accelerator.load_state(str(tmp_path / "state"))
    assert optimizer.param_groups[0]["rho"] == RHO


def test_a_forgotten_sam_is_freed(tmp_path):
    accelerator, sam, *_ = prepared(method=STATEFUL)
    held = weakref.ref(sam)
    del sam
    gc.collect()
    assert held() is None
    accelerator.save_state(str(tmp_path / "state"))
    assert not (tmp_path / "state" / "sam.pt").exists()


def test_two_models_keep_a_state_each(tmp_path):
    accelerator = Accelerator(cpu=True)
    models = [net(), net()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    *models, first, second = accelerator.prepare(*models, *optimizers)
    sams = [
        prepare(accelerator, model, optimizer, method=STATEFUL)
        for model, optimizer in zip(models, (first, second), strict=True)
    ]
    x, y = digits()[:16]
    for steps, (sam, model) in enumerate(zip(sams, models, strict=True), 1):
        for _ in range(steps):
            sam.step(lambda model=model: nn.functional.cross_entropy(model(x), y).backward())
    accelerator.save_state(str(tmp_path / "state"))
    for sam in sams:
        sam.load_state_dict({"step": 7})
    accelerator.load_state(str(tmp_path / "state"))
    assert [sam.state_dict()["step"] for sam in sams] == [1, 2]


def test_accumulate_inside_the_passes_is_an_error():
    accelerator, sam, model, _, loader, _ = prepared(k=2)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = next(iter(loader))

    def loop():
        for _ in sam.passes():
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(x), y))

    with pytest.raises(ThalwegError, match="must stand around the loop over passes"):
        loop()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_copy_needs_no_accelerator():
    _, sam, *_ = prepared()
    other = copy.deepcopy(sam)
    x, y = digits()[:16]
    other.step(lambda: nn.functional.cross_entropy(other.model(x), y).backward())
    assert other.last.moved
    assert not sam.last.moved


def test_the_innermost_optimizer():
    """Also where one is wrapped twice."""
    _, sam, _, optimizer, _, _ = prepared()
    assert type(optimizer) is AcceleratedOptimizer
    assert type(sam.optimizer) is torch.optim.AdamW
    assert innermost(AcceleratedOptimizer(optimizer)) is sam.optimizer
    assert innermost(sam.optimizer) is sam.optimizer


def test_an_optimizer_that_steps_in_the_backward_is_refused():
    class AdaLomo(torch.optim.SGD):
        pass

    accelerator = Accelerator(cpu=True)
    model = net()
    model, optimizer = accelerator.prepare(model, AdaLomo(model.parameters(), lr=0.1))
    with pytest.raises(ThalwegError, match="must step after the backward, got AdaLomo"):
        prepare(accelerator, model, optimizer)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("DEEPSPEED", "DeepSpeed"),
        ("MEGATRON_LM", "Megatron-LM"),
        ("XLA", "XLA"),
        ("FSDP", "FSDP1"),
    ],
)
def test_what_cannot_work_is_refused(kind, told, monkeypatch):
    accelerator = Accelerator(cpu=True)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    where = Accelerator
    monkeypatch.setattr(where, "distributed_type", property(lambda self: DistributedType[kind]))
    monkeypatch.setattr(where, "is_fsdp2", property(lambda self: False))
    with pytest.raises(ThalwegError, match=f"got {told}, under which SAM cannot work: use Dist"):
        prepare(accelerator, model, optimizer)
    assert "rho" not in optimizer.param_groups[0]


def test_fsdp2_is_not_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    kind = property(lambda self: DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda self: True))
    check(accelerator)


def test_bad_arguments_are_told_of():
    accelerator, _, model, optimizer, _, _ = prepared()
    with pytest.raises(ThalwegError, match="must not both be given"):
        prepare(accelerator, model, optimizer, power=1, method=Method())
    with pytest.raises(ThalwegError, match="rho must be"):
        prepare(accelerator, model, optimizer, rho=-1)


def test_telemetry_goes_to_the_trackers(tmp_path):
    from accelerate.tracking import GeneralTracker

    class Kept(GeneralTracker):
        name, requires_logging_directory = "kept", False

        def __init__(self):
            self.values = []
            super().__init__()

        @property
        def tracker(self):
            return self.values

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **kwargs):
            self.values.append((step, values))

    tracker = Kept()
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("digits")
    model = net()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    sam = prepare(accelerator, model, optimizer, RHO, telemetry=True)
    x, y = digits()[:16]
    for here in sam.passes():
        here.loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
    accelerator.log(sam.log_dict(), step=7)
    ((step, values),) = tracker.values
    assert step == 7
    assert values["sam/perturbation_norm"] == pytest.approx(RHO, rel=1e-4)
    assert {"sam/cosine", "sam/curvature", "sam/loss_rise"} <= set(values)
