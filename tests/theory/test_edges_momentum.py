"""The edge with momentum, Nesterov's form and weight decay, on both sides, against the map."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import thalweg
from thalweg import theory
from thalweg.errors import ThalwegError


def base_step(w, v, h, eta, momentum=0.0, weight_decay=0.0, nesterov=False, decoupled=False):
    """One step of the base optimizer that was given h, written out."""
    d = h if decoupled else h + weight_decay * w
    v = momentum * v + d
    shrink = 1 - eta * weight_decay if decoupled else 1
    return shrink * w - eta * (d + momentum * v if nesterov else v), v


KINDS = list(itertools.product((False, True), repeat=2))


@given(
    eta=st.floats(0.01, 10),
    rho=st.floats(1e-3, 1e2),
    grad_norm=st.floats(0.01, 1e2),
    power=st.floats(0, 2),
    momentum=st.floats(0, 0.99),
    share=st.floats(0, 0.9),
    kind=st.sampled_from(KINDS),
)
def test_one_eigenvalue_is_minus_one_at_the_edge(eta, rho, grad_norm, power, momentum, share, kind):
    nesterov, decoupled = kind
    limit = 2 / eta if decoupled else theory.edge(eta, momentum=momentum, nesterov=nesterov)
    base = {"momentum": momentum, "weight_decay": share * limit}
    base |= {"nesterov": nesterov, "decoupled": decoupled}
    edge = theory.edge(eta, rho, grad_norm, power, **base)

    def eigenvalues(curvature):
        pull = curvature * (1 + rho * curvature / grad_norm**power)
        # The columns, with eta * v as the second unknown: the same map, better conditioned.
        first = base_step(1.0, 0.0, pull, eta, **base)
        second = base_step(0.0, 1 / eta, 0.0, eta, **base)
        return np.linalg.eigvals([[first[0], second[0]], [eta * first[1], eta * second[1]]])

    assert min(abs(eigenvalues(edge) + 1)) < 1e-10
    assert max(abs(eigenvalues(0.999 * edge))) < 1 < max(abs(eigenvalues(1.001 * edge)))
    rho_back = theory.largest_stable_rho(eta, edge, grad_norm, power, **base)
    assert theory.edge(eta, rho_back, grad_norm, power, **base) == pytest.approx(edge, rel=1e-12)
    back = theory.largest_stable_eta(rho, edge, grad_norm, power, **base)
    assert back == pytest.approx(eta, rel=1e-12)


#: USAM's threshold in eta at curvature 10 and rho .2, by base optimizer.
MEASURED = [
    (0.12667, {"momentum": 0.9}),
    (0.12541, {"momentum": 0.9, "weight_decay": 0.3}),
    (0.12430, {"momentum": 0.9, "weight_decay": 0.3, "decoupled": True}),
    (0.04524, {"momentum": 0.9, "nesterov": True}),
    (0.06601, {"weight_decay": 0.3}),
    (0.04479, {"momentum": 0.9, "weight_decay": 0.3, "nesterov": True}),
    (0.04493, {"momentum": 0.9, "weight_decay": 0.3, "nesterov": True, "decoupled": True}),
    (0.06601, {"weight_decay": 0.3, "decoupled": True}),
]


@pytest.mark.parametrize(("figure", "base"), MEASURED)
def test_where_the_map_begins_to_grow(figure, base):
    predicted = theory.largest_stable_eta(0.2, 10.0, **base)
    assert predicted == pytest.approx(figure, abs=5e-6)
    etas = predicted * np.linspace(0.99, 1.01, 401)
    w, v = np.ones_like(etas), np.zeros_like(etas)
    sizes = []
    for _ in range(2):
        for _ in range(2000):
            w, v = base_step(w, v, 10.0 * (w + 0.2 * 10.0 * w), etas, **base)
        sizes.append(abs(w))
    grows = sizes[1] > sizes[0]
    assert not grows[0]
    assert grows[-1]
    assert etas[grows.argmax()] == pytest.approx(predicted, rel=1e-4)


def test_torch_optimizers_on_both_sides_of_their_largest_step_size():
    curvatures, rho = torch.tensor([10.0, 3.0], dtype=torch.float64), 0.2
    damped = {"momentum": 0.9, "weight_decay": 0.3, "dampening": 0.5}
    cases = [base for _, base in MEASURED] + [{}, damped, {**damped, "decoupled": True}]
    groups, shrinks = [], []
    for base, factor in itertools.product(cases, (0.999, 1.001)):
        group = dict(base)
        decoupled, kept = group.pop("decoupled", False), 1 - group.get("dampening", 0.0)
        decay = group.pop("weight_decay", 0.0)
        # With dampening, in the effective step size: as the docstring of `edge` says.
        threshold = theory.largest_stable_eta(
            rho,
            10.0,
            momentum=base.get("momentum", 0.0),
            weight_decay=decay / kept if decoupled else decay,
            nesterov=base.get("nesterov", False),
            decoupled=decoupled,
        )
        group["lr"] = factor * threshold / kept
        group["weight_decay"] = 0.0 if decoupled else decay
        group["params"] = [torch.ones(2, dtype=torch.float64, requires_grad=True)]
        groups.append(group)
        shrinks.append(1 - group["lr"] * decay if decoupled else 1.0)
    optimizer = torch.optim.SGD(groups)
    sam = thalweg.SAM(optimizer, None, rho=rho, power=0.0)
    weights = [group["params"][0] for group in groups]
    for _ in range(1000):
        for _ in sam.passes():
            sum(0.5 * (curvatures * w * w).sum() for w in weights).backward()
        with torch.no_grad():
            for w, shrink in zip(weights, shrinks, strict=True):
                w.mul_(shrink)
        optimizer.step()
        optimizer.zero_grad()
    ends = torch.stack([w.detach().abs() for w in weights])
    assert (ends[0::2] < 0.2).all()
    assert (ends[1::2, 0] > 5).all()
    assert (ends[1::2, 1] < 1e-3).all()  # the smaller curvature is below the edge on both sides


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("_", "base"), MEASURED)
def test_far_out_no_power_above_0_sees_the_radius(_, base, power):
    curvature, rho = 10.0, 5.0
    threshold = theory.largest_stable_eta(0.0, curvature, **base)
    assert threshold > 2 * theory.largest_stable_eta(rho, curvature, **base)
    etas = threshold * np.array([0.999, 1.001])
    w, v = np.full(2, 1e40), np.zeros(2)
    for _ in range(4000):
        g = curvature * w
        w, v = base_step(w, v, curvature * (w + rho * g / abs(g) ** power), etas, **base)
    assert abs(w[0]) < 1e39
    assert abs(w[1]) > 1e41


@pytest.mark.parametrize(("_", "base"), MEASURED)
def test_the_two_point_bounce_sits_on_the_edge(_, base):
    rho, curvature, power = 0.2, 10.0, 0.5
    eta = 0.7 * theory.largest_stable_eta(0.0, curvature, **base)

    def pull(w):
        return curvature * (1 + rho * curvature / abs(curvature * w) ** power)

    # The edge falls with the gradient: where it equals the curvature, by bisection.
    low, high = 1e-6, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        above = theory.edge(eta, rho, middle, power, **base) > curvature
        low, high = (low, middle) if above else (middle, high)
    w = middle / curvature
    coupled = 0.0 if base.get("decoupled") else base.get("weight_decay", 0.0)
    v = -(pull(w) + coupled) * w / (1 + base.get("momentum", 0.0))
    w *= 1.001
    for _ in range(3000):
        before = w
        w, v = base_step(w, v, pull(w) * w, eta, **base)
    assert w == pytest.approx(-before, rel=1e-10)
    edge = theory.edge(eta, rho, curvature * abs(w), power, **base)
    assert edge == pytest.approx(curvature, rel=1e-10)


def test_with_momentum_longer_cycles_exist_beside_the_bounce():
    momentum = 0.9
    eta = 0.2 * (1 + momentum)
    w, v = np.random.default_rng(0).standard_normal((2, 400))
    late = []
    for step_ in range(4012):
        w, v = base_step(w, v, w + 0.1 * np.sign(w), eta, momentum)
        if step_ >= 4000:
            late.append(w)
    periods = {k: np.mean(abs(late[11] - late[11 - k]) < 1e-9) for k in (2, 4, 6)}
    # Those of period 2 are among both others.
    assert 0 < periods[2] < 0.1
    assert 0.1 < periods[4] < 0.4
    assert 0.6 < periods[6] < 0.9


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.3)])
def test_nesterov_without_momentum_and_no_decay_are_the_plain_optimizer(momentum, weight_decay):
    plain = theory.edge(0.1, 0.05, momentum=momentum, weight_decay=weight_decay)
    same = {} if momentum else {"nesterov": True, "decoupled": True}
    assert theory.edge(0.1, 0.05, 1.0, 1.0, momentum, weight_decay, **same) == plain


@pytest.mark.parametrize(("decay", "rests"), [(1.1, True), (0.9, False)])
def test_away_from_the_origin_decay_can_hold_the_iterate_still(decay, rests):
    # SAM at power 1 around the minimum m; decay outweighs the radius where decay * m > rho * c.
    curvature, rho, eta, m = 2.0, 0.5, 0.3, 1.0
    decay *= rho * curvature / m
    w = 1.3
    for _ in range(2000):
        before, g = w, curvature * (w - m)
        h = curvature * (w + rho * math.copysign(1.0, g) - m)
        w, _ = base_step(w, 0.0, h, eta, weight_decay=decay)
    assert (abs(w - before) < 1e-12) is rests


@pytest.mark.parametrize(("nesterov", "decoupled"), KINDS)
def test_decay_on_both_sides_of_what_a_flat_direction_bears(nesterov, decoupled):
    eta, momentum = 0.1, 0.9
    limit = 2 / eta if decoupled else theory.edge(eta, momentum=momentum, nesterov=nesterov)
    for factor in (0.999, 1.001):
        base = {"momentum": momentum, "weight_decay": factor * limit}
        base |= {"nesterov": nesterov, "decoupled": decoupled}
        w, v = 1.0, 0.0
        for _ in range(5000):
            w, v = base_step(w, v, 0.0, eta, **base)
        if factor < 1:
            assert theory.edge(eta, 0.05, **base) > 0
            assert abs(w) < 0.1
        else:
            with pytest.raises(ThalwegError, match=r"^weight_decay must be < .*no curvature"):
                theory.edge(eta, 0.05, **base)
            assert abs(w) > 10
