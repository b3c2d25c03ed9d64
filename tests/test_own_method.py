"""The page on a method of one's own: its code runs, its tables are true, what it refuses."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import thalweg
from thalweg import SAM, Method, ThalwegError
from thalweg.ascent.slots import SLOTS
from thalweg.lab import Quadratic, simulate

PAGE = (Path(__file__).parents[1] / "docs" / "your-own-method.md").read_text(encoding="utf-8")
CURVATURES = torch.tensor([2.0, 0.5], dtype=torch.float64)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the parts of the page, and a function that runs what uses them."""
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / re.match(r"# (\w+\.py)", block).group(1)).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: runpy.run_path(str(tmp_path / "use.py"))
    sys.modules.pop("own_parts", None)


def written_out(steps, c=0.5, at_most=1.0, at_least=0.1):
    w, m, opened = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0
    for _ in range(steps):
        g = u = CURVATURES * w
        if g.norm() >= at_least:
            d = g + c * m
            u = CURVATURES * (w + 0.2 * d / d.norm())
            m, opened = 0.9 * m + 0.1 * u, opened + 1
            u = u * min(1.0, at_most / float(u.norm()))
        w = w - 0.1 * u
    return w, opened


def test_the_code_of_the_page_does_what_its_docstrings_say(own, capsys):
    found = own()
    expected, opened = written_out(30)
    torch.testing.assert_close(found["w"].detach(), expected, rtol=1e-12, atol=0)
    on_paper = [float(v) for held in found["paper"].final.values() for v in held.flat]
    assert found["w"].tolist() == pytest.approx(on_paper, rel=1e-12)
    assert "tensor" not in capsys.readouterr().out
    assert 0 < opened < 30  # every part matters
    for wrong in ({"c": 0.0}, {"at_most": 9.0}, {"at_least": 0.0}):
        assert (written_out(30, **wrong)[0] - expected).norm() > 1e-4


def test_the_table_of_slots_is_that_of_the_code():
    rows = re.findall(
        r"^\| `(\w+)` \| `([\w, ]+)`.* \|$", PAGE.split("## What a part may")[0], re.M
    )
    assert dict(rows) == {name: slot.arguments for name, slot in SLOTS.items()}


def wrong_list(kind):
    return {
        "another shape": lambda ts: [t.sum() for t in ts],
        "too few": lambda ts: ts[:1],
        "a tensor": lambda ts: ts[0],
        "no tensors": lambda ts: [1.0 for _ in ts],
    }[kind]


class Ball:
    """A ball that gives what it is told to."""

    def __init__(self, wrong):
        self.wrong = wrong

    def sharp(self, direction, context):
        return self.wrong(direction), 1.0


KINDS = {
    "direction": lambda wrong: {"direction": lambda g, _: wrong(g)},
    "mask": lambda wrong: {"mask": lambda d, _: wrong(d)},
    "ball": lambda wrong: {"ball": Ball(wrong)},
    "combine": lambda wrong: {"combine": lambda g, h, _: wrong(h)},
}


@pytest.mark.parametrize("kind", ["another shape", "too few", "a tensor", "no tensors"])
@pytest.mark.parametrize("slot", KINDS)
def test_what_a_part_gives_is_looked_at(slot, kind):
    model = torch.nn.Linear(3, 2)
    method = Method(**KINDS[slot](wrong_list(kind)))
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, method=method)
    before = model.weight.detach().clone()
    with pytest.raises(ThalwegError, match=rf"{slot} must give one tensor for .* gave .*: return"):
        sam.step(lambda: model(torch.ones(4, 3)).square().sum().backward())
    assert torch.equal(model.weight, before)


def test_what_reuse_gives_is_looked_at():
    class Short:
        def learn(self, here, uphill, context):
            pass

        def __call__(self, gradient, context):
            return gradient[:1]

    model = torch.nn.Linear(3, 2)
    method = Method(reuse=Short(), gate=lambda step: False)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1, method=method)
    with pytest.raises(ThalwegError, match=r"reuse must give .* Short gave a list of 1 for 2"):
        sam.step(lambda: model(torch.ones(4, 3)).square().sum().backward())


@pytest.mark.parametrize("slot", ["direction", "combine"])
def test_the_simulator_looks_likewise(slot):
    method = Method(**KINDS[slot](lambda ts: [t.sum() for t in ts]))
    with pytest.raises(ThalwegError, match=rf"{slot} must give one tensor for each parameter"):
        simulate(Quadratic([1.0]), eta=0.1, rho=0.1, steps=1, method=method)


class Scaled:
    """Notes how long what comes is; passes on the last list of tensors."""

    stateless = True
    needs_scale = True

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, *given):
        *lists, context = given
        self.seen += [float(context.norm(tensors)) for tensors in lists]
        return [1.0 * t for t in lists[-1]]

    def learn(self, *given):
        self(*given)

    def beside(self, *given):
        return self(*given)

    def sharp(self, direction, context):
        return self(direction, context), context.norm(direction)


