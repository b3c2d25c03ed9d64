"""The overhead benchmark: all take the same step, time and memory are counted right, its page."""

from __future__ import annotations

import math
import re
from importlib import metadata

import overhead_contestants as who
import overhead_memory as memory
import overhead_nets as nets
import overhead_page as pages
import overhead_timing as timing
import pytest
import torch
from quick_page import quick_page

CPU = torch.device("cpu")
STEPS = 3


@pytest.fixture(params=["mlp", "small", "resnet"])
def task(request):
    return nets.QUICK[request.param]


def everyone(task):
    found = who.contestants(task, CPU, options=True)
    return found | {"by hand, power=0.5": who.ByHand(task, CPU, power=0.5)}


def walk(contestant):
    """Take three steps; return ‖ε‖ of each, as the weights show it at the second gradient."""
    seen, lengths = [], []

    def look():
        seen.append([p.detach().clone() for p in contestant.parameters])

    contestant.before_gradient = look
    for _ in range(STEPS):
        contestant.step(who.Stopwatch(CPU))
        here, uphill = seen
        lengths.append(timing.distance(here, uphill))
        seen.clear()
    return lengths


def test_everyone_takes_the_same_step(task, monkeypatch):
    # In float64: in float32 rounding alone turns a ReLU of the thin ResNet over.
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        all_of_them = everyone(task)
        start = [p.detach().clone() for p in all_of_them[who.HAND].parameters]
        lengths = {name: walk(contestant) for name, contestant in all_of_them.items()}
    finally:
        torch.set_default_dtype(usual)
    assert lengths.pop(who.ZERO) == [0.0] * STEPS
    assert lengths[who.HAND] == pytest.approx([who.RHO] * STEPS)
    for name in lengths:
        contestant = all_of_them[name]
        hand = who.HAND if contestant.power == 1 else "by hand, power=0.5"
        assert lengths[name] == pytest.approx(lengths[hand], rel=1e-5), name
        went = timing.distance(all_of_them[hand].parameters, start)
        apart = timing.distance(contestant.parameters, all_of_them[hand].parameters)
        assert apart <= 1e-5 * went, name
    # And the weights see which of the steps was taken.
    for other in (who.ZERO, "by hand, power=0.5"):
        left = timing.distance(all_of_them[other].parameters, all_of_them[who.HAND].parameters)
        assert left > 1e-4 * timing.distance(all_of_them[who.HAND].parameters, start)


def test_the_page_says_how_far_apart_they_end():
    assert timing.apart(nets.QUICK.values()) < 1e-6  # in float32 it would be more
    assert torch.get_default_dtype() is torch.float32


def test_two_gradients_and_a_base_step_are_everyones(task):
    class Watch(who.Stopwatch):
        calls, inside = 0, False

        def outside(self, work):
            self.calls += 1
            self.inside = True
            value = work()
            self.inside = False
            return value

    for name, contestant in everyone(task).items():
        told = []
        watch = Watch(CPU)
        contestant.before_gradient = lambda told=told, watch=watch: told.append(watch.inside)
        base = getattr(contestant.optimizer, "base_optimizer", contestant.optimizer)
        base.register_step_post_hook(lambda *_, told=told, watch=watch: told.append(watch.inside))
        contestant.step(watch)
        assert told == [True, True, True], name
        assert watch.calls == 4, name  # and the last zero_grad
        assert all(p.grad is None for p in contestant.parameters), name


def test_the_stopwatch_sorts_seconds(monkeypatch):
    stamps = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(who.Stopwatch, "clock", lambda _: next(stamps))
    watch = who.Stopwatch(CPU)
    watch.outside(lambda: None)
    assert watch.stop() == (10.0, 7.0)


def some_timing(key="mlp", ours=1.0):
    own = {who.ZERO: 0.0, who.OURS: ours, who.PEERS[0]: 9.0, who.PEERS[1]: 2.0}
    own = {name: torch.full((9,), ms, dtype=torch.float64) for name, ms in own.items()}
    return timing.Timing(key, "a net", 1, own, {name: 500 + ms for name, ms in own.items()})


