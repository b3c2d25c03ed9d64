"""The benchmark of the family: who takes part, how times are told and judged, its page."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import overhead_contestants as who
import overhead_nets as nets
import overhead_timing as timing
import pytest
import torch

from thalweg import presets
from thalweg.ascent import L2

# By its path: a file of the tests has the same name.
PLACE = Path(__file__).parents[1] / "benchmarks" / "family.py"
spec = importlib.util.spec_from_file_location("benchmark_family", PLACE)
family = importlib.util.module_from_spec(spec)
spec.loader.exec_module(family)

KNOWN = family.methods()


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((1.3, 1.4, 1.45), "met"),
        ((1.5, 1.5, 1.5), "met"),
        ((1.51, 1.6, 1.7), "**not met**"),
        ((1.3, 1.4, 1.6), "met, within the noise"),
        ((1.4, 1.6, 1.7), "**not met**, within the noise"),
    ],
)
def test_a_target_is_met_or_not(found, told):
    assert family.judged(found, 1.5) == told
    assert family.judged(tuple(value - 0.48 for value in found), 1.02) == told


def test_ratios_are_of_the_same_round():
    others = numbers(1.0, 2.0, 30.0)
    assert family.ratio(1.2 * others, others) == pytest.approx((1.2, 1.2, 1.2))
    # 1, 5 and .1; the medians' own ratio would be 1.5.
    assert family.ratio(numbers(1.0, 10.0, 3.0), others) == pytest.approx((0.1, 1.0, 5.0))
    assert family.told((0.1, 1.0, 5.0)) == "1.00 [0.10, 5.00]"
    assert family.told((0.1, 1.0, 5.0), 3) == "1.000 [0.100, 5.000]"


def test_all_presets_take_part_that_move_anything():
    names = {card.name for card in presets.cards()}
    assert set(KNOWN) == names - {"normalization_only"}
    assert set(family.GIVEN) == {
        name for card in presets.cards() for name in card.arguments if name not in card.defaults
    }


#: Their gates open later in a training.
LATER = {"late", "modern", "warm_start"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_step_is_the_method_s_own(name):
    """As many gradients as the method takes, one step of the base and no gradient left."""
    one = family.contestant(name, nets.QUICK["mlp"], KNOWN)
    assert type(one.optimizer) is (torch.optim.AdamW if name == "adam_metric" else torch.optim.SGD)
    steps, gradients = [], []
    one.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    one.before_gradient = lambda: gradients.append(1)
    counts = []
    for _ in range(6):
        gradients.clear()
        one.step(who.Stopwatch(family.CPU))
        assert all(p.grad is None for p in one.parameters)
        counts.append(len(gradients))
    assert len(steps) == 6
    most = KNOWN[name].passes
    gated = KNOWN[name].gate != KNOWN[family.SAM].gate
    assert {*counts} <= {1, most} if gated else {*counts} == {most}
    assert (one.perturbed == 0) == (name in LATER)
    assert (one.perturbed >= 5) == (not gated)  # a memory is empty in the first step


def test_the_steps_are_those_of_the_other_benchmark():
    """Plain SAM is SAM by hand, and a plain step is the base optimizer's alone."""
    task, cpu = nets.QUICK["mlp"], family.CPU
    start = [p.detach().clone() for p in family.Plain(task, cpu).parameters]
    hand, sam = who.ByHand(task, cpu), family.contestant(family.SAM, task, KNOWN)
    plain, zero = family.contestant(family.PLAIN, task, KNOWN), who.TwoGradients(task, cpu)
    for one in (hand, sam, plain, zero):
        one.step(who.Stopwatch(cpu))
    went = timing.distance(hand.parameters, start)
    assert timing.distance(sam.parameters, hand.parameters) < 1e-5 * went
    assert timing.distance(plain.parameters, hand.parameters) > 1e-2 * went
    # TwoGradients clears the gradient in between: what it steps by is the gradient at w.
    assert timing.distance(plain.parameters, zero.parameters) < 1e-5 * went


