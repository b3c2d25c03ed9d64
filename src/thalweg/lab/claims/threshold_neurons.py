"""Claim: a bias is learned above a step size; below it, by USAM above ρ*, by SAM on both sides."""

from __future__ import annotations

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Claim, Evidence, Settings
from thalweg.lab.neurons import ThresholdNeurons
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, Mean, beyond, mean
from thalweg.results import Axes, Chart, Check, Line
from thalweg.results.record import Role


def measure(settings: Settings) -> Evidence:
    """Train at step sizes around η*, and below it with USAM around ρ* and with SAM."""
    problem, seeds = ThresholdNeurons(**settings["task"]), np.arange(settings["seeds"])
    own = np.array([problem.threshold(int(s)) for s in seeds])
    steps, plateau, largest = _steps(settings, problem, own)
    usam, sam = _radii(settings, problem, own)
    shares = np.array(settings["eta"])
    kink = mean(_kink(shares, steps, settings["eta_lines"]))
    early = _part(shares.tolist(), steps, *settings["eta_sides"])
    usam_early = _part(settings["usam"], usam, *settings["sides"])
    parts = _part(settings["sam"], sam, *settings["sides"])
    sam_early, apart = mean(parts), mean(parts - usam_early)
    quiet, loud = settings["sides"]
    more = _at(settings["sam"], sam, quiet) - _at(settings["usam"], usam, quiet)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = mean(more / _at(settings["sam"], sam, loud))
        radii = np.array(settings["sam"])
        powers = np.diff(np.log(sam.mean(1))) / np.diff(np.log(radii))
    squared = (quiet / loud) ** 2
    fraction, (below, above) = settings["fraction"], settings["eta_sides"]
    checks = [
        _threshold(
            f"gradient descent: drop of b at {below:g} η* over that at {above:g} η*",
            below / above,
            early,
            0.2,
        ),
        Check(
            "gradient descent: η/η* at which the drop begins, where the lines through "
            f"{' and '.join(f'{e:g}' for e in settings['eta_lines'][:2])} and through "
            f"{' and '.join(f'{e:g}' for e in settings['eta_lines'][2:])} meet",
            "1",
            str(kink),
            "the mean within 0.1",
            bool(abs(kink.mean - 1) < 0.1),
        ),
        _threshold(
            f"USAM at {fraction:g} η*: drop of b at {quiet:g} ρ* over that at {loud:g} ρ*",
            quiet / loud,
            usam_early,
            0.2,
        ),
        Check(
            f"SAM at {fraction:g} η*: drop of b at {quiet:g} ρ* over that at {loud:g} ρ*",
            f"{squared:g}, as ρ²: that of the drift's speed, with no threshold between",
            str(sam_early),
            "the mean within a quarter of it",
            bool(abs(sam_early.mean / squared - 1) < 0.25),
        ),
        Check(
            "SAM's ratio less USAM's, of the same seed",
            "above 0: only USAM has a threshold there",
            str(apart),
            "interval above 0",
            beyond(float(apart.low), float(apart.high)),
        ),
        Check(
            f"at {quiet:g} ρ*: SAM's drop of b less USAM's, over SAM's at {loud:g} ρ*",
            "above 0: SAM's edge falls with the gradient",
            str(ahead),
            "interval above 0 (reported: not derived)",
            beyond(float(ahead.low), float(ahead.high)),
            decides=False,
        ),
        _reported(
            f"SAM's drop of b as a power of ρ, between ρ/ρ* = {', '.join(f'{x:g}' for x in radii)}",
            "2, while it is the drift's speed alone",
            ", ".join(f"{x:.2g}" for x in powers),
        ),
        _reported(
            "the data's own η* over 8π/d²",
            "1 as d grows; the signal lowers it",
            str(mean(own / theory.threshold_neuron_eta(problem.d))),
        ),
        _reported(
            f"b on the plateau of gradient flow (at {min(shares):g} η*), at {max(shares):g} η*",
            "none made; it depends on the start of a⁻ and a⁺",
            f"{mean(plateau)}; {largest.mean():.4g}",
        ),
    ]
    return Evidence(
        checks=checks,
        charts=[_chart(settings, steps, usam, sam)],
        runs=steps.size + usam.size + sam.size + len(seeds),
        seeds=seeds.tolist(),
        dtype="float64",
        found=(
            f"The drop of the bias begins at {kink.mean:.3g} of η*. Of gradient descent's at "
            f"{above:g} η*, {mean(early).mean:.2g} is there at {below:g} η*; of USAM's at "
            f"{loud:g} ρ*, {mean(usam_early).mean:.2g} at {quiet:g} ρ*; of SAM's, "
            f"{sam_early.mean:.2g} ({squared:g} as ρ²), n = {len(seeds)}; SAM's grows as ρ to the "
            f"power {powers[0]:.2g} at {radii[0]:g} ρ*, {powers[-1]:.2g} at {radii[-1]:g} ρ*."
        ),
    )


