"""Statistics of the ledger: exact answers, and coverage and power by simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mtlbook.ledger import statistics as of
from mtlbook.ledger.statistics import mean_interval, prediction_interval, spearman, two_way_interval


def draws(kind, shape, seed=0):
    """Values of mean 0: normal, or exponential ones, whose skewness is 2."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) if kind == "normal" else rng.exponential(size=shape) - 1


def covered(interval, truth=0.0):
    return np.mean((interval.low <= truth) & (truth <= interval.high))


# Coverage: 20,000 draws each, whose own standard error is 0.0015 at 95 %.


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10, 20, 30])
def test_the_interval_covers_the_mean_of_normal_values_as_it_says(n):
    values = draws("normal", (n, 20_000))
    for confidence in (0.95, 0.8):
        found = covered(mean_interval(values, confidence=confidence))
        assert found == pytest.approx(confidence, abs=0.01)


@pytest.mark.parametrize(
    ("n", "coverage"), [(5, 0.881), (8, 0.895), (10, 0.903), (20, 0.923), (30, 0.929)]
)
def test_it_covers_less_for_skewed_values(n, coverage):
    found = covered(mean_interval(draws("exponential", (n, 20_000))))
    assert found == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "n", "coverage"),
    [
        *(("normal", 3, 0.75), ("normal", 4, 0.80), ("normal", 5, 0.83), ("normal", 8, 0.88)),
        *(("normal", 10, 0.90), ("normal", 30, 0.935)),
        *(("exponential", 5, 0.78), ("exponential", 10, 0.86), ("exponential", 30, 0.91)),
    ],
)
def test_the_percentile_interval_that_was_used_before_covered_less(kind, n, coverage):
    found = covered(of.percentile_interval(draws(kind, (n, 4000)), resamples=1000))
    assert found == pytest.approx(coverage, abs=0.02)


def test_a_new_run_falls_into_the_prediction_interval():
    for n in (5, 10):
        values, new = draws("normal", (n, 20_000)), draws("normal", 20_000, seed=1)
        assert covered(prediction_interval(values), new) == pytest.approx(0.95, abs=0.01)
        assert covered(mean_interval(values), new) < 0.7


@pytest.mark.parametrize("shape", [(5, 5), (8, 4), (10, 50), (30, 4)])
@pytest.mark.parametrize("sds", [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1)])
def test_two_ways_cover_at_least_as_they_say(shape, sds):
    (r, u), rng, hits = shape, np.random.default_rng(0), 0
    of_repeat, of_unit, residual = sds
    for _ in range(1000):
        values = of_repeat * rng.normal(size=(r, 1)) + of_unit * rng.normal(size=(1, u))
        hits += covered(two_way_interval(values + residual * rng.normal(size=shape)))
    assert hits / 1000 >= 0.93  # three standard errors below 95 %


@pytest.mark.parametrize("sds", [(1, 0, 1), (0, 1, 1), (0.3, 1, 2), (0, 0, 1)])
def test_two_ways_cover_where_each_repeat_measures_half_of_the_units(sds):
    """As where every repeat draws its test images anew from one pool."""
    (r, u), rng = (20, 300), np.random.default_rng(0)
    of_repeat, of_unit, residual = sds
    two, one = [], []
    for _ in range(1000):
        values = of_repeat * rng.normal(size=(r, 1)) + of_unit * rng.normal(size=(1, u))
        values += residual * rng.normal(size=(r, u))
        values[rng.random((r, u)).argsort(axis=1) < u // 2] = np.nan
        two.append(covered(two_way_interval(values)))
        one.append(covered(mean_interval(np.nanmean(values, axis=1))))
    assert 0.93 <= np.mean(two) <= 0.985  # three standard errors below 95 %; wide, not useless
    if of_unit > of_repeat:
        assert np.mean(one) < 0.85  # repeats share half of their units


def test_units_that_nobody_measured_are_left_out():
    values = draws("normal", (5, 8))
    padded = np.concatenate([np.full((5, 2), np.nan), values], axis=1)
    np.testing.assert_allclose(two_way_interval(padded), two_way_interval(values))
    with pytest.raises(ValueError, match="with 0 units in a repeat"):
        two_way_interval(np.where(np.arange(5)[:, None] == 2, np.nan, values))


def test_the_p_of_an_interval_is_that_of_its_values():
    values = [1.0, 2.0, -4.0, 8.0, 10.0]
    assert of.p_value_of(mean_interval(values)) == pytest.approx(of.p_value(values))
    assert of.p_value_of(mean_interval([0.0, 0.0])) == 1
    assert of.standard_error(mean_interval(values)) == pytest.approx(stats.sem(values))


def test_one_way_is_too_narrow_where_units_differ():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        values = rng.normal(size=(8, 1)) + 2 * rng.normal(size=(1, 4)) + rng.normal(size=(8, 4))
        hits += covered(mean_interval(values.mean(axis=1)))
    assert hits / 1000 < 0.7


# Exact answers


def test_student():
    values = [1.0, 2.0, 4.0, 8.0, 10.0]
    mean, low, high, n = mean_interval(values)
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, n) == (5.0, 5)
    np.testing.assert_allclose((low, high), expected)
    assert of.p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    wide = prediction_interval(values)
    assert wide.high - wide.mean == pytest.approx((high - mean) * np.sqrt(1 + 5))


