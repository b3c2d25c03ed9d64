"""The problems: a loss with its start. Every tensor has the cells of a grid first.

To add a problem, write one short class: the parameters at the start, the loss, and what to
observe. The gradient comes by differentiation unless a closed form is written too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number

Params = dict[str, Tensor]


class Problem:
    """A loss with its start. Subclasses give ``start`` and ``loss``, and usually ``observe``.

    B is the number of cells. Cells never interact: entry b of the loss depends on entry b of the
    parameters alone.

    Attributes:
        dtype: Floating-point type of the parameters.
        elementwise: Whether a step is arithmetic on single numbers, which pays to compile.
        inputs_first: Whether the matrices of a network have a row for each input, and biases one
            row; else outputs come first, as in torch's layers. Parts that go by fans or rows ask.
        eta: The step size the problem was set up for, or ``None``.
        momentum: Its momentum.
        quantities: The names of what ``observe`` returns.

    Example:
        >>> class Valley(Problem):
        ...     quantities = ("y",)
        ...     def start(self, seeds):
        ...         one = torch.ones(len(seeds), dtype=self.dtype)
        ...         return {"x": 0.3 * one, "y": 2 * one}
        ...     def loss(self, params, batch=None):
        ...         return params["x"] ** 2 * (1 + params["y"] ** 2) / 2
        ...     def observe(self, params, seeds):
        ...         return {"y": params["y"]}
        >>> from thalweg.lab import simulate
        >>> run = simulate(Valley(), eta=0.05, rho=[0.0, 0.1], steps=2000)
        >>> (run.observed["y"] < 1).tolist()  # gradient descent stays, SAM walks down the valley
        [False, True]
    """

    dtype: torch.dtype = torch.float64
    elementwise: bool = True
    inputs_first: bool = False
    eta: float | None = None
    momentum: float = 0.0
    quantities: tuple[str, ...] = ()

    def start(self, seeds: Tensor) -> Params:
        """Return the parameters at the start: a dict of tensors (B, ...), one seed per cell."""
        raise self._lacks("start(self, seeds)", "the parameters at the start, a dict of tensors")

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the loss of every cell, (B,), on a minibatch where there are minibatches."""
        raise self._lacks("loss(self, params, batch=None)", "the loss of every cell")

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the quantities worth watching, each (B,)."""
        return {}

    def stream(self, seeds: Tensor) -> Callable[[int], Any] | None:
        """Return a function from the step to its minibatch, or ``None`` if there are none."""
        return None

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss over all the data, (B,)."""
        return self.loss(params)

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the gradient of every cell's loss with respect to its own parameters."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            total = self.loss(leaves, batch).sum()
        if not total.requires_grad:
            raise ThalwegError(
                f"{type(self).__name__}.loss() must depend on the parameters, got one without a "
                "graph: make it of them by operations of torch, or write gradient(params, batch)"
            )
        # Of a parameter that the loss does not see it is 0.
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def _lacks(self, method: str, gives: str) -> ThalwegError:
        name = type(self).__name__
        return ThalwegError(
            f"{name} must have a method {method}, got none: write one that returns {gives}, the "
            "cells first"
        )


class Quadratic(Problem):
    r"""The convex problem: :math:`L(w) = \tfrac12 \sum_i \lambda_i w_i^2`.

    Args:
        eigenvalues: The curvatures λ_i, at least one.
        start: The point to start from, as many numbers; all ones unless told otherwise.

    Raises:
        ThalwegError: If the numbers are not numbers or the lengths differ.

    Example:
        >>> q = Quadratic([4.0, 1.0], start=[1.0, 2.0])
        >>> float(q.loss(q.start(torch.tensor([0]))))
        4.0
    """

    quantities: tuple[str, ...] = ("distance",)

    def __init__(self, eigenvalues: Sequence[float], start: Sequence[float] | None = None) -> None:
        self.eigenvalues = numbers("eigenvalues", eigenvalues)
        alike = (1.0,) * len(self.eigenvalues)
        self.point = alike if start is None else numbers("start", start)
        if len(self.point) != len(self.eigenvalues):
            raise ThalwegError(
                f"start must have one number for each eigenvalue, got {len(self.point)} numbers "
                f"for {len(self.eigenvalues)} eigenvalues"
            )

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        point = torch.tensor(self.point, dtype=self.dtype, device=seeds.device)
        return {"w": point.repeat(len(seeds), 1)}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return ½ Σ λ w², (B,)."""
        w = params["w"]
        return (w.new_tensor(self.eigenvalues) * w * w).sum(-1) / 2

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return λ w."""
        return {"w": params["w"] * params["w"].new_tensor(self.eigenvalues)}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the distance to the minimum, ‖w‖."""
        return {"distance": torch.linalg.vector_norm(params["w"], dim=-1)}


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return numbers that came in a list, a tuple or an array of one dimension.

    Args:
        name: What the caller calls them.
        values: The numbers, at least one.

    Raises:
        ThalwegError: If they are something else.

    Example:
        >>> numbers("eigenvalues", [4, 1.0])
        (4.0, 1.0)
    """
    try:
        found = () if isinstance(values, (str, bytes, dict)) else tuple(values)
    except TypeError:
        found = ()
    if not found:
        remedy = f": write [{values}]" if isinstance(values, float | int) else ""
        raise ThalwegError(
            f"{name} must be a list of numbers, at least one, got {brief(values)}{remedy}"
        )
    return tuple(number(f"each of {name}", value) for value in found)


