"""From minima of networks, the ways of SAM with many settings, and the clock they go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.networks import Network, TanhConvNet, TanhMLP
from thalweg.lab.observe import Final, History
from thalweg.lab.simulate import simulate

Array = np.ndarray[Any, Any]
NETWORKS: dict[str, tuple[type[Network], str]] = {
    "mlp": (TanhMLP, "tanh MLP"),
    "conv": (TanhConvNet, "ConvNet on digits"),
}

#: power, η, ρ; each has its bounce and ε together shorter than .1 at the start
CELLS = [
    [0.5, 0.1, 0.03],
    [0.75, 0.1, 0.03],
    [0.75, 0.05, 0.03],
    [1.0, 0.1, 0.03],
    [1.0, 0.1, 0.015],
    [1.0, 0.05, 0.03],
]
MLP: Settings = {
    "kind": "mlp",
    "examples": 100,
    "search_eta": 0.15,
    "search_momentum": 0.0,
    "cells": [*CELLS, [1.25, 0.1, 0.02]],
    "levels": [0.5, 0.6, 0.7],
    "tolerance": 0.2,
    "decides": True,
    "near": 1e-12,
}
CONV: Settings = {
    "kind": "conv",
    "examples": 20,
    "search_eta": 0.3,
    "search_momentum": 0.9,
    "search_steps": 1_000,
    "cells": CELLS,
    "levels": [0.5, 0.6],
    "tolerance": 0.3,
    "decides": True,
    "near": 0.0,
}


@dataclass(frozen=True)
class Ways:
    """What one kind of network did on its way from its minima.

    Attributes:
        name: The network, in words.
        settings: Power, η and ρ of every setting.
        seen: What was observed: settings first, then minima, then looks.
        tau: The clock, of the same shape.
        every: Steps from one look to the next.
        minima: The parameters at the minima.
    """

    name: str
    settings: list[list[float]]
    seen: dict[str, Array]
    tau: Array
    every: int
    minima: dict[str, Array]

    def passage(self, level: float, clock: Array) -> Array:
        """Return when λ_max falls below a share of its start, NaN if never; (settings, minima)."""
        curvature = self.seen["lambda_max"]
        below = (curvature < level * curvature[..., :1]) & np.isfinite(clock)
        k = below.argmax(-1)[..., None]
        ends = [np.take_along_axis(curvature, np.maximum(i, 0), -1) for i in (k - 1, k)]
        times = [np.take_along_axis(clock, np.maximum(i, 0), -1) for i in (k - 1, k)]
        fall = np.where(ends[0] > ends[1], ends[0] - ends[1], np.inf)
        share = (ends[0] - level * curvature[..., :1]) / fall
        when = times[0] + share * (times[1] - times[0])
        return np.where(below.any(-1), when[..., 0], np.nan)

    def reach(self) -> Array:
        """Return how long bounce and ε are together at the start; (settings, minima)."""
        start = self.seen["lambda_max"][..., 0]
        power, eta, rho = np.array(self.settings).T[..., None]
        held = np.where(eta * start < 2, start, np.nan)
        far: Array = np.full(start.shape, np.inf)
        known = np.isfinite(held)
        args = [np.broadcast_to(a, start.shape)[known] for a in (eta, rho, held, power)]
        far[known] = theory.bounce_amplitude(*args) + theory.effective_radius(*args)
        return far


def ways(part: Settings, every: int, noise: float) -> Ways:
    """Find one minimum a seed, then run every setting from each.

    Args:
        part: The network, how its minima are searched, and the settings of SAM.
        every: Steps from one look at the spectrum to the next.
        noise: Standard deviation of what is added to every parameter at a minimum.

    Returns:
        What was seen on the way.
    """
    kind, name = NETWORKS[part["kind"]]
    chosen = np.arange(part["minima"])
    found = simulate(
        kind(part["examples"]),
        eta=part["search_eta"],
        momentum=part["search_momentum"],
        steps=part["search_steps"],
        seed=chosen,
        observe={"end": Final("lambda_max", part["search_steps"])},
        compile=False,
        progress=f"clock: minima, {name}",
    )
    net = kind(part["examples"], origin=found.final, noise=noise)
    power, eta, rho = np.array(part["cells"]).T[..., None]
    run = simulate(
        net,
        eta=eta,
        rho=rho,
        power=power,
        seed=chosen,
        steps=part["steps"],
        observe={q: History(q, every) for q in net.quantities},
        compile=False,
        progress=f"clock: {name}",
    )
    curvature = run.observed["lambda_max"]
    return Ways(
        f"{name}, {part['examples']} examples",
        part["cells"],
        run.observed,
        np.stack([clock(cell, curvature[i], every) for i, cell in enumerate(part["cells"])]),
        every,
        found.final,
    )


def clock(cell: list[float], curvature: Array, every: int) -> Array:
    """Return τ at every look, NaN from where the law has no stable bounce.

    Args:
        cell: Power, η and ρ.
        curvature: λ_max, (minima, looks).
        every: Steps from one look to the next.

    Returns:
        τ, (minima, looks).
    """
    power, eta, rho = cell
    tau = np.full(curvature.shape, np.nan)
    within = (curvature > 0) & (eta * curvature < 2) & (power * (2 - eta * curvature) < 2)
    for row, ok, out in zip(curvature, within, tau, strict=True):
        n = len(ok) if ok.all() else int(ok.argmin())
        if n:
            out[:n] = theory.drift_clock(eta, rho, row[:n], power, every=every)
    return tau