def test_shares_are_of_the_better_mode():
    found = some_timing()
    assert found.better == who.PEERS[1]
    assert found.share(who.OURS) == (0.5, 0.5, 0.5)
    assert found.percent(who.OURS) == pytest.approx((0.2, 0.2, 0.2))
    assert found.difference(who.PEERS[0]) == (9.0, 9.0, 9.0)
    assert found.share_of_difference(who.OURS) == (0.5, 0.5, 0.5)
    assert found.reference == 500


def test_the_interval_is_that_of_the_median():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, middle, high = timing.bootstrap(lambda pick: timing.middle(values[pick]), len(values))
    assert low < middle < high
    # The median of n normal numbers has standard deviation √(π/2n).
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(math.pi / 2 / 400), rel=0.3)


@pytest.mark.parametrize(
    ("key", "ours", "met"),
    [("mlp", 1.1, True), ("mlp", 1.3, False), ("resnet", 1.4, True), ("resnet", 1.6, False)],
)
def test_a_target_is_met_or_not(key, ours, met):
    row = pages.targets([some_timing(key, ours)], {who.OURS: (1.0, 1.0)})[4]
    assert ("| met |" if met else "| **not met** |") in row


def test_an_interval_across_the_target_is_told():
    noisy = some_timing(ours=1.1)
    noisy.own[who.OURS][:4] = 1.3
    assert "| met, within the noise |" in pages.targets([noisy], {who.OURS: (1.0, 1.0)})[4]


def test_memory_beyond_one_copy_is_not_met():
    row = pages.targets([], {who.OURS: (1.02, 1.0)})[-2]
    assert "| 1.02 | **not met** |" in row


def test_the_ledger_counts_every_byte():
    ledger = memory.Ledger(CPU)
    with ledger.open():
        kept = torch.zeros(1000)
    with ledger.open():
        kept = (kept + kept).neg()  # two more at a time, and the old one goes
    assert (ledger.peak, ledger.live) == (12_000, 4_000)
    assert kept.nbytes == 4_000


def test_memory_is_what_it_must_be():
    found = memory.extra(CPU)
    peak, stays = found[who.HAND]
    largest = 1 / 24  # one tensor's ε at a time is there beside the copies
    assert 1 <= peak <= 1 + 2 * largest
    assert stays == 0
    assert found[who.OURS][1] == pytest.approx(1, abs=1e-3)
    for freed in ("thalweg, keep_backup=False", "thalweg, release() after the step"):
        assert found[freed][1] == pytest.approx(0, abs=1e-3)


def test_the_networks_are_those_of_the_title():
    def tensors(key):
        return [p.numel() for p in nets.FULL[key].make().parameters()]

    assert (len(tensors("mlp")), sum(tensors("mlp"))) == (8, 4 * (1024 * 1024 + 1024))
    assert len(tensors("small")) == 200
    assert (len(tensors("resnet")), sum(tensors("resnet"))) == (62, 11_173_962)


def test_the_page(tmp_path):
    words = ("--threads", "1", "--rounds", "2")
    text = quick_page("overhead.py", tmp_path / "overhead.md", *words)
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    head, targets, *timings, last = (part for part in parts if not part.startswith("Time\n"))
    assert f"pytorch_optimizer {metadata.version('pytorch_optimizer')}" in head
    assert len(rows(targets)) == 5  # (i) twice, (ii), (iii), memory
    assert len(timings) == 4
    plain = [who.ZERO, who.HAND, who.OURS, *who.PEERS]
    options = ["thalweg, power=0.5", "thalweg, telemetry=True"]
    for part in timings:
        names = [row[0] for row in rows(part)]
        assert names == (plain if part.startswith("(iii)") else plain + options)
        better = re.search(r"Better mode of the peer: `(.*)`", part)
        shares = {row[0]: row[3] for row in rows(part)}
        assert shares[better[1]] == "1.00 [1.00, 1.00]"
    assert [row[0] for row in rows(last)] == list(memory.CONTESTANTS)


def rows(part):
    """The cells of the rows of a table, all of one length, without its head."""
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in cells} == {len(cells[0])}
    return cells[2:]
