"""A SAM written by hand, whole or broken in one of many ways."""

import contextlib
import functools
import math

import pytest
import torch

from thalweg import testing

ALIVE = []


def quiet(*_):
    pass


class Handmade:
    """A SAM written for these tests, plainly; ``fault`` names the one thing wrong with it."""

    def __init__(self, setup, fault=""):
        self.fault, self.model, self.scaler = fault, setup.model, setup.scaler
        self.optimizer = setup.base(setup.params)
        self.rho, self.power = setup.rho, setup.power
        self.backup, self.latest, self.open = {}, {}, False
        self.first_known = list(self.parameters())
        if fault == "leaves a reference":
            ALIVE.append(self)
        if fault == "leaves a hook":
            self.model.register_forward_hook(quiet)
        if fault == "keeps a function":
            self.function = lambda: None
        if fault == "ascends from what arrived last":
            for p in self.parameters():
                p.register_hook(functools.partial(self.latest.__setitem__, p))

    def __getstate__(self):
        dropped = {"optimizer"} if self.fault == "copies without its optimizer" else set()
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def parameters(self):
        if self.fault == "moves by modules":
            return [p for m in self.model.modules() for p in m.parameters(recurse=False)]
        if self.fault == "knows its first parameters only" and hasattr(self, "first_known"):
            return self.first_known
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def radii(self):
        for group in self.optimizer.param_groups:
            group.setdefault("rho", self.rho)
        found = {p: g["rho"] for g in self.optimizer.param_groups for p in g["params"]}
        if self.fault == "one rho for all":
            found = dict.fromkeys(found, self.rho)
        return found

    def norm(self, gradients):
        if self.fault == "takes the first norm":
            gradients = gradients[:1]
        if self.fault == "flattens the gradients":
            gradients = [torch.cat([g.flatten() for g in gradients])]
        if self.fault == "looks at the largest entry":
            largest = max(float(g.to_dense().abs().max()) for g in gradients)
            gradients = [g / largest for g in gradients] if largest else gradients
            return largest * math.sqrt(sum(float((g * g).to_dense().sum()) for g in gradients))
        wide = gradients
        if self.fault != "takes the norm in the gradients' dtype":
            wide = [g.to(torch.complex128 if g.is_complex() else torch.float64) for g in gradients]
        squares = [(g.to_dense().abs() ** 2).sum() for g in wide]
        return math.sqrt(sum(map(float, squares)))

    def factor(self, n):
        power = 0.0 if self.fault == "drops the normalization" else self.power
        power = 1.0 if self.fault == "always normalizes" else power
        if self.fault == "does not look at the norm":
            return float(torch.tensor(n) ** -power)
        if self.fault == "divides by zero":
            return n**-power if math.isfinite(n) else 0.0
        if not math.isfinite(n) or n == 0:
            return 0.0
        sign = -1.0 if self.fault == "goes downhill" else 1.0
        return 0.0 if self.fault == "ignores rho" else sign * n**-power

    def epsilon(self):
        gradients = {p: self.latest.get(p, p.grad) for p in self.parameters() if p.grad is not None}
        if self.fault == "wants every gradient":
            gradients = {p: p.grad.clone() for p in self.parameters()}
        scale = self.scaler.get_scale() if self.scaler else 1.0
        scale = 1.0 if self.fault == "forgets the scale" else scale
        radii = self.radii()
        moving = [g for p, g in gradients.items() if radii[p] > 0]
        self.n = self.norm(moving) / scale if moving else 0.0
        factor = self.factor(self.n) / scale
        if not factor:
            return {}
        found = {}
        for p in [p for p in self.parameters() if p in gradients]:
            g = gradients[p].to_dense()
            if self.fault == "takes the real part":
                g = g.real
            if self.fault == "works in float32":
                g = g.float()
            wide = g if g.is_complex() or g.dtype is torch.float64 else g.double()
            found[p] = found.get(p, 0) + wide * (radii[p] * factor)
        return found

    @contextlib.contextmanager
    def uphill(self):
        """Stand at w + ε, the gradients there being those of the first pass."""
        rng = torch.get_rng_state()
        held = [(b, b.clone()) for b in self.model.buffers()]
        if self.fault == "holds BatchNorm's averages alone":
            held = [(b, c) for b, c in held if b.is_floating_point()]
        epsilon = self.epsilon()
        old = dict(self.backup) if self.fault == "keeps old backups" else {}
        self.backup = old | {p: p.detach().clone() for p in epsilon}
        hook = None
        if self.fault != "lets moved weights be saved":
            hook = self.model.register_state_dict_pre_hook(self.refuse)
        with torch.no_grad():
            for p, e in epsilon.items():
                p.copy_(p + e)
        first = {p: p.grad for p in self.parameters()}
        for p in first:
            p.grad = None
        done = False
        try:
            yield
            done = True
        finally:
            if hook is not None:
                hook.remove()
            if done or self.fault != "is not safe with exceptions":
                self.restore(epsilon)
            if self.fault != "advances BatchNorm twice":
                for b, value in held:
                    b.copy_(value)
            if self.fault != "leaves the random state":
                torch.set_rng_state(rng)
        if self.fault == "adds the first gradient":
            for p, g in first.items():
                p.grad = g if p.grad is None else p.grad if g is None else p.grad + g
        if self.fault == "cleans the gradient":
            for p in first:
                p.grad = None if p.grad is None else p.grad.nan_to_num(posinf=1.0)
        if self.scaler and not math.isfinite(self.n) and self.fault != "hides the first overflow":
            next(iter(first)).grad.fill_(math.inf)

    @staticmethod
    def refuse(*_):
        raise RuntimeError("the weights are moved")

    @torch.no_grad()
    def restore(self, epsilon):
        if self.fault == "does not restore":
            return
        if self.fault == "restores what has a gradient":
            self.backup = {p: b for p, b in self.backup.items() if p.grad is not None}
        if self.fault == "keeps old backups":
            self.backup = {p: self.backup[p] for p in self.parameters() if p.grad is not None}
        for p, b in self.backup.items():
            if self.fault == "restores by subtraction":
                p.copy_(p - epsilon[p])
            elif self.fault == "swaps storage":
                p.data = b
            else:
                p.copy_(b)
        if self.fault != "keeps old backups":
            self.backup = {}

    def gradient(self, backward):
        """Add the SAM gradient to what is in ``.grad``."""
        if self.fault == "stays open" and self.open:
            backward()
        self.open = True
        before = {p: p.grad for p in self.parameters()}
        for p in before:
            p.grad = None
        start = torch.get_rng_state()
        backward()
        with self.uphill():
            if self.fault != "does not replay":
                torch.set_rng_state(start)
            backward()
        for p, g in before.items():
            p.grad = g if p.grad is None else p.grad if g is None else p.grad + g
        self.open = False