@pytest.mark.parametrize("slot", ["direction", "mask", "ball", "combine", "reuse"])
def test_every_part_sees_gradients_without_the_factor_of_a_scaler(slot):
    found = []
    for scale in (None, 1024.0):
        seen = []
        part = Scaled(seen)
        gate = {"gate": lambda step: step % 2 == 0} if slot == "reuse" else {}
        w = torch.tensor([3.0, 4.0], requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1)
        scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
        method = Method(**{slot: part}, **gate)
        sam = SAM(optimizer, None, 0.5, method=method, scaler=scaler)
        for _ in range(2):
            for _ in sam.passes():
                loss = w.square().sum()
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
        found.append((seen, w.tolist()))
    assert len(found[0][0]) >= 2
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


@pytest.mark.parametrize("slot", ["mask", "ball", "combine"])
def test_a_part_that_needs_the_scale_says_so(slot):
    part = Scaled([])
    assert Method(**{slot: part}).scale_matters
    part.needs_scale = False
    assert not Method(**{slot: part}).scale_matters


def test_all_names_of_the_page_are_there():
    assert thalweg.Method is Method
    for name in re.findall(r"context\.(\w+)", PAGE):
        assert hasattr(thalweg.ascent.Context(), name), name


def test_a_gate_that_leaves_it_to_the_gradient_must_judge():
    method = Method(gate=lambda step: None)
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, rho=0.2, method=method)
    message = r"gate must be True or False .*judge\(gradient, context\)"
    with pytest.raises(ThalwegError, match=message):
        sam.step(lambda: (CURVATURES * w**2 / 2).sum().backward())
    assert w.tolist() == [1.0, 1.0]
    with pytest.raises(ThalwegError, match=message):
        simulate(Quadratic([2.0], start=[1.0]), eta=0.1, rho=0.2, steps=2, method=method)


def test_a_whole_method_is_no_part():
    with pytest.raises(ThalwegError, match="gate must be a part, got a whole method: pass"):
        Method(gate=thalweg.presets.late(60))


def test_arrays_are_no_tensors():
    method = Method(direction=lambda gradient, context: [g.numpy() for g in gradient])
    w = torch.ones(2, requires_grad=True)
    sam = SAM(torch.optim.SGD([w], lr=0.1), None, rho=0.2, method=method)
    with pytest.raises(ThalwegError, match=r"direction must give .*that is no tensor"):
        sam.step(lambda: (w**2).sum().backward())


def beside(name, arguments):
    """Return a part that can be called, with one method more."""
    own = eval(f"lambda self, {arguments}: None")
    return type("Own", (), {"__call__": lambda self, *given: given[0], name: own})()


@pytest.mark.parametrize(
    ("slot", "name", "right", "wrong"),
    [
        ("direction", "learn", "uphill, context", "uphill"),
        ("reuse", "learn", "here, uphill, context", "uphill, context"),
        ("gate", "judge", "gradient, context", "gradient"),
        ("combine", "beside", "here, uphill, context", "here, uphill, context, more"),
    ],
)
def test_what_a_part_has_beside_is_looked_at_when_the_method_is_made(slot, name, right, wrong):
    assert re.search(rf"^\| `{name}\({right}\)` \| {slot}\b", PAGE, re.MULTILINE)
    gate = {"gate": lambda step: step % 2 == 0} if slot == "reuse" else {}
    Method(**{slot: beside(name, right)}, **gate)
    Method(**{slot: beside(name, "*given")}, **gate)
    told = (
        rf"{slot}\.{name} must be called with \({right}\), got \({wrong}\) of .*: write def {name}"
    )
    with pytest.raises(ThalwegError, match=told):
        Method(**{slot: beside(name, wrong)}, **gate)


def test_what_a_part_has_beside_is_a_method():
    part = beside("learn", "uphill, context")
    part.learn = 0.9
    with pytest.raises(ThalwegError, match=r"direction\.learn must be called with .*, got 0\.9 of"):
        Method(direction=part)


def test_a_direction_of_nan_is_not_followed():
    method = Method(direction=lambda gradient, context: [g * torch.nan for g in gradient])
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    sam = SAM(optimizer, None, rho=0.2, method=method)
    sam.step(lambda: (CURVATURES * w**2 / 2).sum().backward())
    assert w.tolist() == (1 - 0.1 * CURVATURES).tolist()  # as without SAM
    assert sam.log_dict()["sam/skipped"] == 1
    before, scaler = w.tolist(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(optimizer, None, rho=0.2, method=method, scaler=scaler)
    sam.step(lambda: scaler.scale((CURVATURES * w**2 / 2).sum()).backward())
    assert (w.tolist(), scaler.get_scale()) == (before, 512.0)
    problem = Quadratic(CURVATURES.tolist(), start=[1.0, 1.0])
    assert simulate(problem, eta=0.1, rho=0.2, steps=1, method=method).diverged