def _reported(what: str, predicted: str, measured: str) -> Check:
    return Check(what, predicted, measured, "none", None, decides=False)


def _threshold(what: str, proportional: float, found: Array, most: float) -> Check:
    """A check that there is next to nothing below a threshold."""
    stated = mean(found)
    return Check(
        what,
        f"small: a threshold lies between; in proportion it would be {proportional:.2g}",
        str(stated),
        f"interval below {most:g}",
        bool(stated.high < most),
    )


def _steps(settings: Settings, problem: ThresholdNeurons, own: Array) -> tuple[Array, Array, Array]:
    """Gradient descent: how far b drops below its plateau, (η, seeds); the plateau; the last b."""
    found = [_bias(settings, problem, share * own) for share in settings["eta"]]
    ends = np.stack([run[0] for run in found])
    return ends[0] - ends, ends[0], ends[-1]


def _radii(settings: Settings, problem: ThresholdNeurons, own: Array) -> tuple[Array, Array]:
    """USAM and SAM below η*: how far b drops below gradient descent's, each (ρ, seeds)."""
    eta = settings["fraction"] * own
    edge = theory.largest_stable_rho(eta, 2 / own)
    shares = np.array([0.0, *settings["usam"], *settings["sam"]])
    usual = 1 + len(settings["usam"])
    power = np.where(np.arange(len(shares)) < usual, 0.0, 1.0)
    ends = _bias(settings, problem, eta, shares[:, None] * edge, power[:, None])
    return ends[0] - ends[1:usual], ends[0] - ends[usual:]


def _bias(
    settings: Settings,
    problem: ThresholdNeurons,
    eta: Array,
    rho: Array | float = 0.0,
    power: Array | float = 1.0,
) -> Array:
    """The bias after the time η·steps of the settings, (ρ, seeds)."""
    run = simulate(
        problem,
        eta=eta,
        rho=np.atleast_2d(rho),
        power=power,
        seed=np.arange(settings["seeds"])[None, :],
        steps=round(settings["time"] / float(eta.mean())),
        compile=False,
        progress="threshold neurons",
    )
    return run.observed["bias"]


def _at(shares: list[float], drops: Array, share: float) -> Array:
    """The drops at one of the shares, (seeds,)."""
    return np.asarray(drops[list(shares).index(share)])


