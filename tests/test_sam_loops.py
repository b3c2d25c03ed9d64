"""What real training loops bring along: autocast, compiled models, copies, odd layers, devices."""

import copy
import gc
import io
import math
import pickle
import weakref

import pytest
import torch
from reads import Reads
from torch import nn

from thalweg import SAM, Method, ThalwegError, layout, parameters


@pytest.mark.parametrize("where", ["outside", "in each pass"])
def test_autocast_does_not_go_on_using_weights_from_before_the_move(tools, where):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=2.0)
    x, y = tools.batch(0)
    losses = []

    def loss():
        return ((model(x) - y) ** 2).mean()

    with torch.autocast("cpu", torch.bfloat16, enabled=where == "outside"):
        for here in sam.passes():
            with torch.autocast("cpu", torch.bfloat16):
                here.loss = loss()
            losses.append(here.loss.item())
            loss().backward()
        again = loss().item()
    assert losses[1] > losses[0] + 0.1
    assert again == pytest.approx(losses[0], rel=1e-3)
    assert sam.last.loss_rise == pytest.approx(losses[1] - losses[0])


@pytest.mark.parametrize("old", [False, True])
def test_spectral_norm_advances_once(tools, old):
    normed = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm

    def fresh():
        torch.manual_seed(0)
        return nn.Sequential(normed(nn.Linear(5, 8)), nn.Tanh(), nn.Linear(8, 3))

    model, plain = fresh(), fresh()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=0.5)
    start = [b.clone() for b in model.buffers()]
    x, y = tools.batch(0)
    for _ in sam.passes():
        ((model(x) - y) ** 2).mean().backward()
    plain(x)
    assert any(not torch.equal(a, b) for a, b in zip(start, plain.buffers(), strict=True))
    pairs = zip(model.buffers(), plain.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("telemetry", [False, True])
def test_a_compiled_model_is_compiled_once_and_has_no_graph_break(tools, telemetry):
    torch._dynamo.reset()
    model = tools.net("batch_norm", "dropout")
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sam = SAM(optimizer, compiled, rho=0.1, telemetry=telemetry)
    seen = []
    for step in range(6):
        tools.forms["passes"](sam, tools.loss(compiled, step))
        seen.append(len(graphs))
    assert seen == [1] * 6
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("kwargs", [{}, {"power": 0.5}, {"telemetry": True}], ids=str)
def test_a_copy_is_a_sam_of_the_copied_model(tools, how, kwargs):
    model = tools.net("batch_norm")
    optimizer = tools.optimizers["momentum"](model.parameters())
    sam = SAM(optimizer, model, rho=0.1, **kwargs)
    tools.forms["passes"](sam, tools.loss(model, 0))
    if how == "deepcopy":
        other = copy.deepcopy(sam)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(sam))
    else:
        torch.save(sam, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert other.model is not model
    assert other.optimizer.param_groups[0]["params"][0] is next(other.model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    tools.forms["passes"](other, tools.loss(other.model, 1))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    tools.forms["passes"](sam, tools.loss(model, 1))
    assert tools.same_bits(model, other.model)
    assert other.last == sam.last


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_model_that_holds_its_sam_is_copied_with_it(tools, how):
    model = tools.net("batch_norm")
    optimizer = tools.optimizers["momentum"](model.parameters())
    model.sam = sam = SAM(optimizer, model, rho=0.1)
    tools.forms["passes"](sam, tools.loss(model, 0))
    other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert other.sam.model is other
    for each in (model, other):
        tools.forms["passes"](each.sam, tools.loss(each, 1))
    assert tools.same_bits(model, other)
    loop = other.sam.passes()
    next(loop)
    tools.loss(other, 2)().backward()
    next(loop)
    other.state_dict()  # the copy guards its own loop
    with pytest.raises(ThalwegError, match="must come after the loop"):
        next(loop)


def test_a_copy_taken_inside_the_loop_has_the_weights_and_the_loop_raises(tools):
    model = tools.net()
    before = [p.detach().clone() for p in model.parameters()]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=0.5)
    loop = sam.passes()
    next(loop)
    tools.loss(model, 0)().backward()
    next(loop)
    other = copy.deepcopy(sam)
    copied = other.model.parameters()
    assert all(torch.equal(p, b) for p, b in zip(copied, before, strict=True))
    with pytest.raises(ThalwegError, match="must come after the loop"):
        next(loop)
    tools.forms["passes"](other, tools.loss(other.model, 0))
    assert other.last.moved


@pytest.mark.parametrize("keep", [True, False])
def test_the_backup_is_given_back_where_it_is_not_to_be_kept(tools, keep):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5, keep_backup=keep)
    twin = tools.net()
    other = SAM(torch.optim.SGD(twin.parameters(), lr=0.1), twin, 0.5)
    for step in range(3):
        tools.forms["passes"](sam, tools.loss(model, step))
        tools.forms["passes"](other, tools.loss(twin, step))
        assert bool(sam._gear.weights._backup) == keep
    assert tools.same_bits(model, twin)
    sam.release()
    assert not sam._gear.weights._backup
    assert not sam._gear.weights._copies


