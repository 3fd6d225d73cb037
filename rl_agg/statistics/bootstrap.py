r"""Stratified bootstrap intervals. Axes: S runs of a stratum (an environment), B resamples, K numbers per run.

A percentile interval from few runs is too narrow: it uses the biased spread of S runs, and a normal distribution instead of
Student's. Percentiles further out correct both: :math:`\Phi(\mp \sqrt{N/f} \; t_{f, 1-\alpha/2})` for N runs in all with
f = N minus the number of strata (Hesterberg, 2015, "What teachers should know about the bootstrap", expanded percentile
intervals; his is the case of one stratum). The correction is small from 20 runs on. Below six the interval ends at the
most extreme resamples and is still too narrow: see :func:`enough_pairs`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import special, stats

from rl_agg.statistics.aggregates import interquartile_mean, mean, share_of_wins
from rl_agg.statistics.estimates import UNKNOWN, Array, Estimate, known

GENERATOR = "rng" if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 15) else "random_state"
"""What SciPy calls the generator."""

LEAST_TAIL = 1e-9
"""A smaller tail is the most extreme resample anyway; scipy needs it above zero."""


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Callable[..., Any] = interquartile_mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic of all runs together, with a bootstrap interval, resampling within each stratum.

    :param strata: A number for each run, ``[S]`` for each environment; environments may differ in S. NaN is ignored.
    :param statistic: ``statistic(values [..., S], axis=-1) -> [...]`` over the runs of all strata.
    :param confidence: Unitless, in (0, 1).
    :param resamples: B.
    :param seed: Of the resampling, so that the same data give the same interval.
    :return: The statistic of the data and its interval. Ends are NaN if a stratum has fewer than two runs, all is NaN if one
        has none; if all values are equal, both ends are that value.

    Source: Agarwal et al. (2021). Differs: their percentiles have no correction for few runs.
    """
    samples = [known(stratum) for stratum in strata]
    if not samples or any(sample.size == 0 for sample in samples):
        return UNKNOWN

    def pooled(*drawn: Array, axis: int = -1) -> Any:
        return statistic(np.concatenate(drawn, axis=axis), axis=axis)

    return _estimate(samples, pooled, confidence, resamples, seed)


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    r"""Estimate the mean paired difference of two algorithms, of :math:`x_s - y_s`.

    :param first: A number for each seed ``[S]``.
    :param second: The other's, of the same seeds in the same order ``[S]``. A pair with a NaN is ignored.
    :return: Mean difference and its bootstrap interval, see :func:`bootstrap_interval`.
    :raises ValueError: if the two do not have the same length.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must come in the same number, got {a.shape} and {b.shape}")
    return bootstrap_interval([a - b], mean, confidence=confidence, seed=seed)


def enough_pairs(num_pairs: int, confidence: float = 0.95) -> bool:
    r"""Whether this number of pairs can establish a difference.

    If neither algorithm is better, all S differences have one sign with probability :math:`2^{1-S}`, and then the bootstrap
    interval excludes zero. That is rarer than one minus the confidence only from S = 6 (95 %) on.
    """
    return num_pairs > 0 and 2.0 ** (1 - num_pairs) <= 1 - confidence


def probability_of_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    r"""Estimate the probability that a run of X beats a run of Y, averaged over environments.

    :math:`P(X > Y) = \frac{1}{S_x S_y} \sum_{s,t} [x_s > y_t] + \tfrac12 [x_s = y_t]`

    :param pairs: X's and Y's numbers ``([S_x], [S_y])`` for each environment. NaN is ignored.
    :return: Unitless, in [0, 1], with a bootstrap interval that resamples X and Y within each environment; NaN as in
        :func:`bootstrap_interval`.

    Source: Agarwal et al. (2021), the Mann-Whitney statistic.
    """
    samples = [known(side) for pair in pairs for side in pair]
    if not samples or any(sample.size == 0 for sample in samples):
        return UNKNOWN

    def averaged(*drawn: Array, axis: int = -1) -> Any:
        return np.mean([share_of_wins(x, y) for x, y in zip(drawn[::2], drawn[1::2], strict=True)], axis=0)

    return _estimate(samples, averaged, confidence, resamples, seed)


def mean_intervals(
    strata: Sequence[ArrayLike], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Bootstrap intervals of many means at once, resampling whole runs within each stratum.

    Runs weighted by their number of draws give all K means in one matrix product, where scipy would copy every drawn run.

    :param strata: Numbers of each run ``[S, K]``, not NaN, for each environment, which have equal weights.
    :return: Low and high ends ``[K]`` each; NaN if an environment has fewer than two runs.
    """
    runs = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    sizes = [len(each) for each in runs]
    if not runs or min(sizes) < 2:
        unknown = np.full(runs[0].shape[1] if runs else 0, np.nan)
        return unknown, unknown
    rng = np.random.default_rng(seed)
    means = np.zeros((resamples, runs[0].shape[1]))  # [B, K]
    for each, size in zip(runs, sizes, strict=True):
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size  # [B, S]
        means += drawn @ each / len(runs)
    tail = tail_share(sizes, confidence)
    # Quantiles of contiguous rows are several times faster
    low, high = np.quantile(np.ascontiguousarray(means.T), [tail, 1 - tail], axis=1, overwrite_input=True)
    return low, high


def tail_share(sizes: Sequence[int], confidence: float) -> float:
    """Share of the resamples beyond either end of an interval; see the top of this file.

    :param sizes: S of each stratum, at least one of them above 1.
    :param confidence: Unitless, in (0, 1).
    """
    freedom = sum(sizes) - len(sizes)
    distance = math.sqrt(sum(sizes) / freedom) * special.stdtrit(freedom, (1 + confidence) / 2)
    return max(float(special.ndtr(-distance)), LEAST_TAIL)


def _estimate(samples: list[Array], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int) -> Estimate:
    value = float(statistic(*samples, axis=-1))
    sizes = [sample.size for sample in samples]
    if min(sizes) < 2:
        return Estimate(value, math.nan, math.nan)
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        confidence_level=1 - 2 * tail_share(sizes, confidence),
        method="percentile",  # the bias-corrected one is undefined where all runs agree
        paired=False,
        vectorized=True,
        axis=-1,
        **{GENERATOR: np.random.default_rng(seed)},
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
