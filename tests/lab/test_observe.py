"""Observers see what a plain loop sees, also in cells that leave the program early."""

import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import (
    Digits,
    Final,
    FirstPassage,
    History,
    Maximum,
    Minimum,
    Observer,
    Quadratic,
    SingleNeuron,
    simulate,
)

STEPS = 240
CEILING = 1e6
#: One drifts, one oscillates, one goes to rest, two leave at different steps.
ETA = np.array([0.01, 1.7, 0.5, 2.3, 8.0])


def paths(eta, rho=0.0):
    """|w| along each path of w' = w - eta * (w + ε), ε = rho w / |w|; the last value goes on."""
    found = []
    for e in eta:
        w, path = 3.0, [3.0]
        for _ in range(STEPS):
            after = w - e * (w + (rho * np.sign(w)))
            w = after if abs(after) <= CEILING else w
            path.append(abs(w))
            if abs(after) > CEILING:
                path += [abs(w)] * (STEPS + 1 - len(path))
                break
        found.append(path)
    return np.array(found)


def run(observe, rho=0.0):
    result = simulate(
        Quadratic([1.0], start=[3.0]),
        eta=ETA,
        rho=rho,
        steps=STEPS,
        ceiling=CEILING,
        observe=observe,
    )
    assert result.diverged.tolist() == [False, False, False, True, True]
    return result.observed


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("every", [1, 3, 7, 100, 1000])
def test_every_observer_sees_what_a_plain_loop_sees(every, rho):
    seen = run(
        {
            "final": Final("distance", every=every),
            "highest": Maximum("distance", every=every),
            "lowest": Minimum("distance", every=every),
            "below": FirstPassage("distance", every=every, below=0.9),
            "above": FirstPassage("distance", every=every, above=20.0),
            "all": History("distance", every=every),
        },
        rho,
    )
    path = paths(ETA, rho)
    looks = path[:, ::every]
    # the end is looked at too, except by a history
    ended = looks if STEPS % every == 0 else np.column_stack([looks, path[:, -1]])
    at = np.append(np.arange(0, STEPS + 1, every), STEPS)[: ended.shape[1]]
    assert seen["all"].shape == (5, looks.shape[1])
    close(seen["all"], looks)
    close(seen["final"], path[:, -1])
    close(seen["highest"], ended.max(1))
    close(seen["lowest"], ended.min(1))
    for name, passed in (("below", ended < 0.9), ("above", ended > 20.0)):
        first = [at[row.argmax()] if row.any() else math.inf for row in passed]
        np.testing.assert_array_equal(seen[name], first)
    assert np.isinf(seen["below"]).any()


def test_a_cell_that_starts_beyond_the_level_has_passed_at_step_0():
    seen = run({"a": FirstPassage("distance", below=4.0), "b": FirstPassage("distance", above=2.0)})
    assert seen["a"].tolist() == seen["b"].tolist() == [0.0] * 5


def test_without_observers_the_final_value_of_every_quantity_is_kept():
    close(run(None)["distance"], paths(ETA)[:, -1])
    assert run({}) == {}


def test_the_result_has_the_shape_of_the_grid():
    eta, rho = np.array([[0.1], [0.2]]), [0.0, 0.1, 0.2]
    result = simulate(
        SingleNeuron(start=(0.5, 2.0)),
        eta=eta,
        rho=rho,
        steps=20,
        observe={"all": History("y_squared", every=5), "end": Final("y_squared")},
    )
    assert result.observed["all"].shape == (2, 3, 5)
    assert result.observed["end"].shape == (2, 3)
    np.testing.assert_array_equal(result.observed["all"][..., -1], result.observed["end"])
    close(result.observed["all"][..., 0], 4.0)
    close(result.observed["end"], result.final["y"] ** 2)


def test_accuracies_are_those_of_the_final_networks():
    task = Digits(n_train=200, width=8)
    result = simulate(task, rho=[0.0, 0.1], steps=30, observe={"a": Maximum("test_accuracy")})
    final = {name: torch.tensor(value) for name, value in result.final.items()}
    end = task.observe(final, torch.tensor([0, 0]))["test_accuracy"].numpy()
    assert (result.observed["a"] >= end).all()
    assert (end > 0.3).all()


def test_a_nan_is_passed_over():
    for observer, expected in ((Maximum("q"), 2.0), (Minimum("q"), 1.0)):
        record = observer.begin(torch.tensor([1.0]))
        observer.look(record, torch.tensor([math.nan]), 1)
        observer.look(record, torch.tensor([2.0]), 2)
        assert observer.finish(record).tolist() == [expected]


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
@pytest.mark.parametrize("kind", [Final, Maximum, Minimum, History])
def test_every_must_be_a_whole_number_from_1(kind, every):
    with pytest.raises(ThalwegError, match="every must be a whole number >= 1"):
        kind("distance", every=every)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"exactly one of below and above must be given, got below=None"),
        ({"below": 1.0, "above": 2.0}, r"exactly one of below and above"),
        ({"below": math.nan}, r"below must be a finite number, got nan"),
        ({"above": "1"}, r"above must be a finite number, got '1'"),
        ({"above": 1.0, "every": 0}, r"every must be"),
    ],
)
def test_a_first_passage_needs_one_level(changes, message):
    with pytest.raises(ThalwegError, match=message):
        FirstPassage("distance", **changes)


def test_observers_are_values_and_the_base_class_observes_nothing():
    assert Final("distance") == Final("distance", every=1)
    with pytest.raises(NotImplementedError):
        run({"a": Observer("distance", every=100)})


@pytest.mark.parametrize("quantity", [None, 3, Final])
def test_an_observer_has_the_name_of_a_quantity(quantity):
    with pytest.raises(ThalwegError, match=r"^quantity must be the name of something that the"):
        Final(quantity)


def test_a_quantity_that_was_not_observed_is_told_of_with_those_that_were():
    class Forgetful(Quadratic):
        quantities = ()

    with pytest.raises(KeyError, match="'loss' must have been observed, got distance: list it in"):
        simulate(Quadratic([1.0]), eta=0.5, steps=2).observed["loss"]
    with pytest.raises(KeyError, match="'distance' must have been observed, got nothing"):
        simulate(Forgetful([1.0]), eta=0.5, steps=2).observed["distance"]
