"""The laboratory: problems, and SAM as it stands on paper, for whole grids of settings at once."""

from thalweg.lab.digits import Digits
from thalweg.lab.observe import Final, FirstPassage, History, Maximum, Minimum, Observer
from thalweg.lab.problems import Problem, Quadratic, SingleNeuron
from thalweg.lab.simulate import Simulation, simulate

__all__ = [
    "Digits",
    "Final",
    "FirstPassage",
    "History",
    "Maximum",
    "Minimum",
    "Observer",
    "Problem",
    "Quadratic",
    "Simulation",
    "SingleNeuron",
    "simulate",
]
