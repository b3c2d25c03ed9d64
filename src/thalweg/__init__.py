"""Sharpness-aware minimization (SAM) for PyTorch, with the theory it obeys.

Names are resolved when first used, so that ``thalweg.theory`` and the command never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg import compat, curvature, diagnose, lab, presets, testing, theory
    from thalweg.ascent import Method
    from thalweg.errors import ThalwegError
    from thalweg.sam import SAM

__version__ = "0.1.0"
__all__ = [
    "SAM",
    "Method",
    "ThalwegError",
    "__version__",
    "compat",
    "curvature",
    "diagnose",
    "lab",
    "presets",
    "testing",
    "theory",
]

_HOMES = {"SAM": "thalweg.sam", "Method": "thalweg.ascent", "ThalwegError": "thalweg.errors"}
_MODULES = {"compat", "curvature", "diagnose", "lab", "presets", "testing", "theory"}


if not TYPE_CHECKING:  # a checker would take every name for known, and for Any

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"thalweg.{name}")
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
