"""How often intervals of 95 % hold the truth, on data whose truth is known."""

import numpy as np
import pytest

from rl_agg import statistics

TRIALS = 2000


def coverage(draw, truth, interval):
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(TRIALS):
        estimate = interval(draw(rng), trial)
        hits += estimate.low <= truth <= estimate.high
    return hits / TRIALS


def means(runs, seed):
    return statistics.bootstrap_interval(runs, statistics.mean, resamples=1000, seed=seed)


def middles(runs, seed):
    return statistics.bootstrap_interval(runs, resamples=1000, seed=seed)


def differences(runs, seed):
    return statistics.paired_difference(*runs, seed=seed)


def improvements(pairs, seed):
    return statistics.probability_of_improvement(pairs, resamples=1000, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "truth", "interval"),
    [
        (lambda rng: [rng.normal(size=10)], 0.0, means),
        (lambda rng: [rng.uniform(size=10)], 0.5, means),
        (lambda rng: [rng.normal(size=20)], 0.0, middles),
        (lambda rng: list(rng.normal(size=(5, 5))), 0.0, middles),
        (lambda rng: list(rng.normal(size=(5, 10))), 0.0, middles),
        (lambda rng: np.add([[1.0], [0.0]], rng.normal(size=(2, 10)) + rng.normal(size=10)), 1.0, differences),
        (lambda rng: [tuple(rng.normal(size=(2, 20)))], 0.5, improvements),
        (lambda rng: list(rng.normal(size=(5, 2, 10))), 0.5, improvements),
    ],
    ids=[
        "mean of 10",
        "mean of 10, uniform",
        "IQM of 20",
        "IQM of 5 environments of 5",
        "IQM of 5 environments of 10",
        "difference of 10 pairs",
        "improvement of 20",
        "improvement of 5 environments of 10",
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(draw, truth, interval):
    assert 0.93 <= coverage(draw, truth, interval) <= 0.97


@pytest.mark.slow
def test_curves_and_profiles_hold_the_truth_as_often_as_they_say():
    rng, thresholds = np.random.default_rng(12), np.array([-0.5, 0.0, 0.5])
    curve_hits, profile_hits, shares = [], [], [1 - 0.30853753872598690, 0.5, 0.30853753872598690]  # 1 - Φ
    for trial in range(TRIALS):
        low, high = statistics.curve_interval(rng.normal(size=(10, 3)), seed=trial)
        curve_hits.append((low <= 0) & (high >= 0))
        _, low, high = statistics.performance_profile(list(rng.normal(size=(5, 10))), thresholds, seed=trial)
        profile_hits.append((low <= shares) & (high >= shares))
    for hits in (curve_hits, profile_hits):
        assert ((np.mean(hits, axis=0) >= 0.93) & (np.mean(hits, axis=0) <= 0.97)).all(), np.mean(hits, axis=0)
