"""The only writer of parameters."""

import pytest
import torch
from torch import nn

from thalweg import SAM, hold, layout
from thalweg.hold import Weights, _batches

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_move_and_the_way_back(dtype, as_tensor):
    torch.manual_seed(0)
    a, b, d, e = (torch.randn(1000, dtype=dtype) for _ in range(4))
    before, places = (a.clone(), b.clone()), (a.data_ptr(), b.data_ptr())
    weights = Weights()
    factors = [torch.tensor(x, dtype=torch.float64) if as_tensor else x for x in (0.25, -3.0)]
    for _ in range(3):
        weights.move([([a], [d], factors[0]), ([b], [e], factors[1])])
        assert weights.moved
        assert set(weights.before) == {a, b}
        step = torch.finfo(dtype).eps * 8
        torch.testing.assert_close(a, before[0] + d / 4, rtol=step, atol=step)
        torch.testing.assert_close(b, before[1] - 3 * e, rtol=step, atol=step)
        assert torch.equal(weights.before[a], before[0])
        weights.restore()
        assert not weights.moved
        assert not weights.before
        assert torch.equal(a, before[0])
        assert torch.equal(b, before[1])
    assert (a.data_ptr(), b.data_ptr()) == places


def test_a_second_move_starts_from_the_weights():
    w, weights = torch.tensor([1.0, 2.0]), Weights()
    weights.move([([w], [torch.ones(2)], 0.5)])
    weights.move([([w], [torch.ones(2)], 2.0)])
    assert w.tolist() == [3.0, 4.0]
    weights.restore()
    assert w.tolist() == [1.0, 2.0]
    weights.restore()
    assert w.tolist() == [1.0, 2.0]


def test_a_factor_of_zero_on_a_device_moves_nothing_even_along_nan():
    w, weights = torch.tensor([1.0, 2.0, 3.0]), Weights()
    bad = torch.tensor([float("nan"), float("inf"), 1.0])
    weights.move([([w], [bad], torch.tensor(0.0, dtype=torch.float64))])
    assert w.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    ("size", "factor", "dtype"), [(1e-7, 4e6, torch.float16), (1e-42, 5e38, torch.float32)]
)
def test_a_factor_that_the_dtype_cannot_hold(size, factor, dtype, as_tensor):
    w, d = torch.ones(3, dtype=dtype), torch.tensor([size, -size, 0.0], dtype=dtype)
    given = torch.tensor(factor, dtype=torch.float64) if as_tensor else factor
    Weights().move([([w], [d], given)])
    expected = (1 + factor * d.double()).to(dtype)
    torch.testing.assert_close(w, expected, rtol=0, atol=2e-3)
    assert float(w[2]) == 1.0


def test_a_sparse_direction():
    w = torch.zeros(3, 2)
    d = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 2), (3, 2), check_invariants=True)
    Weights().move([([w], [d], 0.5)])
    assert w.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_nothing_to_move():
    weights = Weights()
    weights.move([])
    assert not weights.moved


def test_one_copy_of_the_weights_is_kept_and_given_back(tools):
    model = tools.net()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.1)
    for step in range(3):
        tools.forms["passes"](sam, tools.loss(model, step))
    held = sam._gear.weights._backup
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    addresses = [t.data_ptr() for t in held.values()]
    tools.forms["passes"](sam, tools.loss(model, 4))
    assert [t.data_ptr() for t in held.values()] == addresses
    sam.release()
    assert not held
    tools.forms["passes"](sam, tools.loss(model, 5))
    assert sam.last.moved


def test_giving_the_backup_back_puts_the_weights_back_first():
    w, weights = torch.tensor([1.0, 2.0]), Weights()
    weights.move([([w], [torch.ones(2)], 0.5)])
    weights.release()
    assert w.tolist() == [1.0, 2.0]
    assert not weights.moved


def test_a_parameter_that_is_gone_takes_its_copy_along():
    weights = Weights()
    kept = torch.ones(3)
    for _ in range(3):
        other = torch.ones(40_000)
        weights.move([([kept, other], [torch.ones(3), torch.ones(40_000)], 0.5)])
        weights.restore()
    del other
    weights.move([([kept], [torch.ones(3)], 0.5)])
    weights.restore()
    assert len(weights._backup) == 1