def test_a_forgotten_sam_takes_its_buffers_along(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5, telemetry=True)
    tools.forms["passes"](sam, tools.loss(model, 0))
    alive = [weakref.ref(b) for b in sam._gear.weights._backup.values()] + [weakref.ref(sam)]
    assert all(ref() is not None for ref in alive)
    del sam
    gc.collect()
    assert all(ref() is None for ref in alive)


def both(here, uphill, _):
    return [g + h for g, h in zip(here, uphill, strict=True)]


@pytest.mark.parametrize("combine", [None, both])
@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_on_an_accelerator_nothing_is_read_and_the_numbers_are_the_same(
    tools, monkeypatch, power, telemetry, combine
):
    """The branch for accelerators, taken on the CPU."""
    method = Method(power=power, max_norm=0.17, **({"combine": combine} if combine else {}))
    found = []
    for costly in (False, True):
        monkeypatch.setattr(layout, "costly_to_read", lambda device, costly=costly: costly)
        model = tools.net(dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=True)
        sam = SAM(optimizer, model, 0.1, method=method, telemetry=telemetry)
        for step in range(5):
            loss = tools.loss(model, step)
            with Reads() as reads:
                for _ in sam.passes():
                    loss().backward()
            assert (reads.count == 0) == costly
            optimizer.step()
            optimizer.zero_grad()
        found.append((model, sam))
    (model, sam), (other, unread) = found
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    assert all(isinstance(v, torch.Tensor) for v in (unread.last.grad_norm, unread.last.capped))
    assert unread.log_dict() == pytest.approx(sam.log_dict(), rel=1e-9)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_on_an_accelerator_a_bad_ascent_moves_nothing_and_is_counted(monkeypatch, bad):
    monkeypatch.setattr(layout, "costly_to_read", lambda device: True)
    w = torch.ones(3, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.5), None, 0.1, telemetry=True)
    for here in sam.passes():
        if here.last:
            assert w.tolist() == [1.0, 1.0, 1.0]
        (w * (bad if here.ascent else 1.0)).sum().backward()
    sam.optimizer.step()
    assert w.tolist() == [0.5, 0.5, 0.5]
    assert sam.log_dict()["sam/skipped"] == 1.0


def test_long_norms_are_right_on_the_cpu():
    long = torch.full((40_000_000,), 0.1)
    assert float(parameters.norm([long])) == pytest.approx(0.1 * 40_000_000**0.5, rel=1e-6)
    mixed = [torch.randn(n) for n in (1, 7, 8191, 8192, 8193, 100_000)]
    exact = math.sqrt(sum(float(t.double().square().sum()) for t in mixed))
    assert float(parameters.norm(mixed)) == pytest.approx(exact, rel=1e-7)


def test_parameters_without_entries_and_groups_without_parameters():
    empty, w = torch.zeros(0, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [empty, w]}, {"params": []}], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for given in (None, scaler):
        sam = SAM(optimizer, None, 0.1, scaler=given, telemetry=True)
        for _ in sam.passes():
            loss = (w**2).sum() + empty.sum()
            (loss if given is None else given.scale(loss)).backward()
        assert sam.last.perturbation_norm == pytest.approx(0.1)
        optimizer.zero_grad()
    nothing = torch.optim.SGD([{"params": []}], lr=0.5)
    sam = SAM(nothing, None, 0.1, scaler=scaler)
    assert sum(1 for _ in sam.passes()) == 2
