"""One number for many runs, none of them NaN. Axes: S runs, T thresholds."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rl_agg.statistics.estimates import Array


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter of the values, rounded down, is trimmed at either end.

    With fewer than four values it is the mean.

    :param values: A number for each run ``[..., S]``.
    :param axis: That of the runs.

    Source: Agarwal et al. (2021).
    """
    return stats.trim_mean(values, 0.25, axis=axis)


def mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean over runs; parameters as for :func:`interquartile_mean`."""
    return np.mean(np.asarray(values), axis=axis)


def optimality_gap(values: ArrayLike, axis: int = -1, *, target: float = 1.0) -> Any:
    r"""Mean shortfall of runs below a target: :math:`\gamma - \frac1S \sum_s \min(x_s, \gamma)`.

    Values above the target do not compensate for others, so that one good run hides no bad ones. Lower is better, 0 is best.

    >>> float(optimality_gap([0.5, 1.0, 3.0]))
    0.16666666666666663

    :param values: A number for each run ``[..., S]``, scaled so that environments can be compared.
    :param axis: That of the runs.
    :param target: γ, in the units of the values.

    Source: Agarwal et al. (2021).
    """
    return target - np.minimum(np.asarray(values), target).mean(axis=axis)


def exceedances(values: ArrayLike, thresholds: ArrayLike) -> Array:
    r"""Indicators of runs above thresholds: :math:`[x_s > \tau_t]`; their mean over runs is the performance profile.

    :param values: A number for each run ``[S]``.
    :param thresholds: τ ``[T]``, in the same units.
    :return: Zeros and ones ``[S, T]``.

    Source: Agarwal et al. (2021), the run-score distribution.
    """
    above = np.asarray(values, dtype=np.float64)[:, None] > np.asarray(thresholds, dtype=np.float64)[None, :]
    return above.astype(np.float64)


def share_of_wins(x: ArrayLike, y: ArrayLike) -> Any:
    """Share of pairs in which a run of X beats one of Y, with ties counting half.

    :param x: ``[..., S_x]``.
    :param y: ``[..., S_y]``.
    :return: Unitless, in [0, 1], ``[...]``.
    """
    ours, theirs = np.shape(x)[-1], np.shape(y)[-1]
    # By ranks, because the pairs of all bootstrap resamples would not fit into memory
    ranks = stats.rankdata(np.concatenate([x, y], axis=-1), axis=-1)
    return (ranks[..., :ours].sum(axis=-1) - ours * (ours + 1) / 2) / (ours * theirs)
