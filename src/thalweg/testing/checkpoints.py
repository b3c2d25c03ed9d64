"""Saving, loading, copying, scheduling, and what is left when SAM is gone."""

from __future__ import annotations

import copy
import functools
import gc
import io
import itertools
import math
import pickle
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.testing.suite import Bench, check
from thalweg.testing.trial import RHO, Trial, everything, length, mse, net, require, same, weights

_momentum = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def _saved(state: Any) -> Any:
    """Return a state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def _train(trial: Trial, form: str, steps: range) -> None:
    for step in steps:
        trial.step(form, mse(step))


@check("resuming from optimizer.state_dict() is bit-identical", depends_on_base=True)
def resume(bench: Bench, form: str) -> None:
    """Three steps, a file, three more; of the states of the model, the optimizer and the method."""
    straight = Trial(bench, net(nn.BatchNorm1d(8, affine=False)))
    _train(straight, form, range(3))
    model, optimizer = straight.model.state_dict(), straight.driver.optimizer.state_dict()
    file = _saved((model, optimizer, straight.driver.state_dict()))
    _train(straight, form, range(3, 6))
    resumed = Trial(bench, net(nn.BatchNorm1d(8, affine=False)))
    resumed.model.load_state_dict(file[0])
    resumed.driver.optimizer.load_state_dict(file[1])
    resumed.driver.load_state_dict(file[2])
    _train(resumed, form, range(3, 6))
    gap = {n: t.double() - everything(resumed.model)[n] for n, t in weights(straight.model).items()}
    require(
        same(everything(straight.model), everything(resumed.model)),
        f"three steps later the weights are {length(gap):.1g} off",
    )


@check("rho survives a checkpoint", of_formula=True)
def rho_survives(bench: Bench, form: str) -> None:
    """Saved with rho = 0.3, loaded into a SAM built with 0.1."""
    saved = Trial(bench, net(), rho=0.3)
    saved.step(form, mse(0))
    state = _saved(saved.driver.optimizer.state_dict())
    loaded = Trial(bench, net())
    loaded.driver.optimizer.load_state_dict(state)
    loaded.step(form, mse(1))
    far = length(loaded.moved)
    require(math.isclose(far, 0.3, rel_tol=1e-4), f"‖ε‖ is {far:.3g} after loading, not 0.3")


@check("a checkpoint of the bare base optimizer loads", of_formula=True)
def bare_checkpoint(bench: Bench, form: str) -> None:
    """Its momentum is taken up, and SAM goes on with its own rho."""
    model = net()
    bare = _momentum(model.parameters())
    for step in range(3):
        bare.zero_grad()
        mse(step)(model).backward()  # type: ignore[no-untyped-call]
        bare.step()
    trial = Trial(bench, net(), base=_momentum)
    trial.model.load_state_dict(model.state_dict())
    trial.driver.optimizer.load_state_dict(_saved(bare.state_dict()))
    trial.step(form, mse(3))
    far = length(trial.moved)
    require(math.isclose(far, RHO, rel_tol=1e-4), f"‖ε‖ is {far:.3g} after loading, not {RHO}")
    for name, p in model.named_parameters():
        p.grad = trial.given[name]
    bare.step()
    require(same(weights(trial.model), weights(model)), "the base's momentum is lost")


@check("a learning rate scheduler reaches the step, after loading too, without a warning")
def scheduler(bench: Bench, form: str) -> None:
    """Plain SGD: the step is the learning rate times the gradient."""
    trial = Trial(bench, net())
    trial.step(form, mse(0))
    optimizer = trial.driver.optimizer
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            plan = torch.optim.lr_scheduler.StepLR(trial.driver.scheduled, 1, gamma=0.5)
            for step, lr in enumerate((0.1, 0.05, 0.025), start=1):
                before = weights(trial.model)
                trial.step(form, mse(step))
                after = weights(trial.model)
                went = length({k: before[k].double() - after[k].double() for k in before})
                share = went / length({k: t for k, t in trial.given.items() if t is not None})
                close = math.isclose(share, lr, rel_tol=1e-3)
                require(close, f"the step was taken with lr {share:.3g}, not {lr}")
                plan.step()
        except UserWarning as warning:
            require(False, f"it warns: {str(warning).splitlines()[0][:60]}")


def _goes_on(bench: Bench, form: str, other: Any) -> None:
    """Go on with a copy of model and SAM, and then with the original."""
    trial = Trial(bench, net(), base=_momentum)
    _train(trial, form, range(3))
    at = weights(trial.model)
    model, sam = other((trial.model, trial.driver.sam))
    twin = copy.copy(trial)
    twin.model, twin.driver = model, trial.driver.around(sam)
    _train(twin, form, range(3, 6))
    require(same(weights(trial.model), at), "training the copy moves the original")
    require(not same(weights(twin.model), at), "the copy does not train")
    _train(trial, form, range(3, 6))
    require(same(weights(twin.model), weights(trial.model)), "the copy trains otherwise")


@check("copy.deepcopy of model and SAM gives a pair that trains on alike")
def deep_copy(bench: Bench, form: str) -> None:
    """Copied together, so that the copy of SAM trains the copy of the model."""
    _goes_on(bench, form, copy.deepcopy)


@check("pickle of model and SAM gives a pair that trains on alike")
def pickled(bench: Bench, form: str) -> None:
    """As sent to another process."""
    _goes_on(bench, form, lambda both: pickle.loads(pickle.dumps(both)))


#: Sizes that no other tensor has.
_sizes = itertools.count(4099)


class _Marked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 1.0, next(_sizes)))

    def forward(self) -> Tensor:
        return (self.weight**2).sum()


@check("a SAM that is gone leaves nothing alive, and the model as plain as before", per_form=False)
def nothing_left(bench: Bench) -> None:
    """Copies of the weights, hooks on the model, the object itself; after a step in each form."""
    model = _Marked()
    hooks = _hooks(model)
    trial = Trial(bench, model)
    for form in trial.driver.forms:
        trial.step(form, lambda forward: forward())
    dead = weakref.ref(trial.driver.sam)
    del trial
    model.weight.grad = None
    gc.collect()
    require(dead() is None, "the SAM object is still alive")
    tensors = (thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter))
    alive = sum(thing.numel() == model.weight.numel() for thing in tensors)
    require(alive == 1, f"{alive - 1} tensors of the weights' size are still alive")
    require(_hooks(model) == hooks, "hooks are left on the model")


def _hooks(model: nn.Module) -> int:
    """Return how many hooks there are on a model and its parameters."""
    held = [v for m in model.modules() for k, v in vars(m).items() if "hooks" in k]
    held += [p._backward_hooks or {} for p in model.parameters()]
    return sum(map(len, held))
