"""What SAM tells a gradient scaler of, and the other ranks."""

import math

import pytest
import torch

from thalweg import SAM, ThalwegError
from thalweg.scaling import Scaling, Watched, in_use


def told(*parameters, enabled=True):
    """Return the scaling of a loop with a scaler of its own."""
    scaler = torch.amp.GradScaler("cpu", enabled=enabled)
    return Scaling(torch.optim.SGD(parameters, lr=0.1), scaler, needed=True)


@pytest.mark.parametrize("wrap", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("norm", [1.0, 0.0, math.inf, math.nan])
def test_a_gradient_is_spoilt_only_where_the_norm_is_not_finite(norm, wrap):
    a, b = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    scaling = told(a, b)
    b.grad = torch.tensor([3.0, 4.0])
    scaling.tell([a, b], wrap(norm))
    assert a.grad is None
    if math.isfinite(norm):
        assert b.grad.tolist() == [3, 4]
    else:
        assert not torch.isfinite(b.grad).any()
    scaling.tell([a], wrap(norm))
    assert a.grad is None


@pytest.mark.parametrize("wrap", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("norm", [1.0, math.inf, math.nan])
def test_the_coming_gradient_is_spoilt_before_it_is_shared(norm, wrap):
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.zeros(2)
    seen = []
    end = told(w).tell_others([w], wrap(norm))
    w.register_hook(lambda g: seen.append(g.clone()))  # stands for what shares it
    w.sum().backward()
    assert torch.isfinite(seen[0]).all() == math.isfinite(norm)
    end()
    w.grad = None
    w.sum().backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_a_scaler_that_does_nothing_is_told_nothing():
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.ones(2)
    scaling = told(w, enabled=False)
    scaling.tell([w], math.inf)
    scaling.tell_others([w], math.inf)()
    assert w.grad.tolist() == [1.0, 1.0]


def test_no_scaler_is_in_use_here():
    assert in_use() is None


def test_the_use_of_a_scaler_is_noticed_however_deep():
    scaler = torch.amp.GradScaler("cpu")

    def helper():
        return scaler.scale(torch.ones(()))

    with Watched() as watched:
        helper()
    assert watched.scaler is scaler
    with Watched() as watched:
        torch.amp.GradScaler("cpu", enabled=False).scale(torch.ones(()))
        scaler.get_scale()
    assert watched.scaler is None
    helper()
    assert watched.scaler is None


class Trainer:
    """A training script in the usual style, with a model of one weight."""

    def __init__(self, given=False, **kwargs):
        self.w = torch.ones(3, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.w], lr=0.1)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        given = {"scaler": self.scaler} if given else {}
        self.sam = SAM(self.optimizer, None, 0.1, **given, **kwargs)

    def backward(self, scaled=True):
        loss = (self.w**2).sum()
        (self.scaler.scale(loss) if scaled else loss).backward()

    def check_untouched(self):
        assert self.w.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("helper", [False, True])
def test_a_closure_that_scales_in_any_way_is_refused(helper):
    t = Trainer()

    def closure():
        if helper:
            t.backward()
        else:
            t.scaler.scale((t.w**2).sum()).backward()

    with pytest.raises(ThalwegError, match=r"write SAM\(\.\.\., scaler=scaler\)"):
        t.sam.step(closure)
    t.check_untouched()


def test_a_closure_that_does_not_scale_is_taken_whatever_scalers_there_are():
    t = Trainer()
    t.sam.step(lambda: (t.scaler, t.backward(scaled=False)))
    assert t.sam.last.moved


@pytest.mark.parametrize("where", [[0], [1], [0, 1]])
def test_unscaling_in_the_very_first_loop_is_an_error(where):
    t = Trainer()

    def wrong():
        for here in t.sam.passes():
            t.backward()
            if here.index in where:
                t.scaler.unscale_(t.optimizer)
        t.scaler.step(t.optimizer)

    # torch itself refuses the second time
    with pytest.raises((ThalwegError, RuntimeError), match=r"unscale_\("):
        wrong()
    t.check_untouched()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_unscaling_after_the_loop_is_right(clip, scale):
    t = Trainer()
    t.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for _ in range(3):
        for _ in t.sam.passes():
            t.backward()
        t.scaler.unscale_(t.optimizer)
        if clip:
            torch.nn.utils.clip_grad_norm_([t.w], 1.0)
        t.scaler.step(t.optimizer)
        t.scaler.update()
        t.optimizer.zero_grad()
    assert 0 < t.w[0].item() < 1


@pytest.mark.parametrize("late", [False, True])
def test_the_step_must_be_the_given_scaler_s(late):
    t = Trainer(given=True)
    if late:
        for _ in t.sam.passes():
            t.backward()
        t.scaler.step(t.optimizer)
        t.scaler.update()
    before = t.w.detach().clone()
    for _ in t.sam.passes():
        t.backward()
    with pytest.raises(ThalwegError, match=r"write scaler\.step\(optimizer\)"):
        t.optimizer.step()
    assert torch.equal(t.w, before)


def test_a_scaler_that_comes_late_is_noticed_where_the_scale_matters():
    t = Trainer(power=0.0)
    t.sam.step(lambda: t.backward(scaled=False))
    before = t.w.detach().clone()
    for _ in t.sam.passes():
        t.backward()
    with pytest.raises(ThalwegError, match=r"must know the scale"):
        t.scaler.step(t.optimizer)
    assert torch.equal(t.w, before)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_sparse_gradient_can_be_spoilt():
    w = torch.ones(3, 2, requires_grad=True)
    scaling = told(w)
    w.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0]], (3, 2))
    scaling.tell([w], math.nan)
    assert torch.isinf(w.grad.to_dense()[1]).all()
