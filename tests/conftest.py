"""Small networks, the three forms of SAM, SAM written out, and checks that several files share."""

from __future__ import annotations

import math
import os
import sys
import types
from pathlib import Path

# With --import-mode=importlib a test sees neither what its room shares nor the benchmarks.
HERE = Path(__file__).parent
ROOMS = ("ascent", "curvature", "diagnose", "integrations", "lab")
sys.path[:0] = [str(HERE), *(str(HERE / room) for room in ROOMS)]
sys.path.append(str(HERE.parent / "benchmarks"))

# ruff: noqa: E402
import hypothesis
import pytest
import torch
from forms import FORMS
from torch import nn

from thalweg import SAM, Method, cli

if "PYTEST_XDIST_WORKER" in os.environ:  # two of them with two threads each would get in their way
    torch.set_num_threads(1)

# A busy machine makes a first call slow; that is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

#: On the length of ε above power 1: it bites in some steps of `train` and not in others.
CAP = 0.17

LAYERS = {
    "batch_norm": lambda: nn.BatchNorm1d(8),
    "cumulative_norm": lambda: nn.BatchNorm1d(8, momentum=None),
    "frozen_norm": lambda: nn.BatchNorm1d(8).eval(),
    "instance_norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)),
        nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
    ),
    "dropout": lambda: nn.Dropout(0.5),
}

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
}


def two_passes(optimizer, loss, power=1.0, cap=math.inf):
    """Take one step of SAM, written out in plain torch; every group has its own rho."""
    optimizer.zero_grad()
    loss().backward()
    groups = [(group["rho"], p) for group in optimizer.param_groups for p in group["params"]]
    moved = [(rho, p) for rho, p in groups if rho > 0 and p.grad is not None]
    n = math.sqrt(sum(float(p.grad.double().square().sum()) for _, p in moved))
    epsilon = [rho * n**-power * p.grad for rho, p in moved] if n else [0.0 for _ in moved]
    length = math.sqrt(sum(float(torch.as_tensor(e).double().square().sum()) for e in epsilon))
    cut = min(1.0, cap / length) if length else 1.0
    before = [p.detach().clone() for _, p in moved]
    with torch.no_grad():
        for (_, p), e in zip(moved, epsilon, strict=True):
            p.add_(cut * e)
    optimizer.zero_grad()
    loss().backward()
    with torch.no_grad():
        for (_, p), b in zip(moved, before, strict=True):
            p.copy_(b)
    optimizer.step()


class Tools:
    """What several files use; the checks raise AssertionError where SAM is not SAM."""

    forms, optimizers, two_passes = FORMS, OPTIMIZERS, staticmethod(two_passes)

    @staticmethod
    def net(*layers, dtype=torch.float32, seed=0):
        torch.manual_seed(seed)
        middle = [LAYERS[name]() for name in layers]
        return nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).to(dtype)

    @staticmethod
    def batch(step, dtype=torch.float32, n=16):
        draw = torch.Generator().manual_seed(1000 + step)
        x, y = (torch.randn(n, k, generator=draw, dtype=torch.float64) for k in (5, 3))
        return x.to(dtype), y.to(dtype)

    @classmethod
    def loss(cls, model, step, n=16):
        x, y = cls.batch(step, next(model.parameters()).dtype, n)
        return lambda: ((model(x) - y) ** 2).mean()

    @staticmethod
    def method(power):
        return Method(power=power, max_norm=CAP if power > 1 else None)

    @classmethod
    def train(cls, form, base, layers=(), rho=0.1, power=1.0, steps=20, dtype=torch.float32):
        """Return the network after some steps of SAM (``form``) or of the base (``None``)."""
        model = cls.net(*layers, dtype=dtype)
        optimizer = OPTIMIZERS[base](model.parameters())
        sam = None if form is None else SAM(optimizer, model, rho, method=cls.method(power))
        for step in range(steps):
            loss = cls.loss(model, step)
            if sam is None:
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
            else:
                FORMS[form](sam, loss)
        return model

    @staticmethod
    def same_bits(a, b):
        """Whether two modules have the same parameters and buffers, bit for bit."""
        pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        return all(torch.equal(s, t) for s, t in pairs)

    @classmethod
    def check_agreement(cls, form, base, power, dtype, tolerance, steps=20):
        """SAM is what the plain two passes are, to rounding."""
        expected = cls.net(dtype=dtype)
        optimizer = OPTIMIZERS[base](expected.parameters())
        optimizer.param_groups[0]["rho"] = 0.1
        for step in range(steps):
            loss = cls.loss(expected, step)
            two_passes(optimizer, loss, power, CAP if power > 1 else math.inf)
        found = cls.train(form, base, power=power, steps=steps, dtype=dtype)
        for p, q in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)

    @classmethod
    def check_restore(cls, form, dtype=torch.float32):
        """With a learning rate of 0, nothing moves: not one bit, not one address."""
        model = cls.net(dtype=dtype)
        before = [p.detach().clone() for p in model.parameters()]
        places = [p.data_ptr() for p in model.parameters()]
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, rho=0.5)
        for step in range(200):
            FORMS[form](sam, cls.loss(model, step))
            assert sam.last.moved
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert [p.data_ptr() for p in model.parameters()] == places

    @classmethod
    def check_random_numbers_and_buffers(cls, form):
        """Afterwards random state and buffers are those of one plain forward at w."""
        layers = ("batch_norm", "dropout")
        model, plain = cls.net(*layers), cls.net(*layers)
        sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.5)
        torch.manual_seed(7)
        FORMS[form](sam, cls.loss(model, 0))
        drawn = torch.rand(4)
        torch.manual_seed(7)
        cls.loss(plain, 0)().backward()
        assert torch.equal(drawn, torch.rand(4))
        buffers = zip(model.buffers(), plain.buffers(), strict=True)
        assert all(torch.equal(s, t) for s, t in buffers)


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(scope="session")
def tools():
    return Tools


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; return the exit code, what it said, what it cried."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, os.environ.get(name, "passive"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["thalweg", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        said = capsys.readouterr()
        return types.SimpleNamespace(code=exit_.value.code or 0, out=said.out, err=said.err)

    yield run
    torch.set_flush_denormal(False)  # which the command sets for its own process
