"""The drivers of docs/peers.py do what is documented, and the page is that of this suite."""

import functools
import importlib.util
from pathlib import Path

import pytest
import pytorch_optimizer
import torch

import thalweg
from thalweg import testing

DOCS = Path(__file__).parents[2] / "docs"
MOMENTUM = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.spec_from_file_location("peers", DOCS / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.built(pytorch_optimizer.SAM, module.PytorchOptimizer)


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        ("two_passes_float32", "passed"),  # first of all: the driver drives SAM
        ("forms_agree", "passed"),
        ("accumulation", "passed"),
        ("resume", "passed"),
        ("scheduler", "passed"),
        ("batch_norm_count", "failed"),
        ("one_nan", "failed"),
        ("scaler_scales", "not offered"),
        ("m_sam", "not offered"),
    ],
)
def test_the_driver_of_a_peer(peer, check, verdict):
    (result,) = testing.run(MOMENTUM, peer, [check], long=20)
    assert result.verdict == verdict, result


def test_the_page_has_a_row_for_every_check_and_names_this_version():
    page = (DOCS / "conformance.md").read_text("utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    missing = [c.title for c in testing.CHECKS.values() if not any(c.title in r for r in rows)]
    assert missing == []
    assert f"thalweg {thalweg.__version__}," in page
