"""From minima of networks, the ways of SAM with many settings, and the clock they go by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg import theory
from thalweg.errors import ThalwegError
from thalweg.lab.claims.claim import Settings
from thalweg.lab.networks import Network, TanhConvNet, TanhMLP
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Check

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
    "near": 1e-12,
}
CONV: Settings = {
    "kind": "conv",
    "examples": 20,
    "search_eta": 0.3,
    "search_momentum": 0.9,
    "search_steps": 1_000,
    "cells": CELLS,
    "levels": [0.5, 0.6, 0.7],
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
        minima: The parameters where the searches ended, a row for every seed.
        seeds: Those whose search came to a minimum.
    """

    name: str
    settings: list[list[float]]
    seen: dict[str, Array]
    tau: Array
    every: int
    minima: dict[str, Array]
    seeds: list[int] = field(default_factory=lambda: [0])

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

    def last(self) -> Array:
        """Return the last τ on every clock, 0 where it never ran; (settings, minima)."""
        last: Array = np.where(np.isfinite(self.tau), self.tau, 0.0).max(-1)
        return last

    def others(self, covered: Array) -> dict[str, Array]:
        """Return the clocks with one dial left out, for each in which the settings differ.

        Args:
            covered: Which settings are compared.

        Returns:
            By what was done to the dial, clocks of the shape of ``tau``, NaN where that is.
        """
        cells, found = np.array(self.settings), {}
        for k, dial in enumerate(("p", "η", "ρ")):
            values = np.unique(cells[covered, k])
            if values.size < 2:
                continue  # left out or not, it is the same to all
            same = cells.copy()
            same[:, k] = values[-1] if k else 1.0
            found[f"{dial} = {same[0, k]:g} for all"] = self._clocks(clock, same)
            if dial == "η":
                found["its limit η → 0"] = self._clocks(flow_clock, cells)
        return {name: np.where(np.isfinite(self.tau), c, np.nan) for name, c in found.items()}

    def _clocks(self, kind: Any, cells: Array) -> Array:
        curvature = self.seen["lambda_max"]
        return np.stack([kind(c, curvature[i], self.every) for i, c in enumerate(cells.tolist())])

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
    minima, chosen = _search(part)
    net = kind(part["examples"], origin=minima, noise=noise)
    power, eta, rho = np.array(part["cells"]).T[..., None]
    run = simulate(
        net,
        eta=eta,
        rho=rho,
        power=power,
        seed=np.array(chosen),
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
        minima,
        chosen,
    )


def _search(part: Settings) -> tuple[dict[str, Array], list[int]]:
    """Descend from seed after seed until there are minima enough; some descents diverge."""
    kind, name = NETWORKS[part["kind"]]
    ends: list[dict[str, Array]] = []
    chosen: list[int] = []
    tried = 0
    while len(chosen) < part["minima"]:
        if tried > 3 * part["minima"]:
            raise ThalwegError(
                f"search_eta must let descents of the {name} settle, got {part['search_eta']:g}, "
                f"with which {len(chosen)} of {tried} did: use a smaller one"
            )
        seeds = np.arange(tried, tried + part["minima"] - len(chosen))
        tried += len(seeds)
        found = simulate(
            kind(part["examples"]),
            eta=part["search_eta"],
            momentum=part["search_momentum"],
            steps=part["search_steps"],
            seed=seeds,
            observe={},
            compile=False,
            progress=f"clock: minima, {name}",
        )
        ends.append(found.final)
        # Outputs of 0 have a loss of about a half: above a tenth of it nothing was fitted.
        chosen += seeds[found.loss < 0.05].tolist()
    return {k: np.concatenate([end[k] for end in ends]) for k in ends[0]}, chosen


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


def flow_clock(cell: list[float], curvature: Array, every: int) -> Array:
    """Return the clock of the limit of small step size, which has 2 for 2 − ηλ.

    Args:
        cell: Power, η and ρ.
        curvature: λ_max, (minima, looks).
        every: Steps from one look to the next.

    Returns:
        The clock, (minima, looks); NaN from where λ_max is not positive.
    """
    power, eta, rho = cell
    held = np.where(curvature > 0, curvature, np.nan)
    speed = 2 / (eta * held**4) * (eta * rho * held**2 / 2) ** (2 / power)
    clock = np.zeros(held.shape)
    np.cumsum(every * (speed[:, 1:] + speed[:, :-1]) / 2, axis=-1, out=clock[:, 1:])
    return clock


def thrown(part: Settings, went: Ways, noise: float) -> Check:
    """Check that a power above 1 looks the further uphill the nearer it starts to a minimum.

    Args:
        part: The network, and how near the nearer start is.
        went: From which minima; the first one is taken.
        noise: How near the other start is.

    Returns:
        The check.
    """
    power, eta, rho, steps = 1.25, 0.1, 0.03, 10
    left, first = np.empty((2, 2)), np.empty(2)
    for i, spread in enumerate((noise, part["near"])):
        net = NETWORKS[part["kind"]][0](part["examples"], origin=went.minima, noise=spread)
        run = simulate(
            net,
            eta=eta,
            rho=rho,
            power=[1.0, power],
            steps=steps,
            seed=went.seeds[0],
            lengths=True,
            observe={"end": History("lambda_max", steps), "slope": History("grad_norm", steps)},
            compile=False,
            progress="",
        )
        assert run.lengths is not None
        left[i] = run.observed["end"][:, -1] / run.observed["end"][:, 0]
        law = rho * run.observed["slope"][1, 0] ** (1 - power)
        first[i] = float(run.lengths[1, 0]) / law
    return Check(
        f"{went.name}: share of λ_max left after {steps} steps, p = 1 and p = {power:g}, from "
        f"{noise:g} and from {part['near']:g} beside the minimum",
        predicted="p = 1: the same; p = 1.25: the first ‖ε‖ is ρ‖g‖^(−¼), without a bound, and "
        "throws the iterate out of the valley",
        measured=f"p = 1: {left[0, 0]:.3f} and {left[1, 0]:.3f}; p = {power:g}: {left[0, 1]:.3f} "
        f"and {left[1, 1]:.3f}; first ‖ε‖ over ρ‖g‖^(−¼): {first[0]:.6f} and {first[1]:.6f}",
        tolerance="p = 1 within .05; p = 1.25 from the nearer start below .7",
        holds=bool(abs(left[0, 0] - left[1, 0]) < 0.05 and left[1, 1] < 0.7),
    )
