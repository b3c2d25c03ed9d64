"""A loss that is a sum over its batch is told of; one that is a mean never is."""

from __future__ import annotations

import warnings

import pytest
import subjects
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg
import thalweg.diagnose
from thalweg.diagnose.halves import summed


def batch(count, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 8, 8, generator=draw)
    return x, torch.randint(10, (count,), generator=draw)


def of(reduction, **settings):
    return lambda model, b: cross_entropy(model(b[0]), b[1], reduction=reduction, **settings)


def weighted(model, b):
    """A mean over some of the examples, as over the tokens of texts that are not equally long."""
    kept = b[0].mean((1, 2, 3)) > 0.05
    return (cross_entropy(model(b[0]), b[1], reduction="none") * kept).sum() / kept.sum()


def decayed(model, b):
    return of("mean")(model, b) + 0.1 * sum(p.square().sum() for p in model.parameters())


def signed(model, b):
    """A mean that may have any sign."""
    return model(b[0])[:, 0].mean()


MEANS = {"mean": of("mean"), "weighted": weighted, "decayed": decayed, "signed": signed}


@pytest.mark.parametrize("count", [2, 7, 32, 129])
def test_a_sum_is_one_and_no_mean_is(count):
    model = subjects.convnet()
    for seed in range(20):
        held = batch(count, seed)
        assert summed(model, of("sum"), held)
        assert summed(model, lambda m, b: of("sum")(m, b) / 64, held)
        assert not [name for name, loss in MEANS.items() if summed(model, loss, held)]


def test_batches_of_every_form():
    x, y = batch(8, 0)
    model = subjects.convnet()
    total = of("sum")
    assert summed(model, lambda m, b: total(m, (b["x"], b["y"])), {"x": x, "y": y})
    assert summed(model, total, [x, y])
    assert summed(nn.Identity(), lambda m, b: b.sum(), torch.arange(5.0))
    # What cannot be cut, or is not known.
    assert not summed(model, lambda m, b: total(m, b[:2]), (x, y, "name"))
    assert not summed(model, lambda m, b: total(m, b[:2]), (x, y, torch.ones(3)))
    assert not summed(model, lambda m, b: total(m, b[:2]), (x, y, torch.tensor(3.0)))
    assert not summed(model, total, (x[:1], y[:1]))
    assert not summed(nn.Identity(), lambda m, b: b.sum(), torch.zeros(4))

    def of_one_size(model, b):
        if len(b[0]) != 8:
            raise RuntimeError("8 examples")
        return total(model, b)

    assert not summed(model, of_one_size, (x, y))


def test_nothing_is_changed():
    model = subjects.convnet()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    numbers = torch.get_rng_state()
    assert summed(model, of("sum"), batch(16, 0))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_diagnose_warns_and_says_so_where_the_numbers_stand():
    model = subjects.convnet()
    four = [model, of("sum"), subjects.digits(), torch.optim.SGD(model.parameters(), lr=0.1)]
    with pytest.warns(UserWarning, match="loss must be the mean over a batch.*take the mean"):
        found = thalweg.diagnose(*four, batches=2)
    rows = {row.name: row for row in found.rows}
    assert rows["loss"].meaning.startswith("a sum, it seems")
    assert "of the loss as it is summed" in rows["λ_max"].meaning
    assert found.to_json()["measured"]["summed"] is True
    four[1] = of("mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not thalweg.diagnose(*four, batches=2).measured.summed
