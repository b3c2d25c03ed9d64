"""The rule that turns a measurement into a rho, and the reasons that it gives."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made import MEASURED, RHO, SCAN, with_

from thalweg.diagnose import recommend
from thalweg.diagnose.rule import LEVEL, crossing


def test_the_middle_of_the_trusted_range():
    found = recommend(MEASURED)
    assert found.rho == pytest.approx(0.1)
    assert found.power == 1.0
    assert "lost in the noise" in found.reasons[0]
    assert not any("uphill" in reason for reason in found.reasons)


def test_a_part_of_where_the_loss_is_that_of_the_start():
    """The rise is rho here."""
    found = recommend(with_(start_loss=2.0))
    assert found.rho == pytest.approx(LEVEL * 1.0)
    assert "that of the model before training" in found.reasons[0]
    assert recommend(with_(start_loss=1.5)).rho == pytest.approx(LEVEL * 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (math.nan, "is not known, so that"),
        (1.0, "hardly better"),
        (1.09, "hardly better"),
        (0.5, "The loss before training, given as 0.5, is below 1, that of now"),
        (1.0 + 1.01 * RHO[-1], "The scan ends at rho = 10 before"),
        (1e9, "The scan ends at rho = 10 before"),
    ],
)
def test_without_a_start_the_cautious_rule_is_taken(start, said):
    found = recommend(with_(start_loss=start))
    assert found.rho == pytest.approx(0.1)
    why = [reason for reason in found.reasons if "the cautious rule is taken" in reason]
    assert len(why) == 1
    assert said in why[0]


def test_why_the_loss_before_training_is_not_known_is_said():
    (why,) = [r for r in recommend(with_(start_origin="Block has none")).reasons if "known" in r]
    assert "is not known (Block has none), so that" in why


def test_a_measured_start_below_the_loss_of_now_was_not_given():
    (why,) = [
        r
        for r in recommend(with_(start_loss=0.5, start_origin="of a copy")).reasons
        if "hardly" in r
    ]
    assert "given" not in why


def test_where_the_loss_before_training_comes_from_is_said():
    assert (
        "(of a copy; pass" in recommend(with_(start_loss=2.0, start_origin="of a copy")).reasons[0]
    )
    assert "pass" not in recommend(with_(start_loss=2.0)).reasons[0]


@pytest.mark.parametrize("level", [0.1, 0.7])
def test_the_share_of_the_radius_can_be_another(level):
    assert recommend(with_(start_loss=2.0), level=level).rho == pytest.approx(level)


def test_at_most_half_of_where_the_gradient_turns():
    found = recommend(with_(flip=0.1))
    assert found.rho == pytest.approx(0.05)
    assert any("uphill" in reason for reason in found.reasons)


def test_ends_that_the_scan_did_not_reach_are_its_own():
    found = recommend(with_(upper=math.inf, flip=math.inf))
    assert found.rho == pytest.approx((0.01 * RHO[-1]) ** 0.5)
    assert "as far as the scan goes" in found.reasons[0]
    assert "no longer" not in found.reasons[0]


def test_no_trusted_range_is_said():
    found = recommend(with_(lower=2.0, upper=0.5))
    assert found.rho == 0.5
    assert "No rho is both" in found.reasons[0]
    assert recommend(with_(lower=math.inf, upper=0.5)).rho == 0.5


def test_one_batch_is_said_to_be_little():
    reasons = recommend(with_(loss_noise=math.nan)).reasons
    assert "From one batch" in reasons[0]
    assert "is lost in rounding" in reasons[1]
    assert "batch to batch" not in reasons[1]


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_the_recommendation_has_the_unit_of_the_weights(scale):
    ends = {key: scale * getattr(MEASURED, key) for key in ("lower", "upper", "flip")}
    rhos = tuple(scale * rho for rho in RHO)
    stretched = with_(scan=dataclasses.replace(SCAN, rho=rhos), **ends)
    assert recommend(stretched).rho == pytest.approx(scale * recommend(MEASURED).rho)


def test_crossing():
    x = [1.0, 10.0, 100.0]
    assert crossing(x, [0.0, 0.0, 1.0], 2.0) == math.inf
    assert crossing(x, [3.0, 0.0, 5.0], 2.0) == 1.0
    assert crossing(x, [0.0, math.nan, 5.0], 2.0) == 1.0
    assert crossing(x, [0.0, 1.0, math.inf], 2.0) == 10.0
    assert crossing(x, [0.0, 4.0, 5.0], 1.0) == pytest.approx(10**0.25)
