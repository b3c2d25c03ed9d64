"""Telemetry of rounding, the totals, and the warnings that come once."""

import math
import warnings
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from thalweg import SAM, ThalwegError, layout


def rounded(dtype, rho, entries=4096, **kwargs):
    """Return SAM after a step on random weights of a dtype, along a random gradient.

    Also the share of entries that moved, cosine and gain of the ε left and the one meant.
    """
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(entries, generator=draw).to(dtype).requires_grad_()
    direction = torch.randn(entries, generator=draw).to(dtype)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, rho, **kwargs)
    before = w.detach().clone()
    for here in sam.passes():
        (w * direction).sum().backward()
        if here.last:
            meant = rho * direction.double() / direction.double().norm()
            real = w.detach().double() - before.double()
    share = (real != 0).sum().item() / (meant != 0).sum().item()
    along = float(torch.dot(real, meant))
    return sam, (share, along / float(real.norm() * meant.norm()), along / float(meant.norm() ** 2))


@pytest.mark.parametrize(("dtype", "rho"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_what_rounding_swallows_is_told_once_with_the_numbers(dtype, rho):
    with pytest.warns(UserWarning, match=r"rounding swallows the perturbation: .* % of the entr"):
        sam, (share, cosine, gain) = rounded(dtype, rho)
    assert 0.05 < share < 0.95
    assert gain < 0.6
    assert sam.last.share_moved == pytest.approx(share, abs=1e-12)
    assert sam.last.fidelity == pytest.approx(cosine, rel=1e-6)
    assert sam.last.gain == pytest.approx(gain, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = sam.optimizer.param_groups[0]["params"][0]
        for _ in sam.passes():
            w.sum().backward()
    assert math.isnan(sam.last.share_moved)  # without telemetry it is measured once


@pytest.mark.parametrize("rho", [0.2, 100.0])
def test_no_word_of_rounding_where_it_swallows_nothing(rho):
    """At the smaller one many entries stay, but those that move make up for them."""
    sam, _ = rounded(torch.bfloat16, rho)
    assert sam.last.gain > 0.94
    assert sam.last.fidelity > 0.99 if rho > 1 else sam.last.fidelity < 0.92
    last = rounded(torch.float32, 0.05, telemetry=True)[0].last
    assert math.isnan(last.fidelity)
    assert math.isnan(last.gain)


def looked(weights, rho):
    """What SAM says of float32 weights that are rounded to bfloat16, and not rounded; and g."""
    draw = torch.Generator().manual_seed(1)
    w = weights.clone().requires_grad_()
    direction = torch.randn(w.shape, generator=draw).bfloat16().float()
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, rho, telemetry=True)
    for here in sam.passes():
        (w * direction).sum().backward()
        if here.last:
            found = sam.fidelity(torch.bfloat16), sam.fidelity(torch.float32), direction
    return found


DRAWN = torch.randn(2**16, generator=torch.Generator().manual_seed(0))


def test_fidelity_on_request_is_that_of_the_rounded_weights():
    """Weights that lie where bfloat16 has its numbers, as after loading a file of 16 bits."""
    w = DRAWN.bfloat16().float()
    with pytest.warns(UserWarning, match="weights rounded to bfloat16 let .* % of the"):
        found, full, direction = looked(w, 0.2)
    meant = 0.2 * direction.double() / direction.double().norm()
    real = (w + meant.float()).bfloat16().double() - w.double()
    along = float(torch.dot(real, meant))
    assert found[0] == pytest.approx(float((real != 0).sum() / (meant != 0).sum()), abs=1e-4)
    assert found[1] == pytest.approx(along / float(real.norm() * meant.norm()), rel=1e-4)
    assert found[2] == pytest.approx(along / float(meant.norm() ** 2), rel=1e-4)
    assert found[2] < 0.6
    assert full == pytest.approx((1.0, 1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("rho", [0.1, 0.2, 0.6])
def test_rounding_that_is_only_noise_is_no_loss(rho):
    """Weights that were trained in float32 lie anywhere between two numbers of 16 bits."""
    (share, cosine, gain), _, _ = looked(DRAWN, rho)
    assert cosine < 0.8  # and no warning, which would be an error here
    assert share < 0.6
    assert gain == pytest.approx(1.0, abs=0.09)


@pytest.mark.parametrize("telemetry", [False, True])
def test_fidelity_at_a_wrong_time(telemetry):
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.05, telemetry=telemetry)
    for here in sam.passes():
        w.sum().backward()
        if here.ascent or not telemetry:
            with pytest.raises(ThalwegError, match="must be called while the weights are moved"):
                sam.fidelity(torch.bfloat16)
    with pytest.raises(ThalwegError, match="with telemetry=True"):
        sam.fidelity(torch.bfloat16)


def test_the_log_is_flat_and_counts_what_was_skipped():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)
    for factor in (1.0, math.nan, 0.0, math.inf, 1.0):
        for here in sam.passes():
            (w * (factor if here.ascent else 1.0)).sum().backward()
    found = sam.log_dict()
    assert (found["sam/steps"], found["sam/skipped"]) == (5.0, 3.0)
    assert found["sam/perturbation_norm"] == pytest.approx(0.5)
    assert all(type(value) is float for value in found.values())
    assert all(name.startswith("sam/") for name in found)
    sam.optimizer.param_groups[0]["rho"] = 0.0
    for _ in sam.passes():
        w.sum().backward()
    assert (sam.log_dict()["sam/steps"], sam.log_dict()["sam/skipped"]) == (6.0, 3.0)


def train(rho, curvature, noise, steps, telemetry=True):
    """Train on a quadratic whose loss has an offset that differs from batch to batch."""
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=1e-3), None, rho, telemetry=telemetry)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        offset = noise * torch.randn((), generator=draw)

        def closure(offset=offset):
            sam.optimizer.zero_grad()
            loss = curvature * (w**2).sum() / 2 + offset
            loss.backward()
            return loss

        sam.step(closure)
    return sam


