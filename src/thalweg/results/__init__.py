"""What a study leaves behind: records of claims, and the folder that holds them. No torch here."""

from thalweg.results.drawn import Axes, Chart, Contours, Heat, Line
from thalweg.results.folder import ResultsFolder
from thalweg.results.record import SIZES, Check, ClaimRecord, Size, Verdict

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
