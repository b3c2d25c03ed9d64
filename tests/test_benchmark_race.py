"""The race of the presets: what is trained, how it is tuned and judged, its page and figure."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import race
import race_costs as costs
import race_judge as judging
import race_tasks as tasks
import race_torch
import torch
from torch import nn
from torch.nn import functional

import thalweg
from thalweg import lab, presets

CLEAN, NOISY, TEXT, LAYERS, _ = tasks.TASKS


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_hand(method, rho, steps):
    """The weights of torch's own layers after some steps on the digits of seed 0."""
    digits = lab.Digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    seeds = torch.tensor([0])
    model.load_state_dict({k: t[0] for k, t in CLEAN.problem().start(seeds).items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=digits.eta, momentum=digits.momentum)
    sam, batches = thalweg.SAM(optimizer, model, rho, method=method), digits.stream(seeds)
    for step in range(steps):
        images, labels = (part[0] for part in batches(step))
        for _ in sam.passes():
            functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize(
    ("name", "rho"),
    [("sam", 0.3), ("asam", 1.0), ("spectral_radius", 0.1), ("gaussian", 0.5), ("late", 0.3)],
)
def test_a_preset_does_to_the_digits_what_it_does_to_torchs_layers(name, rho):
    method = tasks.method_of(name, 8)
    ours = lab.simulate(CLEAN.problem(), rho=[0.0, rho], seed=0, method=method, steps=8)
    theirs = by_hand(method, rho, 8)
    apart = 0.0
    for key, value in theirs.items():
        plain, moved = ours.final[key]
        np.testing.assert_allclose(moved, value, atol=2e-5)
        apart = max(apart, float(np.abs(plain - moved).max()))
    assert apart > 1e-3  # it is not plain SGD that agrees


def test_the_laboratorys_own_layout_is_another_network_to_noise():
    method = presets.gaussian()
    own, other = (
        lab.simulate(problem, rho=0.5, seed=0, method=method, steps=4)
        for problem in (lab.Digits(), CLEAN.problem())
    )
    # It is drawn entry by entry, in the order in which a tensor lies.
    assert np.abs(own.final["weight1"].mT - other.final["0.weight"]).max() > 1e-3


def test_every_preset_runs_somewhere():
    names = {card.name for card in presets.cards()}
    assert {*CLEAN.runners} | {*tasks.IN_TORCH} == names
    assert CLEAN.runners == NOISY.runners
    assert sorted(TEXT.runners) == sorted(tasks.ON_TEXT)
    assert {name.split()[-1] for name in LAYERS.runners} == {"sam", *tasks.IN_TORCH}
    assert {*tasks.BEGINS} <= names


def peaked(at):
    """A training whose validation is best at one ρ; what it was asked for is kept."""
    asked = []

    def train(halves):
        asked.append(halves)
        rows = [[-abs(half - at)] * 2 for half in halves]
        zeros = [0] * len(halves)
        return {"validation": rows, "test": rows, "diverged": zeros, "share": halves}

    return train, asked


@pytest.mark.parametrize(("at", "grown"), [(-2, 0), (-4, 1), (1, 1), (-8, 3), (4, 2)])
def test_a_grid_grows_until_the_best_is_inside(at, grown):
    train, asked = peaked(at)
    halves, found = tasks.tuned(train, list(range(-4, 2)), 4)
    assert halves == list(range(halves[0], halves[-1] + 1)) == found["share"]
    assert halves[tasks.best(found["validation"])] == at
    assert 0 < tasks.best(found["validation"]) < len(halves) - 1
    assert len(asked) == 1 + grown


def test_a_grid_does_not_grow_for_ever():
    train, asked = peaked(99)
    halves, found = tasks.tuned(train, [0, 1, 2], 2)
    assert (len(asked), halves) == (3, list(range(7)))
    assert tasks.best(found["validation"]) == 6


def test_of_equals_the_largest_rho_is_taken():
    assert tasks.best([[1.0, 3.0], [2.0, 2.0], [0.0, 1.0]]) == 1


def test_rho_goes_in_half_decades():
    watched = tasks.trained(CLEAN, "sam", [-1, 1], 10, 2)["test"]
    problem, rho = CLEAN.problem(), np.array([[10**-0.5], [10**0.5]])
    run = lab.simulate(problem, rho=rho, seed=[0, 1], steps=10, progress="")
    np.testing.assert_array_equal(watched, run.observed["test_accuracy"])
    assert not np.array_equal(*watched)


def test_a_trained_record_counts_what_the_gate_let_through():
    found = tasks.trained(CLEAN, "late", [-2, 0], 8, 2)
    assert found["share"] == [0.25, 0.25]
    assert np.shape(found["test"]) == (2, 2)
    assert tasks.gradients(tasks.method_of("late", 8), 0.25) == 1.25
    assert tasks.gradients(presets.momentum(), 0.9) == 1
    assert tasks.gradients(presets.multi_step(2), 1.0) == 3
    judged = tasks.trained(CLEAN, "adaptive_gate", [-2], 20, 2)
    assert 0 < judged["share"][0] < 1


def test_a_preset_may_stop_where_its_validation_is_best():
    found = tasks.trained(NOISY, "sam", [-1, 0], 40, 2)
    for i, half in enumerate((-1, 0)):
        step = found["stop step"][i]
        short = tasks.trained(NOISY, "sam", [half], step, 2)
        assert found["stop test"][i] == short["test"][0]
        assert found["stop validation"][i] == pytest.approx(np.mean(short["validation"][0]))
        assert found["stop validation"][i] >= np.mean(found["validation"][i])


def test_a_rival_on_its_way_is_a_shorter_run():
    rival = tasks.rival(CLEAN, 10, 2)
    assert rival["looks"] == [*range(41)]
    assert [tasks.pace(steps) for steps in (10, 20, 45, 600)] == [1, 1, 1, 30]
    problem = CLEAN.problem()
    short = lab.simulate(problem, eta=0.05, seed=[0, 1], steps=10, progress="")
    test, rate, steps = judging.rival_at(rival, 10, own=True)
    assert (rate, steps) == (0.05, 10)
    np.testing.assert_allclose(test, short.observed["test_accuracy"], atol=1e-6)


def test_times_of_gates_go_by_their_share():
    known = {"times": {"late open": (0, 3.0, 0), "late closed": (0, 1.0, 0)}}
    assert costs.factor(known, "late", 0.25) == 1.5
    assert costs.factor(known, "sam", 1.0) is None


def test_everyone_is_timed():
    found = costs.measure(1, quick=True)["times"]
    named = {name.split()[0] for name in found}
    assert named == {card.name for card in presets.cards()} - {*tasks.IN_TORCH}
    assert all(low > 0 for low, _, _ in found.values())


@pytest.mark.parametrize("name", ["look_back", "adaptive_gate", "late"])
def test_a_gate_is_held_open_or_shut(name):
    for opened, expected in ((True, 2), (False, 1)):
        runner = costs.Runner(costs.gated(tasks.method_of(name, 10), opened=opened), 4, 4)
        runner.step()
        counts = []
        for _ in range(3):
            count = 0
            for _ in runner.sam.passes():
                x, y = runner.batch
                functional.cross_entropy(runner.model(x), y).backward()
                count += 1
            runner.optimizer.zero_grad()
            counts.append(count)
        assert counts[1:] == [expected] * 2


def test_networks_with_normalization_layers_learn_and_rho_matters():
    def run(*more):
        return race_torch.run(LAYERS, "sgd", 0, 12, 0.05, *more)

    alone = run()
    assert alone == run(thalweg.Method(), 0.0)
    assert alone != run(presets.normalization_only(), 1.0)
    assert min(alone) > 0.5


def main(folder, *words):
    race.main(["--results", str(folder / "kept"), "--quick", "--workers", "1", *words])


def test_a_quick_run_writes_page_and_figure_and_goes_on_where_it_was(tmp_path, capsys):
    page = tmp_path / "race.md"
    only = ["--only", "sam", "late", "alone"]
    main(tmp_path, "--tasks", "--write", str(page), *only)
    begun = capsys.readouterr().err.splitlines()
    text = page.read_text(encoding="utf-8")
    assert "the numbers mean nothing" in text
    assert "*Time* has not been measured." in text
    assert "Not yet run" not in text
    rows = re.findall(r"^\| `(.*?)` \| ([\d.]+) \|", text, flags=re.M)
    assert rows.count(("late", "1.25")) == 2
    assert rows.count(("sam", "2.00")) == 3
    assert len(begun) == 17
    kept = sorted((tmp_path / "kept").rglob("*.json"))
    kept[0].write_text("{ cut sho", encoding="utf-8")
    other = json.loads(kept[1].read_text(encoding="utf-8"))
    other["settings"]["steps"] += 1  # of another run
    kept[1].write_text(json.dumps(other), encoding="utf-8")
    main(tmp_path, "--tasks", *only)
    assert len(capsys.readouterr().err.splitlines()) == 2
    drawing = (tmp_path / "figures" / "race.svg").read_text(encoding="utf-8")
    circles = [e for e in ElementTree.fromstring(drawing).iter() if e.tag.endswith("circle")]
    assert len(circles) == 6
    main(tmp_path, "--write", str(page), "--only", "usam", "sam")
    assert "Not yet run: clean usam, noisy usam" in page.read_text(encoding="utf-8")
