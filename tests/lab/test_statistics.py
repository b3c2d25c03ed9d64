"""Intervals over seeds: their ends, how often they cover, and what they decide."""

import numpy as np
import pytest
from scipy import stats

from thalweg.lab.statistics import beyond, geometric, inside, interval, mean, percentiles, resampled


def test_a_mean_and_its_t_interval():
    values = np.random.default_rng(0).normal(1.0, 2.0, (3, 7))
    found = mean(values)
    expected = stats.ttest_1samp(values, 0, axis=-1).confidence_interval()
    np.testing.assert_allclose(found.low, expected.low)
    np.testing.assert_allclose(found.high, expected.high)
    np.testing.assert_allclose(found.half, (expected.high - expected.low) / 2)
    # 2.5 ± 3.182 √(5/3)/2, by the table
    assert float(mean([1.0, 2.0, 3.0, 4.0]).half) == pytest.approx(3.182 * (5 / 3) ** 0.5 / 2, 1e-3)
    assert float(geometric(np.exp([1.0, 2.0, 3.0])).mean) == pytest.approx(np.exp(2.0))


def test_a_bootstrap_interval_is_over_seeds():
    values = np.random.default_rng(1).normal(size=40)
    settings = {"seeds": 40, "bootstrap": 2000}
    value, low, high = interval(settings, lambda seeds: values[seeds].mean())
    half = 1.96 * values.std() / 40**0.5
    assert [value, low, high] == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half], abs=0.1 * half
    )
    draws = resampled(40, 2000)
    assert (low, high) == percentiles([values[seeds].mean() for seeds in draws])
    assert (draws == resampled(40, 2000)).all()
    assert set(draws.flat) == set(range(40))


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(-0.9, 1.0, True), (-1.0, 1.1, None), (-2.0, 2.0, None), (1.1, 2.0, False), (-2, -1.1, False)],
)
def test_within_a_margin(low, high, holds):
    assert inside(low, high, 1.0) is holds


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(0.1, 0.2, True), (0.0, 0.2, None), (-0.1, 0.0, None), (-0.2, -0.1, False), (0, 0, False)],
)
def test_beyond_a_bound(low, high, holds):
    assert beyond(low, high) is holds
    assert beyond(-high, -low, sign=-1) is holds
    assert beyond(low + 3, high + 3, 3) is holds
