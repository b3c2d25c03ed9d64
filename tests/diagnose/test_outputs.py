"""A loss of outputs and targets, where one of a model and a batch is wanted, is told of."""

import pytest
import subjects
import torch
from torch import nn
from torch.nn import functional

import thalweg
import thalweg.diagnose
from thalweg import ThalwegError, diagnose_verb


def squares(out, y):
    return (out - functional.one_hot(y, 10)).square().mean()


LOSSES = {
    "squares": squares,
    "cross_entropy": functional.cross_entropy,
    "forward": nn.CrossEntropyLoss().forward,
    "loss": lambda out, y: (out.logsumexp(1) - out.gather(1, y[:, None])[:, 0]).mean(),
}


def diagnosed(model, loss, loader=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return thalweg.diagnose(model, loss, loader or subjects.digits(), optimizer)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_told_what_to_write(name):
    model = subjects.convnet()
    model[3].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    told = (
        rf"loss must be a function loss\(model, batch\) .*, got {name}, which takes outputs and "
        rf"targets: write lambda model, batch: {name}\(model\(batch\[0\]\), batch\[1\]\)$"
    )
    with pytest.raises(ThalwegError, match=told):
        diagnosed(model, LOSSES[name])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [layer.training for layer in model] == [True] * 3 + [False] + [True] * 2


def test_what_is_told_to_be_written_works():
    found = diagnosed(subjects.convnet(), lambda model, batch: squares(model(batch[0]), batch[1]))
    assert found.measured.loss > 0


def test_the_command_tells_it_too(script):
    with (script / "own_script.py").open("a", encoding="utf-8") as file:
        file.write(
            "\n\ndef pairs():\n"
            "    model, _, loader, optimizer = build()\n"
            "    loader = [(x, torch.zeros(4, 2)) for x in loader]\n"
            "    return model, nn.functional.mse_loss, loader, optimizer\n"
        )
    with pytest.raises(ThalwegError, match="got mse_loss, which takes outputs and targets: write"):
        diagnose_verb.run("own_script:pairs", json_=False, folder=None)


def missing(model, batch):
    return model.no_such_layer(batch[0])


def of_a_mapping(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"])


@pytest.mark.parametrize(
    ("loss", "error", "told"),
    [(missing, AttributeError, "no_such_layer"), (of_a_mapping, TypeError, "list indices")],
)
def test_other_errors_within_a_loss_are_the_users(loss, error, told):
    with pytest.raises(error, match=told):
        diagnosed(subjects.convnet(), loss)