def _part(shares: list[float], drops: Array, low: float, high: float) -> Array:
    """What part of the drop at one share is there at a lower one, (seeds,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _at(shares, drops, low) / _at(shares, drops, high)


def _kink(shares: Array, drops: Array, at: list[float]) -> Array:
    """Where two lines through two points each meet, (seeds,)."""
    listed = shares.tolist()
    y = [_at(listed, drops, x) for x in at]
    flat, steep = ((y[i + 1] - y[i]) / (at[i + 1] - at[i]) for i in (0, 2))
    return np.asarray((y[0] - flat * at[0] - y[2] + steep * at[2]) / (steep - flat))


def _chart(settings: Settings, steps: Array, usam: Array, sam: Array) -> Chart:
    eta, found = settings["eta"][1:], mean(steps[1:])
    lines = []
    kinds: list[tuple[str, Role, str, Array]] = [
        ("USAM, p = 0", "p=0", "usam", usam),
        ("SAM, p = 1", "p=1", "sam", sam),
    ]
    for name, role, key, drops in kinds:
        lines.append(_band(settings[key], mean(drops), name, role, least=1e-5))
    reach = float(found.mean.max())
    ends = [float(min(line.y[0] for line in lines)), max(line.y[-1] for line in lines)]
    return Chart(
        [
            Axes(
                "Gradient descent over its step size",
                "η / η*",
                "drop of b below its plateau",
                [
                    _band(eta, found, "gradient descent", "gd"),
                    Line([1.0, 1.0], [0.0, reach], "threshold", "theory", dash=True),
                ],
                x_log=True,
            ),
            Axes(
                f"USAM and SAM at {settings['fraction']:g} η*",
                "ρ / ρ*",
                "drop of b below gradient descent's",
                [*lines, Line([1.0, 1.0], ends, "threshold", "theory", dash=True)],
                x_log=True,
                y_log=True,
            ),
        ],
        "How far the bias goes below where gradient flow leaves it (means over seeds, 95 % "
        "bands). Left: gradient descent learns the bias only above the predicted step size. "
        "Right: below that step size USAM learns it only above the predicted ρ*; SAM's drop has no "
        "threshold there.",
    )


def _band(x: list[float], found: Mean, name: str, role: Role, least: float = -np.inf) -> Line:
    low, high = np.maximum(found.low, least).tolist(), found.high.tolist()
    return Line(x, found.mean.tolist(), name, role, points="both", low=low, high=high)


CLAIM = Claim(
    name="threshold-neurons",
    title="Threshold neurons: USAM learns the bias above ρ*, SAM without a threshold there",
    statement=(
        "In a two-neuron network on sparse data, gradient descent learns the bias (beyond what "
        "gradient flow does) only above the step size η* = 16/E‖x‖₁² ≈ 8π/d². Below it USAM "
        "(p = 0) does so only above ρ* = (η*/2)(η*/η − 1); SAM does so on both sides of it, in "
        "proportion to ρ²."
    ),
    source=(
        "Derived here. Gradient descent's transition is the subject of Ahn et al., Learning "
        "threshold neurons via the edge of stability, 2023."
    ),
    expected="holds",
    because=(
        "Both thresholds are those of the Hessian at the start, where the sum of the outputs is "
        "small. As it grows the curvature falls, so the transition is a kink and not a jump. The "
        "square of ρ is the speed of the drift alone: at a quarter of η*, as in the full study, "
        "SAM's drop is no power of ρ, and the claim's last words do not hold."
    ),
    full_expected="does not hold",
    derived=(
        "The thresholds η* = 16/E‖x‖₁² and ρ* = (η*/2)(η*/η − 1). The square of ρ for SAM is that "
        "of the drift on the bounce."
    ),
    measure=measure,
    takes=(4.0, 23.0, 660.0),
    settings={
        "task": {"d": 100, "examples": 200, "signal": 3.0},
        "seeds": 4,
        # η × steps: all step sizes cover the same time of the gradient flow.
        "time": 12.0,
        # Of η*; the first is the plateau.
        "eta": [0.25, 0.5, 0.8, 0.95, 1.05, 1.1, 1.3, 2.0, 8.0],
        "eta_sides": [0.8, 1.3],
        "eta_lines": [0.5, 0.8, 1.1, 1.3],
        "fraction": 0.5,
        # Of ρ*.
        "usam": [0.4, 0.8, 1.2, 1.6, 3.2],
        "sam": [0.4, 0.8, 1.6, 3.2],
        "sides": [0.8, 1.6],
    },
    quick={
        "time": 5.0,
        "eta": [0.5, 0.8, 0.95, 1.1, 1.3],
        "eta_lines": [0.8, 0.95, 1.1, 1.3],
        "fraction": 0.6,
        "usam": [0.8, 1.6],
        "sam": [0.8, 1.6],
    },
    full={
        "seeds": 12,
        "time": 20.0,
        "fraction": 0.25,
        "usam": [0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.6, 2.4, 3.2, 6.4],
        "sam": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6],
    },
)
