"""Where a loss is measured: over batches as over all at once, and nobody notices."""

import weakref

import nets
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from thalweg import ThalwegError
from thalweg.curvature import frozen, lambda_max, on_batch, over
from thalweg.curvature.product import flat

each_net = pytest.mark.parametrize("name", nets.NAMES)


def vector(size, dtype=torch.float64):
    return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=dtype)


class StopError(Exception):
    pass


def fails(model, batch):
    nets.loss_of(model, batch)
    torch.rand(3)
    raise StopError


def fails_late(calls):
    """Return a loss that raises in the call of that number."""
    seen = []

    def loss(model, batch):
        seen.append(1)
        return fails(model, batch) if len(seen) == calls else nets.loss_of(model, batch)

    return loss


@each_net
def test_many_batches_are_one_big_one(name):
    model, _, dense = nets.known(name)
    product = over(model, nets.loss_of, nets.batches())
    whole = on_batch(model, nets.loss_of, nets.digits(sum(nets.SIZES)))
    v = vector(product.size)
    torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(product(v), whole(v), rtol=1e-9, atol=1e-11)
    assert product.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(flat(product.gradient), flat(whole.gradient), rtol=1e-9, atol=1e-12)
    assert product.examples == sum(nets.SIZES)
    # The mean of the batches' means is something else: the batches are not of one size.
    means = torch.stack([on_batch(model, nets.loss_of, b)(v) for b in nets.batches()]).mean(0)
    assert float((means - whole(v)).abs().max()) > 1e-3


def test_a_loader_gives_what_a_list_gives():
    model, _, _ = nets.known("mlp")
    data = TensorDataset(*nets.digits(50))
    v = vector(172)
    expected = on_batch(model, nets.loss_of, nets.digits(50))(v)
    before = nets.state(model)
    for shuffle in (False, True):  # the examples are the same in any order
        product = over(model, nets.loss_of, DataLoader(data, batch_size=16, shuffle=shuffle))
        torch.testing.assert_close(product(v), expected, rtol=1e-9, atol=1e-11)
        assert torch.equal(product(v), product(v))
        assert nets.state(model) == before  # though loaders draw random numbers


def test_a_loader_that_drops_the_rest_is_taken_as_it_is():
    model, _, _ = nets.known("mlp")
    data = TensorDataset(*nets.digits(50))
    product = over(model, nets.loss_of, DataLoader(data, batch_size=16, drop_last=True))
    assert product.examples == 48
    assert product.loss == pytest.approx(nets.loss_of(model, nets.digits(48)).item())


@pytest.mark.parametrize("training", [False, True, None])
def test_frozen_leaves_no_trace(training):
    model = nets.noticing()
    before = nets.state(model)
    with frozen(model, training):
        modes = [layer.training for layer in model.modules()]
        assert modes == (before["modes"] if training is None else [training] * len(modes))
        nets.loss_of(model, nets.digits(16))
        torch.rand(5)
        model[1].eval()
    assert nets.state(model) == before
    with pytest.raises(StopError), frozen(model, training):
        fails(model, nets.digits(16))
    assert nets.state(model) == before
    # What it protects from does happen without it.
    nets.loss_of(model, nets.digits(16))
    after = nets.state(model)
    assert all(before[part] != after[part] for part in ("buffers", "numbers"))


@pytest.mark.parametrize("training", [False, True, None])
def test_a_measurement_leaves_no_trace(training):
    model = nets.noticing()
    before = nets.state(model)
    one = on_batch(model, nets.loss_of, nets.digits(16), training=training)
    one(vector(one.size))
    assert nets.state(model) == before
    many = over(model, nets.loss_of, nets.batches(), training=training)
    many(vector(many.size))
    assert nets.state(model) == before
    lambda_max(many, most=3)
    assert nets.state(model) == before


def test_nor_does_one_that_fails_in_the_middle():
    model = nets.noticing()
    before = nets.state(model)
    with pytest.raises(StopError):
        on_batch(model, fails, nets.digits(16), training=True)
    assert nets.state(model) == before
    for calls in (1, 3):
        with pytest.raises(StopError):
            over(model, fails_late(calls), nets.batches(), training=True)
        assert nets.state(model) == before
    product = over(model, fails_late(6), nets.batches(), training=True)
    with pytest.raises(StopError):
        product(vector(product.size))
    assert nets.state(model) == before

    def stop(done):
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        over(model, nets.loss_of, nets.batches(), training=True, progress=stop)
    assert nets.state(model) == before


def test_evaluation_takes_running_statistics_and_training_the_batch():
    model, batch, dense = nets.known("convnet")
    v = vector(len(dense))
    for build in (on_batch, lambda *a, **k: over(a[0], a[1], [a[2]], **k)):
        still = build(model, nets.loss_of, batch)(v)
        torch.testing.assert_close(still, dense @ v, rtol=1e-9, atol=1e-11)
        moving = build(model, nets.loss_of, batch, training=True)(v)
        assert float((moving - still).abs().max()) > 1e-2
        own = build(model, nets.loss_of, batch, training=None)(v)
        assert torch.equal(own, still)  # the model is in evaluation mode


