"""The benchmark of rules for rho judges what is shipped, by the code that is shipped."""

from __future__ import annotations

import choosing_rho_measure as measuring
import choosing_rho_shipped as shipped
import choosing_rho_tasks as tasks
import numpy as np
import pytest
import torch

import thalweg
import thalweg.diagnose
from thalweg.diagnose.rule import LEVEL


def test_what_is_shipped_is_judged_by_its_own_code():
    """The same network, loss and batches, given to the public function by hand."""
    task = tasks.task_of("perceptron", {"label_noise": 0.3})
    settings = {"points": [0.1], "seeds": 3, "steps": 200, "batches": 4}
    (nets,) = tasks.trained(task, settings)
    params = nets[2]
    seen = shipped.diagnosed(task, params, 2, 4)
    net = shipped.Net(params, lambda seeds: task.start(seeds))
    images, labels = tasks.minibatches(task, 2, 4)

    def loss(model, batch):
        hidden = torch.relu(batch[0] @ model.weight1[0] + model.bias1[0])
        logits = hidden @ model.weight2[0] + model.bias2[0]
        return torch.nn.functional.cross_entropy(logits, batch[1].long())

    optimizer = torch.optim.SGD(net.parameters(), lr=task.eta, momentum=task.momentum)
    by_hand = thalweg.diagnose(net, loss, list(zip(images, labels, strict=True)), optimizer)
    assert thalweg.diagnose.recommend(seen).rho == pytest.approx(by_hand.rho, rel=1e-3)
    assert seen.start_loss == pytest.approx(by_hand.measured.start_loss, rel=1e-5)
    assert seen.examples == by_hand.measured.examples == 64
    # The copy begins with other numbers than the network did.
    start = measuring._loss(task, task.start(torch.arange(3)), 2, 4)
    assert seen.start_loss != start
    assert seen.start_loss == pytest.approx(start, rel=0.1)


def test_every_network_gets_its_own_recommendation():
    kind = {"label_noise": 0.3}
    levels = np.array([0.2, LEVEL])
    shapes = {"points": [0.0, 0.1], "seeds": 2, "steps": 200, "batches": 3}
    settings = shapes | {"tasks": [["a", "perceptron", kind], ["b", "perceptron", {}]]}
    known, unknown = shipped.recommended(settings, levels)
    assert known.shape == (2, 2, 2, 2)
    task = tasks.task_of("perceptron", kind)
    *_, nets = tasks.trained(task, settings)
    seen = shipped.diagnosed(task, nets[1], 1, 3)
    assert known[0, 1, 1, 1] == pytest.approx(thalweg.diagnose.recommend(seen).rho)
    np.testing.assert_allclose(known[:, 1, :, 0] / known[:, 1, :, 1], 0.2 / LEVEL)
    # Before training there is nothing to go back to: the cautious rule is taken.
    np.testing.assert_allclose(known[:, 0], unknown[:, 0, :, None].repeat(2, -1))
    assert (unknown[:, 1] < known[:, 1, :, 1]).all()


def test_what_is_kept_changes_with_the_code(monkeypatch):
    before = tasks.code("choosing_rho_shipped")
    assert before != tasks.code("choosing_rho_tasks")
    monkeypatch.setattr(tasks.Path, "read_bytes", lambda self: b"" if self.stem == "rule" else b"x")
    tasks.code.cache_clear()
    one = tasks.code("choosing_rho_shipped")
    monkeypatch.setattr(tasks.Path, "read_bytes", lambda self: b"x")
    tasks.code.cache_clear()
    assert tasks.code("choosing_rho_shipped") != one  # thalweg.diagnose.rule is looked at
    tasks.code.cache_clear()
