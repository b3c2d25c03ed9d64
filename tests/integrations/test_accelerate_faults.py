"""SAM with Accelerate: saved states, and what is refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.utils import DistributedType
from our_warnings import OURS_FAIL
from own_accelerator import STATEFUL, fresh, same  # noqa: F401 (a fixture)
from trained_by_accelerate import RHO, digits, net, prepared, train

from thalweg import Method, ThalwegError
from thalweg.integrations.accelerate import check, prepare

pytestmark = OURS_FAIL


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
