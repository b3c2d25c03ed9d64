"""The page of the probes is one script, and it runs."""

from __future__ import annotations

import math
import re
from pathlib import Path

from thalweg import curvature
from thalweg.curvature.records import Record

PAGE = (Path(__file__).parents[2] / "docs" / "curvature-probes.md").read_text(encoding="utf-8")
#: The last one needs shards: the distributed cases run it.
*BLOCKS, SHARDED = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = {}
    for block in BLOCKS:
        exec(block, held)
    assert abs(held["again"].value / held["top"].value - 1) < 0.01
    assert held["lowest"].value < 0 < held["top"].value
    assert held["hessian"].size == held["gauss_newton"].size == held["product"].size
    assert abs(held["five"].values[0] / held["top"].value - 1) < 0.01
    assert 0 < held["negative"] < 1
    assert abs(held["drawn"].sum() * (held["grid"][1] - held["grid"][0]) - 1) < 0.1
    there = held["along"].losses[1] - held["along"].losses[0]  # twice as far
    assert 0 < held["rise"] < there
    assert 0 < held["worst"].rise < there
    assert held["relative"].rise > 0
    assert held["around"].losses[2, 2] == held["around"].loss
    records = curvature.read_records("run.jsonl")
    assert [record["step"] for record in records] == [0, 10, 20, 30, 40, 50]
    assert all(math.isfinite(record["edge"]) for record in records)
    assert len(records[-1]["curvatures"]) == 10


def test_the_page_names_what_there_is():
    names = set(re.findall(r"^\| (`[^|]+) \|", PAGE, flags=re.M))
    fields = {name for row in names for name in re.findall(r"`(\w+)`", row)}
    assert len(fields) > 15
    assert fields <= set(Record.__slots__)
    public = {"Density", "Eigenpairs", "Estimate", "Line", "Plane", "Product", "Record"}
    missing = {name for name in curvature.__all__ if name not in PAGE}
    assert missing <= public | {"Sharpness", "share_explained"}  # results, in the docstrings


def test_the_code_for_shards_is_marked():
    assert SHARDED.startswith("# under FSDP2, on every rank\n")
    assert "curvature.on_batch(plain" in SHARDED
