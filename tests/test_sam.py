"""SAM is one method in three forms, and with rho = 0 it is the base optimizer, bit for bit."""

import copy
import gc

import pytest
import torch
from torch import nn

from thalweg import SAM, Method

FORMS = ["passes", "closure", "block"]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_the_three_forms_agree_bit_for_bit(tools, base, power):
    runs = [tools.train(form, base, ["batch_norm"], power=power, steps=50) for form in FORMS]
    assert tools.same_bits(runs[0], runs[1])
    assert tools.same_bits(runs[0], runs[2])
    assert not tools.same_bits(runs[0], tools.train(None, base, ["batch_norm"], steps=50))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["momentum", "adamw"])
@pytest.mark.parametrize("norm", ["batch_norm", "cumulative_norm", "instance_norm"])
def test_rho_0_is_the_base_optimizer_bit_for_bit(tools, form, base, norm):
    layers = [norm, "dropout"]
    sam, plain = (tools.train(f, base, layers, rho=0.0) for f in (form, None))
    assert tools.same_bits(sam, plain)


@pytest.mark.parametrize("form", FORMS)
def test_random_numbers_and_buffers_advance_once(tools, form):
    tools.check_random_numbers_and_buffers(form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["batch_norm", "cumulative_norm", "instance_norm"])
def test_buffers_are_those_of_the_forward_at_w_over_many_steps(tools, form, norm):
    model = tools.net(norm)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=2.0)
    for step in range(5):
        plain = copy.deepcopy(model)
        tools.loss(plain, step)()
        tools.forms[form](sam, tools.loss(model, step))
        assert all(torch.equal(s, t) for s, t in zip(model.buffers(), plain.buffers(), strict=True))
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    # torch's InstanceNorm has the counter and never counts
    assert [int(b) for b in counters] == [0 if norm == "instance_norm" else 5]
    assert all(b.abs().sum() > 0 for name, b in model.named_buffers() if "running" in name)


def test_layers_in_eval_mode_are_not_touched(tools):
    model = tools.net("frozen_norm")
    buffers = [(b, b.clone(), b._version) for b in model.buffers()]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    tools.forms["passes"](sam, tools.loss(model, 0))
    assert buffers
    assert all(torch.equal(b, old) and b._version == v for b, old, v in buffers)
    assert not model[1].training


@pytest.mark.parametrize("form", ["passes", "closure"])
def test_every_pass_sees_the_same_dropout_and_every_step_another(tools, form):
    model, masks = tools.net("dropout"), []
    model[1].register_forward_hook(lambda *args: masks.append(args[-1] == 0))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    for step in range(2):
        tools.forms[form](sam, tools.loss(model, step))
    assert len(masks) == 4
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_the_passes_say_where_they_stand(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)
    seen = []
    for here in sam.passes():
        seen.append((here.index, here.ascent, here.last))
        tools.loss(model, 0)().backward()
    assert seen == [(0, True, False), (1, False, True)]
    sam.optimizer.param_groups[0]["rho"] = 0.0
    assert [(h.index, h.ascent, h.last) for h in sam.passes()] == [(0, False, True)]


def test_step_returns_the_loss_at_the_weights_even_without_grad_mode(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    at_w = tools.loss(model, 0)().item()

    def closure():
        value = tools.loss(model, 0)()
        value.backward()
        return value

    with torch.no_grad():
        assert sam.step(closure).item() == at_w


def test_a_loss_of_exactly_zero_is_a_loss(tools):
    w = torch.zeros(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, rho=0.5)

    def closure():
        sam.optimizer.zero_grad()
        value = w.sum()
        value.backward()
        return value

    assert sam.step(closure).item() == 0
    torch.testing.assert_close(w.detach(), torch.full((2,), -0.1))


def test_no_hook_stays_on_the_optimizer_or_the_parameters(tools):
    for form in FORMS:
        model = tools.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sam = SAM(optimizer, model, rho=0.5, telemetry=True)
        for step in range(2):
            tools.forms[form](sam, tools.loss(model, step))
        assert len(optimizer._optimizer_step_pre_hooks) == 2  # for a scaler, for a loop not begun
        assert not optimizer._optimizer_step_post_hooks
        del sam
        gc.collect()
        assert not optimizer._optimizer_step_pre_hooks
        assert not any(p._backward_hooks for p in model.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_weights_come_back_bit_for_bit_at_the_same_address(tools, form, dtype):
    tools.check_restore(form, dtype)


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_a_resumed_run_is_the_uninterrupted_one(tools, base):
    method = Method(gate=lambda step: step % 3 != 0)

    def build():
        model = tools.net("batch_norm")
        optimizer = tools.optimizers[base](model.parameters())
        return model, optimizer, SAM(optimizer, model, rho=0.2, method=method)

    model, optimizer, sam = build()
    for step in range(10):
        if step == 4:
            saved = copy.deepcopy([s.state_dict() for s in (model, optimizer, sam)])
        tools.forms["passes"](sam, tools.loss(model, step))
    again = build()
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    for step in range(4, 10):
        tools.forms["passes"](again[2], tools.loss(again[0], step))
    assert saved[2] == {"step": 4}
    assert tools.same_bits(model, again[0])


def test_schedulers_move_lr_and_rho_on_the_base_optimizer(tools):
    model = tools.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sam = SAM(optimizer, model, rho=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    for step, lr in enumerate([1.0, 0.1, 0.01]):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr)
        optimizer.param_groups[0]["rho"] = 0.5 / (1 + step)
        tools.forms["passes"](sam, tools.loss(model, step))
        assert sam.last.perturbation_norm == pytest.approx(0.5 / (1 + step))
        scheduler.step()


def test_sam_can_be_copied_together_with_what_it_serves(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
    tools.forms["passes"](sam, tools.loss(model, 0))
    twin = copy.deepcopy(sam)
    for each in (sam, twin):
        tools.forms["passes"](each, tools.loss(each.model, 1))
    assert twin.model is not model
    assert tools.same_bits(model, twin.model)


def test_a_compiled_network_is_compiled_once(tools):
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    model = tools.net("batch_norm")
    fast = torch.compile(model, backend=backend)
    x, y = tools.batch(0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), fast, rho=0.5)
    for _ in range(3):
        tools.forms["passes"](sam, lambda: ((fast(x) - y) ** 2).mean())
    assert len(compiled) == 1
    assert int(model[1].num_batches_tracked) == 3


def test_a_sparse_embedding_and_a_fused_optimizer_work():
    torch.manual_seed(0)
    rows = torch.tensor([1, 1, 3])
    sparse, dense = nn.Embedding(5, 3, sparse=True), nn.Embedding(5, 3)
    dense.load_state_dict(sparse.state_dict())
    for table in (sparse, dense):
        sam = SAM(torch.optim.SGD(table.parameters(), lr=0.1), table, rho=0.5)
        for _ in sam.passes():
            (table(rows) ** 3).sum().backward()
        sam.optimizer.step()
    torch.testing.assert_close(sparse.weight, dense.weight)
    plain, fused = nn.Linear(3, 3), nn.Linear(3, 3)
    fused.load_state_dict(plain.state_dict())
    for layer, fuse in ((plain, False), (fused, True)):
        sam = SAM(torch.optim.AdamW(layer.parameters(), fused=fuse), layer, rho=0.5)
        for _ in sam.passes():
            (layer(torch.eye(3)) ** 2).sum().backward()
        sam.optimizer.step()
    torch.testing.assert_close(fused.weight, plain.weight)
