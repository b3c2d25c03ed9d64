"""What cannot be measured over: each is told in words. And batches that are not as they were."""

from functools import partial

import nets
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from thalweg import ThalwegError
from thalweg.curvature import frozen, lambda_max, line, on_batch, over, plane, sharpness, trace
from thalweg.curvature.setting import examples, turned


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: iter(nets.batches()),
            "batches must be something to go through again.*list_iterator",
        ),
        (lambda: None, "batches must be something to go through again.* got NoneType"),
        (lambda: nets.digits(4)[0], "batches must be .* got Tensor: pass a list of batches"),
        (lambda: {"x": torch.ones(1)}, "batches must be something to go through again.* got dict"),
        (lambda: "text", "batches must be something to go through again.* got str"),
        (lambda: (b for b in nets.batches()), "batches must be something to go through again"),
        (lambda: zip(*nets.digits(4), strict=True), "batches must be something to go through"),
        (list, "batches must hold at least one batch, got none"),
        (lambda: [{"x": 1}], "a batch must hold a tensor whose first dimension"),
    ],
)
def test_bad_batches_are_named(make, said):
    model, _, _ = nets.known("mlp")
    with pytest.raises(ThalwegError, match=said):
        over(model, lambda m, b: m(nets.digits(4)[0]).square().mean(), make())


def test_parameters_of_others_are_refused():
    model, batch, _ = nets.known("mlp")
    others = list(nets.net("mlp").parameters())
    with pytest.raises(ThalwegError, match="parameters must be parameters of the model"):
        over(model, nets.loss_of, nets.batches(), parameters=others)
    for bad in ([], model, model[3]):
        with pytest.raises(ThalwegError, match="parameters must"):
            over(model, nets.loss_of, nets.batches(), parameters=bad)
        with pytest.raises(ThalwegError, match="parameters must"):
            on_batch(model, nets.loss_of, batch, parameters=bad)


def test_bad_losses_are_named_and_leave_no_trace():
    model = nets.noticing()
    before = nets.state(model)
    losses = {
        "take the mean": lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="none"),
        "without a graph": lambda m, b: nets.loss_of(m, b).detach(),
        "loss must be finite": lambda m, b: nets.loss_of(m, b) * torch.nan,
        "got float": lambda m, b: nets.loss_of(m, b).item(),
    }
    for said, loss in losses.items():
        for build in (
            lambda loss=loss: on_batch(model, loss, nets.digits(16), training=True),
            lambda loss=loss: over(model, loss, nets.batches(), training=True),
        ):
            with pytest.raises(ThalwegError, match=said):
                build()
            assert nets.state(model) == before


def test_examples_are_counted_in_any_form():
    x = torch.zeros(6, 2)
    assert examples(x) == examples([x, 0]) == examples({"a": torch.tensor(1.0), "x": x}) == 6
    assert examples((torch.zeros(3), x)) == 3
    for bad in (None, 3.0, [], torch.tensor(1.0), {"x": "text"}):
        with pytest.raises(ThalwegError, match="a batch must hold a tensor whose first dimension"):
            examples(bad)


def test_batches_are_turned_where_they_float():
    batch = {"x": (torch.zeros(1), "text"), "y": torch.zeros(1, dtype=torch.int32), "n": 2}
    found = turned(batch, torch.float64)
    assert found["x"][0].dtype == torch.float64
    assert (found["x"][1], found["y"].dtype, found["n"]) == ("text", torch.int32, 2)
    assert batch["x"][0].dtype == torch.float32


class OnceOnly:
    """Can be gone through again, but is then empty, or shorter by some."""

    def __init__(self, after):
        self.after, self.passes = after, 0

    def __iter__(self):
        self.passes += 1
        return iter(nets.batches() if self.passes == 1 else nets.batches()[: self.after])


@pytest.mark.parametrize(("after", "said"), [(0, "at least one batch"), (3, "got 64 and then 57")])
def test_batches_that_are_fewer_the_next_time_are_named(after, said):
    model, _, _ = nets.known("mlp")
    for measure in (lambda_max, trace):
        with pytest.raises(ThalwegError, match=said):
            measure(over(model, nets.loss_of, OnceOnly(after)))
    with pytest.raises(ThalwegError, match=said):
        sharpness(model, nets.loss_of, OnceOnly(after), 0.1)


@pytest.mark.parametrize("where", ["loader", "sampler"])
def test_a_loader_with_a_generator_of_its_own_is_the_same_every_time(where):
    # In training mode BatchNorm makes the loss depend on who is in a batch together.
    model, data = nets.net("convnet"), TensorDataset(*nets.digits(50))
    draw = torch.Generator().manual_seed(3)
    if where == "loader":
        loader = DataLoader(data, batch_size=16, shuffle=True, generator=draw)
    else:
        sampler = torch.utils.data.RandomSampler(data, generator=draw)
        loader = DataLoader(data, batch_size=16, sampler=sampler)
    before = draw.get_state()
    product = over(model, nets.loss_of, loader, training=True)
    v = torch.ones(166, dtype=torch.float64)
    assert torch.equal(product(v), product(v))
    for m in (None, 4):
        assert sharpness(model, nets.loss_of, loader, 0.0, training=True, m=m).rise == 0.0
    assert torch.equal(draw.get_state(), before)
    with pytest.raises(ThalwegError, match="without a graph"):
        over(model, lambda m, b: nets.loss_of(m, b).detach(), loader)
    assert torch.equal(draw.get_state(), before)
    list(loader)
    assert not torch.equal(draw.get_state(), before)  # else this would prove nothing


