"""The distributed cases are run once, in a spawn of their own, by the first test that asks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
collect_ignore_glob = ["cases_*.py", "harness.py", "together.py", "worker.py"]
sys.path.insert(0, str(HERE))  # the processes see these files as plain modules; so does this one

import harness  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "distributed_case" in metafunc.fixturenames:
        metafunc.parametrize("distributed_case", list(harness.load()))


@pytest.fixture(scope="session")
def failures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """What went wrong, by case; runs the cases of the selected tests."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {call.params.get("distributed_case") for call in calls if call}
    names = [name for name in harness.load() if name in wanted]
    return harness.run(names, tmp_path_factory.mktemp("distributed"))
