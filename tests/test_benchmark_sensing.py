"""The benchmark of matrix sensing: its plain form does what the simulator does, its words."""

from __future__ import annotations

import datetime
import re

import numpy as np
import sensing
import torch
from quick_page import quick_page

from thalweg import lab


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


def test_the_verdict_is_that_of_the_times():
    def timed(ours):
        return {sensing.BOUND: np.ones(9), sensing.OURS: np.array(ours)}

    found = {1: timed([2.0] * 9), 8: timed([2.9, 3.1, 3.2] * 3)}
    text = sensing.page(found, 1000, 7.25, ["# The head", ""])
    assert text.startswith("# The head\n")
    few, many = re.findall(r"^\| 64 runs of .*$", text, flags=re.M)
    assert (
        few == "| 64 runs of 1 seed: at most 3 times its products alone | 2.00 [2.00, 2.00] | met |"
    )
    assert many.startswith(
        "| 64 runs of 8 seeds: at most 3 times its products alone | 3.10 [2.90, "
    )
    assert many.endswith("] | **not met**, within the noise |")
    assert "64 runs × 1,000 steps, one seed: 7.2 s." in text


def test_a_quick_run_writes_the_page(tmp_path):
    page = tmp_path / "sensing.md"
    text = quick_page("sensing.py", page)
    assert f"--write {page}` on {datetime.date.today()}; do not edit." in text
    assert f"torch {torch.__version__}, " in text
    assert re.search(r"^Load of the machine before the run: \d+\.\d\d\.", text, flags=re.M)
    rows = re.findall(r"at most 3 times .* \| (\d+\.\d\d) \[.*\] \| (met|\*\*not met)", text)
    assert len(rows) == 2
    for seeds in ("1 seed", "8 seeds"):
        assert f"\n### 64 runs of {seeds}\n" in text
    assert text.count("| simulate | ") == 2
    assert text.count("| plain torch | ") == 1
    assert re.search(r"64 runs × 50 steps, one seed: \d+\.\d s\.\n", text)