def large(dtype=torch.float32):
    """A weight that is moved by pointing it elsewhere, and what else lies around it."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(200, 100, dtype=dtype))
    return w, w.detach().clone(), torch.randn_like(w), Weights()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_weight_is_not_written_to(dtype):
    w, before, d, weights = large(dtype)
    place, small = w.data_ptr(), nn.Parameter(torch.zeros(3, dtype=dtype))
    moved = before + 0.25 * d
    for _ in range(3):
        version = w._version
        weights.move([([small, w], [torch.ones_like(small), d], 0.25)])
        assert w.data_ptr() != place
        assert w._version > version
        torch.testing.assert_close(w.detach(), moved, rtol=8 * torch.finfo(dtype).eps, atol=0.01)
        assert small.tolist() == [0.25] * 3
        assert torch.equal(weights.before[w], before)
        assert torch.equal(weights.before[small], torch.zeros_like(small))
        weights.restore()
        assert w.data_ptr() == place
        assert torch.equal(w, before)
        assert small.tolist() == [0.0] * 3
    assert sum(b.numel() for b in weights._backup.values()) == w.numel() + small.numel()


def test_whoever_has_a_view_of_a_weight_sees_it_move():
    w, before, d, weights = large()
    view = w.detach()[:2]
    place = w.data_ptr()
    weights.move([([w], [d], 0.5)])
    assert w.data_ptr() == place
    assert torch.equal(view, (before + 0.5 * d)[:2])
    weights.restore()
    assert torch.equal(view, before[:2])


def test_a_view_taken_while_the_weights_are_moved_sees_them_come_back():
    w, before, d, weights = large()
    for _ in range(2):
        weights.move([([w], [d], 0.5)])
        view = w.detach()[:2]
        assert not torch.equal(view, before[:2])
        weights.restore()
        assert torch.equal(view, before[:2])
    weights.move([([w], [2 * d], 0.5)])
    assert torch.equal(view, before[:2])  # its memory is its own now
    weights.restore()


def test_a_graph_from_before_the_move_is_known_to_be_old():
    w, _, d, weights = large()
    loss = (w**2).sum()
    weights.move([([w], [d], 0.5)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    weights.restore()


def test_an_exception_between_two_weights_loses_nothing(monkeypatch):
    a, before, d, weights = large()
    b = nn.Parameter(before.clone())
    place, true_point = a.data_ptr(), hold._point

    def broken(p, memory):
        if p is b and memory is weights._backup.get(b):
            raise KeyboardInterrupt
        true_point(p, memory)

    monkeypatch.setattr(hold, "_point", broken)
    with pytest.raises(KeyboardInterrupt):
        weights.move([([a, b], [d, d], 0.5)])
    assert weights.moved
    weights.restore()
    assert torch.equal(a, before)
    assert torch.equal(b, before)
    assert a.data_ptr() == place


@pytest.mark.parametrize("kind", ["sparse", "half", "overlapping", "uncounted"])
def test_what_cannot_lie_elsewhere_is_moved_in_place(kind, monkeypatch):
    w, before, d, weights = large()
    if kind == "sparse":
        d = d.to_sparse()
    elif kind == "half":
        d = d.half()
    elif kind == "overlapping":  # rows of which a copy has another layout
        w = nn.Parameter(torch.randn(20_000).as_strided((2, 15_000), (5_000, 1)))
        d, before = torch.zeros(2, 15_000), w.detach().clone()
    else:
        monkeypatch.delattr(torch._C, "_storage_Use_Count")
    place = w.data_ptr()
    weights.move([([w], [d], 0.5)])
    assert w.data_ptr() == place
    expected = before + 0.5 * d.to_dense().float()
    torch.testing.assert_close(w.detach(), expected)
    weights.restore()
    assert torch.equal(w, before)


@pytest.mark.parametrize("form", ["passes", "closure", "block"])
def test_sam_steps_alike_with_weights_elsewhere_and_in_place(form, tools, monkeypatch):
    ends = []
    for least in (1, 16384):
        monkeypatch.setattr(layout, "SMALL", least)
        model = tools.net()
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, rho=0.1)
        for step in range(10):
            tools.forms[form](sam, tools.loss(model, step))
        assert bool(sam._gear.weights._large) == (least == 1)
        ends.append([p.detach().clone() for p in model.parameters()])
    for elsewhere, in_place in zip(*ends, strict=True):
        torch.testing.assert_close(elsewhere, in_place, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_directions_on_an_accelerator():
    w, weights = torch.ones(3, 2), Weights()
    d = torch.sparse_coo_tensor([[1, 1]], [[1.0, 2.0], [1.0, 0.0]], (3, 2))
    weights.move([([w], [d], torch.tensor(0.5, dtype=torch.float64))])
    assert w.tolist() == [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
    weights.restore()
    assert torch.equal(w, torch.ones(3, 2))


def test_batches_hold_everything_once():
    tensors = [torch.zeros(n) for n in (3, 2**22, 5, 2**21, 2**21, 1)]
    cut = list(_batches(tensors, tensors))
    assert [t.numel() for some, _ in cut for t in some] == [t.numel() for t in tensors]
    assert all(some == part for some, part in [([*map(id, a)], [*map(id, b)]) for a, b in cut])
    assert len(cut) == 4
