"""The parts of a method: pure functions of lists of tensors, shared by SAM and the simulator."""

from thalweg.ascent.ball import L2, Ball, Norm, Number, size
from thalweg.ascent.combine import Combine, SAMGradient
from thalweg.ascent.direction import AllParameters, Direction, Filter, Gradient
from thalweg.ascent.gate import Always, Constant, Gate, Schedule
from thalweg.ascent.method import Method, Perturbation, check_method

__all__ = [
    "L2",
    "AllParameters",
    "Always",
    "Ball",
    "Combine",
    "Constant",
    "Direction",
    "Filter",
    "Gate",
    "Gradient",
    "Method",
    "Norm",
    "Number",
    "Perturbation",
    "SAMGradient",
    "Schedule",
    "check_method",
    "size",
]
