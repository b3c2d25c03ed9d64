"""SAM in Accelerate's documented loop is SAM in a plain loop, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from our_warnings import OURS_FAIL
from own_accelerator import STATEFUL, fresh, same  # noqa: F401 (a fixture)
from trained_by_accelerate import CLIP, RHO, digits, net, plain, prepared, train

from thalweg.integrations.accelerate import innermost, prepare, synced_last

pytestmark = OURS_FAIL


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
