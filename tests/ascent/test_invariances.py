"""What may happen to the weights, the loss or the parameters and leave a ball's ε as it was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbourhoods import (
    CASES,
    SCALES,
    both,
    close,
    context,
    draw,
    epsilon,
)

from thalweg.ascent import (
    L2,
    Context,
    FanRatio,
    Fisher,
    LInf,
    Magnitude,
    Method,
    Nuclear,
    Spectral,
    Trust,
)

cases = pytest.mark.parametrize(("ball", "over"), CASES)
seeds, scales = st.integers(0, 2**32), st.sampled_from(list(SCALES))


@cases
@settings(max_examples=12)
@given(seeds, scales, st.floats(1e-3, 1e3))
def test_at_power_1_a_factor_on_the_loss_changes_nothing(ball, over, seed, scale, c):
    d, at = draw(4 * seed), context(seed)
    method = Method(ball=ball(SCALES[scale], over))
    once, _ = epsilon(method, d, 0.3, at)
    # Fisher information is of the second degree, and asks for gradients without the factor.
    told = c if scale == "fisher" else None
    scaled, _ = epsilon(method, [c * t for t in d], 0.3, at, told)
    close(scaled, once, rtol=1e-8)


@cases
@given(seeds, st.sampled_from([0.0, 0.1]))
@settings(max_examples=12)
def test_units_of_the_weights_follow_a_rescaling_of_any_entries(ball, over, seed, offset):
    """With S = |w|: f(A⁻¹·) at Aw is seen as f at w is, for any positive diagonal A: ε' = Aε."""
    d, at = draw(seed), context(seed)
    factors = [1 + t.abs() for t in draw(seed + 2)]
    method = Method(ball=ball(Magnitude(offset, biases=True), over))
    once, _ = epsilon(method, d, 0.3, at)
    there = Context(weights=both(factors, at.weights), layers=at.layers)
    found, _ = epsilon(method, [t / a for t, a in zip(d, factors, strict=True)], 0.3, there)
    expected = both(factors, once)
    if offset == 0:
        close(found, expected, rtol=1e-7, atol=1e-9)
    else:  # the offset has units of its own
        assert not all(map(torch.allclose, found, expected))


@pytest.mark.parametrize("name", ["magnitude", "trust", "one"])
def test_the_loss_uphill_of_a_network_whose_layers_were_rescaled(name):
    """ReLU: αW₁, αb₁ and W₂/α are the same function. S = |w| or ‖w‖ sees it, S = 1 does not."""
    x, y = (torch.randn(8, k, generator=torch.Generator().manual_seed(k)).double() for k in (3, 2))

    def loss(w1, b1, w2):
        return (((x @ w1.T + b1).relu() @ w2.T - y) ** 2).mean()

    def uphill(alpha, ball):
        w1, b1, w2 = draw(8, ((5, 3), (5,), (2, 5)), spread=0.0)
        held = [t.requires_grad_() for t in (alpha * w1, alpha * b1, w2 / alpha)]
        g = torch.autograd.grad(loss(*held), held)
        with torch.no_grad():
            e, _ = epsilon(Method(ball=ball), g, 0.1, Context(weights=held))
            return float(loss(*(w + t for w, t in zip(held, e, strict=True))))

    scale = {"magnitude": Magnitude(0.0, biases=True), "trust": Trust(), "one": None}[name]
    for ball in (L2(scale), L2(scale, "tensor"), Spectral(scale), Nuclear(scale), LInf(scale)):
        same = uphill(7.0, ball) == pytest.approx(uphill(1.0, ball), rel=1e-9)
        assert same == (name != "one"), ball


@given(seeds)
@settings(max_examples=25)
def test_the_spectral_ball_does_not_see_how_large_the_gradient_of_a_layer_is(seed):
    """Over "tensor": ε stays where each tensor's gradient is multiplied by its own number."""
    d = draw(4 * seed)
    scaled = [t * (i + 0.5) for i, t in enumerate(d)]
    for ball in (Spectral(), Spectral(FanRatio()), Nuclear(), LInf(), L2(over="tensor")):
        found, expected = (
            epsilon(Method(ball=ball), t, 0.3, context(seed))[0] for t in (scaled, d)
        )
        close(found, expected, rtol=1e-7, atol=1e-9)
    found, expected = (
        epsilon(Method(ball=Spectral(over="all")), t, 0.3, Context())[0] for t in (scaled, d)
    )
    assert not all(map(torch.allclose, found, expected))


@pytest.mark.parametrize("ball", [Spectral, Nuclear, L2])
@given(seeds)
@settings(max_examples=12)
def test_a_rotation_of_what_goes_in_and_comes_out_rotates_epsilon(ball, seed):
    (g,) = draw(4 * seed, ((5, 3),))
    q, r = (torch.linalg.qr(t)[0] for t in draw(4 * seed + 4, ((5, 5), (3, 3))))
    (once,), _ = epsilon(Method(ball=ball()), [g], 0.3, Context())
    (found,), _ = epsilon(Method(ball=ball()), [q @ g @ r], 0.3, Context())
    torch.testing.assert_close(found, q @ once @ r, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("ball", "same"),
    [
        (L2(), True),
        (L2(Magnitude(0.1, biases=True)), True),
        (L2(Fisher(0.5)), True),
        (LInf(), True),
        (LInf(Magnitude(0.1, biases=True)), True),
        (L2(over="tensor"), False),
        (LInf(over="all"), False),
    ],
    ids=repr,
)
@given(seeds, st.integers(1, 3))
@settings(max_examples=12)
def test_cutting_a_tensor_in_two(ball, same, seed, cut):
    d, at = draw(4 * seed), context(seed)
    method = Method(ball=ball)
    whole, p = epsilon(method, d, 0.3, at)
    halves = [[t[0][:cut], t[0][cut:], *t[1:]] for t in (d, at.weights, whole)]
    found, q = epsilon(method, halves[0], 0.3, Context(weights=halves[1]))
    if same:
        assert float(q.norm) == pytest.approx(float(p.norm), rel=1e-12)
        close(found, halves[2])
    else:
        assert not all(map(torch.allclose, found, halves[2]))
