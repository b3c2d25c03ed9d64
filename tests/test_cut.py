"""Lists gone through in pieces: what is made is what lists of whole tensors would give."""

import math

import pytest
import torch

import thalweg
from thalweg import layout, parameters, presets
from thalweg.ascent import L2, AdamMetric, FanRatio, Magnitude, Method, WithMean
from thalweg.cut import Cut, Pieces
from thalweg.hold import Weights

SHAPES = [(3,), (200, 100), (), (2, 0), (7, 5), (301, 400), (130, 130)]


def drawn(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def work(t, u, n):
    return t.abs() * u + n


def whole(*lists):
    return [work(*place) for place in zip(*lists, strict=True)]


NUMBERS = {
    "alike": [2.0] * len(SHAPES),
    "different": [float(i) for i in range(len(SHAPES))],
}


@pytest.fixture(params=[1000, 2**16], ids=["many pieces", "few pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr("thalweg.cut._PIECE", request.param)


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_what_is_made_of_lists_is_what_whole_tensors_give(pieces, numbers):
    t, u = drawn(1), drawn(2)
    cut = Cut.of(t)
    found, wanted = cut(work, t, u, numbers), whole(t, u, numbers)
    assert isinstance(found, Pieces)
    assert len(found) == len(wanted)
    assert all(map(torch.equal, found, wanted))
    assert found.norm() == pytest.approx(float(parameters.norm(wanted)), rel=1e-14)
    assert cut.dot(found, t) == pytest.approx(float(parameters.dot(wanted, t)), rel=1e-13)


def test_numbers_may_stand_among_tensors_and_one_number_for_all(pieces):
    t = drawn(1)
    mixed = [u if i % 2 else 3.0 for i, u in enumerate(drawn(2))]
    wanted = whole(t, mixed, [0.5] * len(t))
    found = Cut.of(t)(work, t, mixed, 0.5)
    assert all(map(torch.equal, found, wanted))


def test_tensors_that_are_not_contiguous_are_taken_in_the_order_of_their_entries(pieces):
    t = [u.transpose(0, 1) if u.ndim == 2 else u for u in drawn(1)]
    u = [torch.randn(v.shape, dtype=v.dtype) for v in t]
    found = Cut.of(t)(work, t, u, 1.0)
    assert all(map(torch.equal, found, whole(t, u, [1.0] * len(t))))
    targets = [torch.zeros_like(v) for v in t]  # not contiguous either
    for some, made in found.pairs(targets):
        torch._foreach_copy_(some, made)
    assert all(map(torch.equal, targets, found))


@pytest.mark.parametrize("kind", ["sparse", "16 bits", "two dtypes", "accelerator"])
def test_what_cannot_be_cut_is_left_whole(kind, monkeypatch):
    t = drawn(1, torch.float32)
    if kind == "accelerator":
        monkeypatch.setattr(layout, "costly_to_read", lambda device: True)
    if kind == "sparse":
        assert Cut.of(t)(torch.mul, [u.to_sparse() if u.ndim else u for u in t], 2.0) is None
        return
    if kind == "16 bits":
        t = [u.bfloat16() for u in t]
    if kind == "two dtypes":
        t[0] = t[0].double()
    assert Cut.of(t) is None


@pytest.mark.parametrize("seen", [False, True], ids=["alone", "somebody has a view"])
def test_weights_move_in_pieces_and_come_back(pieces, seen):
    w, d = drawn(1), drawn(2)
    before = [t.clone() for t in w]
    views = [t.view(-1) for t in w] if seen else []
    weights = Weights()
    for factor in (0.5, 1e6):  # a large one takes the way of whole tensors
        weights.move([(w, Cut.of(w)(torch.mul, w, d), factor)])
        for t, start, e in zip(w, before, d, strict=True):
            torch.testing.assert_close(t, start + factor * start * e, rtol=1e-14, atol=0)
        # who has a view of a weight sees it move
        assert all(torch.equal(v, t.view(-1)) for v, t in zip(views, w, strict=False))
        weights.restore()
        assert all(map(torch.equal, w, before))
        assert all(torch.equal(v, t.view(-1)) for v, t in zip(views, before, strict=False))


def test_a_factor_that_no_float32_holds_moves_all_the_same(pieces):
    w = [torch.zeros(200, 100), torch.zeros(3)]
    tiny = [torch.full_like(t, 1e-42) for t in w]
    Weights().move([(w, Cut.of(w)(torch.mul, tiny, 1.0), 1e41)])
    for t in w:
        torch.testing.assert_close(t, torch.full_like(t, 0.1), rtol=1e-3, atol=0)


METHODS = {
    "asam": presets.asam(),
    "adam_metric": presets.adam_metric(),
    "friendly": presets.friendly(),
    "fisher": presets.fisher(),
    "mix": presets.mix(1.5),
    "surrogate_gap": presets.surrogate_gap(),
    "spherical": presets.spherical(1.5),
    "stable": presets.stable(),
    "spectral_radius": presets.spectral_radius(),
    "a mean per layer": Method(direction=WithMean(), ball=L2(Magnitude(), over="layer")),
    "points": Method(direction=WithMean(0.5), points=(0.5, 1.0)),
    "ascents": Method(ball=L2(AdamMetric()), ascents=3),
    "units per tensor": Method(ball=L2(FanRatio(), over="all")),
}


def trained(method, groups):
    torch.manual_seed(1)
    layers = torch.nn.Linear(40, 500), torch.nn.Tanh(), torch.nn.Linear(500, 3)
    net = torch.nn.Sequential(*layers).double()
    both = [{"params": list(layer.parameters())} for layer in (layers[0], layers[2])]
    if groups == 2:
        both[1]["rho"] = 0.2
    kind = torch.optim.AdamW if "Adam" in repr(method) else torch.optim.SGD
    optimizer = kind(both, lr=0.01)
    sam = thalweg.SAM(optimizer, net, rho=0.1, method=method)
    told = []
    for step in range(4):
        x = torch.randn(8, 40, dtype=torch.float64)
        y = torch.arange(8) % 3
        for _ in sam.passes():
            for part in (slice(0, 4), slice(4, 8)) if step % 2 else (slice(0, 8),):
                torch.nn.functional.cross_entropy(net(x[part]), y[part]).backward()
        told.append((sam.last.grad_norm, sam.last.perturbation_norm))
        optimizer.step()
        if step != 1:  # once, gradients are there when the loop begins
            optimizer.zero_grad()
    return [p.detach() for p in net.parameters()], told


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_the_same_in_pieces_and_whole(name, groups, monkeypatch):
    monkeypatch.setattr("thalweg.cut._PIECE", 1000)
    made = []
    monkeypatch.setattr(
        Pieces, "piece", lambda self, k, do=Pieces.piece: made.append(k) or do(self, k)
    )
    pieces, told = trained(METHODS[name], groups)
    assert len(set(made)) > 3  # the large tensors were cut
    monkeypatch.setattr(Cut, "of", lambda parameters: None)
    wholes, said = trained(METHODS[name], groups)
    for a, b in zip(pieces, wholes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(torch.tensor(told), torch.tensor(said), rtol=1e-11, atol=0)
    plain, _ = trained(Method(), groups)
    assert not torch.allclose(plain[0], pieces[0], rtol=1e-7, atol=0)


LARGE = [(300, 400), (40,), (200, 150)]


@pytest.mark.parametrize("factor", [1.0, 1e-18, 1e18], ids=["usual", "tiny", "huge"])
@pytest.mark.parametrize("turned", [False, True], ids=["contiguous", "not contiguous"])
@pytest.mark.parametrize("points", [(1.0,), (0.5, 1.0)], ids=["one point", "two points"])
@pytest.mark.parametrize("telemetry", [False, True], ids=["", "telemetry"])
def test_the_length_of_an_epsilon_in_pieces_is_how_far_it_led(
    pieces, telemetry, points, turned, factor
):
    draw = torch.Generator().manual_seed(3)
    w = [torch.randn(shape, generator=draw) for shape in LARGE]
    w = [torch.nn.Parameter(t.T.contiguous().T if turned and t.ndim == 2 else t) for t in w]
    target = [torch.randn(shape, generator=draw) for shape in LARGE]
    groups = [{"params": w[:1], "rho": 0.4}, {"params": w[1:], "rho": 0.1}]
    method = Method(ball=L2(scale=Magnitude(0.1, biases=True)), points=points)
    sam = thalweg.SAM(torch.optim.SGD(groups, lr=0.1), None, method=method, telemetry=telemetry)
    before = [p.detach().clone() for p in w]
    for here in sam.passes():
        if here.last:
            far = parameters.norm([p.detach() - b for p, b in zip(w, before, strict=True)])
        loss = sum((p * t).sum() + (p * p * t).sum() for p, t in zip(w, target, strict=True))
        (factor * loss).backward()
    assert 0 < float(far) < math.inf
    assert sam.last.perturbation_norm == pytest.approx(float(far), rel=1e-4)
    assert all(map(torch.equal, w, before))


def test_what_is_there_as_a_whole_is_not_made_again(pieces):
    made = []
    t = drawn(1)
    found = Cut.of(t)(lambda u: made.append(1) or 2 * u, t)
    wholes = list(found)
    count = len(made)
    assert count == len(found.cut.portions)
    assert found.norm() == pytest.approx(float(parameters.norm(wholes)), rel=1e-14)
    targets = [torch.zeros_like(u) for u in t]
    for some, parts in found.pairs(targets):
        torch._foreach_copy_(some, parts)
    assert all(torch.equal(a, 2 * u) for a, u in zip(targets, t, strict=True))
    assert len(made) == count
