"""Returns as curves, over updates or their cost. Axes: U updates, S seeds (runs), G grid points, T thresholds."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate

from rl_agg.statistics.aggregates import exceedances
from rl_agg.statistics.bootstrap import mean_intervals
from rl_agg.statistics.estimates import Array, known


def mean_curve(curves: ArrayLike) -> Array:
    """Mean over runs at each update.

    :param curves: ``[S, U]``.
    :return: ``[U]``, over the runs with a known return; NaN where there is none.
    """
    runs = np.asarray(curves, dtype=np.float64)
    present = ~np.isnan(runs)
    count, total = present.sum(axis=0), np.where(present, runs, 0.0).sum(axis=0)
    curve: Array = np.divide(total, count, out=np.full(runs.shape[1], np.nan), where=count > 0)
    return curve


def curve_interval(
    curves: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Bootstrap interval of the mean curve, update by update.

    :param curves: ``[S, U]``.
    :return: Low and high ends ``[U]`` each; NaN where a run's return is unknown, and everywhere with one run.
    """
    runs = np.asarray(curves, dtype=np.float64)
    low, high = np.full(runs.shape[1], np.nan), np.full(runs.shape[1], np.nan)
    present = ~np.isnan(runs).any(axis=0)
    if len(runs) > 1 and present.any():
        ends = mean_intervals([runs[:, present]], confidence=confidence, resamples=resamples, seed=seed)
        low[present], high[present] = ends
    return low, high


def common_range(positions: Sequence[ArrayLike], returns: Sequence[ArrayLike]) -> tuple[float, float]:
    """The range in which all runs have returns.

    :param positions: Of each run's updates ``[U]``, such as env steps; rising, U may differ.
    :param returns: Their returns ``[U]``, NaN where not known.
    :return: Both ends; NaN if a run has no known return, or the range is empty.
    """
    firsts, lasts = [], []
    for x, y in zip(positions, returns, strict=True):
        present = np.asarray(x, dtype=np.float64)[~np.isnan(np.asarray(y, dtype=np.float64))]
        if not present.size:
            return math.nan, math.nan
        firsts.append(float(present[0]))
        lasts.append(float(present[-1]))
    if not firsts or max(firsts) > min(lasts):
        return math.nan, math.nan
    return max(firsts), min(lasts)


def interpolated(positions: ArrayLike, returns: ArrayLike, grid: ArrayLike) -> Array:
    """A run's returns at other positions, interpolated linearly between its known ones.

    :param positions: ``[U]``, rising.
    :param returns: ``[U]``, NaN where not known.
    :param grid: ``[G]``.
    :return: ``[G]``; NaN before the first known return and after the last.
    """
    x, y = np.asarray(positions, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    present = ~np.isnan(y)
    if not present.any():
        return np.full(np.asarray(grid).shape, np.nan)
    values: Array = np.interp(np.asarray(grid, dtype=np.float64), x[present], y[present], left=np.nan, right=np.nan)
    return values


def mean_over_range(positions: ArrayLike, returns: ArrayLike, low: float, high: float) -> float:
    r"""Mean return between two positions: :math:`\frac{1}{b-a} \int_a^b r(x) \, dx`, linear between updates.

    Over env steps this compares systems whose updates differ in length, unlike a mean over updates.

    :param positions: ``[U]``, such as env steps; rising.
    :param returns: One run ``[U]``, NaN where not known.
    :param low: a, in the units of the positions.
    :param high: b, no less.
    :return: In the units of the returns, the value there if a = b; NaN if the known returns do not reach from a to b.
    """
    x, y = np.asarray(positions, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    inner = x[(x > low) & (x < high) & ~np.isnan(y)]
    nodes = np.concatenate([[low], inner, [high]])
    values = interpolated(x, y, nodes)
    return float(integrate.trapezoid(values, nodes) / (high - low)) if high > low else float(values[0])


def performance_profile(
    strata: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    r"""Share of runs above each threshold: :math:`\frac1M \sum_m \frac{1}{S_m} \sum_s [x_{ms} > \tau]`.

    A curve above another at all thresholds means a better algorithm at any threshold.

    :param strata: A number for each run, ``[S]`` for each of M environments, which have equal weights. NaN is ignored.
    :param thresholds: τ ``[T]``, in the units of the numbers.
    :return: Shares, and the low and high ends of their pointwise bootstrap intervals, ``[T]`` each. All are NaN if an
        environment has no run, the ends also where one has fewer than two.

    Source: Agarwal et al. (2021), the run-score distribution, for equal numbers of runs.
    """
    above = [exceedances(known(stratum), thresholds) for stratum in strata]  # [S, T] each
    if not above or any(not len(each) for each in above):
        unknown = np.full(np.asarray(thresholds).shape, np.nan)
        return unknown, unknown, unknown
    low, high = mean_intervals(above, confidence=confidence, resamples=resamples, seed=seed)
    return np.mean([each.mean(axis=0) for each in above], axis=0), low, high
