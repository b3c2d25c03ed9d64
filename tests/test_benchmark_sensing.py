"""The benchmark of matrix sensing: its plain form does what the simulator does, its words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from thalweg import lab

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    import sensing
finally:
    sys.path.remove(str(FOLDER))


def test_plain_torch_takes_the_same_steps():
    problem, seed = lab.MatrixSensing(), np.zeros(3, dtype=int)
    run = lab.simulate(problem, eta=sensing.ETA, rho=sensing.RHO, seed=seed, steps=20, observe={})
    start = problem.start(torch.zeros(3, dtype=torch.long))["U"]
    plain = sensing.plain(start, 0, 20)
    np.testing.assert_allclose(run.final["U"], plain.numpy(), rtol=1e-9, atol=1e-11)
    assert float((plain - start).norm()) > 1  # and they lead somewhere


def test_the_products_have_the_shapes_of_a_gradient():
    batch = lab.MatrixSensing().measure(torch.arange(64) % 8)
    assert tuple(batch.down.shape) == (8, 210, 100)
    assert tuple(batch.up.shape) == (8, 100, 210)
    assert tuple(batch.groups.cells.shape) == (8, 8)


def test_a_quick_run_says_what_it_measured():
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "sensing.py", "--quick"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for seeds in ("1 seed,", "8 seeds,"):
        assert f"64 runs of {seeds} d = 20, m = 100, float64, SAM" in done.stdout
    ratios = re.findall(r"median of rounds: (\d+\.\d\d), target 3: (met|NOT met)", done.stdout)
    assert len(ratios) == 2
    assert all((float(ratio) <= 3) is (verdict == "met") for ratio, verdict in ratios)
    assert re.search(r"64 runs x 50 steps, one seed: \d+\.\d s", done.stdout)
