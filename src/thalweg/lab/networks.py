"""Smooth networks on all their data at every step, squared error: their minima fill a manifold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.lab import data
from thalweg.lab.problems import Params, Problem
from thalweg.lab.spectrum import leading

#: Eigenvectors whose eigenvalue is within this share of the largest form the leading cluster.
CLUSTER = 0.03


class Network(Problem):
    r"""The loss :math:`L = \frac{1}{2N} \sum_n \lVert f(x_n) - y_n \rVert^2` of a smooth network.

    The seed of a cell decides its data and its initialization. With more parameters than numbers
    to fit, the loss has a manifold of minima, all of them 0. (Cross-entropy has none: it falls
    for ever along the way to infinity.)

    Args:
        examples: How many examples there are.
        origin: Where the cells start instead of at initialization, as ``simulate`` gives it in
            ``final``: the row of a parameter belongs to the seed of that number.
        noise: What is added to every parameter at the origin is drawn from a normal distribution
            of this standard deviation, the same for all the cells of a seed.
        products: Hessian-vector products for one look at the spectrum.

    Raises:
        ThalwegError: If a number is out of range, or the origin is of another network.
    """

    elementwise = False
    inputs_first = True
    quantities: tuple[str, ...] = ("loss", "lambda_max", "grad_norm", "cluster_share", "top_share")

    def __init__(
        self,
        examples: int = 100,
        origin: dict[str, Any] | None = None,
        noise: float = 0.0,
        products: int = 12,
    ) -> None:
        self.examples = whole("examples", examples, at_least=1)
        for name, shape, _ in () if origin is None else self._forms():
            begin: Any = origin.get(name) if isinstance(origin, Mapping) else None
            if np.shape(begin)[1:] != shape:
                raise ThalwegError(
                    f"origin must have rows of shape {shape} under {name!r}, one for each seed, "
                    f"got {brief(origin if begin is None else begin)}: pass the final of a run of "
                    "the same network"
                )
        self.origin = origin
        self.noise = number("noise", noise, at_least=0)
        self.products = whole("products", products, at_least=2)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the weights, fan in first; each gets a bias behind it."""
        raise NotImplementedError

    def examples_of(self, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the inputs, examples first, and the targets (N, out) that belong to a seed."""
        raise NotImplementedError

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Return what the networks say of their inputs, (B, N, out)."""
        raise NotImplementedError

    def start(self, seeds: Tensor) -> Params:
        """Return the networks at initialization, uniform on ±1/√(fan in), or near the origin."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        streams = [np.random.default_rng([int(seed), 1]) for seed in unique]
        params = {}
        for name, shape, fan_in in self._forms():
            if self.origin is None:
                drawn = [s.uniform(-1, 1, shape) / fan_in**0.5 for s in streams]
            else:
                begin = self.origin[name]
                if unique.max(initial=0) >= len(begin):
                    raise ThalwegError(
                        f"seed must be the number of a row of the origin, from 0 to "
                        f"{len(begin) - 1}, got {unique.max()}"
                    )
                drawn = [
                    np.asarray(begin[seed]) + self.noise * s.standard_normal(shape)
                    for seed, s in zip(unique, streams, strict=True)
                ]
            params[name] = torch.tensor(np.stack(drawn)[cell], device=seeds.device)
        return params

    def _forms(self) -> Iterator[tuple[str, tuple[int, int], int]]:
        """Give name, shape and fan in of every parameter."""
        for name, (rows, columns) in self.shapes().items():
            yield f"weight{name}", (rows, columns), rows
            yield f"bias{name}", (1, columns), rows

    def stream(self, seeds: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return the function from step to data, which are the same at every step."""
        # Where every cell has diverged, none is left to look at; its data still have a shape.
        unique = np.unique(seeds.tolist() or [0])
        cell = np.searchsorted(unique, np.array(seeds.tolist(), dtype=int))
        pairs = [self.examples_of(int(seed)) for seed in unique]
        x, y = (
            torch.tensor(np.stack(part)[cell], dtype=self.dtype, device=seeds.device)
            for part in zip(*pairs, strict=True)
        )
        return lambda step: (x, y)

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return half the mean squared error of every cell on its data, (B,)."""
        x, y = batch
        error: Tensor = self.outputs(params, x) - y
        return (error * error).sum(2).mean(1) / 2

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the loss, (B,)."""
        return self.loss(params, self.stream(seeds)(0))

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return the loss, λ_max, ‖g‖ and how much of g lies along the leading eigenvectors.

        Args:
            params: The networks.
            seeds: Their seeds.

        Returns:
            ``loss``; ``lambda_max``; ``grad_norm``; ``cluster_share``, the share of ‖g‖ along the
            eigenvectors whose eigenvalue is within 3 % of the largest; ``top_share``, that along
            the first alone. Each (B,).
        """
        batch = self.stream(seeds)(0)
        g, found = leading(self, params, batch, self.products)
        size = torch.linalg.vector_norm(g, dim=1)
        along = (found.vectors @ g.unsqueeze(2)).squeeze(2) / size.unsqueeze(1)
        top = found.values[:, :1]
        near = found.values >= top - CLUSTER * top.abs()
        return {
            "loss": self.loss(params, batch),
            "lambda_max": top.squeeze(1),
            "grad_norm": size,
            "cluster_share": torch.linalg.vector_norm(along * near, dim=1),
            "top_share": along[:, 0].abs(),
        }


class TanhMLP(Network):
    """A perceptron 10-40-40-1 with tanh units that fits noise: x and y are normal, 2121 parameters.

    Example:
        >>> net, seeds = TanhMLP(), torch.tensor([0, 1])
        >>> tuple(net.loss(net.start(seeds), net.stream(seeds)(0)).shape)
        (2,)
    """

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the three weights."""
        return {"1": (10, 40), "2": (40, 40), "3": (40, 1)}

    def examples_of(self, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return inputs (N, 10) and targets (N, 1), all of them standard normal."""
        rng = np.random.default_rng([seed, 0])
        return rng.standard_normal((self.examples, 10)), rng.standard_normal((self.examples, 1))

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Return what the networks say of their inputs, (B, N, 1)."""
        x = torch.tanh(torch.baddbmm(params["bias1"], x, params["weight1"]))
        x = torch.tanh(torch.baddbmm(params["bias2"], x, params["weight2"]))
        return torch.baddbmm(params["bias3"], x, params["weight3"])


class TanhConvNet(Network):
    """A convolutional network with tanh units that fits real digits; targets are 1 and 0.

    Twelve filters of 4×4 pixels at every second place of the 8×8 image, 24 filters of 2×2 of the
    3×3 places that gives, and a linear layer of 10 outputs: 2350 parameters.

    Example:
        >>> net = TanhConvNet(examples=20)
        >>> sum(value.numel() for value in net.start(torch.tensor([0])).values())
        2350
    """

    def __init__(self, examples: int = 100, *args: Any, **options: Any) -> None:
        super().__init__(examples, *args, **options)
        if self.examples > data.TOTAL:
            raise ThalwegError(
                f"examples must be at most {data.TOTAL}, all the digits there are, got {examples}"
            )

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the filters as matrices, and of the linear layer."""
        return {"1": (16, 12), "2": (48, 24), "3": (96, 10)}

    def examples_of(self, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the 4×4 patches of some images, (N, 9, 16), and their targets, (N, 10)."""
        images, labels = data.digits()
        rows = np.random.default_rng([seed, 0]).permutation(data.TOTAL)[: self.examples]
        patches = images[rows].reshape(-1, 8, 8).unfold(1, 4, 2).unfold(2, 4, 2)
        targets = torch.nn.functional.one_hot(labels[rows], 10)
        return patches.reshape(-1, 9, 16).numpy(), targets.numpy()

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Return what the networks say of their images, (B, N, 10)."""
        cells, n = x.shape[:2]
        x = torch.tanh(torch.baddbmm(params["bias1"], x.flatten(1, 2), params["weight1"]))
        x = x.reshape(cells, n, 3, 3, -1)
        corners = [x[:, :, i : i + 2, j : j + 2] for i in (0, 1) for j in (0, 1)]
        x = torch.cat(corners, dim=-1).reshape(cells, n * 4, -1)
        x = torch.tanh(torch.baddbmm(params["bias2"], x, params["weight2"]))
        return torch.baddbmm(params["bias3"], x.reshape(cells, n, -1), params["weight3"])