class Clock:
    """Seconds that only its owners let pass."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(who.Stopwatch, "clock", lambda _: self.now)

    def sleep(self, seconds):
        self.now += seconds


class Sleeper:
    """A step with a gradient of two seconds and own work that begins at `own` and grows."""

    def __init__(self, clock, own, grows=0.0, every=1):
        self.clock, self.own, self.grows, self.every = clock, own, grows, every
        self.steps = self.perturbed = 0

    def step(self, watch):
        watch.outside(lambda: self.clock.sleep(2.0))
        if self.steps % self.every == 0:
            self.clock.sleep(self.own + self.grows * self.steps)
            self.perturbed += 1
        self.steps += 1


def test_everyone_has_a_time_of_each_round_but_the_first(monkeypatch):
    clock = Clock(monkeypatch)
    names = {"a": Sleeper(clock, 1.0), "b": Sleeper(clock, 0.0, grows=1.0), "c": Sleeper(clock, 5)}
    found = family.in_turn(names, rounds=4, unseen=2)
    assert found["own"]["a"].tolist() == [1.0] * 4
    assert found["own"]["c"].tolist() == [5.0] * 4
    assert found["own"]["b"].tolist() == [5.0, 8.0, 11.0, 14.0]  # every third of its steps
    for name in names:
        assert found["whole"][name].tolist() == (found["own"][name] + 2).tolist()
        assert names[name].steps == 5 * 3


def test_the_order_changes():
    seen = []

    class Told:
        def __init__(self, name):
            self.name = name

        def step(self, watch):
            seen.append(self.name)

    family.in_turn({name: Told(name) for name in "abc"}, rounds=2, unseen=0)
    assert "".join(seen) == "abc" + "acb" + "cab"


def test_a_gate_is_timed_over_its_span(monkeypatch):
    """Every fourth step of three seconds in place of two: a quarter of what SAM takes longer."""
    clock = Clock(monkeypatch)
    made = {
        family.PLAIN: Sleeper(clock, 0.0),
        family.SAM: Sleeper(clock, 1.0),
        "look_back": Sleeper(clock, 1.0, every=4),
        "late": Sleeper(clock, 3.0, every=2),
    }
    monkeypatch.setattr(family, "contestant", lambda name, *_: made[name])
    known = {name: KNOWN[name] for name in ("sam", "asam", "look_back", "late")}
    lines = family.gated(nets.QUICK["small"], known, rounds=3, span=8)
    assert lines[-3:-1] == [
        "| `look_back` | 0.25 | 0.25 [0.25, 0.25] |",
        "| `late` | 0.50 | 1.50 [1.50, 1.50] |",
    ]
    assert made["late"].steps == 4 * 8


def rows(part):
    """The cells of the rows of a table, all of one length, without its head."""
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip().split("|")[1:-1]] for line in lines]
    assert {len(row) for row in cells} == {len(cells[0])}
    return {row[0].strip("`"): row[1:] for row in cells[2:]}


def tables(text):
    own, one, gates = re.split(r"^## .*", text, flags=re.MULTILINE)[1:4]
    return rows(own), rows(one), rows(gates)


def test_every_method_is_in_one_table(monkeypatch):
    """Those that take two gradients in a ball that is Euclidean have a target."""

    def instead(known, rounds, unseen):
        times = {name: torch.full((rounds,), 1.4, dtype=torch.float64) for name in known}
        times[family.SAM] = times[family.PLAIN] = numbers(*[1.0] * rounds)
        return {"own": times, "whole": times}

    monkeypatch.setattr(family, "in_turn", instead)
    monkeypatch.setattr(family, "contestant", lambda name, *_: Sleeper(Clock(monkeypatch), 1.0))
    words = argparse.Namespace(quick=True, rounds=2, threads=1)
    own, one, gates = tables(family.page(words, 0.0))
    assert sorted([*own, *one, *gates]) == sorted(KNOWN)
    for name, (passes, least, *cells) in own.items():
        method = KNOWN[name]
        assert int(passes) == method.passes > 1 or name in one
        met = "met" if isinstance(method.ball, L2) and method.passes == 2 else ""
        value = "1.00 [1.00, 1.00]" if name == family.SAM else "1.40 [1.40, 1.40]"
        ms = "1000.00" if name == family.SAM else "1400.00"
        assert cells == [value, ms, met] * 2
        assert bool(least) == (method.passes == 2 and name not in ("spectral_ball", "nuclear"))
    assert {name: KNOWN[name].passes for name in one} == dict.fromkeys(one, 1)
    assert all(
        cells == ["2.4000 [2.4000, 2.4000]", "**not met**", "1.40 [1.40, 1.40]"]
        for cells in one.values()
    )
    assert gates
    assert all(KNOWN[name].gate != KNOWN[family.SAM].gate for name in gates)


#: Of every kind one: enough for a page.
FEW = ("sam", "asam", "spectral_ball", "multi_step", "momentum", "look_back", "late")


def test_the_page(tmp_path, monkeypatch):
    path, threads = tmp_path / "family.md", torch.get_num_threads()
    monkeypatch.setattr(family, "methods", lambda: {name: KNOWN[name] for name in FEW})
    try:
        family.main(["--quick", "--rounds", "2", "--threads", "1", "--write", str(path)])
    finally:
        torch.set_num_threads(threads)
    text = path.read_text(encoding="utf-8")
    assert "the numbers mean nothing" in text
    assert f"torch {torch.__version__}, thalweg" in text
    assert "over 2 rounds (2 of the ResNet)" in text
    assert "over 5 steps in a row" in text
    own, one, gates = tables(text)
    assert [*own, *one, *gates] == list(FEW)
    assert own["sam"][:3] == ["2", "1.00", "1.00 [1.00, 1.00]"]
    assert own["sam"][4] == own["sam"][7] == "met"
    assert float(own["sam"][3]) > 0
    assert own["multi_step"][0] == "3"
    assert own["asam"][1] == "1.25"
    assert own["asam"][4]
    assert not own["spectral_ball"][4]
    assert float(one["momentum"][0].split()[0]) > 0
    assert gates["look_back"][0] != gates["late"][0] == "0.00"  # that is how trainings end


def test_without_a_file_the_page_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(family, "page", lambda options, load: f"{options.rounds} rounds")
    family.main(["--quick", "--rounds", "7"])
    assert capsys.readouterr().out == "7 rounds\n"


@pytest.mark.parametrize("words", [["--rounds", "many"], ["--threads"], ["--fast"]])
def test_what_it_does_not_know_it_refuses(words, capsys):
    with pytest.raises(SystemExit):
        family.main(words)
    assert "usage:" in capsys.readouterr().err
