"""What the README shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg import theory

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_first_code_comes_early_and_the_file_is_short():
    lines = TEXT.splitlines()
    assert lines.index("```python") < 12
    assert len(lines) <= 165


def test_the_loop_trains_and_is_sam():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    data = [(torch.randn(16, 4), torch.randint(0, 2, (16,))) for _ in range(3)]
    names = {
        "torch": torch,
        "thalweg": thalweg,
        "model": model,
        "loader": data,
        "loss_fn": nn.functional.cross_entropy,
    }
    before = [p.detach().clone() for p in model.parameters()]
    exec(BLOCKS[0], names)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert names["sam"].last.moved
    assert names["sam"].last.perturbation_norm == pytest.approx(0.05)


def test_the_curvature_of_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 2), (torch.randn(16, 4), torch.randint(0, 2, (16,)))

    def loss_of(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    sam = thalweg.SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)
    names = {"model": model, "batch": batch, "loss_of": loss_of, "sam": sam}
    (block,) = (b for b in BLOCKS if "import curvature" in b)
    exec(block, names)
    assert names["product"].count < 10
    assert (tmp_path / "run.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize("block", [b for b in BLOCKS if ">>>" in b])
def test_sessions_print_what_they_show(block: str):
    test = doctest.DocTestParser().get_doctest(block, {}, "README", str(README), 0)
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_the_edge_that_is_shown():
    assert f"{theory.edge(0.1, 0.05, 1.0):.6g}" in TEXT


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (README.parent / target).is_file(), target


def test_what_is_fetched_is_told_before_it_is_and_as_the_readme_has_it():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for stage in (".torch", ".lab", ".dev"):
        rule = makefile.split(f"$(VENV)/{stage}: ")[1].split("touch $@")[0]
        said = re.search(r"@echo \"fetching.*?(?=\n\t)", rule, re.DOTALL)
        assert said.end() < rule.index("@$(install)")
        for size in re.findall(r"\d+ MB|several GB", said[0]):
            assert size in TEXT.replace("\n", " "), size
