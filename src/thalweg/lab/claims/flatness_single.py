"""Where SAM by single examples ends, against its prediction: for ``flatness``."""

from __future__ import annotations

import numpy as np
import torch

from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import History, Observer
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, inside, mean
from thalweg.lab.valleys import TwoCurvatures, curvatures
from thalweg.results import Axes, Check, Line
from thalweg.results.record import Role, role_of

#: Where the largest eigenvalue of the toy is least.
SHARPEST = np.array([1.0, 0.0])


def watch(every: int) -> dict[str, Observer]:
    """Return the observers of the place, the top eigenvalue and the trace."""
    return {k: History(k, every=every) for k in ("u1", "u2", "lambda_max", "trace")}


def seen_at(observed: dict[str, Array]) -> dict[str, Array]:
    """Return what was observed, with the places under "u"."""
    return {**observed, "u": np.stack([observed["u1"], observed["u2"]], axis=-1)}


def single_example_end(eta: float, power: float = 1.0) -> Array:
    """Return where SAM by single examples is predicted to end.

    Each step draws one example, of curvature λ_i = 4F_i, and moves u by the drift of its bounce. So
    the end balances w₁∇F₁ + w₂∇F₂ with w_i = λ_i⁻⁴ (λ_i²/(2 − ηλ_i))^(2/p). At power 1 that is
    the minimum of Σ 2/(2 − ηλ_i), and as η → 0 that of the trace.

    Args:
        eta: Step size, in units of 1/λ; half of it where both examples enter every step.
        power: The normalization p.

    Returns:
        The point u.
    """
    weight = np.ones(2)
    for _ in range(500):
        u = np.array(
            [
                (2 * weight[0] - 0.6 * weight[1]) / (2 * weight[0] + 0.6 * weight[1]),
                0.6 * weight[1] / (weight[0] + 0.6 * weight[1]),
            ]
        )
        curvature = 4 * curvatures(torch.tensor(u)).numpy()
        weight = (curvature**2 / (2 - eta * curvature)) ** (2 / power) / curvature**4
    return u


def single_examples(settings: Settings) -> tuple[dict[str, Array], list[Check], str]:
    """1-SAM: the mean place of every seed over the later steps, against the two predictions."""
    n = settings["seeds"]
    eta, rho, power = np.array(settings["single"], dtype=float).T
    seen = seen_at(
        simulate(
            TwoCurvatures(u=settings["start"], examples="one"),
            eta=eta[:, None],
            rho=rho[:, None],
            power=power[:, None],
            seed=np.arange(n),
            steps=settings["single_steps"],
            observe=watch(settings["every"]),
            compile=False,
            progress="flatness: 1-SAM",
        ).observed
    )
    late = seen["u"].shape[2] // 2
    place = mean(seen["u"][:, :, late:].mean(2).swapaxes(1, 2))  # step sizes, 2
    seen["mean"], seen["half"] = place.mean, place.half
    trace = single_example_end(0.0)
    checks, found = [], []
    for i, step in enumerate(eta):
        law = single_example_end(step, power[i])
        at, half = seen["mean"][i], seen["half"][i]
        off, from_trace = (float(np.linalg.norm(at - point)) for point in (law, trace))
        from_top = np.linalg.norm(at - SHARPEST)
        spread = float(np.linalg.norm(half))
        checks.append(
            Check(
                f"1-SAM, p = {power[i]:g}, η = {step:g}, ρ = {rho[i]:g}: mean place in the last "
                f"half of {settings['single_steps']} steps",
                predicted=f"({law[0]:.4f}, {law[1]:.4f})",
                measured=f"({at[0]:.4f} ± {half[0]:.4f}, {at[1]:.4f} ± {half[1]:.4f}) (95 %, "
                f"t, n = {n} seeds); {off:.4f} ± {spread:.4f} off the prediction, "
                f"{from_trace:.3f} from the least trace ({trace[0]:.3f}, {trace[1]:.3f}), "
                f"{from_top:.3f} from the least λ_max",
                tolerance=f"within {settings['near']:g} with the whole interval",
                holds=inside(off - spread, off + spread, settings["near"]),
            )
        )
        found.append(f"({at[0]:.3f}, {at[1]:.3f}) at p = {power[i]:g}, η = {step:g}")
    sam = np.flatnonzero(power == 1)
    first, last = sam[eta[sam].argmin()], sam[eta[sam].argmax()]
    nearest = np.linalg.norm(seen["mean"] - trace, axis=-1)
    rest = np.linalg.norm(seen["mean"] - SHARPEST, axis=-1)
    checks.append(
        Check(
            f"1-SAM, p = 1, η = {eta[first]:g}: distance to the least trace over that to the "
            "least λ_max",
            predicted="small: the trace decides as η → 0",
            measured=f"{nearest[first] / rest[first]:.3f}; it grows to "
            f"{nearest[last] / rest[last]:.2f} at η = {eta[last]:g}",
            tolerance="below .1",
            holds=bool(nearest[first] / rest[first] < 0.1),
        )
    )
    return seen, checks, ", ".join(found)


def ends(single: dict[str, Array], settings: Settings) -> Axes:
    """Draw the ends over the step size, with the predicted curves."""
    eta, _, power = np.array(settings["single"], dtype=float).T
    steps = np.linspace(0, eta.max(), 60)
    layers = []
    for p in sorted(set(power)):
        law = np.array([single_example_end(value, p) for value in steps])
        # Above power 1 the bounce of the flatter example is stable only above some step size.
        flatter = 4 * curvatures(torch.tensor(law)).numpy().min(-1)
        known = p * (2 - steps * flatter) < 2 if p > 1 else steps >= 0
        some = power == p
        middle, half = single["mean"][some, 0], single["half"][some, 0]
        role: Role = role_of(p)
        x = eta[some].tolist()
        layers += [
            Line(steps[known].tolist(), law[known, 0].tolist(), "predicted", "theory", dash=True),
            Line(x, middle.tolist(), f"1-SAM, p = {p:g}", role, points="points"),
        ]
        # The intervals, as bars.
        layers += [
            Line([at, at], [u - width, u + width], "", role)
            for at, u, width in zip(x, middle.tolist(), half.tolist(), strict=True)
        ]
    return Axes("Where 1-SAM ends", "η", "u₁ at the end", layers)
