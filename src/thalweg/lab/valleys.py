"""Problems with a valley: their minima fill a line or a plane, and its curvature changes along it.

Each starts from one point, or from a list of points, of which the cell of seed k takes the k-th.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number
from thalweg.lab.problems import Params, Problem

Point = Sequence[float]

#: F₁ and F₂ of the toy, multiplied out: level, slope and bend at u = 0, one row each.
_LEVEL = torch.tensor([4.0, 1.6], dtype=torch.float64)
_SLOPE = torch.tensor([[-2.0, 0.0], [0.6, -0.6]], dtype=torch.float64)
_BEND = torch.tensor([[1.0, 0.5], [0.3, 0.3]], dtype=torch.float64)


class Valley(Problem):
    r"""A valley along x = 0 that narrows with y: :math:`L(x, y) = \tfrac12 x^2 (1 + y^2)`.

    The curvature of the minimum (0, y) is 1 + y², so the flattest is the origin. The loss has the
    Polyak-Lojasiewicz property with μ = 1.

    Args:
        start: The point (x, y) to start from, or a list of points.

    Raises:
        ThalwegError: If the start is neither.

    Example:
        >>> valley = Valley(start=(2.0, 1.0))
        >>> float(valley.loss(valley.start(torch.tensor([0]))))
        4.0
    """

    quantities: tuple[str, ...] = ("y",)

    def __init__(self, start: Point | Sequence[Point] = (0.3, 3.0)) -> None:
        self.points = _points(start, 2)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"x": (B,), "y": (B,)}``."""
        x, y = _chosen(self.points, seeds, self.dtype).unbind(-1)
        return {"x": x.clone(), "y": y.clone()}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return ½ x² (1 + y²), (B,)."""
        x, y = params["x"], params["y"]
        return x * x * (1 + y * y) / 2

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return (x (1 + y²), x² y)."""
        x, y = params["x"], params["y"]
        return {"x": x * (1 + y * y), "y": x * x * y}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return x and y."""
        return {"x": params["x"], "y": params["y"]}


class Bend(Valley):
    r"""A valley along a parabola: :math:`L(x, y) = \tfrac12 (y - x^2)^2`.

    The curvature of the minimum (x, x²) is 1 + 4x², so the flattest is the origin. The loss has the
    Polyak-Lojasiewicz property with μ = 1.

    Args:
        start: The point (x, y) to start from, or a list of points.

    Raises:
        ThalwegError: If the start is neither.

    Example:
        >>> bend = Bend(start=(2.0, 3.0))
        >>> float(bend.loss(bend.start(torch.tensor([0]))))
        0.5
    """

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return ½ (y − x²)², (B,)."""
        off = params["y"] - params["x"] ** 2
        return off * off / 2

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return (y − x²)·(−2x, 1)."""
        x, off = params["x"], params["y"] - params["x"] ** 2
        return {"x": -2 * x * off, "y": off}


class Ripples(Problem):
    r"""A rippled bowl in one dimension: :math:`L(x) = x^2 + 3 \sin^2 x`.

    It is not convex, but its smoothness is 8, it has no minimum but 0, and the
    Polyak-Lojasiewicz property with μ = 1/32 (Karimi, Nutini and Schmidt, 2016).

    Args:
        start: The point x to start from, or a list of points.

    Raises:
        ThalwegError: If the start is neither.

    Example:
        >>> ripples = Ripples(start=[[0.0], [3.0]])
        >>> ripples.loss(ripples.start(torch.tensor([1, 0]))).round(decimals=2).tolist()
        [9.06, 0.0]
    """

    quantities: tuple[str, ...] = ("x",)

    def __init__(self, start: Point | Sequence[Point] = (3.0,)) -> None:
        self.points = _points(start, 1)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"x": (B,)}``."""
        return {"x": _chosen(self.points, seeds, self.dtype)[:, 0].clone()}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return x² + 3 sin² x, (B,)."""
        x = params["x"]
        return x * x + 3 * torch.sin(x) ** 2

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return 2x + 3 sin 2x."""
        x = params["x"]
        return {"x": 2 * x + 3 * torch.sin(2 * x)}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return x."""
        return {"x": params["x"]}


class TwoCurvatures(Problem):
    r"""A plane of minima with two curvatures: :math:`L(u, z) = F_1(u) z_1^2 + F_2(u) z_2^2`.

    .. math:: F_1 = 3 + (u_1 - 1)^2 + \tfrac12 u_2^2, \qquad
        F_2 = 1 + \tfrac{3}{10} (u_1 + 1)^2 + \tfrac{3}{10} (u_2 - 1)^2

    At the minimum (u, 0) the Hessian's eigenvalues are 2F₁, 2F₂, 0 and 0. The largest is least at
    u = (1, 0), their sum at (7/13, 3/8). L is the mean of two examples, 2F₁z₁² and 2F₂z₂².

    Args:
        u: Where to start in the plane: a point, or a list of points.
        z: Where to start across it: a point, or a list of points.
        examples: ``"all"`` for the full batch; ``"one"`` for a step on one example, drawn for every
            seed and step; ``"each"`` for a step on both, each with an ascent of its own.

    Raises:
        ThalwegError: If a start is not a pair of numbers, or ``examples`` has another name.

    Example:
        >>> toy = TwoCurvatures(u=(1.0, 1.0), z=(1.0, 1.0))
        >>> float(toy.loss(toy.start(torch.tensor([0]))))  # 3.5 + 2.2
        5.7
    """

    quantities: tuple[str, ...] = ("u1", "u2", "lambda_max", "trace")

    def __init__(
        self,
        u: Point | Sequence[Point] = (-0.5, 1.0),
        z: Point | Sequence[Point] = (0.1, 0.1),
        examples: Literal["all", "one", "each"] = "all",
    ) -> None:
        if examples not in ("all", "one", "each"):
            raise ThalwegError(f'examples must be "all", "one" or "each", got {brief(examples)}')
        self.u, self.z = _points(u, 2), _points(z, 2)
        self.examples = examples

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"u": (B, 2), "z": (B, 2)}``."""
        return {
            k: _chosen(points, seeds, self.dtype) for k, points in (("u", self.u), ("z", self.z))
        }

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the loss, (B,); of one example if ``batch``, its weights (B, 2), is given."""
        each = curvatures(params["u"]) * params["z"] ** 2
        return (each if batch is None else each * batch).sum(-1)

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return Σ z_i² ∇F_i and 2 F_i z_i."""
        u, z = params["u"], params["z"]
        weighted = z if batch is None else z * batch
        square = weighted * z
        along = torch.addcmul(square @ _SLOPE.to(u), u, square @ (2 * _BEND).to(u))
        return {"u": along, "z": 2 * curvatures(u) * weighted}

    def stream(self, seeds: Tensor) -> Callable[[int], Any] | None:
        """Return the function from step to weights of the examples, ``None`` for the full batch."""
        if self.examples == "all":
            return None
        weights = 2 * torch.eye(2, dtype=self.dtype, device=seeds.device)
        if self.examples == "each":
            return lambda step: [row.expand(len(seeds), 2) for row in weights]
        drawn: dict[int, Tensor] = {}

        def one(step: int) -> Tensor:
            block, turn = divmod(step, 1024)
            if block not in drawn:
                drawn.clear()
                rows = [np.random.default_rng([s, block]).integers(2, size=1024) for s in cells]
                drawn[block] = torch.tensor(np.stack(rows), device=seeds.device)
            return weights[drawn[block][:, turn]]

        cells = seeds.tolist()
        return one

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return u and, of the Hessian at the minimum (u, 0), the top eigenvalue and the trace."""
        values = 2 * curvatures(params["u"])
        u1, u2 = params["u"].unbind(-1)
        return {"u1": u1, "u2": u2, "lambda_max": values.amax(-1), "trace": values.sum(-1)}


def curvatures(u: Tensor) -> Tensor:
    """Return F₁ and F₂ of :class:`TwoCurvatures`.

    Args:
        u: Points of the plane, (..., 2).

    Returns:
        Both, (..., 2).

    Example:
        >>> curvatures(torch.tensor([1.0, 1.0])).tolist()
        [3.5, 2.200000047683716]
    """
    return _LEVEL.to(u) + u @ _SLOPE.T.to(u) + (u * u) @ _BEND.T.to(u)


def _points(start: Any, size: int) -> list[tuple[float, ...]]:
    """A point, or a list of points, as a list of points of so many numbers."""
    try:
        rows = [list(row) for row in (start if hasattr(start[0], "__len__") else [start])]
    except (TypeError, IndexError, KeyError):
        rows = []
    if not rows or any(len(row) != size for row in rows):
        raise ThalwegError(
            f"start must be a point of {size} numbers, or a list of such points, got {brief(start)}"
        )
    return [tuple(number("start", value) for value in row) for row in rows]


def _chosen(points: list[tuple[float, ...]], seeds: Tensor, dtype: torch.dtype) -> Tensor:
    """The points of the cells, (B, size): one for all, or the seed's."""
    table = torch.tensor(points, dtype=dtype, device=seeds.device)
    if len(points) == 1:
        return table.repeat(len(seeds), 1)
    if int(seeds.max()) >= len(points):
        raise ThalwegError(
            f"seed must be the number of one of the {len(points)} starting points (from 0), got "
            f"{int(seeds.max())}"
        )
    return table[seeds]
