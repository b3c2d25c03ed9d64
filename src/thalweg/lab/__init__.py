"""The laboratory: problems, and SAM as it stands on paper, for whole grids of settings at once."""

from thalweg.errors import extra

with extra("lab", by=__name__):
    import numpy  # noqa: F401 (every module below needs it)

from thalweg.lab.convex import Bowls, LateMaximum, RandomBowls
from thalweg.lab.convnet import DigitsConv
from thalweg.lab.digits import Digits
from thalweg.lab.logistic import Logistic
from thalweg.lab.micro import MicroDigits, NoisyLogistic
from thalweg.lab.networks import TanhConvNet, TanhMLP
from thalweg.lab.neurons import ThresholdNeurons
from thalweg.lab.observe import Final, FirstPassage, History, Maximum, Minimum, Observer
from thalweg.lab.problems import Problem, Quadratic, SingleNeuron
from thalweg.lab.random_sums import RandomSums
from thalweg.lab.saddles import Saddle
from thalweg.lab.sensing import MatrixSensing
from thalweg.lab.simulate import Simulation, simulate
from thalweg.lab.starts import ManyStarts
from thalweg.lab.text import Text
from thalweg.lab.valleys import Bend, Ripples, TwoCurvatures, Valley
from thalweg.lab.wide import WideDigits

__all__ = [
    "Bend",
    "Bowls",
    "Digits",
    "DigitsConv",
    "Final",
    "FirstPassage",
    "History",
    "LateMaximum",
    "Logistic",
    "ManyStarts",
    "MatrixSensing",
    "Maximum",
    "MicroDigits",
    "Minimum",
    "NoisyLogistic",
    "Observer",
    "Problem",
    "Quadratic",
    "RandomBowls",
    "RandomSums",
    "Ripples",
    "Saddle",
    "Simulation",
    "SingleNeuron",
    "TanhConvNet",
    "TanhMLP",
    "Text",
    "ThresholdNeurons",
    "TwoCurvatures",
    "Valley",
    "WideDigits",
    "simulate",
]
