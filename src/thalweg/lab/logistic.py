"""Ridge logistic regression on real data: strongly convex, with curvatures that can be measured."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.lab import data
from thalweg.lab.problems import Params, Problem


class Logistic(Problem):
    r"""Logistic regression with a ridge, on standardized features and a constant.

    .. math:: L(w) = \frac1N \sum_n \log\bigl(1 + e^{-y_n\, x_n\cdot w}\bigr)
        + \tfrac12\alpha\lVert w\rVert^2, \qquad y_n = \pm 1

    The logistic part has its largest curvature at w = 0, where every example counts ¼, and none
    far away in most directions. So all curvatures lie between the ridge and :attr:`beta`, and
    neither can be improved. At the minimum they are :attr:`curvatures`.

    Args:
        name: ``"breast cancer"``, or two digits to tell apart, as ``"digits 3 8"``.
        ridge: α, above 0; the constant is under it, too.
        split: The seed of a division into four fifths for training and one fifth for the test; all
            examples are trained on (and "tested" on) if ``None``.
        away: The start is this far from the minimum, in a direction that the seed draws; it is
            the origin if ``None``.

    Raises:
        ThalwegError: If there are no such data, or a number is out of range.

    Example:
        >>> from thalweg.lab import simulate
        >>> problem = Logistic("breast cancer", ridge=0.1)
        >>> round(problem.beta, 2), round(float(problem.curvatures[0]), 2)
        (3.42, 0.64)
        >>> run = simulate(problem, eta=1.0, steps=300)
        >>> float(run.observed["distance"]) < 1e-9
        True
    """

    elementwise = False
    quantities: tuple[str, ...] = ("excess", "distance", "test_accuracy")

    def __init__(
        self, name: str, ridge: float, split: int | None = None, away: float | None = None
    ) -> None:
        self.name = name
        self.ridge = number("ridge", ridge, above=0)
        self.away = None if away is None else number("away", away, at_least=0)
        features, labels = _table(name)
        order = torch.arange(len(labels))
        train, test = order, order
        if split is not None:
            rng = np.random.default_rng([whole("split", split), 2])
            order = torch.tensor(rng.permutation(len(labels)))
            train, test = order[: 4 * len(order) // 5], order[4 * len(order) // 5 :]
        mean, spread = features[train].mean(0), features[train].std(0, correction=0)
        # A pixel that is never touched tells nothing: it becomes 0.
        scaled = (features - mean) / torch.where(spread > 0, spread, math.inf)
        scaled = torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1)
        #: Every example times its label: what is to be positive is their product with w.
        self.train, self.test = (scaled[p] * labels[p, None] for p in (train, test))
        at_origin = self._hessian(torch.zeros(scaled.shape[1], dtype=self.dtype))
        self.beta = float(torch.linalg.eigvalsh(at_origin)[-1])
        self.minimum = self._solve()
        self.lowest = self.loss({"w": self.minimum[None]})
        self.curvatures = torch.linalg.eigvalsh(self._hessian(self.minimum)).flip(0)

    def start(self, seeds: Tensor) -> Params:
        """Return ``{"w": (B, D)}``."""
        if self.away is None:
            return {"w": torch.zeros_like(self.minimum).repeat(len(seeds), 1)}
        rows = int(seeds.max()) + 1 if len(seeds) else 1
        draws = np.random.default_rng(1).standard_normal((rows, len(self.minimum)))
        draws /= np.linalg.norm(draws, axis=1, keepdims=True)
        return {"w": self.minimum + self.away * torch.tensor(draws)[seeds.cpu()]}

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean of log(1 + exp(-y x·w)) and the ridge, (B,)."""
        w = params["w"]
        value: Tensor = torch.nn.functional.softplus(-w @ self.train.T).mean(-1)
        return value + self.ridge * (w * w).sum(-1) / 2

    def gradient(self, params: Params, batch: Any = None) -> Params:
        """Return the mean of -σ(-y x·w) y x, and αw."""
        w = params["w"]
        wrong = torch.sigmoid(-w @ self.train.T)
        return {"w": torch.addmm(w, wrong, self.train, beta=self.ridge, alpha=-1 / len(self.train))}

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return loss above the minimum, distance from it, and the share of test examples right."""
        w = params["w"]
        return {
            "excess": self.loss(params) - self.lowest,
            "distance": torch.linalg.vector_norm(w - self.minimum, dim=-1),
            "test_accuracy": (w @ self.test.T > 0).to(self.dtype).mean(-1),
        }

    def _hessian(self, w: Tensor) -> Tensor:
        share = torch.sigmoid(self.train @ w)
        bent = self.train.T @ ((share * (1 - share)).unsqueeze(-1) * self.train)
        return bent / len(self.train) + self.ridge * torch.eye(len(w), dtype=self.dtype)

    def _solve(self) -> Tensor:
        """The minimum, by Newton's method from the origin."""
        w = torch.zeros(self.train.shape[1], dtype=self.dtype)
        for _ in range(50):
            g = self.gradient({"w": w[None]})["w"][0]
            w = w - torch.linalg.solve(self._hessian(w), g)
        return w


def _table(name: str) -> tuple[Tensor, Tensor]:
    """Features (N, D), float64, and labels ±1 (N,)."""
    if name == "breast cancer":
        features, labels = data.breast_cancer()
        return features, 2.0 * labels.to(torch.float64) - 1
    pair = re.fullmatch(r"digits (\d) (\d)", str(name))
    if pair is None or pair[1] == pair[2]:
        raise ThalwegError(
            f'name must be "breast cancer" or two digits, as "digits 3 8", got {brief(name)}'
        )
    images, labels = data.digits()
    one, other = (labels == int(digit) for digit in pair.groups())
    chosen = one | other
    return images[chosen].to(torch.float64), torch.where(one, 1.0, -1.0)[chosen].to(torch.float64)
