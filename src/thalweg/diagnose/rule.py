"""The rule that turns a measurement into a rho. Arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from thalweg.diagnose.record import Measured

#: A rise below this share of the loss's spread from batch to batch is lost in it.
LOST = 0.01
#: A batch's rise that differs by more than this share from a quadratic's is no longer one. With
#: half of it the cautious rule is so cautious that it is no better than a fixed rho of .05.
BENT = 0.5
#: Of the rho at which the gradient at w + ε turns uphill: farther out nothing is recommended.
TURNED = 0.5
#: Of the rho at which the loss at w + ε is that of an untrained model. Fitted on fifteen tasks (in
#: steps of .05 decade) before it was tried on others; above .5 the regret grows quickly.
LEVEL = 0.45
#: What the loss before training is called where it can be given.
START = "--start-loss (start_loss= in Python)"


class Advice(NamedTuple):
    """A rho, its power, and why."""

    rho: float
    power: float
    reasons: tuple[str, ...]


def recommend(measured: Measured, *, level: float = LEVEL) -> Advice:
    r"""Return rho and power for a model that was measured.

    Where the loss before training is known, :math:`\rho = 0.45\,R`: R is the rho at which the loss
    at w + ε is back there, beyond which the network looks worse than one that was never trained.
    Else it is the middle, in decades, of the range in which the rise is neither lost in batch noise
    nor beyond a quadratic's, which is more cautious. Never more than half of where the gradient at
    w + ε turns uphill.

    Args:
        measured: The measurement; Hessian products have no part in it.
        level: The share of R.

    Returns:
        The advice.

    Source:
        Heuristics of this project. How they do on tasks whose best rho is known, and that neither
        beats one rho fitted on similar tasks: docs/recommendation.md.
    """
    radius = start_radius(measured)
    rho, reasons = _by_range(measured) if math.isnan(radius) else _by_start(measured, radius, level)
    if TURNED * measured.flip < rho:
        rho = TURNED * measured.flip
        reasons.append(
            f"From {measured.flip:.3g} on the gradient at w + ε points uphill at w: rho is "
            "lowered to half of that."
        )
    reasons.append(
        "Power 1: no other one leaves rho as it is when the loss is scaled, and above it the "
        "bounce at a minimum is not stable at every learning rate."
    )
    return Advice(rho, 1.0, tuple(reasons))


def start_radius(measured: Measured) -> float:
    """Return the rho at which the loss is that of the untrained model; NaN where there is none.

    Args:
        measured: The measurement.
    """
    fall = measured.start_loss - measured.loss
    if not fall > _hardly(measured):  # hardly trained, or nothing is known
        return math.nan
    found = crossing(measured.scan.rho, measured.scan.rise, fall)
    return math.nan if math.isinf(found) else found


def _by_start(measured: Measured, radius: float, level: float) -> tuple[float, list[str]]:
    rho, origin = level * radius, measured.start_origin
    told = f" ({origin}; pass {START} where yours began otherwise)" if origin else ""
    return rho, [
        f"At rho = {radius:.3g} the loss at w + ε is {measured.start_loss:.3g}, that of the model "
        f"before training{told}: {rho:.3g} is {level:g} of that rho. It is meant for a model that "
        "has a tenth of its training behind it; at the end of the training it is too large."
    ]


def _by_range(measured: Measured) -> tuple[float, list[str]]:
    lower, upper, reasons = *trusted(measured), []
    ends = f"above {upper:.3g} it is no longer that of a quadratic"
    if math.isinf(measured.upper):
        ends = f"it is that of a quadratic as far as the scan goes, to {upper:.3g}"
    if math.isnan(measured.loss_noise):
        reasons.append(
            "From one batch nothing is known of the noise: the lower end is that of rounding, and "
            "the recommendation is low. Diagnose on several batches, if there are several."
        )
    if lower < upper:
        rho = math.sqrt(lower * upper)
        reasons.append(
            f"Below {lower:.3g} the loss rise is lost in {noise(measured)}, {ends}: "
            f"{rho:.3g} is the middle in decades."
        )
    else:
        rho = upper
        reasons.append(
            f"No rho is both above {noise(measured)} (which takes {lower:.3g}) and "
            f"within the quadratic range or the scan (which ends at {upper:.3g}): that is taken. "
            "Larger batches have less noise."
        )
    return rho, [*reasons, _why_by_range(measured)]


def noise(measured: Measured) -> str:
    """Return the name of what a small loss rise is lost in.

    Args:
        measured: The measurement; of one batch it knows no other noise than rounding.
    """
    return "rounding" if math.isnan(measured.loss_noise) else "the noise from batch to batch"


def _why_by_range(measured: Measured) -> str:
    start, end = measured.start_loss, measured.scan.rho[-1]
    if math.isnan(start):
        why = f" ({measured.start_origin})" if measured.start_origin else ""
        return (
            f"The loss before training is not known{why}, so that the cautious rule is taken: pass "
            f"{START}."
        )
    if start - measured.loss > _hardly(measured):
        return (
            f"The scan ends at rho = {end:.3g} before the loss at w + ε is back at {start:.3g}, "
            "that before training, so that the cautious rule is taken."
        )
    if start < measured.loss and not measured.start_origin:
        return (
            f"The loss before training, given as {start:.3g}, is below {measured.loss:.3g}, that "
            "of now, so that the cautious rule is taken: pass the loss of a freshly built model."
        )
    return (
        "The model is hardly better than before training, so that the cautious rule is taken: "
        "diagnose again after a tenth of the training."
    )


def _hardly(measured: Measured) -> float:
    """What the loss must have fallen by to have fallen at all."""
    return 0.0 if math.isnan(measured.loss_noise) else measured.loss_noise


def trusted(measured: Measured) -> tuple[float, float]:
    """Return the ends of the range in which the rise is trusted; the scan's where it has none.

    The upper one is never above the rho at which the loss is that of the untrained model.

    Args:
        measured: The measurement.
    """
    end, radius = measured.scan.rho[-1], start_radius(measured)
    upper = measured.upper if math.isnan(radius) else min(measured.upper, radius)
    return min(measured.lower, end), min(upper, end)


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Return the first x > 0 at which y reaches a level, from below; between points by log x.

    Args:
        x: Ascending and positive.
        y: As many values; one that is NaN counts as beyond the level.
        level: What is to be reached.

    Returns:
        The place: the first x where y starts beyond the level, infinity where it never gets there.

    Example:
        >>> round(crossing([1.0, 10.0, 100.0], [0.0, 1.0, 3.0], 2.0), 3)  # √1000
        31.623
    """
    for i, (now, value) in enumerate(zip(x, y, strict=True)):
        if value < level:
            continue
        if i == 0 or math.isnan(value) or math.isinf(value):
            return x[max(i - 1, 0)]
        share = (level - y[i - 1]) / (value - y[i - 1])
        before = math.log(x[i - 1])
        return math.exp(before + share * (math.log(now) - before))
    return math.inf
