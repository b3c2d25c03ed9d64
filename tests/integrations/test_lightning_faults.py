"""Lightning: what goes wrong in the middle, and what is refused."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import SingleDeviceStrategy
from our_warnings import OURS_FAIL
from trained_by_lightning import (
    BATCHES,
    QUIET,
    RHO,
    Classifier,
    EverySecond,
    fit,
    flat,
    loader,
    net,
    plain,
    same,
)

from thalweg import Method, ThalwegError
from thalweg.integrations.lightning import SAMCallback

pytestmark = OURS_FAIL

BOTH = pytest.mark.parametrize("accumulation", ["micro", "batch"])


class StopError(Exception):
    pass


class Failing(Classifier):
    """Raises in its n-th training step; two of them make a step of SAM."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.calls += 1
        if self.calls == self.at:
            self.where = self.net[0].weight.detach().clone()
            raise StopError
        return loss


def patched(trainer):
    return vars(trainer.fit_loop.epoch_loop.automatic_optimization)


@pytest.mark.parametrize("in_pass", [0, 1])
@BOTH
def test_an_exception_in_the_middle(tmp_path, accumulation, in_pass):
    """The weights are back before anybody saves them, and the loop is Lightning's again."""
    callback = SAMCallback(RHO, accumulation=accumulation)
    module = Failing(at=2 * 3 + 1 + in_pass)
    saved = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(StopError):
        fit(module, [callback, saved], enable_checkpointing=True)
    usual = plain(accumulation)
    weights = slice(0, sum(p.numel() for p in module.net[0].parameters()))
    assert torch.equal(flat(module.net)[weights], usual[2][weights])
    assert torch.equal(module.where, module.net[0].weight) == (in_pass == 0)
    file = torch.load(saved.ckpt_path, weights_only=False)["state_dict"]
    kept = net()
    kept.load_state_dict({key.removeprefix("net."): t for key, t in file.items()})
    assert torch.equal(flat(kept)[weights], usual[2][weights])
    assert same(fit(Classifier(), [callback]), usual)


class Noted(pl.Callback):
    """Keeps the trainer, so that a test can look at it."""

    def __init__(self, trainers):
        self.trainers = trainers

    def setup(self, trainer, pl_module, stage):
        self.trainers.append(trainer)


@pytest.mark.parametrize("fails", [False, True])
def test_the_loop_is_given_back(fails):
    """A trainer that goes on without the callback trains without SAM."""
    callback, trainers = SAMCallback(RHO), []
    module = Failing(at=4 if fails else 0)
    try:
        fit(module, [callback, Noted(trainers)], epochs=1)
    except StopError:
        assert fails
    (trainer,) = trainers
    assert "_make_closure" not in patched(trainer)
    trainer.callbacks.remove(callback)
    trainer.fit_loop.max_epochs += 1
    again = Classifier()
    before, calls = module.calls, []
    step = again.training_step
    again.training_step = lambda batch, batch_idx: calls.append(batch_idx) or step(batch, batch_idx)
    trainer.fit(again, loader())
    assert calls == [*range(BATCHES)] * (2 if fails else 1)
    assert module.calls == before


def test_several_fits_with_one_callback():
    callback = SAMCallback(RHO, method=Method(gate=EverySecond()))
    first = fit(Classifier(), [callback])
    one = callback.sam
    second = fit(Classifier(), [callback])
    expected = plain(method=Method(gate=EverySecond()))
    assert callback.sam is not one
    assert same(first, expected)
    assert same(second, expected)  # the gate begins anew, as the optimizer does


