"""What is put around a model, and where in it its parameters are."""

import pytest
import torch
from family import net
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from thalweg.modules import Places, distributed, layers, uncompiled, within


def on_ranks(model):
    """What DistributedDataParallel is to those who only look for the model within."""
    whole = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(whole)
    whole.module = model
    return whole


def compiled(model):
    return torch.compile(model, backend="eager")


#: What is put around a model, the inner first.
AROUND = {
    "nothing": [],
    "compiled": [compiled],
    "ranks": [on_ranks],
    "ranks of a compiled one": [compiled, on_ranks],
    "compiled ranks": [on_ranks, compiled],
    "compiled twice, around ranks": [compiled, on_ranks, compiled],
}


@pytest.fixture(params=AROUND, ids=list(AROUND))
def around(request):
    model = whole = net()
    for put in AROUND[request.param]:
        whole = put(whole)
    return model, whole, AROUND[request.param]


def test_names_are_those_of_the_model_within(around):
    model, whole, _ = around
    places = Places(whole)
    assert places.names(list(model.parameters())) == [name for name, _ in model.named_parameters()]
    assert places.of(model[1].weight)[1] is model[1]
    assert places.layers(list(model.parameters())) == [0, 0, 1, 1, 2, 2]


def test_where_there_is_no_model_every_parameter_is_alone():
    model = net()
    assert Places(None).of(model[0].weight) == ("", None)
    assert Places(None).layers(list(model.parameters())) == [-1, -2, -3, -4, -5, -6]


def test_what_is_put_around_a_model_is_told(around):
    model, whole, put = around
    assert within(whole) is model
    assert (uncompiled(whole) is whole) == (put[-1:] != [compiled])
    ranks = distributed(whole)
    assert (ranks is None) == (on_ranks not in put)
    assert ranks is None or isinstance(ranks, DistributedDataParallel)


def test_layers_are_the_modules_torch_knows(around):
    _, whole, _ = around
    assert set(layers(whole)) == set(whole.modules())
    assert layers(None) == []
