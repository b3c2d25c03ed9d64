"""Every message says what is wrong, what is required, what came, and what to do."""

import math

import numpy as np
import pytest
import torch

from thalweg.errors import ThalwegError, everywhere, flag, number, quantity, whole


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.array(2.0), torch.tensor(3.0)])
def test_a_number_comes_back_as_a_float(value):
    found = number("rho", value, at_least=0)
    assert type(found) is float
    assert found == float(value)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        ("0.1", {}, r"rho must be a finite number, got '0\.1' \(pass a number, not a string\)"),
        (b"1", {}, r"got b'1' \(pass a number, not a string\)"),
        (True, {}, r"rho must be a finite number, got True"),
        (None, {}, r"got None"),
        (1j, {}, r"got 1j"),
        ([1.0], {}, r"got \[1\.0\]"),
        (torch.ones(2), {}, r"got tensor"),
        (math.nan, {"infinite": True}, r"rho must be a number, got nan"),
        (math.inf, {}, r"rho must be a finite number, got inf"),
        (0, {"above": 0}, r"rho must be a finite number > 0, got 0"),
        (-1e-9, {"at_least": 0}, r"rho must be a finite number >= 0, got -1e-09"),
        (0.4, {"above": 0.5, "infinite": True}, r"rho must be a number > 0\.5, got 0\.4"),
        (1, {"below": 1}, r"rho must be a finite number < 1, got 1"),
        (-1, {"at_least": 0, "below": 1}, r"rho must be a finite number >= 0 and < 1, got -1"),
        (1.5, {"above": 0, "at_most": 1}, r"rho must be a finite number > 0 and <= 1, got 1\.5"),
    ],
)
def test_what_is_no_number_or_out_of_bounds(value, bounds, message):
    with pytest.raises(ThalwegError, match=message):
        number("rho", value, **bounds)


def test_bounds_are_what_they_say():
    assert number("x", math.inf, infinite=True) == math.inf
    assert number("x", 0.0, at_least=0) == 0
    assert number("x", 5e-324, above=0) == 5e-324
    assert number("x", 1, at_most=1) == 1


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_a_whole_number_comes_back_as_an_int(value):
    assert type(whole("steps", value)) is int
    assert whole("steps", value, at_least=3) == 3


@pytest.mark.parametrize("value", [2, -1, 3.0, "3", None, True, math.nan])
def test_what_is_no_whole_number(value):
    with pytest.raises(ThalwegError, match=r"steps must be a whole number >= 3, got"):
        whole("steps", value, at_least=3)


@pytest.mark.parametrize("make", [float, lambda x: np.array([1.0, x]), lambda x: torch.tensor([x])])
def test_a_quantity_is_checked_everywhere(make):
    quantity("eta", make(0.5), above=0)
    quantity("eta", make(0.0), at_least=0)
    for bad, wanted in ((0.0, "> 0"), (-1.0, "> 0"), (math.nan, "finite"), (math.inf, "finite")):
        with pytest.raises(ThalwegError, match=f"eta must be {wanted}"):
            quantity("eta", make(bad), above=0)
    with pytest.raises(ThalwegError, match="eta must be >= 1"):
        quantity("eta", make(0.5), at_least=1)
    quantity("eta", make(1.0), at_least=0, at_most=1)
    for bad in (-1.0, 1.5):
        with pytest.raises(ThalwegError, match="eta must be >= 0 and <= 1, got"):
            quantity("eta", make(bad), at_least=0, at_most=1)
    with pytest.raises(ThalwegError, match="eta must be >= 0 and < 1, got"):
        quantity("eta", make(1.0), at_least=0, below=1)


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1], 1j])
def test_a_quantity_is_a_number_or_an_array(value):
    with pytest.raises(ThalwegError, match="eta must be a number or an array of numbers, got"):
        quantity("eta", value)


def test_everywhere_takes_bools_and_arrays():
    everywhere("x", 1, True, "right")
    everywhere("x", 1, np.array([True, True]), "right")
    for condition in (False, np.array([True, False]), torch.tensor([False])):
        with pytest.raises(ThalwegError, match=r"^x must be right, got 1$"):
            everywhere("x", 1, condition, "right")


def test_of_an_array_one_entry_is_enough():
    with pytest.raises(ThalwegError, match=r"got array\(\[0, 1\]\), where some entry is not$"):
        quantity("x", np.array([0, 1]), above=0)
    with pytest.raises(ThalwegError, match=r"got 0$"):
        quantity("x", np.array(0), above=0)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(1000), "Tensor of shape (1000,)"),
        (torch.nn.Linear(2, 3), "Linear(in_features=2, out_features=3, bias=True)"),
        (list(range(1000)), str(list(range(1000)))[:97] + "..."),
    ],
)
def test_what_came_is_told_in_one_line(value, told):
    with pytest.raises(ThalwegError) as error:
        number("rho", value)
    assert str(error.value) == f"rho must be a finite number, got {told}"


def test_a_number_as_text_is_told_of_and_other_text_is_not():
    with pytest.raises(ThalwegError, match=r"got '5' \(pass a number, not a string\)$"):
        whole("k", "5")
    with pytest.raises(ThalwegError, match=r"got 'five'$"):
        whole("k", "five")


@pytest.mark.parametrize("value", [10**400, [1], None, torch.tensor([1.0, 2.0])])
def test_what_is_no_number_is_told_of(value):
    with pytest.raises(ThalwegError, match=r"rho must be a finite number, got"):
        number("rho", value)


@pytest.mark.parametrize("value", [1.0, True, "3", None, torch.tensor(1.5), np.array([1, 2])])
def test_what_is_no_whole_number_is_told_of(value):
    with pytest.raises(ThalwegError, match=r"steps must be a whole number >= 0, got"):
        whole("steps", value)


def test_a_flag_is_true_or_false():
    flag("quick", True)
    flag("quick", None, empty=True)
    for value in (1, "no", None, torch.tensor(True), np.bool_(True)):
        with pytest.raises(ThalwegError, match=r"^quick must be True or False, got"):
            flag("quick", value)
    with pytest.raises(ThalwegError, match=r"^quick must be True, False or None, got 0$"):
        flag("quick", 0, empty=True)
