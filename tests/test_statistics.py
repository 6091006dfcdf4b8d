"""Statistics of the ledger on tiny integers, where the answers are exact."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mtlbook.ledger.statistics import bootstrap_mean, paired_bootstrap, spearman


@pytest.mark.parametrize("function", [bootstrap_mean, paired_bootstrap])
def test_equal_values_have_an_empty_interval(function):
    assert function([3, 3, 3, 3]) == (3.0, 3.0, 3.0, 4)


def test_equal_values_that_binary_fractions_cannot_hold():
    mean, low, high, _ = bootstrap_mean([0.1] * 7)
    assert low == mean == high


def test_two_values_give_their_range():
    # Resampled means of (0, 2) are 0, 1, 2 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean([0, 2]) == (1.0, 0.0, 2.0, 2)
    assert bootstrap_mean([0, 2], confidence=0.4) == (1.0, 1.0, 1.0, 2)


def test_quantiles_agree_with_all_resamples_listed():
    values = np.array([0, 1, 3, 8, 20])
    means = [np.mean(s) for s in itertools.product(values, repeat=5)]
    mean, low, high, n = bootstrap_mean(values, resamples=200_000)
    assert (mean, n) == (6.4, 5)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.2)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.2)


def test_same_seed_same_interval_other_seed_close():
    values = [1, 4, 9, 16, 25]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    other = bootstrap_mean(values, seed=1)
    assert other.low == pytest.approx(bootstrap_mean(values).low, abs=0.5)


def test_swapping_the_arms_negates_the_interval():
    differences = np.array([1.0, -2.0, 4.0, 3.0])
    forward, backward = paired_bootstrap(differences), paired_bootstrap(-differences)
    np.testing.assert_allclose(-backward.mean, forward.mean)
    np.testing.assert_allclose((-backward.high, -backward.low), (forward.low, forward.high))
    assert (-forward).low == -forward.high


def test_shift_and_scale():
    values = np.array([0.0, 1.0, 5.0, 6.0])
    base, moved = bootstrap_mean(values), bootstrap_mean(10 * values - 3)
    np.testing.assert_allclose(moved[:3], 10 * np.array(base[:3]) - 3)


def test_coverage_of_a_normal_mean():
    # n = 30, 400 intervals: nominal 95 %, the percentile interval is a little narrow.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        _, low, high, _ = bootstrap_mean(rng.normal(1.0, 2.0, 30), resamples=1000)
        hits += low <= 1.0 <= high
    assert 0.90 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "at least 2 repeats"),
        ([], "at least 2 repeats"),
        ([[1.0, 2.0]], "shape"),
        ([1.0, np.nan], "finite"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(values)


def test_bad_options():
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1, 2], confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_mean([1, 2], resamples=0)


def test_spearman():
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [5, 4, 0]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [7, 7, 7]) == 0.0
    x, y = [3, 1, 1, 5, 2, 2], [2, 0, 7, 7, 7, 1]
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    with pytest.raises(ValueError, match="x, y"):
        spearman([1, 2], [1, 2, 3])
