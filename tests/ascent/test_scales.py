"""The units of a ball, each against its formula."""

import math

import pytest
import torch
from torch import nn

from thalweg import SAM, parameters, presets
from thalweg.ascent import L2, AdamMetric, Context, FanRatio, Fisher, Magnitude, Method, Trust
from thalweg.ascent.scale import Radii
from thalweg.errors import ThalwegError

SHAPES = ((4, 3), (4,), (2, 3, 2, 2), ())


def draw(seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in SHAPES]


def close(found, expected, tolerance=1e-12):
    for f, e in zip(found, expected, strict=True):
        f, e = (torch.as_tensor(x, dtype=torch.float64) for x in (f, e))
        torch.testing.assert_close(f, e, rtol=tolerance, atol=0)


def test_asam_in_both_conventions():
    """ε = ρ T² g / ‖T g‖; T = |w| + η, and for vectors 1, or the same."""
    w, g = draw(0), draw(1)
    for biases in (False, True):
        t = [x.abs() + 0.01 if biases or x.ndim > 1 else torch.ones_like(x) for x in w]
        n = math.sqrt(sum(float((a * b).square().sum()) for a, b in zip(t, g, strict=True)))
        expected = [0.5 * a**2 * b / n for a, b in zip(t, g, strict=True)]
        method = Method(ball=L2(Magnitude(biases=biases)))
        for names in ([], ["bias", "x", "gain", "z"], [""] * 4):  # which tell nothing
            at = Context(weights=w, names=lambda names=names: names)
            p = method.perturbation(g, 0.5, context=at)
            close([p.factor * s for s in p.direction], expected)


def test_asam_takes_1_for_what_has_no_weight_in_its_name():
    """And goes by the shape of a parameter that has no name, beside others that have one."""
    w, names = draw(0), ["token", "debias.weight", "bias", "0.weight"]
    at = Context(weights=w, names=lambda: names)
    close(Magnitude(0.5)(w, at), [1.0, w[1].abs() + 0.5, 1.0, w[3].abs() + 0.5])
    names[:] = ["", "", "weight", "gain"]
    close(Magnitude(0.5)(w, at), [w[0].abs() + 0.5, 1.0, w[2].abs() + 0.5, 1.0])
    close(Magnitude(0.5, biases=True)(w, at), [t.abs() + 0.5 for t in w])


def test_lengths_and_fans():
    w = draw(0)
    close(Trust()(w, Context(weights=w)), [float(t.norm()) for t in w])
    fans = [math.sqrt(4 / 3), 2.0, math.sqrt(2 / 12), 1.0]
    close(FanRatio()(w, Context(weights=w)), fans)


def test_the_cells_of_a_grid_have_each_its_own():
    w = [torch.stack(ts) for ts in zip(draw(0), draw(1), draw(2), strict=True)]
    grid = Context(
        weights=w,
        norms=lambda tensors: [parameters.cell_norms([t]) for t in tensors],
        cells=1,
    )
    for scale in (Magnitude(), Magnitude(0.3, biases=True), Trust(), FanRatio(), Fisher()):
        found = scale(w, grid)
        for i in range(3):
            alone = scale(draw(i), Context(weights=draw(i)))
            own = [f[i] if isinstance(f, torch.Tensor) else f for f in found]
            close(own, alone)


def test_the_metric_of_adam_is_that_of_torch_s_adam():
    w = [torch.nn.Parameter(t) for t in draw(0)]
    adam = torch.optim.Adam(w[:3], betas=(0.9, 0.99))
    squares = [torch.zeros_like(t) for t in w[:3]]
    for step in range(3):
        for i, (p, g) in enumerate(zip(w[:3], draw(step + 1), strict=False)):
            p.grad = g
            squares[i] = 0.99 * squares[i] + 0.01 * g**2
        adam.step()
    context = Context(
        weights=w, step=3, state=lambda name: [adam.state.get(p, {}).get(name) for p in w]
    )
    expected = [(v / (1 - 0.99**3) + 1e-6) ** -0.25 for v in squares]
    close(AdamMetric(1e-6, 0.99)(w, context), [*expected, 1.0])


def test_the_metric_of_adam_takes_beta_2_of_each_group():
    w = [nn.Parameter(t) for t in draw(0)[:2]]
    groups = [{"params": [w[0]], "betas": (0.9, 0.5)}, {"params": [w[1]], "betas": (0.9, 0.95)}]
    adam = torch.optim.AdamW(groups, lr=0.0)
    for g in (1.0, 3.0):
        (g * (w[0].sum() + w[1].sum())).backward()
        adam.step()
        adam.zero_grad()
    found = {}

    class Seen(AdamMetric):
        def __call__(self, direction, context):
            found["s"] = AdamMetric.__call__(self, direction, context)
            return found["s"]

    sam = SAM(adam, None, 0.1, method=Method(ball=L2(scale=Seen(1e-6))))
    for _ in sam.passes():
        (w[0].sum() + w[1].sum()).backward()
    for s, b in zip(found["s"], (0.5, 0.95), strict=True):
        v = (1 - b) * (b * 1.0 + 9.0) / (1 - b**2)
        torch.testing.assert_close(s, torch.full_like(s, (v + 1e-6) ** -0.25), rtol=1e-10, atol=0)


