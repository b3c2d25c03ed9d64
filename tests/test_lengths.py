"""How long ε is: told in parameter units whatever the ball is, and never more than the cap."""

import dataclasses
import math

import pytest
import torch
from reads import Reads

from thalweg import SAM, Method, layout, presets
from thalweg.ascent import L2, Given, LargestEntries, LInf, Magnitude, Spectral, spectral
from thalweg.lab import Quadratic, simulate

BALLS = {
    "plain": L2(),
    "tensors": L2(over="tensor"),
    "layers": L2(over="layer"),
    "own size": L2(scale=Magnitude(biases=True)),
    "entries": LInf(),
    "matrices": Spectral(),
}
#: Of the two param groups; one if ``None``.
GROUPS = {"one": None, "two": (0.3, 0.3), "apart": (0.5, 0.0005)}


def sam_of(tools, method, groups="one", rho=0.3):
    model, rhos = tools.net(dtype=torch.float64), GROUPS[groups]
    params = list(model.parameters())
    if rhos is not None:
        (a, b), (first, rest) = rhos, (params[:2], params[2:])
        params = [{"params": first, "rho": a}, {"params": rest, "rho": b}]
    return SAM(torch.optim.SGD(params, lr=0.1), model, rho, method=method)


def way(sam, tools, scale=1.0, by=lambda loss: loss):
    """Return how far the weights are moved in a step."""
    model = sam.model
    at = torch.cat([p.detach().flatten() for p in model.parameters()])
    for here in sam.passes():
        if here.last:
            far = torch.cat([p.detach().flatten() for p in model.parameters()]) - at
        by(scale * tools.loss(model, 0)()).backward()
    return float(far.norm())


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", BALLS)
def test_what_is_told_is_how_far_the_weights_went(tools, name, groups):
    sam = sam_of(tools, Method(ball=BALLS[name]), groups)
    far = way(sam, tools)
    assert sam.last.perturbation_norm == pytest.approx(far, rel=1e-9)
    assert far > 0
    assert not sam.last.capped


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", BALLS)
def test_the_cap_is_on_how_far_the_weights_go(tools, name, groups):
    method = Method(power=2, ball=BALLS[name], max_norm=math.inf)
    far = way(sam_of(tools, method, groups), tools, scale=1e-3)
    for cap, bites in ((0.4 * far, True), (1.5 * far, False)):
        sam = sam_of(tools, dataclasses.replace(method, max_norm=cap), groups)
        assert way(sam, tools, scale=1e-3) == pytest.approx(min(far, cap), rel=1e-9)
        assert sam.last.perturbation_norm == pytest.approx(min(far, cap), rel=1e-9)
        assert sam.last.capped == bites


@pytest.mark.parametrize("ascents", [2, 3])
@pytest.mark.parametrize("name", BALLS)
def test_several_ascents_share_the_cap(tools, name, ascents):
    method = Method(power=2, ball=BALLS[name], ascents=ascents)
    assert method.cap == 1
    sam = sam_of(tools, method)
    far = way(sam, tools, scale=1e-3)
    assert 0.5 < far <= 1 + 1e-9
    assert sam.last.capped == 1
    free = dataclasses.replace(method, max_norm=math.inf)
    assert way(sam_of(tools, free), tools, scale=1e-3) > 1.5


def test_an_ascent_that_was_cut_is_told_though_the_next_one_was_not(tools):
    class Once:
        """A law that is long at the first ascent of a step alone."""

        def __init__(self):
            self.calls = 0

        def __call__(self, norm, step):
            self.calls += 1
            return (9.0 if self.calls == 1 else 0.1) / norm

    sam = sam_of(tools, Method(size=Once(), ascents=2, max_norm=1.0))
    far = way(sam, tools)
    assert sam.last.capped == 1
    assert far < 0.6


@pytest.mark.parametrize("costly", [False, True])
def test_where_nothing_moves_nothing_was_cut(tools, monkeypatch, costly):
    monkeypatch.setattr(layout, "costly_to_read", lambda device: costly)
    finite = Method(mask=lambda d, _: [torch.ones_like(t) for t in d], max_norm=0.01)
    for factor, moves in ((1.0, True), (math.nan, False)):
        sam = sam_of(tools, finite)
        way(sam, tools, scale=factor)
        assert sam.last.moved == moves
        assert float(sam.last.capped) == moves


@pytest.mark.parametrize("ball", ["plain", "entries"])
@pytest.mark.parametrize("groups", ["one", "apart"])
def test_the_cap_under_a_scaler_is_in_the_same_units(tools, ball, groups):
    for scale in (1.0, 1024.0):
        sam = sam_of(tools, Method(max_norm=0.2, ball=BALLS[ball]), groups, rho=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        sam = SAM(sam.optimizer, sam.model, 0.5, method=sam.method, scaler=scaler)
        assert way(sam, tools, by=scaler.scale) == pytest.approx(0.2, rel=1e-9)
        assert sam.last.perturbation_norm == pytest.approx(0.2, rel=1e-9)


@pytest.mark.parametrize("ascents", [1, 2])
@pytest.mark.parametrize("groups", ["one", "apart"])
@pytest.mark.parametrize("name", BALLS)
def test_on_an_accelerator_nothing_is_read(tools, monkeypatch, name, groups, ascents):
    """The branch for accelerators, taken on the CPU."""
    method = Method(power=2, max_norm=0.2, ball=BALLS[name], ascents=ascents)
    found = []
    for costly in (False, True):
        monkeypatch.setattr(layout, "costly_to_read", lambda device, costly=costly: costly)
        monkeypatch.setattr(spectral, "_cheap_to_read", lambda tensor, costly=costly: not costly)
        sam = sam_of(tools, method, groups)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        sam = SAM(sam.optimizer, sam.model, 0.3, method=method, scaler=scaler)
        with Reads() as reads:
            for _ in sam.passes():
                scaler.scale(1e-3 * tools.loss(sam.model, 0)()).backward()
        assert reads.count == 0 or not costly
        found.append(sam.last.known())
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0]["capped"] == 1


def test_the_simulator_shares_the_cap_likewise():
    method = Method(power=2, ascents=2, max_norm=0.3)
    w = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    curvatures = torch.tensor([2.0, 0.5], dtype=torch.float64)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, 0.5, method=method)
    sam.step(lambda: (curvatures * w**2 / 2).sum().backward())
    assert sam.last.capped == 1
    assert sam.last.perturbation_norm <= 0.3
    found = simulate(
        Quadratic([2.0, 0.5], start=[0.1, 0.2]), eta=0.1, rho=0.5, steps=1, method=method
    )
    on_paper = [float(v) for held in found.final.values() for v in held.flat]
    assert w.tolist() == pytest.approx(on_paper, rel=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        presets.gaussian(),
        Method(mask=LargestEntries(0.3)),
        Method(direction=Given(lambda weights: [w.cos() for w in weights]), power=0),
    ],
    ids=["gaussian", "mask", "given"],
)
def test_two_groups_are_told_as_one(tools, method):
    one, two = (sam_of(tools, method, groups) for groups in ("one", "two"))
    assert way(one, tools) == pytest.approx(way(two, tools), rel=1e-9)
    assert one.last.perturbation_norm == pytest.approx(two.last.perturbation_norm, rel=1e-9)
