"""The family beside pytorch_optimizer's classes of the same names: equal, or known why not.

Each method is written out once more, in plain tensors, with a switch for everything in which the
two libraries differ. With their settings it must give their weights to 1e-10, with ours ours: so
the switches are all that sets the two apart.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytorch_optimizer as peer
import torch
from torch.nn.functional import cross_entropy
from written_out_peers import (
    LR,
    RHO,
    apart,
    asam,
    batches,
    friendly,
    gsam,
    looksam,
    network,
    sam,
    weights,
    written_out,
    wsam,
)

import thalweg
from thalweg import Method, presets
from thalweg.ascent import WithMean

SAME = 1e-10


# --- the two libraries


def theirs(make, schedule=False):
    """Return the weights after some steps of a class of theirs, driven as its docstring says."""
    net = network()
    optimizer = make(net)
    for x, y in batches():

        def closure(x=x, y=y):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = cross_entropy(net(x), y)
            loss.backward()
            return None, loss

        if not isinstance(optimizer, peer.WSAM | peer.GSAM):
            closure()
        optimizer.step(closure)
        if schedule:
            optimizer.base_optimizer.param_groups[0]["lr"] *= 0.5
            optimizer.update_rho_t()
    return weights(net)


def ours(method, momentum=0.0, schedule=False):
    """Return the weights after as many steps of a method."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=momentum)
    sam = thalweg.SAM(optimizer, net, rho=RHO, method=method)
    for x, y in batches():
        for _ in sam.passes():
            cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            optimizer.param_groups[0]["lr"] *= 0.5
    return weights(net)


# --- side by side


def sgd(kind, **settings):
    return lambda net: kind(net.parameters(), torch.optim.SGD, rho=RHO, lr=LR, **settings)


def weighted(**settings):
    return lambda net: peer.WSAM(net, net.parameters(), torch.optim.SGD, rho=RHO, lr=LR, **settings)


def surrogate(net):
    """Build a GSAM of theirs with a radius that follows the learning rate, RHO at the first."""
    base = torch.optim.SGD(net.parameters(), lr=LR)
    with warnings.catch_warnings():  # a scheduler that is never stepped
        warnings.simplefilter("ignore")
        rate = torch.optim.lr_scheduler.LambdaLR(base, lambda _: 1.0)
    rhos = peer.ProportionScheduler(rate, max_lr=LR, min_lr=0.0, max_value=RHO, min_value=0.0)
    return peer.GSAM(net.parameters(), base, net, rhos, alpha=0.4)


@dataclass
class Pair:
    """A class of theirs, a method of ours, the formula of both, and in what it differs."""

    make: Any
    method: Method
    formula: Any
    common: dict = field(default_factory=dict)
    of_theirs: dict = field(default_factory=dict)
    of_ours: dict = field(default_factory=dict)
    momentum: float = 0.0
    schedule: bool = False


DECAY = 0.8
#: With b = -σ/β and a = 1 + σ(1-β)/β, a·g + b·(β m + (1-β) g) is g - σ m: the mean before g.
BEFORE = Method(direction=WithMean(1 + 0.5 * (1 - DECAY) / DECAY, -0.5 / DECAY, DECAY))

