"""What only an accelerator can show; skipped where there is none."""

import pytest
import torch
from torch import nn

from thalweg import SAM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator (CUDA)"),
]


def net(tools, device="cuda"):
    return tools.net("batch_norm").to(device)


def loss_on(model, step, tools, device="cuda"):
    x, y = (t.to(device) for t in tools.batch(step))
    return lambda: ((model(x) - y) ** 2).mean()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_gpu_does_what_the_cpu_does(tools, power):
    model, other = net(tools), tools.net("batch_norm")
    for m, make in ((model, lambda s: loss_on(model, s, tools)), (other, None)):
        sam = SAM(torch.optim.SGD(m.parameters(), lr=0.05), m, 0.1, method=tools.method(power))
        for step in range(10):
            tools.forms["passes"](sam, make(step) if make else tools.loss(m, step))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_never_waits_for_the_device(tools, telemetry, scaled):
    model = net(tools)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=scaled)
    sam = SAM(optimizer, model, 0.1, scaler=scaler, telemetry=telemetry)
    losses = [loss_on(model, step, tools) for step in range(4)]
    for step, loss in enumerate(losses):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first sets things up
        try:
            for _ in sam.passes():
                scaler.scale(loss()).backward()
            scaler.step(optimizer)
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        scaler.update()
    assert sam.last.moved


@pytest.mark.parametrize("overflow", [None, 0, 1])
def test_fused_adamw_with_a_scaler(tools, overflow):
    model = net(tools)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    sam = SAM(optimizer, model, 0.1, power=0.5, scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    loss = loss_on(model, 0, tools)
    for here in sam.passes():
        factor = float("inf") if here.index == overflow else 1.0
        scaler.scale(loss() * factor).backward()
    scaler.step(optimizer)
    scaler.update()
    same = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert same == (overflow is not None)
    assert scaler.get_scale() == (512.0 if overflow is not None else 1024.0)


def test_parameters_on_several_devices(tools):
    first, second = nn.Linear(5, 8), nn.Linear(8, 3).cuda()
    twin = tools.net()
    first.load_state_dict(twin[0].state_dict())
    second.load_state_dict(twin[2].state_dict())
    model = nn.ModuleList([first, second])
    x, y = tools.batch(0)
    split = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5)
    whole = SAM(torch.optim.SGD(twin.parameters(), lr=0.1), twin, 0.5)
    tools.forms["passes"](
        split, lambda: ((second(torch.tanh(first(x)).cuda()) - y.cuda()) ** 2).mean()
    )
    tools.forms["passes"](whole, tools.loss(twin, 0))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-5, atol=1e-6)


def test_a_captured_forward_and_backward_sees_the_moved_weights(tools):
    """The weights and their backup keep their addresses, so a CUDA graph can be replayed."""
    model = tools.net().cuda()
    x, y = (t.cuda() for t in tools.batch(0))
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), graphed, rho=2.0)
    for _ in range(3):
        for here in sam.passes():
            here.loss = ((graphed(x) - y) ** 2).mean()
            ((graphed(x) - y) ** 2).mean().backward()
        assert float(sam.last.loss_rise) > 0.1


def test_peak_memory_is_one_copy_of_the_parameters():
    model = nn.Sequential(*[nn.Linear(2048, 2048, bias=False) for _ in range(4)]).cuda()
    size = sum(p.nbytes for p in model.parameters())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.05)
    x = torch.randn(8, 2048, device="cuda")

    def peak(step):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def plain():
        model(x).square().mean().backward()
        sam.optimizer.zero_grad()

    def perturbed():
        for _ in sam.passes():
            model(x).square().mean().backward()
        sam.optimizer.zero_grad()

    plain()
    before = peak(plain)
    assert peak(perturbed) - before < 1.3 * size
    sam.release()
    assert peak(plain) - before < 0.01 * size
