"""Micro-batches that come one by one, with an ascent for each or one for all of them."""

from __future__ import annotations

import collections
import warnings

import pytest
import torch

from thalweg import SAM, Method, ThalwegError
from thalweg.integrations.accumulation import Accumulated, Batch, anew, check


def trained(tools, run, k=3, steps=4, **options):
    """Return weights after some steps of momentum, their micro-batches given to ``run``."""
    model = tools.net("batch_norm", "dropout")
    optimizer = tools.optimizers["momentum"](model.parameters())
    sam = SAM(optimizer, model, 0.1, **options)
    torch.manual_seed(1)
    for step in range(steps):
        losses = [tools.loss(model, step * k + i) for i in range(k)]
        run(sam, [lambda loss=loss: (loss() / k).backward() for loss in losses])
        optimizer.step()
        optimizer.zero_grad()
    return model


def m_sam(sam, micros):
    for micro in micros:
        for _ in sam.passes():
            micro()


def together(sam, micros):
    for _ in sam.passes():
        for micro in micros:
            micro()


def accumulated(how):
    def run(sam, micros):
        step = Accumulated(sam, how)
        for i, micro in enumerate(micros):
            step(lambda here, micro=micro: micro(), last=i == len(micros) - 1)

    return run


class EverySecond:
    def __call__(self, step):
        return step % 2 == 0


METHODS = {
    "sam": {},
    "usam": {"power": 0.0},
    "gate": {"method": Method(gate=EverySecond())},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("how", "loop"), [("micro", m_sam), ("batch", together)])
def test_equals_the_plain_loop(tools, how, loop, method):
    found = trained(tools, accumulated(how), **METHODS[method])
    expected = trained(tools, loop, **METHODS[method])
    assert tools.same_bits(found, expected)


def test_the_two_ways_differ(tools):
    assert not tools.same_bits(trained(tools, m_sam), trained(tools, together))


def counting(tools, **options):
    model = tools.net()
    return SAM(tools.optimizers["sgd"](model.parameters()), model, 0.1, **options), model


@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_the_first_pass(tools, method):
    sam, model = counting(tools, **METHODS[method])
    firsts = []

    def micro(name):
        def run(here):
            first = here.index == 0
            firsts.append((name, first))
            tools.loss(model, 0)().backward()
            return (name, first)

        return run

    step = Accumulated(sam, "batch")
    assert step(micro("a"), last=False) == []
    assert firsts == []
    assert step(micro("b"), last=True) == [("a", True), ("b", True)]
    assert firsts == [("a", True), ("b", True), ("a", False), ("b", False)]
    firsts.clear()
    assert step(micro("c"), last=True) == [("c", True)]
    assert firsts == [("c", True)] + ([] if method == "gate" else [("c", False)])


@pytest.mark.parametrize("how", ["micro", "batch"])
def test_total_makes_the_loss_rise(tools, how):
    sam, model = counting(tools)
    losses = []

    def micro(batch):
        def run(here):
            loss = tools.loss(model, batch)()
            loss.backward()
            losses.append(loss.detach())
            return losses[-1]

        return run

    step = Accumulated(sam, how, lambda found: torch.stack(found).sum())
    step(micro(0), last=False)
    step(micro(1), last=True)
    here, uphill = losses[-2:] if how == "micro" else (sum(losses[:2]), sum(losses[2:]))
    assert float(uphill) > float(here)
    assert sam.last.loss_rise == pytest.approx(float(uphill - here), abs=1e-6)


def test_an_exception_leaves_no_micro_batch_behind(tools):
    sam, model = counting(tools)
    before = [p.detach().clone() for p in model.parameters()]

    def good(here):
        tools.loss(model, 0)().backward()

    def bad(here):
        good(here)
        if here.last:
            raise KeyError

    step = Accumulated(sam, "batch")
    step(good, last=False)
    with pytest.raises(KeyError):
        step(bad, last=True)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert len(step(good, last=True)) == 1


def test_forget(tools):
    sam, model = counting(tools)
    step = Accumulated(sam, "batch")
    step(lambda here: tools.loss(model, 0)().backward(), last=False)
    step.forget()
    assert len(step(lambda here: tools.loss(model, 0)().backward(), last=True)) == 1


@pytest.mark.parametrize("word", ["whole", "Micro", "", None])
def test_other_words_are_refused(word):
    with pytest.raises(ThalwegError, match='accumulation must be "micro" or "batch", got'):
        check(word)


Pair = collections.namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.ones(2), "more": [{"y": 1}]},
        [torch.ones(2), {"x": {"y": 3}}],
        collections.UserDict(x=torch.ones(2), more={"y": 2}),
        (torch.ones(2), [3, 4]),
        Pair(torch.ones(2), {"y": 1}),
        torch.ones(2),
        "text",
        None,
    ],
    ids=str,
)
def test_containers_are_new_and_tensors_the_same(batch):
    copied = anew(batch)
    assert type(copied) is type(batch)
    assert str(copied) == str(batch)
    inner = batch["more"] if isinstance(batch, dict | collections.UserDict) else None
    if inner is not None:
        assert copied["more"] is not inner
        assert copied["x"] is batch["x"]
    if isinstance(batch, list | Pair):
        assert copied[0] is batch[0]
        assert copied[1] is not batch[1]


def test_what_a_pass_takes_out_is_there_in_the_next():
    batch = Batch({"x": torch.ones(2), "deep": [{"y": 1}]})
    for _ in range(3):
        seen = batch.fresh()
        assert seen.pop("x").sum() == 2
        assert seen["deep"].pop() == {"y": 1}
        assert not seen["deep"]


def test_a_tensor_changed_in_place_is_told_of_once():
    batch = Batch({"x": torch.ones(2)})
    batch.fresh()["x"].add(1)
    batch.fresh()["x"].add_(1)
    with pytest.warns(UserWarning, match="must leave the tensors of its batch as they are"):
        batch.fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch.fresh()
