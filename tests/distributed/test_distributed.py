"""SAM in two processes: DDP, FSDP2, tensor parallel. The cases are in the files cases_*.py."""

from __future__ import annotations

import os
import textwrap
import time

import harness
import pytest


def test_case(distributed_case: str, failures: dict[str, str]):
    if distributed_case in failures:
        pytest.fail(failures[distributed_case], pytrace=False)


FAULTY = """
    import os, pathlib, sys
    sys.path.insert(0, {here!r})
    import harness, worker
    import torch, torch.distributed as dist

    def together():
        dist.all_reduce(torch.ones(1))

    def one_fails():
        assert dist.get_rank() == 0
        together()

    def hangs():
        (pathlib.Path(sys.argv[2]) / f"process{{sys.argv[1]}}").write_text(str(os.getpid()))
        while dist.get_rank() == 1:
            pass
        together()

    cases = {{"together": together, "one_fails": one_fails, "again": together, "hangs": hangs,
              "late": together}}
    harness.load = lambda: cases
    harness.CASE_LIMIT = 2
    worker.main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


def test_a_failure_stays_with_its_case_and_a_hang_ends(tmp_path):
    worker = tmp_path / "faulty.py"
    worker.write_text(textwrap.dedent(FAULTY).format(here=str(harness.HERE)), encoding="utf-8")
    (tmp_path / "run").mkdir()
    start = time.monotonic()
    names = ["together", "one_fails", "again", "hangs", "late"]
    failures = harness.run(names, tmp_path / "run", worker)
    assert time.monotonic() - start < 30
    assert list(failures) == ["one_fails", "hangs", "late"]
    # The rank that waits for the failed one is told at once, not after the limit.
    assert "rank 1" in failures["one_fails"]
    assert "Connection closed" in failures["one_fails"]
    assert "in hangs" in failures["hangs"]  # where it stood, from its log
    assert "did not run this, as it ended inside hangs" in failures["late"]
    for rank in range(harness.WORLD):
        process = int((tmp_path / "run" / f"process{rank}").read_text(encoding="utf-8"))
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