class Quartic(Problem):
    r"""The loss of fourth degree in one variable: :math:`L(w) = \tfrac14 w^4`.

    Its curvature 3w² vanishes at the minimum and has no bound. The gradient at w + ε is
    (w + ρ)³, so a bounce of amplitude a needs :math:`\eta(a + \rho)^3 = 2a`. The smallest value
    of (a + ρ)³/a is 27ρ²/4, at a = ρ/2: there is no bounce, and every start diverges, above

    .. math:: \rho^* = \sqrt{8 / (27\eta)}

    Args:
        start: The point to start from.

    Raises:
        ThalwegError: If the start is no number.

    Example:
        >>> quartic = Quartic(2.0)
        >>> w = quartic.start(torch.tensor([0]))
        >>> float(quartic.loss(w)), float(quartic.gradient(w)["w"])
        (4.0, 8.0)
    """

    def __init__(self, start: float) -> None:
        self.point = number("start", start)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B,)}``."""
        return {"w": torch.full(seeds.shape, self.point, dtype=self.dtype, device=seeds.device)}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return w⁴/4, (B,)."""
        return params["w"] ** 4 / 4

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return w³."""
        return {"w": params["w"] ** 3}


class SingleNeuron(Problem):
    r"""The non-convex problem with a continuum of minima: :math:`L(x, y) = \ell(xy)`.

    Every point with xy = 0 is a minimum. Along the line x = 0 the curvature is y², so the flattest
    minimum is the origin.

    Args:
        loss: ``"log_cosh"`` for ℓ(z) = log cosh z, ``"sqrt"`` for ℓ(z) = √(1 + z²).
        start: The point (x, y) to start from.
        loss_scale: The loss is multiplied by this.

    Raises:
        ThalwegError: If the loss has another name, or a number is not one.

    Example:
        >>> n = SingleNeuron("sqrt", start=(2.0, 0.0))
        >>> float(n.loss(n.start(torch.tensor([0]))))
        1.0
    """

    quantities: tuple[str, ...] = ("y_squared",)

    def __init__(
        self,
        loss: Literal["log_cosh", "sqrt"] = "log_cosh",
        start: tuple[float, float] = (1.0, 61**0.5),
        loss_scale: float = 1.0,
    ) -> None:
        if loss not in ("log_cosh", "sqrt"):
            raise ThalwegError(f'loss must be "log_cosh" or "sqrt", got {brief(loss)}')
        self.link = loss
        try:
            x0, y0 = start
        except (TypeError, ValueError):
            raise ThalwegError(
                f"start must be a pair of numbers (x, y), got {brief(start)}"
            ) from None
        self.x0, self.y0 = number("start", x0), number("start", y0)
        self.loss_scale = number("loss_scale", loss_scale, above=0)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"x": (B,), "y": (B,)}``."""
        like = torch.ones(len(seeds), dtype=self.dtype, device=seeds.device)
        return {"x": self.x0 * like, "y": self.y0 * like}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return ℓ(xy), (B,)."""
        z = params["x"] * params["y"]
        if self.link == "sqrt":
            return self.loss_scale * torch.sqrt(1 + z * z)
        # As ln(e^z + e^-z) - ln 2, which does not overflow.
        return self.loss_scale * (torch.logaddexp(z, -z) - math.log(2))

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return ℓ'(xy)·(y, x)."""
        x, y = params["x"], params["y"]
        z = x * y
        slope = z / torch.sqrt(1 + z * z) if self.link == "sqrt" else _tanh(z)
        if self.loss_scale != 1:
            slope = self.loss_scale * slope
        return {"x": slope * y, "y": slope * x}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return y², the curvature at the minimum (0, y)."""
        return {"y_squared": params["y"] * params["y"]}


def _tanh(z: Tensor) -> Tensor:
    """Tanh to the last digits, near 0 too, at a fraction of the cost of torch's own."""
    if torch.compiler.is_compiling():  # compiled, expm1 has no digits left near 0
        s = z * z
        near = z * (1 - s * (1 / 3 - s * (2 / 15 - s * (17 / 315 - s * (62 / 2835 - s / 112.825)))))
        return torch.where(s < 0.0064, near, 2 * torch.sigmoid(2 * z) - 1)
    e = torch.expm1((2 * z).clamp_(-40, 40))
    return e / (e + 2)