class Shell(torch.optim.Optimizer):
    """Shows the base's groups as its own, and has no state."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.param_groups = base.param_groups


class HandmadeDriver(testing.Driver):
    first_pass_outside = frozenset({"block"})
    aside = None

    def __init__(self, sam, scaler, fault):
        super().__init__(sam, scaler)
        self.fault = fault
        self.shell = Shell(sam.optimizer) if fault == "shows another optimizer" else None

    @property
    def optimizer(self):
        return self.shell or self.sam.optimizer

    @property
    def forms(self):
        return {"whole": self.whole, "block": self.block}

    def gradient(self, backward):
        self.sam.optimizer.zero_grad()
        self.sam.gradient(backward)
        if self.fault == "writes the gradient late":
            self.aside = {p: p.grad for p in self.sam.parameters()}

    def step(self):
        for p, g in (self.aside or {}).items():
            p.grad = g
        if self.scaler is None or self.fault == "steps without the scaler":
            self.sam.optimizer.step()
        else:
            self.scaler.step(self.sam.optimizer)
            self.scaler.update()

    def whole(self, backward):
        self.gradient(backward)
        self.step()

    def block(self, backward):
        self.sam.optimizer.zero_grad()
        backward()
        first = {p: p.grad for p in self.sam.parameters()}
        with self.sam.uphill():
            backward()
            if self.fault == "has a form that differs":
                for p in [p for p in self.sam.parameters() if p.grad is not None]:
                    p.grad = p.grad * (1 + 1e-7)
        if not any(self.sam.radii().values()):
            for p, g in first.items():  # its random numbers cannot be replayed
                p.grad = g
        self.step()

    def closure(self, closure):
        losses = []
        self.gradient(lambda: losses.append(closure()))
        self.step()
        return None if self.fault == "returns nothing" else losses[0]

    def m_sam(self, backwards):
        self.sam.optimizer.zero_grad()
        if self.fault == "ascends once for all parts":
            self.sam.gradient(lambda: [backward() for backward in backwards])
        for backward in backwards if self.fault != "ascends once for all parts" else []:
            self.sam.gradient(backward)
        self.step()


def build(fault=""):
    ALIVE.clear()
    return lambda setup: HandmadeDriver(Handmade(setup, fault), setup.scaler, fault)


@pytest.fixture(scope="session")
def handmade():
    return build
