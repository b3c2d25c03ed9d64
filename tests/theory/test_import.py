"""The room is arithmetic: importing it must cost nothing."""

import subprocess
import sys


def test_importing_the_theory_imports_neither_torch_nor_numpy():
    # Floats must not bring them in either.
    code = """
import sys
from thalweg import theory
theory.edge(0.1, 0.05)
theory.single_neuron_drift_steps(0.1, 0.05, 2.0, 1.0, 0.5)
print(sorted({"torch", "numpy"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
