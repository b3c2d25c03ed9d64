"""What a study leaves behind: records of claims, and the folder that holds them. No torch here."""

from thalweg.results.folder import ResultsFolder
from thalweg.results.record import (
    SIZES,
    Axes,
    Chart,
    Check,
    ClaimRecord,
    Contours,
    Heat,
    Line,
    Size,
    Verdict,
)

__all__ = [
    "SIZES",
    "Axes",
    "Chart",
    "Check",
    "ClaimRecord",
    "Contours",
    "Heat",
    "Line",
    "ResultsFolder",
    "Size",
    "Verdict",
]
