"""Statistics against hand calculations, the paper's own tables and scipy."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rl_agg import statistics

NAN = math.nan


def test_mean_return_leaves_out_updates_before_the_first_episode():
    assert statistics.mean_return([NAN, 2.0, 4.0]) == 3.0
    assert math.isnan(statistics.mean_return([NAN, NAN]))
    assert math.isnan(statistics.mean_return([]))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, (28 + 29 + 30) / 3), (0.05, (29 + 30) / 2), (0.07, (28 + 29 + 30) / 3), (0.001, 30), (1.0, 31 / 2)],
    ids=["three of thirty", "one and a half is two", "two and a bit is three", "at least one", "all"],
)
def test_end_return_takes_the_last_share_rounded_up(share, expected):
    assert statistics.end_return(np.arange(1.0, 31.0), share) == pytest.approx(expected)


def test_end_return_counts_its_share_over_all_updates_known_or_not():
    assert statistics.end_return([9.0, 9.0, NAN, 1.0], share=0.5) == 1.0
    assert math.isnan(statistics.end_return([9.0, 9.0, NAN, NAN], share=0.5))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, NAN])
def test_end_return_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share"):
        statistics.end_return([1.0], share)


# Holen et al. (2023), tables 1 to 4: what is printed there, reproduced from the numbers printed next to it
LUNAR = {"R": -52.69, "L": -6.41, "sum": -53.94, "avg": -132.84, "fed": -121.93}
LUNAR_END = {"R": 84.55, "L": 108.01, "sum": 78.39, "avg": -36.45, "fed": -30.28}
CHEETAH = {"R": 2079.15, "L": 2291.36, "sum": 2085.92, "avg": 2158.96}


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        (LUNAR, {"R": 101.59, "L": 160.24, "sum": 100, "avg": 0, "fed": 13.82}),
        (LUNAR_END, {"R": 107.85, "L": 137.79, "sum": 100, "avg": 0, "fed": 0}),
        (CHEETAH, {"R": 99.67, "L": 109.84, "sum": 100, "avg": 103.5}),
    ],
    ids=["most negative: shifted", "two negative: zero", "none negative"],
)
def test_percentages_are_those_of_the_papers_tables(values, printed):
    assert statistics.percent_of_baseline(values, "sum") == pytest.approx(printed, abs=0.02)


def test_percent_of_a_baseline_that_is_not_positive_means_nothing():
    assert all(math.isnan(value) for value in statistics.percent_of_baseline({"a": 5.0, "base": -1.0}, "base").values())
    assert all(math.isnan(value) for value in statistics.percent_of_baseline({"a": -1.0, "base": -5.0}, "base").values())


def test_percent_keeps_unknown_values_unknown():
    percent = statistics.percent_of_baseline({"a": NAN, "base": 4.0, "b": 2.0}, "base")
    assert math.isnan(percent["a"])
    assert percent["b"] == 50.0


def test_half_negative_is_not_most():
    assert statistics.percent_of_baseline({"a": -3.0, "base": 6.0}, "base") == {"a": 0.0, "base": 100.0}


def test_threshold_step_by_hand():
    # s: 0, 1, 1.9, 2.71
    assert statistics.threshold_step([0, 10, 10, 10], 1.85) == 3
    assert statistics.threshold_step([0, 10, 10, 10], 2.8) is None
    assert statistics.threshold_step([5, 0], 5) == 1
    assert statistics.threshold_step([NAN, 0, NAN, 10], 0.95) == 4
    assert statistics.threshold_step([], 0.0) is None


def test_threshold_step_refuses_a_smoothing_that_never_moves():
    with pytest.raises(ValueError, match="smoothing"):
        statistics.threshold_step([1.0], 0.0, smoothing=1.0)


def test_variance_between_runs():
    assert statistics.variance_between_runs([1.0, 2.0, NAN, 6.0]) == pytest.approx(7.0)
    assert statistics.variance_between_runs([2.0, 2.0]) == 0.0
    assert math.isnan(statistics.variance_between_runs([2.0]))


def test_interquartile_mean_by_hand():
    assert statistics.interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert statistics.interquartile_mean([1.0, 2.0, 9.0]) == 4.0


def expanded(sizes):
    """Hesterberg's percentiles, written out."""
    total, freedom = sum(sizes), sum(size - 1 for size in sizes)
    out = stats.norm.cdf(-math.sqrt(total / freedom) * stats.t.ppf(0.975, freedom))
    return [100 * out, 100 * (1 - out)]


