"""The examples run, and show what they are meant to show: a loop in which SAM does its work."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
RHO = 0.05

#: Those that return network, SAM and losses, and take rho; the others have tests of their own.
LOOPS = ["plain", "amp", "accumulation", "clipping", "msam", "ascent_batch", "telemetry"]


def load(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["train"]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def apart(model, other):
    return float((weights(model) - weights(other)).norm())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    if path.stem != "digits":
        assert sum(bool(line.strip()) for line in lines) <= 40


def test_digits_sam_beats_sgd_where_labels_are_noisy():
    train = load("digits")
    assert train(rho=0.3, epochs=25) > train(rho=0.0, epochs=25) + 0.02


@pytest.mark.parametrize("name", LOOPS)
def test_loops_train_and_are_sam(name):
    train = load(name)
    model, sam, losses = train()[:3]
    assert sum(losses[-10:]) / 10 < losses[0] / 4
    assert sam.last.perturbation_norm == pytest.approx(RHO)
    plain, off, _ = train(rho=0.0)[:3]
    assert not off.last.moved
    assert apart(model, plain) > 0.1  # rounding makes less than 0.001 of it


def by_hand(terms):
    """Train for one epoch as the examples do, in plain torch; return the network.

    Args:
        terms: Gives, for a batch, the batches for the ascent and the descent and the weight of
            every term of the gradient; and gets all the data.
    """
    torch.manual_seed(0)
    digits = load_digits()
    everything = torch.tensor(digits.data / 8 - 1).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(*everything), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    params = list(model.parameters())

    def gradient(batch):
        return torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), params)

    for x, y in loader:
        total = [torch.zeros_like(p) for p in params]
        for up, down, weight in terms(x, y, everything):
            g = gradient(up)
            length = torch.cat([part.flatten() for part in g]).norm()
            before = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p, part in zip(params, g, strict=True):
                    p += RHO * part / length
            total = [t + weight * h for t, h in zip(total, gradient(down), strict=True)]
            with torch.no_grad():
                for p, b in zip(params, before, strict=True):
                    p.copy_(b)
        for p, t in zip(params, total, strict=True):
            p.grad = t
        optimizer.step()
    return model


def whole_batch(x, y, _):
    return [((x, y), (x, y), 1.0)]


def pieces_of_16(x, y, _):
    parts = zip(x.split(16), y.split(16), strict=True)
    return [(part, part, len(part[0]) / len(x)) for part in parts]


def two_batches(x, y, everything):
    rows = torch.randint(len(everything[0]), (32,))
    return [((everything[0][rows], everything[1][rows]), (x, y), 1.0)]


@pytest.mark.parametrize(
    ("name", "settings", "terms"),
    [
        ("accumulation", {}, whole_batch),
        ("accumulation", {"pieces": 1}, whole_batch),
        ("msam", {"m": 64}, whole_batch),
        ("msam", {}, pieces_of_16),
        ("ascent_batch", {}, two_batches),
    ],
)
def test_the_loop_is_what_it_says_written_out(name, settings, terms):
    found = load(name)(epochs=1, **settings)[0]
    assert apart(found, by_hand(terms)) < 1e-3
    others = {whole_batch, pieces_of_16} - {terms}
    assert all(apart(found, by_hand(other)) > 0.1 for other in others)


def test_mixed_precision_follows_full_precision():
    plain = load("plain")()[2]
    for dtype in (torch.float16, torch.bfloat16):
        _, sam, losses = load("amp")(dtype=dtype)
        assert max(abs(a - b) for a, b in zip(losses, plain, strict=True)) < 0.1
        assert losses != plain
        assert 0.1 < sam.last.grad_norm < 10  # without the factor of the scaler


def test_clipping_acts_on_the_sam_gradient_and_the_ascent_is_raw():
    train = load("clipping")
    model, sam, _, norms = train()
    assert max(norms) > 0.5 > min(norms)  # it bites in some steps
    assert sam.last.perturbation_norm == pytest.approx(RHO)
    free = train(max_norm=float("inf"))
    assert free[3][0] == norms[0]
    assert apart(model, free[0]) > 0.1


def test_schedulers_move_lr_and_rho():
    model, sam, losses, radii = load("schedulers")()
    steps = len(losses)
    expected = [0.1 * min(1.0, 4 * step / steps) for step in range(steps)]
    assert radii == pytest.approx(expected, rel=1e-5)
    assert sam.optimizer.param_groups[0]["lr"] < 1e-5
    assert apart(model, load("schedulers")(rho=0.0)[0]) > 0.1
    assert losses[-1] < losses[0] / 4


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    train = load("resume")
    whole, sam, losses = train(tmp_path / "whole.pt")
    first = train(tmp_path / "parts.pt", until=1)[2]
    parts, _, rest = train(tmp_path / "parts.pt", rho=0.5)  # rho is in the file: 0.5 is not used
    assert torch.equal(weights(whole), weights(parts))
    assert first + rest == losses
    assert losses[-1] < losses[0] / 2
    assert sam.last.perturbation_norm == pytest.approx(RHO)
    assert apart(whole, train(tmp_path / "plain.pt", rho=0.0)[0]) > 0.1


def test_telemetry_gives_plain_floats():
    _, sam, _, history = load("telemetry")()
    assert all(type(value) is float for entry in history for value in entry.values())
    assert float(sam.last.loss_rise) > 0
    assert history[-1] == sam.log_dict()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_model_is_compiled_once():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        if os.environ.get("THALWEG_CI") == "1":
            pytest.fail("no C++ compiler was found, and THALWEG_CI=1 asks for one")
        pytest.skip("needs a C++ compiler (g++ or clang++)")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    _, sam, losses = load("compile")(epochs=1)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert sam.last.perturbation_norm == pytest.approx(RHO)
    eager, off = (load("plain")(rho, epochs=1)[2] for rho in (RHO, 0.0))
    assert losses == pytest.approx(eager, abs=1e-3)
    assert losses != pytest.approx(off, abs=1e-2)
    assert losses[-1] < losses[0] / 2
