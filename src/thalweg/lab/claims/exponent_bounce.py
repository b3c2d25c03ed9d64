"""Where the iterate ends for every power, on one mode: thresholds, the bounce, its stability."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History
from thalweg.lab.problems import Quadratic
from thalweg.lab.simulate import simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.statistics import Array
from thalweg.results import Check

#: In this part the curvature is 1, so that η is ηλ.
TOP = 1.0
#: Beyond the largest bounce that is measured (1e39), within the range of a square.
CEILING = 1e45
#: Steps between two looks at a path, for points that tell more; odd, so that a bounce changes side.
APART = 5
#: Looks in a row that a bounce must be seen in.
LOOKS = 10


def thresholds(settings: Settings) -> tuple[list[Check], int]:
    """Whether ρ is in the threshold of divergence: both sides of USAM's, and of ηλ = 2."""
    rho = np.array(settings["threshold_rho"])
    steps = settings["threshold_steps"]
    usam = theory.largest_stable_eta(rho, TOP)[:, None] * np.array([0.999, 1.001])
    run = simulate(
        Quadratic([TOP]), eta=usam, rho=rho[:, None], power=0.0, steps=steps, compile=False
    )
    size = run.observed["distance"]
    edges = ", ".join(f"{eta:.4g}" for eta in usam.mean(1))
    checks = [
        Check(
            f"p = 0: ‖w‖ over ‖w₀‖ at .999 and 1.001 of ηλ(1+ρλ) = 2, ρλ = {_list(rho)}",
            predicted=f"falls, grows: the threshold in ηλ is {edges}",
            measured=f"at most {size[:, 0].max():.2g}, at least {size[:, 1].min():.2g}",
            tolerance="below 1, above 1000",
            holds=bool(size[:, 0].max() < 1 and size[:, 1].min() > 1000),
        )
    ]
    power = np.array(settings["threshold_powers"])[:, None, None]
    sides = np.array([1.99, 2.01])
    run = simulate(
        Quadratic([TOP]),
        eta=sides,
        rho=rho[:, None],
        power=power,
        steps=steps,
        ceiling=1e15,  # within reach at 2.01, far above every bounce at 1.99
        compile=False,
    )
    inside, outside = run.diverged[..., 0], run.diverged[..., 1]
    bounce = theory.bounce_amplitude(1.99, rho, TOP, power[..., 0])
    off = np.abs(run.observed["distance"][..., 0] / bounce - 1)
    of_one = np.argmin(np.abs(rho - 1))
    sizes = " / ".join(f"{size:.3g}" for size in run.observed["distance"][:, of_one, 0])
    checks += [
        Check(
            f"p = {_list(power.ravel())}: ηλ = 1.99, ρλ = {_list(rho)}: where it ends",
            predicted="the bounce ((ηρλ²/(2−ηλ))^(1/p))/λ for every ρ",
            measured=f"{sizes} at ρλ = {rho[of_one]:g}; off by at most {off.max():.1e} of it",
            tolerance="1e-6 of the prediction, none diverged",
            holds=bool(off.max() < 1e-6 and not inside.any()),
        ),
        Check(
            f"p = {_list(power.ravel())}: ηλ = 2.01, ρλ = {_list(rho)}",
            predicted="diverges for every ρ",
            measured=f"{int(outside.sum())} of {outside.size} diverged",
            tolerance="all",
            holds=bool(outside.all()),
        ),
    ]
    return checks, usam.size + run.diverged.size


def amplitudes(settings: Settings) -> tuple[Check, list[tuple[float, Array, Array]], int]:
    """Size of the bounce over (p, ηλ), where it attracts; and the points of a figure."""
    power = np.array(settings["bounce_powers"])[:, None]
    product = np.array(settings["bounce_eta_lambda"])[None, :]
    stable = np.abs(theory.bounce_multiplier(product, TOP, power)) < 1
    predicted = theory.bounce_amplitude(product, 1.0, TOP, power)
    run = simulate(
        Quadratic([TOP], start=[0.7]),  # from 1 a step may meet the minimum itself
        eta=product,
        rho=1.0,
        power=power,
        steps=settings["bounce_steps"],
        ceiling=CEILING,
        compile=False,
    )
    size = run.observed["distance"]
    off = np.abs(size / predicted - 1)[stable]
    check = Check(
        f"size of the bounce, p = {_list(power.ravel())}, ηλ = {_list(product.ravel())}, ρλ = 1",
        predicted="(ηρλ²/(2−ηλ))^(1/p)/λ",
        measured=f"off by at most {off.max():.1e} of it in {off.size} cells where it attracts "
        f"({predicted[stable].min():.1g} to {predicted[stable].max():.1g})",
        tolerance="1e-9 of the prediction",
        holds=bool(off.max() < 1e-9),
    )
    points = [
        (float(p), product[0, keep], row[keep])
        for p, row, keep in zip(power[:, 0], size, stable, strict=True)
    ]
    return check, points, size.size


