"""What a study leaves behind: records of claims, and the folder that holds them. No torch here."""

from thalweg.results.folder import ResultsFolder
from thalweg.results.record import (
    Axes,
    Chart,
    Check,
    ClaimRecord,
    Contours,
    Heat,
    Line,
    Verdict,
)

__all__ = [
    "Axes",
    "Chart",
    "Check",
    "ClaimRecord",
    "Contours",
    "Heat",
    "Line",
    "ResultsFolder",
    "Verdict",
]
