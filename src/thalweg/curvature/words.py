"""What a monitor says of its samples, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.curvature.records import Record
from thalweg.watch import FAITHFUL

#: Samples over which a word is thought over.
WINDOW = 5
#: Of λ_max/edge: within it λ_max sits at the edge.
_BAND = (0.85, 1.15)
#: A gradient at w + ε that differs from the one at w by less than this share is the same.
_SAME = 0.01


def thought(window: Sequence[Record]) -> list[tuple[str, str]]:
    """Return what the latest samples say, as a key and a sentence each.

    Args:
        window: The latest samples, the newest last.

    Example:
        >>> thought([Record(step=1, time=0.0)] * 5)
        []
    """
    found = []
    new = window[-1]
    if new.gain < FAITHFUL:
        found.append(
            (
                "rounding",
                f"rounding swallows the perturbation: what moves leads {100 * new.gain:.0f} % of "
                "the way along the ε that was meant; keep the weights in float32, or use a larger "
                "rho",
            )
        )
    if len(window) < WINDOW:
        return found
    ratios = [record.ratio for record in window]
    if all(_BAND[0] <= ratio <= _BAND[1] for ratio in ratios):
        found.append(
            (
                "edge",
                f"λ_max sits at the edge: in the last {WINDOW} samples it was {min(ratios):.2f} "
                f"to {max(ratios):.2f} times the edge of this lr, rho and ‖g‖, now {new.edge:.3g}; "
                "it is held there, lower with a larger lr or rho and higher with a smaller one",
            )
        )
    uphill = sum(record.cosine < 0 for record in window)
    if uphill > WINDOW / 2:
        found.append(
            (
                "large",
                f"rho is too large here: in {uphill} of the last {WINDOW} samples the gradient at "
                "w + ε points uphill at w, on the probe batch; use a smaller rho",
            )
        )
    if all(record.change < _SAME for record in window):
        found.append(
            (
                "small",
                f"rho is too small to matter here: in the last {WINDOW} samples the gradient at "
                f"w + ε differs from the one at w by less than {100 * _SAME:g} %, on the probe "
                "batch; use a larger rho, or none",
            )
        )
    return found
