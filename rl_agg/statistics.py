r"""Numbers that compare runs. Axes: U updates, S seeds (runs).

A run is its returns over updates ``[U]``: NaN where no episode had finished yet. Every function leaves NaN out, and answers
NaN where nothing is left. An interval needs at least two runs; with one its ends are NaN.

Sources: Holen et al. (2023), sections 4.1 and 4.2, for what their tables show; Agarwal et al. (2021), "Deep reinforcement
learning at the edge of the statistical precipice", for the interquartile mean, stratified bootstrap intervals and the
probability of improvement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the ends of its interval, NaN where the interval cannot be told."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_return(returns: ArrayLike) -> float:
    r"""Average over training: :math:`\bar R = \frac{1}{U} \sum_u r_u`.

    :param returns: One run ``[U]``, in the environment's own units.
    :return: Mean over the updates with a known return; NaN if there is none.
    """
    known = _known(returns)
    return float(known.mean()) if known.size else math.nan


def end_return(returns: ArrayLike, share: float = 0.1) -> float:
    r"""Average over the end of training: :math:`\bar R_{end}`.

    That is the mean over the last :math:`\lceil share \cdot U \rceil` updates, with ``share`` 0.1 the last tenth.

    :param returns: One run ``[U]``, in the environment's own units.
    :param share: Unitless, in (0, 1]: which last part of *all* updates counts as the end, known returns or not.
    :return: Mean over the known returns among them; NaN if there is none.
    :raises ValueError: if ``share`` is not in (0, 1].

    Source: Holen et al. (2023), tables 1 to 5, which do not say how long the end is.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    run = np.asarray(returns, dtype=np.float64)
    # Rounding first: 0.1 * 30 is a little more than 3
    return mean_return(run[len(run) - math.ceil(round(share * len(run), 9)) :])


def percent_of_baseline(values: Mapping[str, float], baseline: str) -> dict[str, float]:
    r"""Compare with a baseline as the paper does: :math:`100 \, x / x_{baseline}`.

    Where more than half of the values are negative, the most negative one is first subtracted from all. Where only some are,
    they count as 0 %.

    >>> percent_of_baseline({"sum": 200.0, "loss": 250.0, "mean": -10.0}, "sum")
    {'sum': 100.0, 'loss': 125.0, 'mean': 0.0}

    :param values: A number for each algorithm, in the environment's own units; NaN where it is not known.
    :param baseline: Whose number is 100 %.
    :return: Percentages; NaN for unknown numbers, and for all where the baseline is not positive after the shift, as a
        percentage of it means nothing then.
    :raises KeyError: if the baseline is not among the values.

    Source: Holen et al. (2023), section 4.1.
    """
    known = [value for value in values.values() if not math.isnan(value)]
    negative = [value for value in known if value < 0]
    shift = min(negative) if 2 * len(negative) > len(known) else 0.0
    whole = values[baseline] - shift
    if not whole > 0:
        return dict.fromkeys(values, math.nan)
    return {name: value if math.isnan(value) else max(0.0, 100 * (value - shift) / whole) for name, value in values.items()}


def threshold_step(returns: ArrayLike, threshold: float, smoothing: float = 0.9) -> int | None:
    r"""Tell when the running score reaches a threshold: :math:`s_u = 0.9 \, s_{u-1} + 0.1 \, r_u`.

    The score starts at the first known return. Updates without one leave it as it is.

    :param returns: One run, or the mean of several, ``[U]``.
    :param threshold: In the environment's own units.
    :param smoothing: Unitless, in [0, 1): how much of the score is kept at each update.
    :return: Number of the update, counted from 1; ``None`` if the score never gets there.
    :raises ValueError: if ``smoothing`` is not in [0, 1).

    Source: Holen et al. (2023), table 6, which does not say where the score starts.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    score = math.nan
    for update, value in enumerate(np.asarray(returns, dtype=np.float64), start=1):
        if not math.isnan(value):
            score = value if math.isnan(score) else score + (1 - smoothing) * (value - score)
            if score >= threshold:
                return update
    return None


def variance_between_runs(values: ArrayLike) -> float:
    r"""Spread of a number over runs: :math:`\frac{1}{S-1} \sum_s (x_s - \bar x)^2`.

    :param values: A number for each run ``[S]``, such as its mean return.
    :return: In squared units; NaN with fewer than two known values.

    Source: Holen et al. (2023), table 7. Differs: the magnitudes printed there (about 10 % of the returns) look like standard
    deviations, the root of this.
    """
    known = _known(values)
    return float(known.var(ddof=1)) if known.size > 1 else math.nan


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter of the values, rounded down, is cut off at either end.

    With fewer than four values nothing is cut off and it is the mean.

    :param values: A number for each run ``[..., S]``, none of them NaN.
    :param axis: That of the runs.

    Source: Agarwal et al. (2021).
    """
    return stats.trim_mean(values, 0.25, axis=axis)


def mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean, in the shape that :func:`bootstrap_interval` asks for."""
    return np.mean(np.asarray(values), axis=axis)


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Callable[..., Any] = interquartile_mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic of all runs together, with a percentile bootstrap interval, resampling within each stratum.

    :param strata: A number for each run, ``[S]`` for each environment; environments may differ in S. NaN is left out.
    :param statistic: ``statistic(values [..., S], axis=-1) -> [...]`` over the runs of all strata.
    :param confidence: Unitless, in (0, 1).
    :param resamples: How often to draw.
    :param seed: Of the drawing, so that the same data give the same interval.
    :return: The statistic of the data and its interval. Ends are NaN if a stratum has fewer than two runs, all is NaN if one
        has none; with all values equal both ends are that value.

    Source: Agarwal et al. (2021), who use 95 % percentile intervals.
    """
    samples = [_known(stratum) for stratum in strata]
    if not samples or any(sample.size == 0 for sample in samples):
        return Estimate(math.nan, math.nan, math.nan)

    def pooled(*drawn: Array, axis: int = -1) -> Any:
        return statistic(np.concatenate(drawn, axis=axis), axis=axis)

    return _bootstrap(samples, pooled, confidence, resamples, seed)


def mean_curve(curves: ArrayLike) -> Array:
    """Mean over runs at each update.

    :param curves: ``[S, U]``.
    :return: ``[U]``, over the runs with a known return there; NaN where there is none.
    """
    runs = np.asarray(curves, dtype=np.float64)
    known = ~np.isnan(runs)
    count, total = known.sum(axis=0), np.where(known, runs, 0.0).sum(axis=0)
    curve: Array = np.divide(total, count, out=np.full(runs.shape[1], np.nan), where=count > 0)
    return curve


def curve_interval(
    curves: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Bootstrap interval of the mean curve, update by update.

    :param curves: ``[S, U]``.
    :return: Low and high ends ``[U]`` each; NaN where a run's return is not known, and everywhere with one run.
    """
    runs = np.asarray(curves, dtype=np.float64)
    low, high = np.full(runs.shape[1], np.nan), np.full(runs.shape[1], np.nan)
    known = ~np.isnan(runs).any(axis=0)
    if len(runs) > 1 and known.any():
        interval = _resampled([runs[:, known].T], mean, confidence, resamples, seed)
        low[known], high[known] = interval.low, interval.high
    return low, high


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    r"""Estimate by how much one algorithm beats another, seed by seed: the mean of :math:`x_s - y_s`.

    :param first: A number for each seed ``[S]``.
    :param second: The other's, of the same seeds in the same order ``[S]``. A pair with a NaN is left out.
    :return: Mean difference and its bootstrap interval, see :func:`bootstrap_interval`.
    :raises ValueError: if the two do not have the same length.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must come in the same number, got {a.shape} and {b.shape}")
    return bootstrap_interval([a - b], mean, confidence=confidence, seed=seed)


def enough_pairs(num_pairs: int, confidence: float = 0.95) -> bool:
    r"""Tell whether so few pairs can establish a difference at all.

    If neither algorithm is better, all S differences still have one sign with probability :math:`2^{1-S}`, and then the
    bootstrap interval excludes zero. That is rarer than one minus the confidence only from S = 6 (95 %) on.
    """
    return num_pairs > 0 and 2.0 ** (1 - num_pairs) <= 1 - confidence


def probability_of_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    r"""Estimate how likely a run of X beats a run of Y, averaged over environments.

    :math:`P(X > Y) = \frac{1}{S_x S_y} \sum_{s,t} [x_s > y_t] + \tfrac12 [x_s = y_t]`

    :param pairs: X's and Y's numbers ``([S_x], [S_y])`` for each environment. NaN is left out.
    :return: Unitless, in [0, 1], with a bootstrap interval that resamples X and Y within each environment; NaN as in
        :func:`bootstrap_interval`.

    Source: Agarwal et al. (2021), the Mann-Whitney statistic.
    """
    samples = [_known(side) for pair in pairs for side in pair]
    if not samples or any(sample.size == 0 for sample in samples):
        return Estimate(math.nan, math.nan, math.nan)

    def averaged(*drawn: Array, axis: int = -1) -> Any:
        wins = [_share_of_wins(x, y) for x, y in zip(drawn[::2], drawn[1::2], strict=True)]
        return np.mean(wins, axis=0)

    return _bootstrap(samples, averaged, confidence, resamples, seed)


def _share_of_wins(x: Array, y: Array) -> Any:
    difference = x[..., :, None] - y[..., None, :]
    return ((np.sign(difference) + 1) / 2).mean(axis=(-2, -1))


def _bootstrap(samples: list[Array], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int) -> Estimate:
    value = float(statistic(*samples, axis=-1))
    if any(sample.size < 2 for sample in samples):
        return Estimate(value, math.nan, math.nan)
    interval = _resampled(samples, statistic, confidence, resamples, seed)
    return Estimate(value, float(interval.low), float(interval.high))


def _resampled(samples: list[Array], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int) -> Any:
    return stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",  # the bias-corrected one is undefined where all runs agree
        paired=False,
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(seed),
    ).confidence_interval


def _known(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]