def test_the_metric_of_adam_needs_a_beta_2():
    held = {"exp_avg_sq": [torch.ones(1)], "step": [torch.tensor(1.0)]}
    context = Context(stepped=True, state=held.get, setting=lambda name: [None])
    with pytest.raises(
        ThalwegError,
        match=r'must have "betas" .* give the decay of its second moment, such as decay=0.999',
    ):
        AdamMetric()([torch.ones(1)], context)


def test_the_metric_of_adam_where_a_count_is_missing_and_in_16_bits():
    v = torch.tensor([0.0, 0.25], dtype=torch.float16)
    context = Context(state={"exp_avg_sq": [v], "step": [None]}.get)
    (found,) = AdamMetric(1e-8, 0.75)([v], context)
    close([found], [torch.tensor([1e-8, 1.0 + 1e-8]) ** -0.25], 1e-6)


def test_the_metric_of_adam_needs_adam():
    none = {"exp_avg_sq": [None], "step": [None]}.get
    context = Context(stepped=True, state=none)
    with pytest.raises(ThalwegError, match="must keep"):
        AdamMetric()([torch.ones(1)], context)
    before = Context(step=0, state=none, setting=lambda name: [(0.9, 0.99)])
    assert AdamMetric()([torch.ones(1)], before) == [1.0]


def test_fisher_is_that_of_the_gradient_without_a_scaler_s_factor():
    g = draw(0)
    method = Method(ball=L2(Fisher(0.3)))
    s = [1 / (t**2 + 0.3).sqrt() for t in g]
    n = math.sqrt(sum(float((a * b).square().sum()) for a, b in zip(s, g, strict=True)))
    expected = [0.1 * a**2 * b / n for a, b in zip(s, g, strict=True)]
    for factor in (1.0, 1024.0):
        p = method.perturbation([factor * t for t in g], 0.1, scale=factor)
        close([p.factor * t for t in p.direction], expected)


def test_radii_are_the_radius_of_each_tensor():
    g = draw(0)
    radii = (1.0, 0.5, 0.0, 2.0)
    p = Method(ball=L2(Radii(radii), over="tensor")).perturbation(g, 0.1)
    found = [float((p.factor * t).norm()) for t in p.direction]
    assert found == pytest.approx([0.1 * r for r in radii], rel=1e-12)
    p = Method(ball=L2(Radii(radii))).perturbation(g, 0.1)  # of one ball: they enter squared
    n = math.sqrt(sum(float((r * t).square().sum()) for r, t in zip(radii, g, strict=True)))
    close(
        [p.factor * t for t in p.direction],
        [0.1 * r * r * t / n for r, t in zip(radii, g, strict=True)],
    )


def test_radii_are_as_many_as_the_tensors():
    with pytest.raises(ThalwegError, match=r"values must be as many .* got 2 for 4 tensors"):
        Radii((1.0, 2.0))(draw(0), Context())
    assert hash(Radii([1, 2.0])) == hash(Radii((1.0, 2.0)))


@pytest.mark.parametrize("bad", [(), 1.0, None, "ab", (1.0, -1.0), (math.nan,), (math.inf,)])
def test_radii_are_numbers(bad):
    with pytest.raises(ThalwegError, match="values"):
        Radii(bad)


class Own(nn.Module):
    """Holds a parameter by itself, a layer with "bias" in its name, and a normalization layer."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 3))
        self.debias, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.gain * self.norm(self.debias(x + self.token))


def test_asam_is_that_of_the_authors_code():
    """There T is |w| + η where the name has "weight" in it, and else 1."""
    torch.manual_seed(0)
    model = Own().double()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    x, target = torch.randn(8, 3).double(), torch.randn(8, 4).double()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.5, method=presets.asam())
    found, g = {}, {}
    for here in sam.passes():
        if here.last:
            found = {n: p.detach().clone() for n, p in model.named_parameters()}
        ((model(x) - target) ** 2).mean().backward()
        if here.ascent:
            g = {n: p.grad.clone() for n, p in model.named_parameters()}
    w = {n: p.detach() for n, p in model.named_parameters()}
    t = {n: p.abs() + 0.01 if "weight" in n else torch.ones_like(p) for n, p in w.items()}
    norm = torch.stack([(t[n] * g[n]).norm() for n in w]).norm()
    for n in w:
        torch.testing.assert_close(
            found[n] - w[n], 0.5 * t[n] ** 2 * g[n] / norm, rtol=1e-9, atol=1e-12
        )