@pytest.mark.parametrize(
    ("rho", "noise", "what"),
    [
        (1e-6, 1.0, r"rho is too small to matter here: .* differs by"),
        (0.1, 1.0, None),
        (1e-6, 1e-6, None),
    ],
)
def test_a_rise_lost_in_the_noise_is_told_of_once(rho, noise, what):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(rho, 1.0, noise, 49)
        assert not said
        train(rho, 1.0, noise, 150)
    assert len(said) == (what is not None)
    if what:
        with pytest.warns(UserWarning, match=what):
            train(rho, 1.0, noise, 50)


def test_an_epsilon_that_goes_past_the_hill_is_told_of():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(0.3, -1.0, 0.0, 100)  # concave: uphill is towards 0, at a distance of sqrt(2)
        assert not said
    with pytest.warns(UserWarning, match=r"rho is too large here: in 50 of the last 50 steps"):
        train(3.0, -1.0, 0.0, 50)


BASES = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "plain": partial(torch.optim.SGD, lr=0.1),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
}


@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize(
    ("base", "rho", "stalls"),
    [
        ("momentum", 0.5, False),
        ("momentum", 5.0, True),
        ("plain", 0.05, False),
        ("plain", 1.0, True),
        ("adamw", 0.2, False),
        ("adamw", 2.0, True),
    ],
)
def test_training_that_stands_still_is_told_of(base, rho, stalls, costly, monkeypatch):
    """All outputs become alike: g and h agree, and no cosine tells that rho is too large.

    On an accelerator it is told when the log is asked for, however late.
    """
    monkeypatch.setattr(layout, "costly_to_read", lambda device: costly)
    torch.manual_seed(0)
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    x = x.float() / 16
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = BASES[base](model.parameters())
    sam = SAM(optimizer, model, rho, telemetry=True)
    cosines, losses = [], []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(500 if costly else 200):
            batch = torch.randint(len(y), (64,))
            for here in sam.passes():
                here.loss = loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            cosines.append(sam.last.cosine)
            losses.append(float(here.loss) - sam.last.loss_rise)
        assert not (costly and said)
        sam.log_dict()
    assert (sum(losses[-50:]) / 50 > 2) == stalls
    assert [str(s.message)[:27] for s in said] == ["rho is likely too large her"] * stalls
    assert sorted(cosines)[100] > 0.4


def test_without_telemetry_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(3.0, -1.0, 0.0, 100, telemetry=False)
        train(1e-6, 1.0, 1.0, 100, telemetry=False)


def test_where_both_weights_and_biases_are_of_16_bits_one_warning_names_them_all():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64).bfloat16(), nn.Linear(64, 64).half())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 1e-3)
    x = torch.randn(4, 64)

    def step():
        for _ in sam.passes():
            model[1](model[0](x.bfloat16()).half()).float().sum().backward()

    with pytest.warns(UserWarning, match=r"(bfloat16 and float16|float16 and bfloat16) weights"):
        step()


def test_steps_in_which_nothing_moves_are_told_of():
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.0), None, 0.5)

    def steps(n, factor):
        for _ in range(n):
            for here in sam.passes():
                (w * (factor if here.ascent else 1.0)).sum().backward()

    steps(49, math.nan)
    steps(1, 1.0)
    steps(49, math.inf)
    with pytest.warns(UserWarning, match="nothing was perturbed in the last 50 steps"):
        steps(1, 0.0)
    steps(60, 0.0)  # once is enough


def test_a_batch_of_its_own_for_the_ascent_is_no_small_rho():
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=1e-3), None, 0.05, telemetry=True)
    draw = torch.Generator().manual_seed(0)
    for _ in range(100):
        for here in sam.passes():
            loss = (w**2).sum() / 2 + torch.randn((), generator=draw)
            loss.backward()
            here.loss = loss
        sam.optimizer.zero_grad()