PAIRS = {
    "SAM": Pair(sgd(peer.SAM), presets.sam(), sam),
    "SAM(adaptive=True), offset 0, with biases": Pair(
        sgd(peer.SAM, adaptive=True),
        presets.asam_all(offset=0.0),
        asam,
        {"offset": 0.0, "biases": True},
    ),
    "SAM(adaptive=True)": Pair(
        sgd(peer.SAM, adaptive=True),
        presets.asam(),
        asam,
        of_theirs={"offset": 0.0, "biases": True},
        of_ours={"offset": 0.01, "biases": False},
    ),
    "GSAM": Pair(surrogate, presets.surrogate_gap(), gsam),
    "GSAM, ρ following lr": Pair(
        surrogate,
        presets.surrogate_gap(lr_max=LR),
        gsam,
        {"follow": True},
        schedule=True,
    ),
    "WSAM(decouple=False)": Pair(
        weighted(gamma=0.6, decouple=False),
        presets.mix(1.5),
        wsam,
        {"gamma": 0.6, "decoupled": False},
    ),
    "WSAM, SGD": Pair(  # without momentum it is the same either way
        weighted(gamma=0.6), presets.mix(1.5), wsam, {"gamma": 0.6, "decoupled": True}
    ),
    "WSAM": Pair(
        weighted(gamma=0.6, momentum=0.9),
        presets.decoupled(1.5),
        wsam,
        {"gamma": 0.6, "momentum": 0.9, "decoupled": True},
        momentum=0.9,
    ),
    "WSAM, coupled here": Pair(
        weighted(gamma=0.6, momentum=0.9),
        presets.mix(1.5),
        wsam,
        {"gamma": 0.6, "momentum": 0.9},
        of_theirs={"decoupled": True},
        of_ours={"decoupled": False},
        momentum=0.9,
    ),
    "LookSAM": Pair(
        sgd(peer.LookSAM, k=3, alpha=0.7),
        presets.look_back(k=3),
        looksam,
        of_theirs={"per_tensor": True, "tiny": 1e-8},
        of_ours={"per_tensor": False, "tiny": 0.0},
    ),
    "FriendlySAM": Pair(
        sgd(peer.FriendlySAM, sigma=1.0, lmbda=DECAY),
        presets.friendly(1.0, DECAY),
        friendly,
        {"sigma": 1.0, "decay": DECAY},
        of_theirs={"starts_with_g": True, "takes_old": True},
        of_ours={"starts_with_g": False, "takes_old": False},
    ),
    "FriendlySAM, σ = 0.5": Pair(
        sgd(peer.FriendlySAM, sigma=0.5, lmbda=DECAY),
        presets.friendly(0.5, DECAY),
        friendly,
        {"sigma": 0.5, "decay": DECAY},
        of_theirs={"starts_with_g": True, "takes_old": True},
        of_ours={"starts_with_g": False, "takes_old": False},
    ),
    "FriendlySAM, the mean before": Pair(
        sgd(peer.FriendlySAM, sigma=0.5, lmbda=DECAY),
        BEFORE,
        friendly,
        {"sigma": 0.5, "decay": DECAY, "takes_old": True},
        of_theirs={"starts_with_g": True},
        of_ours={"starts_with_g": False},
    ),
}
AGREE = [name for name, pair in PAIRS.items() if not pair.of_theirs]
DIFFER = [name for name, pair in PAIRS.items() if pair.of_theirs]


def both(pair):
    found = theirs(pair.make, pair.schedule)
    return found, ours(pair.method, pair.momentum, pair.schedule)


@pytest.mark.parametrize("name", PAIRS)
def test_each_is_its_formula(name):
    pair = PAIRS[name]
    found, mine = both(pair)
    rounded = written_out(pair.formula, rounded=True, **pair.common, **pair.of_theirs)
    exact = written_out(pair.formula, rounded=False, **pair.common, **pair.of_ours)
    assert apart(found, rounded) < SAME
    assert apart(mine, exact) < SAME
    assert apart(rounded, exact) > SAME  # so much is seen


@pytest.mark.parametrize("name", AGREE)
def test_where_they_agree_only_their_rounding_is_between(name):
    """Their norm of the gradient is taken in float32, in whatever dtype the weights are."""
    assert SAME < apart(*both(PAIRS[name])) < 1e-6


@pytest.mark.parametrize("name", AGREE)
def test_where_they_agree_they_agree_to_the_last_digits_once_that_is_mended(name, monkeypatch):
    def square(groups, device=None, *, weight_adaptive=False):
        pairs = [(p, g.get("adaptive", False)) for g in groups for p in g["params"]]
        scaled = [p.grad * (p.abs() if weight_adaptive and of else 1.0) for p, of in pairs]
        return torch.stack([v.square().sum() for v in scaled]).sum().reshape(1)

    monkeypatch.setattr("pytorch_optimizer.optimizer.sam.get_global_gradient_norm", square)
    assert apart(*both(PAIRS[name])) < SAME


@pytest.mark.parametrize("name", DIFFER)
def test_where_they_differ_it_is_no_rounding(name):
    assert apart(*both(PAIRS[name])) > 1e-3


@pytest.mark.parametrize(
    ("name", "switch"),
    [(name, switch) for name in DIFFER for switch in PAIRS[name].of_theirs],
)
def test_which_of_the_differences_counts(name, switch):
    """Theirs with one switch of ours: what that alone makes."""
    pair = PAIRS[name]
    one = pair.of_theirs | {switch: pair.of_ours[switch]}
    moved = apart(
        written_out(pair.formula, rounded=True, **pair.common, **one),
        written_out(pair.formula, rounded=True, **pair.common, **pair.of_theirs),
    )
    # A tiny number beside a norm does not count. Nor does it, at σ = 1, whether the newest gradient
    # is in the mean: g - (β m + (1-β) g) = β (g - m) points the same way.
    nothing = switch == "tiny" or (name, switch) == ("FriendlySAM", "takes_old")
    assert moved < 1e-6 if nothing else moved > 1e-4
