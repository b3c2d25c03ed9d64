"""Claim: of all powers, only p = 1 does not see the scale of the loss (an identity)."""

from __future__ import annotations

from typing import Any

from thalweg import theory
from thalweg.ascent import Method
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.digits import Digits
from thalweg.lab.observe import History, Observer
from thalweg.lab.problems import Problem, Quadratic, SingleNeuron
from thalweg.lab.simulate import Simulation, simulate
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import role_of


def measure(settings: Settings) -> Evidence:
    """Run L with η and cL with η/c, at the same ρ and at the ρ that theory says makes up for it."""
    scale = settings["scale"]
    checks: list[Check] = []
    axes: list[Axes] = []
    seen: list[float] = []
    unseen: list[float] = []
    left: list[float] = []
    for name, eta, rhos, steps in settings["problems"]:
        plain, scaled = _problem(name, settings, 1.0), _problem(name, settings, scale)
        for power, rho in zip(settings["powers"], rhos, strict=True):
            one = _run(plain, eta, rho, power, steps)
            same = _run(scaled, eta / scale, rho, power, steps)
            mended = theory.rho_for_loss_scale(rho, scale, power)
            apart = _apart(one, same)
            after = _apart(one, _run(scaled, eta / scale, mended, power, steps))
            checks += _compare(name, power, apart, after)
            (unseen if power == 1 else seen).append(apart)
            left.append(after)
            if power == 1 and name != "digits":
                checks.append(_to_rounding(name, settings, eta, rho, steps, one))
            if name == "single neuron":
                axes.append(_paths(power, one, same, scale, steps))
    return Evidence(
        checks=checks,
        charts=[
            Chart(
                axes,
                f"The curvature y² along SAM's path on the single neuron, for the loss and for "
                f"{scale:g} times the loss with a step size as many times smaller, at the same ρ. "
                "Only at p = 1 do the two agree; everywhere else ρ has the units of the loss in "
                "it.",
            )
        ],
        runs=3 * len(settings["problems"]) * len(settings["powers"]) + 2,
        seeds=[0],
        dtype="float64, and float32 for the network",
        found=(
            f"{scale:g} times the loss, on {len(unseen)} problems: at p = 1 the ends are "
            f"{max(unseen):.2g} of ‖w‖ apart, at every other power at least {min(seen):.2g}, and "
            f"{max(left):.2g} with ρ·c^(p−1)."
        ),
    )


def _problem(name: str, settings: Settings, scale: float) -> Problem:
    if name == "quadratic":
        return Quadratic([scale * value for value in settings["eigenvalues"]])
    if name == "single neuron":
        return SingleNeuron("log_cosh", start=tuple(settings["start"]), loss_scale=scale)
    return Digits(loss_scale=scale)


def _run(problem: Problem, eta: float, rho: float, power: float, steps: int) -> Simulation:
    method = Method(power=power)  # p = 2 with its cap, which is a length and has no loss in it
    watch: dict[str, Observer] = {}
    if isinstance(problem, SingleNeuron):
        watch["y_squared"] = History("y_squared", every=_every(steps))
    return simulate(
        problem, eta=eta, rho=rho, method=method, steps=steps, observe=watch, compile=False
    )


def _every(steps: int) -> int:
    """So many steps between two points of the figure."""
    return max(1, steps // 150)


def _apart(a: Simulation, b: Simulation) -> float:
    """How far two ends are from each other, relative to how far from 0 the first one is."""
    off = sum(float(((a.final[k] - b.final[k]) ** 2).sum()) for k in a.final)
    size = sum(float((a.final[k] ** 2).sum()) for k in a.final)
    return float((off / size) ** 0.5)


def _compare(name: str, power: float, same: float, mended: float) -> list[Check]:
    invariant = power == 1
    first = Check(
        f"{name}, p = {power:g}, the same ρ: distance between the ends",
        predicted="0" if invariant else "not 0",
        measured=f"{same:.2g}",
        tolerance="not one bit" if invariant else "above .001 of ‖w‖",
        holds=same == 0 if invariant else same > 1e-3,
    )
    second = Check(
        f"{name}, p = {power:g}, ρ·c^(p−1): distance between the ends",
        predicted="0",
        measured=f"{mended:.2g}",
        tolerance="not one bit",
        holds=mended == 0,
    )
    return [first] if invariant else [first, second]


def _to_rounding(
    name: str, settings: Settings, eta: float, rho: float, steps: int, one: Simulation
) -> Check:
    """The same at p = 1 with a scale that is no power of two, so that numbers are rounded."""
    scale = settings["odd_scale"]
    off = _apart(one, _run(_problem(name, settings, scale), eta / scale, rho, 1.0, steps))
    return Check(
        f"{name}, p = 1, c = {scale:g}: distance between the ends",
        predicted="0 but for rounding",
        measured=f"{off:.1g}",
        tolerance="1e-9 of ‖w‖",
        holds=off < 1e-9,
    )


def _paths(power: float, one: Simulation, same: Simulation, scale: float, steps: int) -> Axes:
    """The single neuron's y² at both scales of the loss."""
    t = [i * _every(steps) for i in range(one.observed["y_squared"].shape[-1])]
    plain, scaled = (run.observed["y_squared"].tolist() for run in (one, same))
    return Axes(
        f"p = {power:g}",
        "step",
        "y²",
        [
            Line(t, plain, f"p = {power:g}", role_of(power)),
            Line(t, scaled, f"{scale:g} × the loss", "neutral", dash=True),
        ],
        y_log=True,
    )


_SETTINGS: dict[str, Any] = {
    # A power of two, so that scaling by it is exact and "unchanged" can mean every bit.
    "scale": 16.0,
    "odd_scale": 3.0,
    "powers": [0.0, 0.5, 1.0, 2.0],
    # name, η, ρ for each power, steps. At p = 2 a larger ρ takes the neuron to where squares
    # underflow, and there the scale of the loss can be seen.
    "problems": [
        ["quadratic", 0.3, [0.05, 0.05, 0.05, 0.05], 20],
        ["single neuron", 0.1, [0.05, 0.05, 0.05, 0.005], 1500],
        ["digits", 0.05, [0.1, 0.1, 0.1, 0.1], 200],
    ],
    "eigenvalues": [2.0, 1.0, 0.5],
    "start": [1.0, 61**0.5],
}

CLAIM = Claim(
    name="loss-scale",
    title="Only p = 1 does not see the scale of the loss",
    statement=(
        "Multiply the loss by c and divide the step size by c: SAM with p = 1 takes the very same "
        "path at the same ρ: to the last bit where c is a power of two (here 16), else to "
        "rounding. With any other power it does not, unless ρ becomes ρ·c^(p−1)."
    ),
    source="Derived here; it is exact.",
    expected="holds",
    because="g/‖g‖ does not change when g is multiplied by a number; g/‖g‖^p does, by c^(1−p).",
    derived="The same path for c times the loss needs η/c and ρ·c^(p−1).",
    takes=(1, 3, 2.0),
    needs="scikit-learn's digits",
    measure=measure,
    settings=_SETTINGS,
    quick={
        "problems": [
            ["quadratic", 0.3, [0.05, 0.05, 0.05, 0.05], 20],
            ["single neuron", 0.1, [0.05, 0.05, 0.05, 0.005], 600],
            ["digits", 0.05, [0.1, 0.1, 0.1, 0.1], 60],
        ]
    },
)
