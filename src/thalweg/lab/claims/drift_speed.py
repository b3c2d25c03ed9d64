"""How fast the drift goes, for every power and with momentum, against its law: for ``drift``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History, Observer
from thalweg.lab.problems import SingleNeuron
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.lab.valleys import Valley
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role

_ROLES: dict[float, Role] = {
    0.5: "p=0.5",
    0.75: "p=0.75",
    1.0: "p=1",
    1.5: "p=1.5",
    2.0: "p=2",
}


def legs(settings: Settings) -> tuple[list[Check], list[Axes], str]:
    """Time the drift on the single neuron from one curvature to a smaller one, leg by leg.

    Args:
        settings: Those of the claim.

    Returns:
        The checks, the figures, and the range of measured over predicted.
    """
    power, eta, rho, far, near = np.array(settings["legs"], dtype=float).T
    predicted = np.array(
        [
            theory.single_neuron_drift_steps(*leg)
            for leg in zip(eta, rho, far, near, power, strict=True)
        ]
    )
    # Start on the bounce itself, a little above the first mark.
    start = 1.02 * far
    across = theory.bounce_amplitude(eta, rho, start, power)
    run = simulate(
        _Starts(np.stack([across, start**0.5], axis=-1)),
        eta=eta,
        rho=rho,
        power=power,
        seed=np.arange(len(eta)),
        steps=int(1.2 * predicted.max()) + 500,
        observe={"s": History("y_squared")},
        compile=False,
        progress="drift: the speed",
    )
    seen = run.observed["s"]
    took = np.array([_passage(*row) for row in zip(seen, far, near, strict=True)])
    plain = _plain(power, eta, rho, far, near)
    reach = np.maximum(_reach(power, eta, rho, far), _reach(power, eta, rho, near))
    # What the law leaves out is of second order in the reach; the count has its own grain.
    tolerance = reach**2 + 3 / predicted
    ratio = took / predicted
    checks = [
        Check(
            f"steps from y² = {far[i]:g} to {near[i]:g} at p = {power[i]:g}, η = {eta[i]:g}, "
            f"ρ = {rho[i]:g}",
            predicted=f"{predicted[i]:.5g} ({plain[i]:.5g} without the factor of finite step size)",
            measured=f"{took[i]:.5g}, {ratio[i]:.4f} of the law, {took[i] / plain[i]:.3f} without "
            "the factor",
            tolerance=f"{tolerance[i]:.2g} of it: ((a+r)y)² and three steps",
            holds=bool(abs(ratio[i] - 1) <= tolerance[i]),
        )
        for i in range(len(eta))
    ]
    found = f"{ratio.min():.4f} to {ratio.max():.4f}"
    return checks, _legs_drawn(power, eta * far, reach, ratio, took / plain), found


def _passage(values: Array, high: float, low: float) -> float:
    """Steps from the first value below one mark to the first below the other; or infinity."""
    first, last = values < high, values < low
    return float(last.argmax() - first.argmax()) if last.any() else np.inf


def _plain(power: Array, eta: Array, rho: Array, far: Array, near: Array) -> Array:
    """The law in the limit of small step size, integrated: its rate has 2 for 2 − ηs."""
    exponent = 4 - 4 / power
    length = np.where(
        exponent == 0, np.log(far / near), (far**exponent - near**exponent) / (exponent + 1e-300)
    )
    steps: Array = eta / 8 * (2 / (eta * rho)) ** (2 / power) * length
    return steps


def _reach(power: Array, eta: Array, rho: Array, s: Array) -> Array:
    """(a + r)y: the argument of ℓ' where the SAM gradient is taken."""
    reach: Array = 2 * theory.bounce_amplitude(eta, rho, s, power) / (eta * s) * s**0.5
    return reach


def _legs_drawn(p: Array, product: Array, reach: Array, ratio: Array, plain: Array) -> list[Axes]:
    ends = [float(0.8 * reach.min()), float(1.25 * reach.max())]
    by_law: list[Any] = []
    by_flow: list[Any] = []
    others = ", ".join(f"{power:g}" for power in sorted(set(p) - set(_ROLES)))
    for power in sorted(set(p)):
        role, some = _ROLES.get(power, "neutral"), p == power
        name = f"p = {power:g}" if power in _ROLES else f"p = {others}"
        off = np.abs(ratio[some] - 1).tolist()
        by_law.append(Line(reach[some].tolist(), off, name, role, points="points"))
        by_flow.append(
            Line(product[some].tolist(), plain[some].tolist(), name, role, points="points")
        )
    square = [value**2 for value in ends]
    level = [float(0.8 * product.min()), float(1.05 * product.max())]
    return [
        Axes(
            "Off the law",
            "(a + r)y",
            "|measured / predicted − 1|",
            [*by_law, Line(ends, square, "((a + r)y)²", "theory", dash=True)],
            x_log=True,
            y_log=True,
        ),
        Axes(
            "Without the finite-η factor",
            "ηy² where the leg starts",
            "steps measured / predicted",
            [*by_flow, Line(level, [1.0, 1.0], "", "theory", dash=True)],
        ),
    ]


