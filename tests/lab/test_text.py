"""The text: its characters, its blocks, the network against one written out, and its learning."""

import math

import numpy as np
import pytest
import torch

from thalweg.errors import ThalwegError
from thalweg.lab import simulate
from thalweg.lab import text as room
from thalweg.lab.observe import History
from thalweg.lab.text import HELD, KINDS, Text, text

SEEDS = torch.tensor([0, 1, 1, 7])
SMALL = {"n_train": 500, "batch_size": 3, "width": 6, "context": 5, "layers": 2}


def doubled(params):
    return {name: value.double() for name, value in params.items()}


def test_the_characters_are_those_of_the_help_topics():
    numbers = text()
    counts = numbers.bincount()
    assert len(counts) == KINDS
    assert len(numbers) > 400_000
    # the commonest first; the last stands for all the rare ones together
    assert counts[:-1].tolist() == sorted(counts[:-1].tolist(), reverse=True)
    assert 0 < counts[-1] < 0.02 * len(numbers)
    spaces = (numbers == 0).nonzero().squeeze(1)
    assert int(spaces.diff().min()) > 1  # runs of white space are one space


@pytest.mark.parametrize("seed", [0, 3])
def test_blocks_lie_behind_each_other(seed):
    task = Text(n_train=1000)
    blocks = task._blocks(seed)
    assert [len(block) for block in blocks] == [1000, HELD, HELD]
    joined, ring = torch.cat(blocks), text().repeat(2)
    windows = ring.unfold(0, len(joined), 1)
    first = (windows[:, :50] == joined[:50]).all(1).nonzero()[0]
    assert torch.equal(windows[int(first)], joined)  # in the text's own order, none twice
    assert not torch.equal(blocks[0], task._blocks(seed + 1)[0])


def test_windows_come_from_the_training_block_of_the_seed():
    task = Text(**SMALL)
    stream = task.stream(SEEDS)
    seen = set()
    for step in (0, 1, 150):
        batch = stream(step)
        assert batch.shape == (4, 3, 6)
        assert torch.equal(batch[1], batch[2])
        assert torch.equal(batch[3:], task.stream(SEEDS[3:])(step))  # whoever else is there
        block = task._blocks(7)[0].unfold(0, 6, 1)
        assert all((block == window).all(1).any() for window in batch[3])
        seen.add(tuple(batch[3].flatten().tolist()))
    assert len(seen) == 3
    # the last place of the block is reached, and none beyond it
    firsts = np.concatenate(
        [np.random.default_rng([7, 2, i]).integers(0, 500 - 5, (100, 3)) for i in range(60)]
    )
    assert firsts.max() == 500 - 6


def by_hand(params, cell, window):
    """The logits of one window of one cell, a place and a number at a time."""
    p = {name: value[cell].numpy() for name, value in params.items()}

    def scaled(v):
        return v / np.sqrt((v**2).mean() + 1e-6)

    xs = [p["embedding"][c] + p["place"][i] for i, c in enumerate(window)]
    for layer in (1, 2):
        seen = [scaled(x) for x in xs]
        q, k, v = (
            [row @ p[f"{name}{layer}"] for row in seen] for name in ("query", "key", "value")
        )
        after = []
        for i, x in enumerate(xs):
            fits = [np.exp(q[i] @ k[j] / math.sqrt(len(x))) for j in range(i + 1)]
            mixed = sum(f * v[j] for j, f in enumerate(fits)) / sum(fits)
            after.append(x + mixed @ p[f"mix{layer}"])
        xs = [
            x + np.maximum(scaled(x) @ p[f"widen{layer}"], 0) @ p[f"narrow{layer}"] for x in after
        ]
    return np.stack([scaled(x) @ p["head"] for x in xs])


