"""SAM with ``first_step`` and ``second_step``, for scripts written for other SAMs.

Change one import, ``from sam import SAM`` or ``from pytorch_optimizer import SAM``, to
``from thalweg.compat import SAM``. New code is better off with :class:`thalweg.SAM`.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import presets
from thalweg import sam as engine
from thalweg.checkpoints import ADAPTIVE, convert_checkpoint
from thalweg.errors import ThalwegError, brief, flag

__all__ = ["SAM", "convert_checkpoint"]

_ASAM = presets.asam_all(offset=0.0)


class SAM(torch.optim.Optimizer):
    """The two calls of davda54/sam and pytorch_optimizer, around :class:`thalweg.SAM`.

    ``state``, ``param_groups`` and ``defaults`` are the base optimizer's own objects, and
    ``state_dict()`` is its checkpoint. What differs from theirs, on purpose:

    - The weights come back by copy into the same storage. A first gradient that is zero or not
      finite moves nothing.
    - ``first_step`` clears the gradients, with ``zero_grad=False`` too: what ``second_step`` hands
      to the base optimizer is the SAM gradient alone.
    - ``step(closure)`` returns the loss. Where a ``backward()`` came before it, as theirs asks, the
      closure runs once, uphill. Where none did, it runs twice, and the loss is the one at w.
    - Calls out of order are errors. An exception or a skipped step between the two calls leaves
      the weights at w + ε until the next ``first_step``, ``step``, ``state_dict``,
      ``load_state_dict``, ``add_param_group``, or ``zero_grad`` that finds gradients to throw away
      (one that finds none is part of an ordinary step). That call puts weights and normalization
      layers back and clears the gradients. In ``step(closure)`` they come back at once.
    - Random numbers drawn between the two calls are given back by ``second_step``.
    - With a GradScaler, ``scaler.step(optimizer)``, then ``zero_grad()``, is the ``second_step``.

    Args:
        params: Parameters, or param groups; a group may have its own ``"rho"``.
        base_optimizer: The class of the base optimizer.
        rho: Radius. The same number means the same as in theirs.
        adaptive: Whether each weight is perturbed in units of its size, biases too (ASAM as they
            have it); the same for all groups.
        model: The module that is trained. With it, BatchNorm statistics advance once a step;
            without it they advance in both forwards, as in theirs.
        use_gc: Must be False.
        perturb_eps: At most 1e-8, and then without effect: thalweg divides by ‖g‖ alone.
        **kwargs: For the base optimizer.

    Attributes:
        base_optimizer: The base optimizer.
        sam: The :class:`thalweg.SAM` that does the work; ``sam.last`` tells what it did.

    Raises:
        ThalwegError: If an option has no counterpart here.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = SAM([w], torch.optim.SGD, rho=0.5, lr=0.5)
        >>> (w**2).sum().backward()
        >>> optimizer.first_step(zero_grad=True)
        >>> w  # w + ε
        tensor([3.3000, 4.4000], requires_grad=True)
        >>> (w**2).sum().backward()
        >>> optimizer.second_step(zero_grad=True)
        >>> w
        tensor([-0.3000, -0.4000], requires_grad=True)
    """

    # A scaler must unscale by itself, and call step() only where the gradients are finite.
    _step_supports_amp_scaling = False
    sam: engine.SAM
    base_optimizer: torch.optim.Optimizer
    _block: contextlib.AbstractContextManager[None] | None
    _spent: list[tuple[weakref.ref[Tensor], int]]

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., torch.optim.Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        model: nn.Module | None = None,
        use_gc: bool = False,
        perturb_eps: float = 1e-12,
        **kwargs: Any,
    ) -> None:
        if isinstance(params, torch.optim.Optimizer) or not callable(base_optimizer):
            raise ThalwegError(
                f"params must be parameters and base_optimizer a class here, got "
                f"{type(params).__name__} and {type(base_optimizer).__name__}: with an instance, "
                "use thalweg.SAM"
            )
        if isinstance(params, nn.Module):
            raise ThalwegError(
                f"params must be parameters, got the module {type(params).__name__}: pass its "
                ".parameters()"
            )
        flag("adaptive", adaptive)
        if use_gc:
            raise ThalwegError(
                f"use_gc must be False, got {brief(use_gc)}: thalweg has no gradient "
                "centralization; omit it"
            )
        if not (isinstance(perturb_eps, Real) and 0 <= float(perturb_eps) <= 1e-8):
            raise ThalwegError(
                f"perturb_eps must be from 0 to 1e-8, got {brief(perturb_eps)}: thalweg takes "
                "g/‖g‖ as it is; omit it"
            )
        if kwargs.get("foreach", 0) is None:  # "not set"; a base may not know the word
            del kwargs["foreach"]
        base = base_optimizer(params, **kwargs)
        for group in base.param_groups:
            _same(adaptive, group)
        own = [group.pop("rho", rho) for group in base.param_groups]  # meant, not left over
        method = _ASAM if adaptive else None
        self.__setstate__({"sam": engine.SAM(base, model, rho, method=method)})
        for group, chosen in zip(base.param_groups, own, strict=True):
            group["rho"] = chosen

    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to w + ε, ε taken from the gradients there are, and clear those.

        Args:
            zero_grad: Without effect: the gradients are cleared in any case.

        Raises:
            ThalwegError: If a ``first_step`` is open already, or if there is no gradient.
        """
        if self._put_back():
            raise ThalwegError(
                "second_step() must follow first_step(), got first_step() again; the weights are "
                "back, and the gradients, taken at w + ε, are cleared: begin the step anew"
            )
        if not self._gradients():
            raise ThalwegError("first_step() needs gradients, got none: call backward() before it")
        block = self.sam.perturbed()
        block.__enter__()
        self._block = block

    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back and step the base optimizer with the SAM gradient.

        Args:
            zero_grad: Whether to clear the gradients afterwards.

        Raises:
            ThalwegError: If no ``first_step`` is open: none came, or the step was given up since.
        """
        if self._block is None:
            raise ThalwegError("second_step() needs an open first_step(), got none: call it before")
        self.step()  # by way of the method that a learning rate scheduler counts
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a whole step with a closure; or, after ``first_step``, its second half without one.

        Args:
            closure: Computes the loss, calls ``backward()`` and returns the loss.

        Returns:
            The loss; ``None`` without a closure.

        Raises:
            ThalwegError: If neither a closure came nor a ``first_step`` is open, or both.
        """
        loss = None
        if closure is None and self._block is not None:
            block, self._block = self._block, None
            block.__exit__(None, None, None)
            self.base_optimizer.step()
        elif self._put_back() or not callable(closure):
            raise ThalwegError(
                "step() needs a closure, or none after first_step(), got "
                f"{brief(closure)} out of turn; the weights are in place: call step(closure) "
                "alone, or first_step() and then second_step()"
            )
        elif self._fresh():
            self.first_step()
            try:
                with torch.enable_grad():
                    loss = closure()
                self.second_step()
            finally:
                self._put_back()
        else:
            self.zero_grad()
            loss = self.sam.step(closure)
        self._remember()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; where that throws a SAM gradient away, the step is given up."""
        if self._gradients():
            self._put_back()
        self.base_optimizer.zero_grad(set_to_none)
        self._remember()

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's checkpoint. A step that is open is given up.

        With ``adaptive``, its groups say so, for :func:`convert_checkpoint` to warn of.
        """
        self._put_back()
        saved = self.base_optimizer.state_dict()
        if self._adaptive:
            groups = [{**group, "adaptive": True} for group in saved["param_groups"]]
            saved = {**saved, "param_groups": groups}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint: the base's, ours or theirs; see :func:`convert_checkpoint`."""
        self._put_back()
        with warnings.catch_warnings():
            if self._adaptive:
                warnings.filterwarnings("ignore", message=f"the checkpoint {ADAPTIVE[:18]}")
            state_dict = convert_checkpoint(state_dict)
        self.base_optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the base optimizer one more group; it may have its own ``"rho"``."""
        self._put_back()
        _same(self._adaptive, param_group)
        self.base_optimizer.add_param_group(param_group)

    def __getattr__(self, name: str) -> Any:
        # state, param_groups, defaults and hooks: the base's, also after it has replaced them.
        if name.startswith("__") or "base_optimizer" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.base_optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        self._put_back()
        return {"sam": self.sam}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.sam = state["sam"]
        self.base_optimizer = self.sam.optimizer
        self._block, self._spent = None, []

    @property
    def _adaptive(self) -> bool:
        return self.sam.method == _ASAM

    def _gradients(self) -> list[Tensor]:
        held = (p.grad for group in self.param_groups for p in group["params"])
        return [g for g in held if g is not None]

    def _put_back(self) -> bool:
        """Give up an open step, and tell whether there was one."""
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(GeneratorExit, GeneratorExit(), None)
            self.base_optimizer.zero_grad()
        return block is not None

    def _remember(self) -> None:
        """Note the gradients there are: a step has used them, or they were set to zero."""
        self._spent = [(weakref.ref(g), g._version) for g in self._gradients()]

    def _fresh(self) -> bool:
        """Whether a ``backward()`` has come since the gradients were used or cleared."""
        spent = {id(reference()): version for reference, version in self._spent}
        return any(spent.get(id(g)) != g._version for g in self._gradients())


def _same(adaptive: bool, group: dict[str, Any]) -> None:
    own = group.pop("adaptive", adaptive)
    if bool(own) is not bool(adaptive):
        raise ThalwegError(
            f"adaptive must be the same for all param groups, got {adaptive!r} and {own!r} for one "
            "of them: leave it out there"
        )
