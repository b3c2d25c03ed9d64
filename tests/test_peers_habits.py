"""What pytorch_optimizer's classes do beside their formula, as docs/migration.md tells it."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_optimizer as peer
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from written_out_peers import LR, RHO, apart, batches, weights

import thalweg
from thalweg import presets

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
METHODS = {
    "SAM": presets.sam(),
    "GSAM": presets.surrogate_gap(),
    "WSAM": presets.mix(9.0),
    "LookSAM": presets.look_back(k=3),
    "FriendlySAM": presets.friendly(),
}


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 6), *layers, nn.Tanh(), nn.Linear(6, 10))


def one_of_theirs(name, net, lr=LR):
    kind, params = getattr(peer, name), net.parameters()
    if name == "GSAM":
        base = torch.optim.SGD(params, lr=lr)
        with warnings.catch_warnings():  # a scheduler that is never stepped
            warnings.simplefilter("ignore")
            rate = torch.optim.lr_scheduler.LambdaLR(base, lambda _: 1.0)
        rhos = peer.ProportionScheduler(rate, max_lr=1.0, max_value=RHO, min_value=RHO)
        return kind(net.parameters(), base, net, rhos)
    first = (net, params) if name == "WSAM" else (params,)
    more = {"k": 3} if name == "LookSAM" else {}
    return kind(*first, torch.optim.SGD, rho=RHO, lr=lr, **more)


def theirs(name, net, steps, lr):
    """Take some steps as the class's docstring says; return how many gradients it took."""
    optimizer, calls = one_of_theirs(name, net, lr), 0
    for t in range(steps):

        def closure(t=t):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            x, y = batches()[t % len(batches())]
            with torch.enable_grad():
                loss = cross_entropy(net(x.to(net[0].weight.dtype)), y)
            loss.backward()
            return None, loss

        if name not in ("GSAM", "WSAM"):
            closure()
        optimizer.step(closure)
    return calls


def ours(name, net, steps, lr):
    optimizer, calls = torch.optim.SGD(net.parameters(), lr=lr), 0
    sam = thalweg.SAM(optimizer, net, rho=RHO, method=METHODS[name])
    for t in range(steps):
        x, y = batches()[t % len(batches())]
        for _ in sam.passes():
            cross_entropy(net(x.to(net[0].weight.dtype)), y).backward()
            calls += 1
        optimizer.step()
        optimizer.zero_grad()
    return calls


@pytest.mark.parametrize("name", METHODS)
def test_whose_weights_drift(name):
    """With a learning rate of 0 nothing may move: after w + ε, w - ε is w up to rounding only."""
    net, mine = network(), network()
    start = weights(net)
    theirs(name, net, 20, lr=0.0)
    ours(name, mine, 20, lr=0.0)
    assert apart(weights(mine), start) == 0
    moved = apart(weights(net), start)
    assert (0 < moved < 1e-5) if name in ("GSAM", "WSAM") else moved == 0


def test_what_looking_back_saves():
    assert [run("LookSAM", network(), 6, LR) for run in (theirs, ours)] == [12, 8]
    assert [run("SAM", network(), 6, LR) for run in (theirs, ours)] == [12, 12]


@pytest.mark.parametrize("name", METHODS)
def test_how_often_statistics_advance(name):
    means = []
    for run in (theirs, ours):
        net = network(nn.BatchNorm1d(6)).double()
        with torch.no_grad():
            once = 0.1 * net[0](batches()[0][0]).mean(0)
        run(name, net, 1, 0.0)
        means.append(apart([net[1].running_mean], [once]))
    twice = name in ("SAM", "LookSAM", "FriendlySAM")
    assert means[0] > 1e-3 if twice else means[0] < 1e-12
    assert means[1] < 1e-12


def test_a_radius_that_nobody_updates_stays():
    """Only ``update_rho_t()`` reads the learning rate; FollowLR reads it at every step."""
    net = network()
    optimizer = one_of_theirs("GSAM", net)
    optimizer.rho_scheduler.min_value = 0.0
    before = optimizer.rho_t
    optimizer.base_optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(lambda: (None, None))
    assert optimizer.rho_t == before == RHO
    assert optimizer.update_rho_t() == 0
    assert presets.surrogate_gap(lr_max=1.0).schedule(RHO, step=0, lr=0.0) == 0


# --- BSAM, which has no counterpart here


def bsam(net, *, lr, decay, steps=3):
    """Return the weights after some steps, written out; the noise is drawn from seed 7."""
    torch.manual_seed(7)
    params = list(net.parameters())
    s, m = [torch.ones_like(p) for p in params], [torch.zeros_like(p) for p in params]

    def gradient(t):
        x, y = batches()[t]
        return torch.autograd.grad(cross_entropy(net(x), y), params)

    @torch.no_grad()
    def move(by):
        for p, d in zip(params, by, strict=True):
            p += d

    for t in range(steps):
        move([torch.normal(0.0, 1 / (1000 * v)) for v in s])
        move([RHO * g / v for g, v in zip(gradient(t), s, strict=True)])
        h = gradient(t)
        m = [0.9 * v + 0.1 * decay * a for v, a in zip(m, h, strict=True)]
        rough = [(v.sqrt() * a.abs() + decay + 0.1) ** 2 for v, a in zip(s, h, strict=True)]
        s = [0.999 * v + 0.001 * r for v, r in zip(s, rough, strict=True)]
        move([-lr * a / v for a, v in zip(m, s, strict=True)])
    return weights(net)


def bsam_of_theirs(net, *, lr, decay, steps=3):
    torch.manual_seed(7)
    optimizer = peer.BSAM(net.parameters(), num_data=1000, lr=lr, weight_decay=decay, rho=RHO)
    for t in range(steps):

        def closure(t=t):
            optimizer.zero_grad()
            x, y = batches()[t]
            loss = cross_entropy(net(x), y)
            loss.backward()
            return loss

        closure()  # without gradients its first step fails
        optimizer.step(closure)
    return weights(net)


def test_bsam_stays_uphill_and_its_gradient_is_multiplied_by_the_weight_decay():
    for lr, decay in ((LR, 0.1), (LR, 0.0), (0.0, 0.1)):
        found = bsam_of_theirs(network().double(), lr=lr, decay=decay)
        assert apart(found, bsam(network().double(), lr=lr, decay=decay)) < 1e-10
    still = bsam_of_theirs(network().double(), lr=0.0, decay=0.1, steps=1)
    assert apart(still, weights(network().double())) > 1e-2  # noise and ε are not taken back
    rates = [bsam_of_theirs(network().double(), lr=lr, decay=0.0) for lr in (0.0, LR)]
    assert apart(*rates) < 1e-12  # nothing is descended
    assert apart(found, bsam_of_theirs(network().double(), lr=LR, decay=0.1)) > 1e-4


# --- the page


def test_the_page_tells_of_every_class_of_theirs():
    module = sys.modules["pytorch_optimizer.optimizer.sam"]
    classes = {name for name, _ in inspect.getmembers(module, inspect.isclass)}
    sams = {name for name in classes if getattr(module, name).__module__ == module.__name__}
    assert set(METHODS) < sams
    (section,) = re.findall(r"^## Methods\n(.*?)(?=^## )", PAGE, flags=re.M | re.S)
    rows = re.findall(r"^\| `(\w+)[^|]*\| ([^|]*)\|", section, flags=re.M)
    assert {name for name, _ in rows} == sams
    named = [preset for _, cell in rows for preset in re.findall(r"presets\.(\w+)\(", cell)]
    assert len(named) >= len(METHODS)
    assert set(named) <= {preset.__name__ for preset in presets.PRESETS}