def test_a_loaded_state_is_not_taken_up_twice(tmp_path):
    callback = SAMCallback(RHO, method=Method(gate=EverySecond()))
    trainers = []
    fit(Classifier(), [callback, Noted(trainers)], epochs=1)
    file = tmp_path / "one.ckpt"
    trainers[0].save_checkpoint(file)
    fit(Classifier(), [callback], epochs=2, ckpt_path=file)
    assert callback.sam.state_dict() == {"step": 2 * BATCHES}
    trainer = pl.Trainer(callbacks=[callback], **QUIET)
    module = Classifier()
    module.validation_step = lambda batch, batch_idx: None
    trainer.validate(module, loader(), ckpt_path=file)
    fit(Classifier(), [callback], epochs=1)
    assert callback.sam.state_dict() == {"step": BATCHES}


def test_a_state_of_another_method_is_refused(tmp_path):
    trainers = []
    callback = SAMCallback(RHO, method=Method(gate=EverySecond()))
    fit(Classifier(), [callback, Noted(trainers)], epochs=1)
    trainers[0].save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ThalwegError, match="it was saved with another method"):
        fit(Classifier(), [SAMCallback(RHO)], epochs=2, ckpt_path=tmp_path / "one.ckpt")


@BOTH
def test_weight_averaging(accumulation):
    """Its last epoch has no backward: it only counts statistics, once for each batch."""
    module, calls = Classifier(), []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        calls.append(batch_idx) or step(batch, batch_idx)
    )
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1)
    sam = SAMCallback(RHO, accumulation=accumulation)
    fit(module, [sam, average], epochs=2)
    assert len(calls) == 2 * 2 * BATCHES + BATCHES
    assert int(module.net[1].num_batches_tracked) == BATCHES


def test_the_copy_of_the_weights_is_given_back():
    callback = SAMCallback(RHO)
    fit(Classifier(), [callback], epochs=1)
    assert callback.sam.last.moved
    assert callback.sam._gear.weights.before == {}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("DeepSpeedStrategy", "DeepSpeed"),
        ("FSDPStrategy", "FSDP1"),
        ("XLAStrategy", "XLA"),
        ("SingleDeviceXLAStrategy", "XLA"),
        ("XLAFSDPStrategy", "XLA"),
    ],
)
@pytest.mark.parametrize("subclass", [False, True])
def test_strategies_that_are_refused(kind, name, subclass):
    strategy = type(kind, (SingleDeviceStrategy,), {})
    if subclass:
        strategy = type("Mine", (strategy,), {})
    with pytest.raises(ThalwegError, match=f"got {name}, under which SAM cannot work: use DDP"):
        fit(Classifier(), [SAMCallback(RHO)], strategy=strategy(device=torch.device("cpu")))


def test_manual_optimization_is_refused():
    module = Classifier()
    module.automatic_optimization = False
    with pytest.raises(ThalwegError, match=r"automatic_optimization must be True .* got False"):
        fit(module, [SAMCallback(RHO)])


def test_a_training_step_that_fetches_its_batches_is_refused():
    class Fetching(Classifier):
        def training_step(self, dataloader_iter):
            return super().training_step(*next(dataloader_iter)[:2])

    with pytest.raises(ThalwegError, match="training_step must take a batch"):
        fit(Fetching(), [SAMCallback(RHO)])


def test_two_optimizers_are_refused_by_lightning_itself():
    module = Classifier()
    both = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (module.net[0], module.net[4])]
    module.configure_optimizers = lambda: both
    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual"):
        fit(module, [SAMCallback(RHO)])


def test_an_optimizer_that_searches_is_refused():
    module = Classifier()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
    with pytest.raises(ThalwegError, match="LBFGS"):
        fit(module, [SAMCallback(RHO)])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rho": -1.0}, "rho must be"),
        ({"accumulation": "both"}, 'accumulation must be "micro" or "batch"'),
        ({"method": "sam"}, "method must be"),
        ({"method": Method(), "power": 1.0}, "power and method"),
        ({"power": -1.0}, "power must be"),
    ],
)
def test_arguments_that_are_refused(options, match):
    with pytest.raises(ThalwegError, match=match):
        SAMCallback(**options)