MEASURES = {
    "on_batch": lambda model, loss, **more: on_batch(model, loss, nets.batches()[0], **more),
    "over": lambda model, loss, **more: over(model, loss, nets.batches(), **more),
    "sharpness": lambda model, loss, **more: sharpness(model, loss, nets.batches(), 0.1, **more),
    "line": lambda model, loss, **more: line(model, loss, nets.batches(), **more),
    "plane": lambda model, loss, **more: plane(
        model, loss, nets.batches(), *torch.eye(172)[:2], steps=2, **more
    ),
}
each_measure = pytest.mark.parametrize("how", MEASURES)


@each_measure
def test_what_is_no_model_or_no_loss_is_named(how):
    model, _, _ = nets.known("mlp")
    for bad in (None, 3, torch.nn.Linear, [model]):
        with pytest.raises(ThalwegError, match=r"^model must be a torch\.nn\.Module, got"):
            MEASURES[how](bad, nets.loss_of)
    of_outputs = (torch.nn.MSELoss(), torch.nn.MSELoss, functional.mse_loss)
    of_outputs += (partial(functional.cross_entropy, label_smoothing=0.1),)
    for bad in (None, "mse", *of_outputs, lambda model: 1.0, lambda model, x, y: 1.0):
        told = r"^loss_of must be a function of a model and a batch .*: write lambda model, batch:"
        with pytest.raises(ThalwegError, match=told):
            MEASURES[how](model, bad)


@each_measure
def test_a_loss_may_be_a_module_of_ones_own(how):
    class Loss(torch.nn.Module):
        def forward(self, model, batch):
            return nets.loss_of(model, batch)

    model, _, _ = nets.known("mlp")
    MEASURES[how](model, Loss())


@each_measure
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "float64"}, r"^dtype must be a floating-point type .*, or None, got 'float64'$"),
        ({"dtype": torch.int64}, r"^dtype must be a floating-point type .* got torch\.int64$"),
        ({"dtype": 0.5}, r"^dtype must be a floating-point type"),
        ({"training": "eval"}, r"^training must be True, False or None, got 'eval'$"),
        ({"training": 0}, r"^training must be True, False or None, got 0$"),
    ],
)
def test_bad_settings_are_named(how, settings, said):
    model, _, _ = nets.known("mlp")
    with pytest.raises(ThalwegError, match=said):
        MEASURES[how](model, nets.loss_of, **settings)


@pytest.mark.parametrize("how", [how for how in MEASURES if how != "on_batch"])
def test_progress_is_told_to_a_function(how):
    model, _, _ = nets.known("mlp")
    for bad in (True, "bar", lambda: None):
        told = r"^progress must be a function of the number done, or None, got .*: pass one such"
        with pytest.raises(ThalwegError, match=told):
            MEASURES[how](model, nets.loss_of, progress=bad)


def test_a_mode_of_its_own_is_looked_at_when_the_block_begins():
    with pytest.raises(ThalwegError, match=r"^training must be .* got 'train'"):
        frozen(torch.nn.Linear(1, 1), "train").__enter__()
    with pytest.raises(ThalwegError, match=r"^model must be a torch\.nn\.Module, got None"):
        frozen(None).__enter__()


@each_measure
def test_16_bits_are_refused_and_a_copy_in_32_is_measured(how):
    model = nets.net("mlp", torch.bfloat16).eval()

    def loss(model, batch):
        x, y = batch
        return functional.cross_entropy(model(x.to(model[3].weight.dtype)), y)

    with pytest.raises(ThalwegError, match=r"got torch.bfloat16: measure a copy .* dtype="):
        MEASURES[how](model, loss)
    found = MEASURES[how](model, loss, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    if how in ("over", "on_batch"):
        batch = nets.batches()[0] if how == "on_batch" else nets.digits(64)
        known = lambda_max(on_batch(model.double(), nets.loss_of, batch)).value
        assert lambda_max(found).value == pytest.approx(known, rel=1e-3)


@each_measure
def test_parameters_that_are_frozen_are_not_dropped_in_silence(how):
    model = nets.net("mlp").eval()
    model[3].bias.requires_grad_(False)
    if how == "on_batch":  # takes any list of tensors, as hessian_vector_product
        assert on_batch(model, nets.loss_of, nets.batches()[0]).size == 166
        return
    with pytest.raises(ThalwegError, match="that require a gradient, got others"):
        MEASURES[how](model, nets.loss_of, parameters=list(model.parameters()))


def test_progress_is_told_of_lines_and_of_sharpness():
    model, _, _ = nets.known("mlp")
    told = []
    line(model, nets.loss_of, nets.batches(), steps=5, progress=told.append)
    assert told == [1, 2, 3, 4, 5]
    for how in ({}, {"kind": "average", "directions": 3}, {"kind": "worst", "steps": 3}, {"m": 20}):
        told.clear()
        found = sharpness(model, nets.loss_of, nets.batches(), 0.1, progress=told.append, **how)
        assert told == sorted(told)
        assert told[-1] == found.evaluations
        assert len(told) == (5 if "m" in how else found.evaluations)  # groups of 20, 7, 20, 10, 7