def stability_edge(settings: Settings) -> tuple[Check, int]:
    """The ηλ at which a small deviation from the bounce begins to grow, for powers above 1."""
    powers, cells = settings["edge_powers"], settings["edge_cells"]
    runs, found, away = 0, [], []
    for power in powers:
        low, high = 0.02, 1.9
        for _ in range(2):  # a coarse row of cells, then a fine one where it turns
            eta = np.linspace(low, high, cells)
            grows, left = _deviation_grows(eta, power, settings["edge_steps"])
            runs += cells
            last = int(np.flatnonzero(grows).max(initial=0))
            low, high = eta[last], eta[min(last + 1, cells - 1)]
        found.append(float(low + high) / 2)
        away.append(left)
    edge = [2 - 2 / power for power in powers]
    off = max(abs(a - b) for a, b in zip(found, edge, strict=True))
    return Check(
        f"p = {_list(powers)}: the ηλ below which the bounce no longer attracts",
        predicted="2 − 2/p: " + " / ".join(f"{value:.4f}" for value in edge),
        measured=" / ".join(f"{value:.4f}" for value in found),
        tolerance=f"{settings['edge_within']:g} (a deviation of 1e-6 of it falls above, grows "
        "below)",
        holds=bool(off < settings["edge_within"] and not any(away)),
    ), runs


def _deviation_grows(eta: Array, power: float, steps: int) -> tuple[Array, bool]:
    """Whether a deviation of 1e-6 has grown; and whether it has nowhere stayed small."""
    bounce = theory.bounce_amplitude(eta, 1.0, TOP, power)
    run = simulate(
        ManyStarts([TOP], 1.000001 * bounce[:, None]),
        eta=eta,
        rho=1.0,
        power=power,
        seed=np.arange(len(eta)),
        steps=steps,
        compile=False,
    )
    deviation = np.abs(run.observed["distance"] / bounce - 1)
    return deviation > 1e-6, bool((deviation > 1e-6).all())


def what_happens(settings: Settings) -> tuple[Array, Array, Array, Check, int]:
    """Rest, bounce, chaos or divergence, measured over (p, ηλ), beside the prediction.

    Returns:
        The powers, the ηλ, what happens (power first; 0 rest, 1 bounce, 2 chaos, NaN divergence or
        none of them), the check, and how many runs.
    """
    step = settings["map_step"]
    power = np.arange(0, 2 + step / 2, step)
    # No cell lies on a boundary; the nearest to ηλ = 2 has time to tell.
    product = np.arange(settings["map_eta_step"] / 2, 2.2, settings["map_eta_step"])
    shape = (len(power), len(product), settings["map_starts"])
    starts = np.geomspace(0.3, 1, shape[2])
    eta = np.broadcast_to(product[:, None], shape).ravel()
    powers = np.broadcast_to(power[:, None, None], shape).ravel()
    settled = _run(np.broadcast_to(starts, shape).ravel(), eta, powers, settings["map_steps"])
    seen = _run(settled.final["w"][:, 0], eta, powers, settings["map_looks"] * APART, watch=True)
    seen = seen.observed["path"]
    last = np.abs(seen[:, -1])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Chaos passes near the bounce, too, but does not stay.
        then, now = seen[:, -LOOKS:-1], seen[:, 1 - LOOKS :]
        bounces = (np.abs(now + then) < 1e-3 * np.abs(now)).all(-1)
        rests = last < 1e-30
        chaos = stretching(seen[:, :-1], eta, powers) > 0
    # The bounce of a small power is smaller than what else is taken for rest.
    kinds = np.select([settled.diverged, bounces, rests, chaos], [np.nan, 1.0, 0.0, 2.0], -1.0)
    kinds = kinds.reshape(shape)
    x, p = product[None, :, None], power[:, None, None]
    predicted = np.where(p > 0, np.where(x > 2 - 2 / np.maximum(p, 1e-9), 1.0, 2.0), 0.0)
    predicted = np.where(x * (1 + (p == 0)) < 2, predicted, np.nan)  # here ρλ = 1
    right = (kinds == predicted) | (np.isnan(kinds) & np.isnan(predicted))
    # A cell is drawn as one thing only if it is that from every start.
    agree = (kinds == kinds[..., :1]).all(-1) | np.isnan(kinds).all(-1)
    check = Check(
        f"rest, bounce, chaos or divergence over (p, ηλ), ρλ = 1, {shape[2]} starts",
        predicted="p = 0: rest iff ηλ(1+ρλ) < 2; p > 0: diverges iff ηλ ≥ 2; a bounce "
        "iff ηλ > 2 − 2/p, else chaos (a positive Lyapunov exponent)",
        measured=f"{int((~right).sum())} of {right.size} runs otherwise",
        tolerance="none otherwise",
        holds=bool(right.all()),
    )
    return power, product, np.where(agree, kinds[..., 0], -1.0), check, right.size


def _run(start: Array, eta: Array, power: Array, steps: int, watch: bool = False) -> Any:
    return simulate(
        ManyStarts([TOP], start[:, None]),
        eta=eta,
        rho=1.0,
        power=power,
        seed=np.arange(len(start)),
        steps=steps,
        ceiling=CEILING,
        compile=False,
        observe={"path": History("top", every=APART)} if watch else {},
        progress="exponent: map",
    )


def stretching(path: Array, eta: Array, power: Array) -> Array:
    """Lyapunov exponent along paths (cell, step): how fast a neighbour parts, one step each.

    Every point of the path and its neighbour take one step of SAM.
    """
    shape, near = path.shape, 1e-6
    pairs = np.stack([path * (1 - near), path * (1 + near)])
    run = simulate(
        ManyStarts([TOP], pairs.reshape(-1, 1)),
        eta=np.broadcast_to(eta[:, None], pairs.shape).ravel(),
        rho=1.0,
        power=np.broadcast_to(power[:, None], pairs.shape).ravel(),
        seed=np.arange(pairs.size),
        steps=1,
        compile=False,
        observe={},
        progress="",
    )
    low, high = run.final["w"].reshape(2, *shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.abs((high - low) / (2 * near * path))
        result: Array = np.log(factors).mean(1)
    return result


def _list(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
