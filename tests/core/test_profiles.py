"""Aggregates and performance profiles against the formulas that Agarwal et al. (2021) publish with rliable."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rl_agg import statistics

NAN = math.nan
SCORES = np.random.default_rng(3).normal(0.7, 0.4, (11, 5))  # [S, M]: runs x environments, rliable's layout
BY_ENVIRONMENT = list(SCORES.T)


def test_interquartile_mean_is_that_of_all_runs_together():
    expected = stats.trim_mean(SCORES, proportiontocut=0.25, axis=None)
    assert statistics.bootstrap_interval(BY_ENVIRONMENT).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_optimality_gap(gamma):
    expected = gamma - np.mean(np.minimum(SCORES, gamma))
    assert statistics.optimality_gap(SCORES.ravel(), target=gamma) == pytest.approx(expected, abs=1e-9)
    if gamma == 1.0:
        estimate = statistics.bootstrap_interval(BY_ENVIRONMENT, statistics.optimality_gap)
        assert estimate.value == pytest.approx(expected, abs=1e-9)
        assert estimate.low < expected < estimate.high


def test_probability_of_improvement():
    others = np.random.default_rng(4).normal(0.5, 0.4, (7, 5))
    expected = np.mean([stats.mannwhitneyu(SCORES[:, m], others[:, m]).statistic / (11 * 7) for m in range(5)])
    estimate = statistics.probability_of_improvement(list(zip(BY_ENVIRONMENT, others.T, strict=True)))
    assert estimate.value == pytest.approx(expected, abs=1e-9)


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    thresholds = np.linspace(-0.5, 2.0, 26)
    share, low, high = statistics.performance_profile(BY_ENVIRONMENT, thresholds)
    assert share == pytest.approx([np.mean(threshold < SCORES) for threshold in thresholds], abs=1e-9)
    assert (low <= share).all()
    assert (share <= high).all()
    assert (high - low).max() > 0.1


def test_a_profile_counts_environments_alike_whatever_their_runs():
    share, low, _ = statistics.performance_profile([[1.0, 3.0], [3.0, 3.0, 3.0, NAN]], [0.0, 2.0, 3.0])
    assert share.tolist() == [1.0, 0.75, 0.0]  # a run at the threshold is not above it
    assert low[0] == 1.0


def test_a_profile_without_runs_or_with_one():
    assert np.isnan(statistics.performance_profile([[1.0], []], [0.0])).all()
    assert np.isnan(statistics.performance_profile([], [0.0])).all()
    share, low, high = statistics.performance_profile([[1.0]], [0.0])
    assert share == [1.0]
    assert np.isnan([low, high]).all()


def test_intervals_of_many_means_are_the_percentiles_of_means_drawn_by_hand():
    strata = [SCORES[:4], SCORES[4:]]
    low, high = statistics.mean_intervals(strata, resamples=300, seed=5)
    rng = np.random.default_rng(5)
    drawn = np.zeros((300, 5))
    for runs in strata:
        often = rng.multinomial(len(runs), [1 / len(runs)] * len(runs), size=300)
        drawn += np.array([np.repeat(runs, times, axis=0).mean(axis=0) for times in often]) / 2
    tail = 100 * stats.norm.cdf(-math.sqrt(11 / 9) * stats.t.ppf(0.975, 9))
    assert low == pytest.approx(np.percentile(drawn, tail, axis=0), abs=1e-9)
    assert high == pytest.approx(np.percentile(drawn, 100 - tail, axis=0), abs=1e-9)


def test_intervals_of_many_means_agree_with_scipys_bootstrap():
    low, high = statistics.mean_intervals([SCORES], resamples=20_000)
    for k in range(5):
        one = statistics.bootstrap_interval([SCORES[:, k]], statistics.mean, resamples=20_000)
        assert (low[k], high[k]) == pytest.approx((one.low, one.high), abs=0.02)


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=9))
def test_the_optimality_gap_never_rewards_what_is_above_the_target(values):
    gap = statistics.optimality_gap(values)
    assert gap >= 0
    assert gap == pytest.approx(statistics.optimality_gap([min(value, 1.0) for value in values]))