def test_axis_0_runs_over_repeats():
    values = draws("normal", (6, 3))
    together = mean_interval(values)
    for i, column in enumerate(values.T):
        one = mean_interval(column)
        np.testing.assert_allclose(one[:3], [end[i] for end in together[:3]])


def test_equal_values_have_an_empty_interval():
    assert mean_interval([3, 3, 3, 3]) == (3.0, 3.0, 3.0, 4)
    assert of.p_value([3, 3, 3]) == 0 and of.p_value([0, 0, 0]) == 1


def test_rounding_is_no_spread():
    differences = np.array([0.3, 0.4, 0.5]) - np.array([0.2, 0.3, 0.4])
    assert np.ptp(differences) > 0
    mean, low, high, _ = mean_interval(differences)
    assert low == mean == high
    assert of.p_value(differences) == 0


def test_swapping_the_arms_negates_the_interval():
    differences = np.array([1.0, -2.0, 4.0, 3.0])
    forward, backward = mean_interval(differences), mean_interval(-differences)
    np.testing.assert_allclose((-backward)[:3], forward[:3])


def test_shift_and_scale():
    values = np.array([0.0, 1.0, 5.0, 6.0])
    for function in (mean_interval, prediction_interval):
        base, moved = function(values), function(10 * values - 3)
        np.testing.assert_allclose(moved[:3], 10 * np.array(base[:3]) - 3)


def test_two_ways_reduce_to_one_where_the_other_does_not_vary():
    of_repeats = np.array([1.0, 2.0, 4.0, 8.0, 10.0])
    two = two_way_interval(np.tile(of_repeats[:, None], (1, 9)))
    np.testing.assert_allclose(two, mean_interval(of_repeats))


def test_the_percentile_interval_agrees_with_all_resamples_listed():
    values = np.array([0, 1, 3, 8, 20])
    means = [np.mean(s) for s in itertools.product(values, repeat=5)]
    mean, low, high, n = of.percentile_interval(values, resamples=200_000)
    assert (mean, n) == (6.4, 5)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.2)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.2)


# Power and several tests


@pytest.mark.parametrize("n", [5, 10, 30])
def test_a_detectable_effect_is_found_in_four_of_five(n):
    effect = of.detectable(2.0, n)
    interval = mean_interval(effect + 2.0 * draws("normal", (n, 20_000)))
    assert np.mean(interval.low > 0) == pytest.approx(0.8, abs=0.01)


def test_repeats_needed_is_the_inverse_of_detectable():
    for n in (2, 5, 17, 400):
        effect = of.detectable(1.5, n)
        assert of.repeats_needed(1.5, -effect * 1.0001) == n
        assert of.repeats_needed(1.5, effect * 0.9999) == n + 1
    assert of.repeats_needed(1.0, 0.0) is None
    assert of.repeats_needed(0.0, 1.0) == 2
    # Lehr's rule for large n: 16 / 2 (sd / effect)^2
    assert of.repeats_needed(1.0, 0.1) == pytest.approx(787, abs=3)


def test_holm():
    assert of.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert of.holm([0.9, 0.6]) == [1.0, 1.0]
    assert of.holm([]) == []


def test_holm_keeps_the_level_of_the_family():
    values = draws("normal", (5, 1000, 6))
    t = np.sqrt(5) * values.mean(axis=0) / values.std(axis=0, ddof=1)
    p = 2 * stats.t.sf(np.abs(t), 4)
    wrong = np.mean([min(of.holm(list(row))) <= 0.05 for row in p])
    assert wrong == pytest.approx(0.05, abs=0.02)
    assert np.mean(p.min(axis=1) <= 0.05) > 0.2


@pytest.mark.parametrize("function", [mean_interval, prediction_interval, two_way_interval])
@pytest.mark.parametrize(
    ("values", "message"), [([[1.0, 2.0]], "at least 2"), ([[1.0, 2], [3, np.inf]], "finite")]
)
def test_bad_values(function, values, message):
    with pytest.raises(ValueError, match=message):
        function(values)


def test_bad_options():
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1, 2], confidence=95)
    with pytest.raises(ValueError, match="at least"):
        mean_interval(3.0)
    with pytest.raises(ValueError, match=r"expected shape \(repeats, units\)"):
        two_way_interval([1, 2, 3])
    with pytest.raises(ValueError, match="n >= 2"):
        of.detectable(1.0, 1)


def test_spearman():
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [5, 4, 0]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [7, 7, 7]) == 0.0
    x, y = [3, 1, 1, 5, 2, 2], [2, 0, 7, 7, 7, 1]
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    with pytest.raises(ValueError, match="x, y"):
        spearman([1, 2], [1, 2, 3])