class _Starts(SingleNeuron):
    """The single neuron, the cell of seed k starting from the k-th point."""

    def __init__(self, points: Array) -> None:
        super().__init__("log_cosh")
        self.points = torch.tensor(points, dtype=self.dtype)

    def start(self, seeds: torch.Tensor) -> Any:
        x, y = self.points.to(seeds.device)[seeds].unbind(-1)
        return {"x": x.clone(), "y": y.clone()}


def momentum(settings: Settings) -> tuple[list[Check], list[Axes], int]:
    """Time the drift along ½x²(1+y²) with momentum, from several distances to the floor.

    Args:
        settings: Those of the claim.

    Returns:
        The checks, the figure if two cycles coexist, and the number of runs.
    """
    high, low = settings["momentum_marks"]
    shares = np.array(settings["momentum_starts"])
    checks: list[Check] = []
    lines: list[Line] = []
    for mu, eta, rho in settings["momentum"]:
        predicted = _passage_of_law(mu, eta, rho, high, low)
        above = high + 0.01
        across = theory.bounce_amplitude(eta / (1 + mu), rho, 1 + above**2)
        watch: dict[str, Observer] = {name: History(name) for name in ("x", "y")}
        run = simulate(
            _Seen([(float(share * across), above) for share in shares]),
            eta=eta,
            rho=rho,
            momentum=mu,
            seed=np.arange(len(shares)),
            steps=int(1.2 * predicted) + 200,
            observe=watch,
            compile=False,
            progress=f"drift: momentum {mu:g}",
        )
        x, y = run.observed["x"], run.observed["y"]
        took = np.array([_passage(row, high, low) for row in y])
        # The period is read off before the end, where every cell is still under way.
        period = np.array([_period(row[: int(0.8 * predicted)]) for row in x])
        checks += _momentum_checks(settings, mu, eta, rho, predicted, took / predicted, period)
        if mu and (period > 2).any() and (period == 2).any():
            for kind, role in ((2, "p=1"), (int(period.max()), "neutral")):
                i = int((period == kind).argmax())
                keep = np.linspace(0, y.shape[1] - 1, 150).astype(int)
                name = f"cycle of {kind} steps"
                lines.append(Line(keep.tolist(), y[i, keep].tolist(), name, role))  # type: ignore[arg-type]
            law = np.linspace(high, low, 100)
            when = [_passage_of_law(mu, eta, rho, high, float(mark)) for mark in law]
            lines.append(Line(when, law.tolist(), "predicted", "theory", dash=True))
    axes = [Axes("Momentum: two cycles", "step", "y", lines)] if lines else []
    return checks, axes, len(shares) * len(settings["momentum"])


def _momentum_checks(
    settings: Settings,
    mu: float,
    eta: float,
    rho: float,
    predicted: float,
    ratio: Array,
    period: Array,
) -> list[Check]:
    high, low = settings["momentum_marks"]
    what = (
        f"momentum {mu:g}, η = {eta:g}, ρ = {rho:g}: steps from y = {high:g} to {low:g} on "
        "½x²(1+y²), measured over predicted"
    )
    two, longer = ratio[period == 2], ratio[period > 2]
    checks = [
        Check(
            f"{what}, on the two-point bounce",
            predicted=f"1 ({predicted:.5g} steps)",
            measured=f"{two.min():.4f} to {two.max():.4f} ({len(two)} of {len(ratio)} starts)"
            if len(two)
            else "no start came to it",
            tolerance=f"{settings['momentum_tolerance']:g}",
            holds=bool(len(two) and np.abs(two - 1).max() < settings["momentum_tolerance"]),
        )
    ]
    if len(longer):
        periods = ", ".join(f"{value:g}" for value in sorted(set(period[period > 2])))
        checks.append(
            Check(
                f"{what}, on cycles of {periods} steps",
                predicted="no law is derived for them",
                measured=f"{longer.min():.4f} to {longer.max():.4f} ({len(longer)} of "
                f"{len(ratio)} starts)",
                tolerance="reported only",
                holds=None,
                decides=False,
            )
        )
    return checks


def _passage_of_law(mu: float, eta: float, rho: float, high: float, low: float) -> float:
    """Steps from one mark to the other by the law, the rate integrated."""
    y = np.linspace(low, high, 401)
    rate = theory.drift_velocity(eta, rho, 1 + y * y, 2 * y, momentum=mu)
    return float(np.trapezoid(-1 / rate, y))


def _period(x: Array) -> int:
    """After how many steps the iterate comes back, up to 12; 0 if it does not."""
    end = x[-120:]
    for steps in range(1, 13):
        if np.abs(end[steps:] - end[:-steps]).max() < 0.05 * np.abs(end).max():
            return steps
    return 0


class _Seen(Valley):
    """The valley with both coordinates in sight."""

    quantities = ("x", "y")
