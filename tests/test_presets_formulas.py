"""Each preset is its paper's formula to ten digits, and each of these tests can fail."""

import dataclasses

import pytest
import torch
import written_out_ascents  # noqa: F401
import written_out_steps  # noqa: F401
from written_out import FORMULAS, RHO, STEPS, by_hand, by_sam

from thalweg import Method, ThalwegError, presets

EACH = pytest.mark.parametrize("name", FORMULAS)


def check(name, method=None, rho=RHO):
    """Every gradient that the base optimizer gets is the formula's, and the weights at the end."""
    preset, formula, base, parts = FORMULAS[name]
    expected = by_hand(formula, base, parts)
    *found, _ = by_sam(method or preset, base, parts, rho)
    torch.testing.assert_close(found, list(expected), rtol=1e-10, atol=1e-12)


@EACH
def test_formula(name):
    check(name)


def test_every_preset_has_a_formula_here():
    assert {preset.__name__ for preset in presets.PRESETS} <= set(FORMULAS)


@dataclasses.dataclass(frozen=True)
class Flipped:
    """A ball with the sign of ε flipped."""

    ball: object

    def sharp(self, direction, context):
        found, n = self.ball.sharp(direction, context)
        return [-t for t in found], n


@EACH
def test_it_fails_without_a_perturbation(name):
    with pytest.raises(AssertionError):
        check(name, rho=0.0)


@EACH
def test_it_fails_with_the_sign_flipped(name):
    method = FORMULAS[name][0]
    with pytest.raises(AssertionError):
        check(name, dataclasses.replace(method, ball=Flipped(method.ball)))


@EACH
def test_it_fails_with_another_method(name):
    with pytest.raises(AssertionError):
        check(name, Method(power=0.3) if name == "sam" else Method())


def slots():
    usual = Method()
    for name, (method, *_) in FORMULAS.items():
        for field in dataclasses.fields(Method):
            if getattr(method, field.name) != getattr(usual, field.name):
                yield pytest.param(name, field.name, id=f"{name}-{field.name}")


@pytest.mark.parametrize(("name", "slot"), [*slots()])
def test_it_fails_with_any_part_replaced_by_the_usual_one(name, slot):
    """Or cannot be made, as what is used again where no gate closes."""
    method = FORMULAS[name][0]
    with pytest.raises((AssertionError, ThalwegError)):
        check(name, dataclasses.replace(method, **{slot: getattr(Method(), slot)}))


#: What the letters of a cost are in the formulas above.
LETTERS = {
    "look_back": {"k": 3},
    "random_gate": {"P": 3 / 6},
    "adaptive_gate": {"s": 4 / 6},
    "late": {"share": 0.5},
    "modern": {"share": 0.5},
    "multi_step": {"k": 3},
    "averaged": {"n": 3},
}


@pytest.mark.parametrize("name", [preset.__name__ for preset in presets.PRESETS])
def test_the_cost_is_counted(name):
    method, _, base, parts = FORMULAS[name]
    *_, count = by_sam(method, base, parts)
    told = eval(presets.card(name).gradients, LETTERS.get(name, {}))
    plain = 2 if name == "warm_start" else 0  # steps that take one gradient
    assert count == pytest.approx((told * STEPS - plain) * parts)