@pytest.mark.parametrize("many", [False, True])
def test_dropout_is_the_same_in_every_product(many):
    model = nets.net("convnet")
    chosen = nets.batches() if many else [nets.digits(64)]

    def fresh():
        if many:
            return over(model, nets.loss_of, chosen, training=True)
        return on_batch(model, nets.loss_of, chosen[0], training=True)

    product, v = fresh(), vector(166)
    first = product(v)
    torch.rand(7)  # others draw in between
    nets.loss_of(model, chosen[0])
    if not many:  # its graph holds what was drawn
        assert torch.equal(product(v), first)
    torch.manual_seed(5)
    product, first = fresh(), None
    for _ in range(3):
        found = product(v)
        assert first is None or torch.equal(found, first)
        first = found
    # It is a Hessian: of one loss, which has one dropout mask.
    u = vector(166).flip(0)
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-9)
    # Another mask gives another one.
    torch.manual_seed(6)
    assert float((fresh()(v) - first).abs().max()) > 1e-3


def test_dropout_over_batches_is_that_of_a_plain_loop():
    model, v = nets.net("convnet"), vector(166)
    torch.manual_seed(5)
    found = over(model, nets.loss_of, nets.batches(), training=True)(v)
    torch.manual_seed(5)
    w, total = list(model.parameters()), 0.0
    model.train()
    for batch in nets.batches():
        slope = torch.autograd.grad(nets.loss_of(model, batch), w, create_graph=True)
        total += flat(torch.autograd.grad(flat(slope) @ v, w)) * len(batch[0])
    torch.testing.assert_close(found, total / sum(nets.SIZES), rtol=1e-9, atol=1e-11)


def test_a_loader_that_draws_changes_no_mask():
    model, v = nets.net("convnet"), vector(166)

    class Drawing(list):
        def __iter__(self):
            torch.rand(3)
            return super().__iter__()

    results = []
    for kind in (list, Drawing):
        torch.manual_seed(5)
        results.append(over(model, nets.loss_of, kind(nets.batches()), training=True)(v))
    assert torch.equal(*results)


def test_double_precision_of_a_single_precision_model():
    model = nets.net("convnet", torch.float32).eval()
    single = nets.batches(torch.float32)
    before = nets.state(model)
    product = over(model, nets.loss_of, single, dtype=torch.float64)
    dense = nets.dense(nets.net("convnet", torch.float32).double().eval(), nets.digits(64))
    v = vector(product.size)
    assert product(v).dtype == torch.float64
    torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)
    plain = over(model, nets.loss_of, single)
    error = (plain(v.float()).double() - dense @ v).abs().max()
    assert 1e-8 < float(error) < 1e-3  # which is what single precision costs
    # It is of a copy, so that a step does not make it invalid.
    torch.optim.SGD(model.parameters(), lr=0.0).step()
    with torch.no_grad():
        model[1].bias.add_(1.0)
    torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)
    with pytest.raises(ThalwegError, match="build the product anew"):
        plain(v.float())
    with torch.no_grad():
        model[1].bias.sub_(1.0)
    assert nets.state(model)["modes"] == before["modes"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_some_of_the_parameters_give_a_block_in_the_models_order():
    model, batch, dense = nets.known("mlp")
    last = list(model[5].parameters())
    place = slice(model[3].weight.numel() + model[3].bias.numel(), None)
    v = vector(sum(p.numel() for p in last))
    for product in (
        on_batch(model, nets.loss_of, batch, parameters=last),
        over(model, nets.loss_of, nets.batches(), parameters=last),
        over(model, nets.loss_of, nets.batches(), parameters=last, dtype=torch.float64),
    ):
        assert product.size == len(v)
        torch.testing.assert_close(product(v), dense[place, place] @ v, rtol=1e-9, atol=1e-11)


def test_frozen_parameters_are_left_out():
    model = nets.net("mlp").eval()
    model[3].requires_grad_(False)
    for product in (
        on_batch(model, nets.loss_of, nets.digits(8)),
        over(model, nets.loss_of, nets.batches()),
    ):
        assert product.size == sum(p.numel() for p in model[5].parameters())


def test_progress_is_told_in_every_product():
    model, _, _ = nets.known("mlp")
    told = []
    product = over(model, nets.loss_of, nets.batches(), progress=told.append)
    assert told == [1, 2, 3, 4]  # for loss and gradient
    product(vector(product.size))
    assert told == [1, 2, 3, 4] * 2


def test_each_graph_is_freed_before_the_next_but_one_is_built():
    model, _, _ = nets.known("mlp")
    alive, counts = [], []

    class Token:
        pass

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.token = Token()  # lives as long as the graph
            alive.append(weakref.ref(ctx.token))
            counts.append(sum(token() is not None for token in alive))
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    over(model, lambda m, b: Watched.apply(nets.loss_of(m, b)), nets.batches() * 3)(vector(172))
    assert len(counts) == 2 * 12
    assert max(counts) <= 2


def test_a_changed_model_makes_it_invalid():
    model = nets.net("mlp")
    product = over(model, nets.loss_of, nets.batches())
    nets.loss_of(model, nets.digits(8)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(ThalwegError, match="build the product anew"):
        product(vector(product.size))
