"""A benchmark, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def quick_page(script, page, *words):
    """Return the page that a quick run of a benchmark writes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / script, "--quick", *words, "--write", page],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    text = page.read_text(encoding="utf-8")
    assert done.stdout == ""
    assert "the numbers mean nothing" in text
    return text