def test_the_network_is_the_one_written_out():
    task = Text(**SMALL)
    params, batch = doubled(task.start(SEEDS)), task.stream(SEEDS)(0)
    logits = task.logits(params, batch[..., :-1])
    total = 0.0
    for window in range(3):
        expected = by_hand(params, 3, batch[3, window, :-1].tolist())
        np.testing.assert_allclose(logits[3, window].numpy(), expected, rtol=1e-9, atol=1e-9)
        for row, following in zip(expected, batch[3, window, 1:].tolist(), strict=True):
            total += math.log(np.exp(row).sum()) - row[following]
    assert float(task.loss(params, batch)[3]) == pytest.approx(total / 15, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences_and_of_each_cell_alone():
    task = Text(**SMALL)
    params, batch = doubled(task.start(SEEDS)), task.stream(SEEDS)(0)
    gradient = task.gradient(params, batch)
    assert set(gradient) == set(params)
    rng = np.random.default_rng(0)
    for name, value in params.items():
        entry = tuple(rng.integers(0, size) for size in value.shape)
        if name == "embedding":
            entry = (entry[0], int(batch[entry[0], 0, 0]), entry[2])
        losses = []
        for shift in (1e-5, -1e-5):
            moved = {k: v.clone() for k, v in params.items()}
            moved[name][entry] += shift
            losses.append(task.loss(moved, batch))
        slope = (losses[0] - losses[1]) / 2e-5
        assert float(slope[entry[0]]) == pytest.approx(float(gradient[name][entry]), abs=1e-8)
        others = torch.arange(len(SEEDS)) != entry[0]
        assert slope[others].abs().max() == 0
        assert gradient[name].abs().max() > 0


def test_no_prediction_looks_ahead():
    task = Text(**SMALL)
    params, batch = task.start(SEEDS), task.stream(SEEDS)(0)[..., :-1]
    other = batch.clone()
    other[..., 3] = (other[..., 3] + 1) % KINDS
    one, two = task.logits(params, batch), task.logits(params, other)
    assert torch.equal(one[..., :3, :], two[..., :3, :])
    assert (one[..., 3:, :] != two[..., 3:, :]).all(-1).all()


def test_what_is_observed_is_over_the_held_blocks():
    task = Text(**SMALL)
    params = task.start(SEEDS)
    seen = task.observe(params, SEEDS)
    assert tuple(seen) == task.quantities
    for part, name in ((1, "validation"), (2, "test")):
        block = task._blocks(7)[part]
        windows = torch.stack([block[i : i + 6] for i in range(0, HELD - 5, 5)])[None]
        alone = {k: v[3:] for k, v in params.items()}
        loss = float(task.loss(alone, windows))
        right = task.logits(alone, windows[..., :-1]).argmax(-1) == windows[..., 1:]
        assert float(seen[f"{name}_loss"][3]) == pytest.approx(loss, rel=1e-5)
        assert float(seen[f"{name}_accuracy"][3]) == pytest.approx(float(right.float().mean()))
    assert float(seen["test_loss"][0]) != float(seen["test_loss"][1])
    block = task._blocks(7)[0]
    windows = torch.stack([block[i : i + 6] for i in range(0, 495, 5)])[None]
    loss = float(task.loss({k: v[3:] for k, v in params.items()}, windows))
    assert float(task.final_loss(params, SEEDS)[3]) == pytest.approx(loss, rel=1e-5)


def test_it_learns_more_than_how_common_the_characters_are(monkeypatch):
    monkeypatch.setattr(room, "HELD", 1024)
    share = text().bincount() / len(text())
    entropy = -float((share * share.log()).sum())
    task = Text()
    watch = {"loss": History("validation_loss", every=200), "right": History("test_accuracy", 400)}
    run = simulate(task, seed=[0, 1], steps=400, observe=watch, compile=False)
    start, middle, end = run.observed["loss"].mean(0)
    assert start > math.log(KINDS)
    assert entropy - 0.3 > middle > end
    assert end < entropy - 0.55  # 3.28 nats
    assert run.observed["right"][:, 1].mean() > float(share.max()) + 0.05


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"n_train": 10}, "n_train"),
        ({"n_train": 430_000}, "n_train"),
        ({"batch_size": 0}, "batch_size"),
        ({"eta": 0.0}, "eta"),
        ({"momentum": 1.0}, "momentum"),
        ({"width": 0}, "width"),
        ({"layers": 0}, "layers"),
        ({"context": 0}, "context"),
        ({"context": HELD, "n_train": 3 * HELD}, "context"),
    ],
)
def test_arguments_out_of_range_are_named(bad, named):
    with pytest.raises(ThalwegError, match=rf"^{named} must "):
        Text(**bad)
