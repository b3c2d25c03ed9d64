"""What ``thalweg edge`` answers: the number that was left out, and what it means."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

from thalweg import theory
from thalweg.errors import ThalwegError

#: What is asked, by the one of three numbers that was not given.
RESULTS = {"curvature": "edge", "rho": "largest_rho", "lr": "largest_lr"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The number asked for, with what it takes to read it.

    Attributes:
        name: ``"edge"``, ``"largest_rho"`` or ``"largest_lr"``.
        value: The number.
        without_rho: Of the base optimizer alone the edge, or where ``name`` is
            ``"largest_lr"`` its largest learning rate.
        meaning: One or two sentences.
    """

    name: str
    value: float
    without_rho: float
    meaning: str


def answer(given: dict[str, float], size: dict[str, Any], base: dict[str, Any]) -> Answer:
    """Solve the condition of the edge for the one number that is missing.

    Args:
        given: Two of ``lr``, ``rho`` and ``curvature``, in range.
        size: ``grad_norm`` and ``power``, in range.
        base: ``momentum``, ``weight_decay``, ``nesterov`` and ``decoupled``, in range.

    Returns:
        The answer.

    Raises:
        ThalwegError: If not two numbers are given, or these have no answer.

    Example:
        >>> answer({"lr": 0.1, "rho": 0.0}, {"grad_norm": 1.0, "power": 1.0}, {}).value
        20.0
    """
    if len(given) != 2:
        got = ", ".join(f"--{name}" for name in given) or "none"
        raise ThalwegError(f"two of --lr, --rho and --curvature must be given, got {got}")
    name = next(result for missing, result in RESULTS.items() if missing not in given)
    lr, rho, curvature = (given.get(key, math.nan) for key in ("lr", "rho", "curvature"))
    alone = value = math.inf
    if name != "largest_lr":
        alone = _edge_alone(lr, base)
        if curvature >= alone:
            raise ThalwegError(
                f"--curvature must be < {alone:.6g}, which --lr {lr:g} bears without a "
                f"perturbation, got {curvature:g}: lower --lr"
            )
    with contextlib.suppress(ThalwegError):  # a power of ‖g‖ that cannot be held
        if name == "edge":
            value = theory.edge(lr, rho, **size, **base)
        elif name == "largest_rho":
            value = theory.largest_stable_rho(lr, curvature, **size, **base)
        else:
            alone = theory.largest_stable_eta(0.0, curvature, **base)
            value = theory.largest_stable_eta(rho, curvature, **size, **base)
    if not (0 < value < math.inf and 0 < alone < math.inf):
        words = " ".join(f"--{key.replace('_', '-')} {n:g}" for key, n in (given | size).items())
        raise ThalwegError(
            f"the answer for {words} must be a number that a computer can hold: take less extreme "
            "ones"
        )
    return Answer(name, value, alone, _meaning(name, rho, size, base, alone))


def _edge_alone(lr: float, base: dict[str, Any]) -> float:
    try:
        return float(theory.edge(lr, **base))
    except ThalwegError:
        raise ThalwegError(
            f"--weight-decay must be smaller with --lr {lr:g}, got {base['weight_decay']:g}: decay "
            "alone overshoots, and no curvature is stable"
        ) from None


def _meaning(
    name: str, rho: float, size: dict[str, Any], base: dict[str, Any], alone: float
) -> str:
    p, decay = size["power"], base.get("weight_decay")
    plain = not (base.get("momentum") or decay)
    optimizer = "plain gradient descent" if plain else "the base optimizer alone"
    if rho == 0:
        what = "edge" if name == "edge" else "threshold"
        return f"Without a perturbation this is the {what} of {optimizer}."
    # Away from the origin decay can hold the iterate still at a gradient other than 0.
    if name == "edge":
        lasting = (
            "does not move with the gradient: beyond it the iterate diverges"
            if p == 0
            else f"falls with ‖g‖{'' if decay else _near_a_minimum(p, base, alone)}"
        )
        where = "Where" if p == 0 else f"At ‖g‖ = {size['grad_norm']:g}, where"
        return (
            f"{where} the curvature along the gradient is larger than this, steps grow; "
            f"{optimizer} bears {alone:.6g}. At p = {p:g} this edge {lasting}."
        )
    what = name.removeprefix("largest_")
    if p == 0:
        bears = f"; {optimizer} bears {alone:.6g}" if what == "lr" else ""
        return (
            f"With a larger {what} the iterate leaves a minimum of this curvature and diverges, "
            f"with a smaller one it converges{bears}."
        )
    start = f"begins at lr = {alone:.6g} whatever rho is" if what == "lr" else "does not see rho"
    rest = "" if decay else ", and near a minimum the iterate never rests"
    return (
        f"At ‖g‖ = {size['grad_norm']:g}, steps grow with a larger {what} and shrink with a "
        f"smaller one. At p = {p:g} this holds for this ‖g‖ alone: divergence {start}{rest}."
    )


def _near_a_minimum(p: float, base: dict[str, Any], alone: float) -> str:
    if p <= 1:
        return ", so that near a minimum the iterate bounces for ever"
    # The bounce attracts where p(2 − ηλ) < 2, with η/(1+μ) for η under momentum; under Nesterov's
    # form that is not derived.
    where = f": a bounce attracts it only above a curvature of {(1 - 1 / p) * alone:.6g}"
    return (
        f", so that near a minimum the iterate never rests{'' if base.get('nesterov') else where}"
    )