def test_bootstrap_interval_is_the_percentiles_of_means_drawn_by_hand():
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0])
    estimate = statistics.bootstrap_interval([values], statistics.mean, resamples=500, seed=7)
    drawn = values[np.random.default_rng(7).integers(0, 6, (500, 6))].mean(axis=1)
    assert estimate.value == values.mean()
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(drawn, expanded([6]))), abs=1e-9)


def test_a_stratified_interval_is_the_percentiles_of_values_drawn_by_hand():
    strata = [np.array([1.0, 4.0, 2.0, 8.0]), np.array([5.0, 7.0, 0.0])]
    estimate = statistics.bootstrap_interval(strata, resamples=500, seed=7)
    rng = np.random.default_rng(7)
    drawn = np.concatenate([x[rng.integers(0, len(x), (500, len(x)))] for x in strata], axis=1)
    means = [np.sort(row)[1:-1].mean() for row in drawn]  # of seven values a quarter is one
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(means, expanded([4, 3]))), abs=1e-9)


def test_intervals_from_many_runs_are_the_plain_percentiles():
    assert statistics.tail_share([10_000], 0.95) == pytest.approx(0.025, abs=1e-4)
    assert statistics.tail_share([5], 0.95) == pytest.approx(stats.norm.cdf(-math.sqrt(5 / 4) * 2.7764451051977987), abs=1e-9)
    assert statistics.tail_share([2], 0.95) > 0  # or scipy would refuse it


def test_bootstrap_resamples_within_each_environment():
    # Were the two pooled before drawing, their shares would vary and so would the mean
    estimate = statistics.bootstrap_interval([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]], statistics.mean)
    assert (estimate.value, estimate.low, estimate.high) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("strata", "expected"),
    [
        ([[3.0]], (3.0, NAN, NAN)),
        ([[3.0, NAN]], (3.0, NAN, NAN)),
        ([[2.0, 2.0, 2.0]], (2.0, 2.0, 2.0)),
        ([[NAN]], (NAN, NAN, NAN)),
        ([], (NAN, NAN, NAN)),
        ([[1.0, 2.0], []], (NAN, NAN, NAN)),
    ],
    ids=["one seed", "one known seed", "all equal", "none known", "nothing", "one environment without runs"],
)
@pytest.mark.filterwarnings("error")
def test_bootstrap_edges(strata, expected):
    estimate = statistics.bootstrap_interval(strata)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(expected, nan_ok=True)


def test_paired_difference_uses_the_pairs():
    first, second = np.array([1.0, 10.0, 100.0]), np.array([0.0, 9.0, 99.0])
    estimate = statistics.paired_difference(first, second)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.0, 1.0, 1.0))
    assert estimate.excludes_zero
    assert not statistics.paired_difference(first, second[::-1]).excludes_zero
    assert statistics.paired_difference([1.0, NAN, 3.0], [0.0, 1.0, 2.0]).value == 1.0
    with pytest.raises(ValueError, match="same number"):
        statistics.paired_difference([1.0], [1.0, 2.0])


def test_an_interval_that_is_not_known_excludes_nothing():
    assert not statistics.paired_difference([2.0], [1.0]).excludes_zero


@pytest.mark.parametrize("num_pairs", range(1, 9))
def test_enough_pairs_agrees_with_the_sign_test(num_pairs):
    smallest_p = stats.binomtest(num_pairs, num_pairs, 0.5).pvalue
    assert statistics.enough_pairs(num_pairs) == (smallest_p <= 0.05)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8), st.lists(st.integers(-3, 3), min_size=2, max_size=8))
def test_probability_of_improvement_is_mann_whitney(x, y):
    expected = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    estimate = statistics.probability_of_improvement([(x, y)], resamples=20)
    assert estimate.value == pytest.approx(expected)


def test_share_of_wins_counts_every_pair():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, size=(30, 7)), rng.integers(0, 5, size=(30, 4))
    by_hand = [np.mean([(a > b) + (a == b) / 2 for a in first for b in second]) for first, second in zip(x, y, strict=True)]
    assert statistics.share_of_wins(x, y).tolist() == by_hand


def test_probability_of_improvement_of_many_runs_does_not_take_their_square_in_memory():
    runs = np.random.default_rng(0).normal(size=(2, 200))
    tracemalloc.start()
    statistics.probability_of_improvement([(runs[0], runs[1])])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 200 * 200  # of all pairs not a byte each


def test_probability_of_improvement_averages_environments_whatever_their_size():
    estimate = statistics.probability_of_improvement([([2.0, 3.0], [0.0, 1.0]), ([0.0] * 5, [1.0] * 9)])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)
    assert math.isnan(statistics.probability_of_improvement([]).value)
    assert math.isnan(statistics.probability_of_improvement([([2.0], [1.0])]).low)
